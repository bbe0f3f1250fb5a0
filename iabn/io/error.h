#pragma once

// Errors of the checkpoint readers and writers.

#include <stdexcept>
#include <string>

namespace iabn::io {

/// What is wrong with the bytes of a checkpoint. The functions that take a path put it in front of the text.
class CheckpointError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace iabn::io
