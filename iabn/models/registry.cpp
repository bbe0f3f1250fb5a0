#include "iabn/models/registry.h"

#include <stdexcept>

#include "iabn/models/nearest.h"
#include "iabn/models/preact_resnet.h"

namespace iabn::models {
namespace {

struct Entry {
  const char* name;
  std::shared_ptr<Network> (*build)(const NetworkOptions&);
};

template <int64_t kBlocksPerModule>
std::shared_ptr<Network> preact_resnet(const NetworkOptions& options) {
  return std::make_shared<PreactResNet>(options, std::vector<int64_t>(3, kBlocksPerModule));
}

// The number in a name counts the layers with weights: 6 per block of each of the three modules, stem and fc.
constexpr Entry kTable[] = {
    {"preact_resnet8", preact_resnet<1>},
    {"preact_resnet14", preact_resnet<2>},
    {"preact_resnet20", preact_resnet<3>},
};

}  // namespace

std::vector<std::string> network_names() {
  std::vector<std::string> names;
  for (const Entry& entry : kTable) names.emplace_back(entry.name);
  return names;
}

std::shared_ptr<Network> make_network(const std::string& name, const NetworkOptions& options) {
  for (const Entry& entry : kTable) {
    if (name == entry.name) return entry.build(options);
  }
  throw std::invalid_argument("unknown network \"" + name + "\"" + did_you_mean(name, network_names()) +
                              "; known: " + join(network_names()));
}

}  // namespace iabn::models
