#pragma once

// The `dilation` of a network, in every form that a configuration may give it.

#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace iabn::models {

/// One number for all blocks of a module, or one for each block.
using ModuleDilation = std::variant<int64_t, std::vector<int64_t>>;

/// One number for every module (1: none), one entry for each module, or off and on. Which network takes which form:
/// see dilation_error in registry.h.
using Dilation = std::variant<int64_t, bool, std::vector<ModuleDilation>>;

/// Of a block's 3x3 convolutions; both indices count from 0. The forms "off" and "on" have none: 1.
int64_t block_dilation(const Dilation& dilation, size_t module, size_t block = 0);

/// Whether a switch is on: true, or any list that is not empty.
bool switched_on(const Dilation& dilation);

/// As JSON writes it: "2", "true", "[1, 1, [2, 2], 4]".
std::string to_string(const Dilation& dilation);

}  // namespace iabn::models
