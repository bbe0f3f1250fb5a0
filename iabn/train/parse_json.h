#pragma once

// JSON of others: files of a user, texts inside a snapshot.

#include <nlohmann/json.hpp>

#include "iabn/train/config.h"

namespace iabn::train {

/// nlohmann::json::parse() of a text or a stream that throws ConfigError where lists and objects are nested more than
/// 64 deep: reading them is no recursion, but writing and comparing them is, and would end at the stack's end.
template <class Source>
nlohmann::json parse_json(Source&& source) {
  using Event = nlohmann::json::parse_event_t;
  return nlohmann::json::parse(source, [](int depth, Event event, const nlohmann::json&) {
    const bool opens = event == Event::array_start || event == Event::object_start;
    if (opens && depth >= 64) throw ConfigError("lists and objects are nested more than 64 deep");
    return true;
  });
}

}  // namespace iabn::train
