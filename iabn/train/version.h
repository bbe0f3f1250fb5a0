#pragma once

namespace iabn::train {

/// The project's version (CMakeLists.txt), e.g. "0.1.0".
inline constexpr const char* kVersion = IABN_VERSION;

}  // namespace iabn::train
