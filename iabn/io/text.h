#pragma once

#include <string>
#include <string_view>

namespace iabn::io {

/// Text out of a file as it may be shown on a terminal: control characters become '?', and what is longer than
/// `longest` ends in "...".
std::string printable(std::string_view text, size_t longest = 200);

}  // namespace iabn::io
