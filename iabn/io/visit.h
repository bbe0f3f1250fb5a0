#pragma once

// Walks over a tree of values.

#include <functional>
#include <string>

#include "iabn/io/value.h"

namespace iabn::io {

/// Calls `visit` for each tensor in order, with the keys and list indices on the way joined by dots.
void for_each_tensor(const Value& root, const std::function<void(const std::string& key, const Tensor&)>& visit);

/// Calls `visit` for each dict, outer ones first, with its path as above ("" at the top). `visit` may change the
/// values of the dict.
void for_each_dict(Value& root, const std::function<void(const std::string& path, Dict&)>& visit);

}  // namespace iabn::io
