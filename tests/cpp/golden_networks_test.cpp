// golden_networks_test [--skip-missing] FILE...: the networks against golden numbers, with standard and with in-place
// norm layers. Exit codes: 0 all agree, 1 some do not, 2 a file cannot be used, 77 (with --skip-missing) it is not
// there and IABN_REQUIRE_SHARED is not set.

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/cpp/golden_case.h"

namespace {

using iabn::test::GoldenResult;
using nlohmann::json;

constexpr int kSkipped = 77;
constexpr size_t kShownMismatches = 5;

/// Returns whether everything agrees.
bool check(const json& golden) {
  const std::string title =
      golden.at("name").get<std::string>() + " " + golden.value("arguments", json::object()).dump();
  bool agrees = true;
  for (const char* mode : {"standard", "inplace"}) {
    GoldenResult result;
    try {
      result = iabn::test::check_golden_case(golden, mode);
    } catch (const std::exception& error) {
      const std::string text = error.what();
      result.mismatches.push_back(text.substr(0, text.find("\nException raised")));  // no C++ stack
    }
    const bool good = result.mismatches.empty();
    std::printf("%-6s %-8s %s: largest difference %.1e\n", good ? "ok" : "FAILED", mode, title.c_str(), result.largest);
    for (size_t i = 0; i < result.mismatches.size(); ++i) {
      if (i == kShownMismatches) {
        std::printf("       ... and %zu more\n", result.mismatches.size() - i);
        break;
      }
      std::printf("       %s\n", result.mismatches[i].c_str());
    }
    std::fflush(stdout);
    agrees = agrees && good;
  }
  return agrees;
}

int run(const std::vector<std::string>& paths) {
  int failed = 0, cases = 0;
  for (const std::string& path : paths) {
    std::ifstream file(path);
    const json all = file ? json::parse(file, nullptr, /*allow_exceptions=*/false) : json();
    if (!all.is_array() || all.empty()) {
      std::fprintf(stderr, "golden_networks_test: %s: not a JSON list of cases\n", path.c_str());
      return 2;
    }
    for (const json& golden : all) {
      failed += check(golden) ? 0 : 1;
      ++cases;
    }
  }
  std::printf("%d of %d cases agree to 1e-9\n", cases - failed, cases);
  return failed == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> paths(argv + 1, argv + argc);
  const bool skip_missing = !paths.empty() && paths.front() == "--skip-missing";
  if (skip_missing) paths.erase(paths.begin());
  if (paths.empty()) {
    std::fprintf(stderr, "usage: golden_networks_test [--skip-missing] FILE...\n");
    return 2;
  }
  const char* require = std::getenv("IABN_REQUIRE_SHARED");
  const bool required = require != nullptr && std::string(require) == "1";
  for (const std::string& path : paths) {
    if (!skip_missing || required || std::filesystem::exists(path)) continue;
    std::printf("skipped: %s is not there\n", path.c_str());
    return kSkipped;
  }
  try {
    return run(paths);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "golden_networks_test: %s\n", error.what());
    return 2;
  }
}
