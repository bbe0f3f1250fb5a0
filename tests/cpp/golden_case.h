#pragma once

// One case of a file of golden numbers (../shared/reference/README.md defines both the format and the numbers).

#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace iabn::test {

struct GoldenResult {
  double largest = 0;  // difference, relative to the largest value of its tensor
  std::vector<std::string> mismatches;
};

/// Builds the case's network with the norm mode ("standard", "inplace"), fills it, runs it and compares everything.
GoldenResult check_golden_case(const nlohmann::json& golden, const std::string& norm_mode);

}  // namespace iabn::test
