#pragma once

// Errors of the data layer. Every text reads `what: where: expected, got, what to do`; where is a path or an option.

#include <stdexcept>
#include <string>

namespace iabn::data {

/// Anything wrong with options, folders or files.
class DataError : public std::runtime_error {
 public:
  DataError(const std::string& what, const std::string& where, const std::string& text)
      : std::runtime_error(what + ": " + where + ": " + text) {}
};

/// The bytes of one image are not a usable image. The only kind that LoaderOptions::skip_corrupt passes over.
class DecodeError : public DataError {
 public:
  using DataError::DataError;
};

}  // namespace iabn::data
