#include "cli/layer_summary.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <utility>

namespace iabn::cli {
namespace {

constexpr size_t kSlowest = 3;

struct Share {
  const TableRow* row;
  double iabn_ms;  // forward and backward of all layers of this shape
};

void print_slowest(std::vector<Share> shares, double total_ms) {
  const size_t shown = std::min(kSlowest, shares.size());
  std::partial_sort(shares.begin(), shares.begin() + static_cast<std::ptrdiff_t>(shown), shares.end(),
                    [](const Share& a, const Share& b) { return a.iabn_ms > b.iabn_ms; });
  std::printf("  largest shares of iabn's time:");
  for (size_t i = 0; i < shown; ++i) {
    std::printf("%s %ld x [%s] %.0f %%", i == 0 ? "" : ",", shares[i].row->count, shares[i].row->shape.c_str(),
                100 * shares[i].iabn_ms / total_ms);
  }
  std::printf("\n");
}

// `cases`: of one dtype and layout, by shape.
void print_one(const NetworkLayers& network, const std::map<std::string, const CaseTimes*>& cases) {
  CaseTimes total;
  std::vector<Share> shares;
  int64_t layers = 0;
  for (const auto& row : network.rows) {
    const CaseTimes& one = *cases.at(row.shape);
    const auto count = static_cast<double>(row.count);
    layers += row.count;
    total.pass_ms += count * one.pass_ms;
    for (size_t pass = 0; pass < kPassNames.size(); ++pass) {
      total.iabn[pass] += count * one.iabn[pass];
      total.batch_norm[pass] += count * one.batch_norm[pass];
    }
    shares.push_back({&row, count * one.iabn.back()});
  }
  const CaseTimes& any = *cases.begin()->second;
  std::printf("== %s %s %s: %ld layers of %zu shapes\n", network.name.c_str(), any.dtype.c_str(), any.layout.c_str(),
              layers, network.rows.size());
  for (size_t pass = 0; pass < kPassNames.size(); ++pass) {
    const double ours = total.iabn[pass], aten = total.batch_norm[pass];
    std::printf("  %-9s iabn %10.3f ms %6.2f passes   batch_norm %10.3f ms %6.2f passes   %.2fx\n", kPassNames[pass],
                ours, ours / total.pass_ms, aten, aten / total.pass_ms, aten / ours);
  }
  print_slowest(std::move(shares), total.iabn.back());
}

}  // namespace

void print_summary(const NetworkLayers& network, const std::vector<CaseTimes>& cases) {
  std::map<std::pair<std::string, std::string>, std::map<std::string, const CaseTimes*>> groups;
  for (const CaseTimes& one : cases) groups[{one.dtype, one.layout}][one.shape] = &one;
  for (const auto& [dtype_and_layout, group] : groups) print_one(network, group);
}

}  // namespace iabn::cli
