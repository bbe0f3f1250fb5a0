#include "cli/checks.h"

#include <cmath>
#include <string>

#include <CLI/CLI.hpp>

namespace iabn::cli {
namespace {

template <class Good>
CLI::Validator number(const std::string& bound, const std::string& help, Good good) {
  const auto check = [bound, good](const std::string& text) -> std::string {
    double value = 0;
    if (CLI::detail::lexical_cast(text, value) && std::isfinite(value) && good(value)) return "";
    return "must be " + bound + ", got " + text;
  };
  return CLI::Validator(check, help);
}

}  // namespace

CLI::Validator at_least(int least) {
  const std::string bound = std::to_string(least);
  return number("at least " + bound, least > 0 ? "POSITIVE" : "NONNEGATIVE",
                [least](double value) { return value >= least; });
}

CLI::Validator above_zero() {
  return number("above 0", "POSITIVE", [](double value) { return value > 0; });
}

}  // namespace iabn::cli
