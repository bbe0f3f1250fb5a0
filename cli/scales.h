#pragma once

// The option --scales.

#include <string>
#include <vector>

namespace iabn::cli {

/// "0.7, 1, 1.2", also in brackets. Throws std::invalid_argument for anything else.
std::vector<double> scales_from_text(const std::string& text);

}  // namespace iabn::cli
