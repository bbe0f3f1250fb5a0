#pragma once

// What an exception says to people.

#include <exception>
#include <string>

#include <c10/util/Exception.h>

namespace iabn::nn {

/// error.what(), without the backtrace that LibTorch's errors carry.
inline std::string text_of(const std::exception& error) {
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  return torch_error != nullptr ? torch_error->what_without_backtrace() : error.what();
}

}  // namespace iabn::nn
