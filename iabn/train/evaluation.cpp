#include "iabn/train/evaluation.h"

#include <cmath>

#include <nlohmann/json.hpp>

namespace iabn::train {

data::DataError no_image_left(const EvaluationOptions& options) {
  return {"evaluation", (options.data / options.split).string(), "no image can be decoded"};
}

std::string to_json_text(const Evaluation& evaluation) {
  nlohmann::ordered_json json;
  json["images"] = evaluation.metrics.images;
  for (const auto& [name, value] : named_values(evaluation.metrics)) json[name] = value;
  for (const ClassResult& result : evaluation.classes) {
    nlohmann::ordered_json entry = {{"name", result.name}, {"iou", nullptr}, {"pixels", result.pixels}};
    if (std::isfinite(result.iou)) entry["iou"] = result.iou;
    json["classes"].push_back(std::move(entry));
  }
  return json.dump(2) + "\n";
}

}  // namespace iabn::train
