#pragma once

// What numbers options take. The library's own checks name the limits of the type, some of them of 300 digits.

namespace CLI {
class Validator;
}

namespace iabn::cli {

/// Finite and not below: "--epochs: must be at least 1, got 0".
CLI::Validator at_least(int least);

/// Finite and above 0.
CLI::Validator above_zero();

}  // namespace iabn::cli
