#include "iabn/train/csv_log.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "iabn/train/atomic_file.h"

namespace iabn::train {
namespace {

std::string header(const std::vector<std::string>& columns) {
  std::string line = "epoch";
  for (const std::string& column : columns) line += "," + column;
  return line + ",learning_rate,seconds";
}

std::string values(const Metrics& metrics) {
  std::string text;
  for (const auto& [name, value] : named_values(metrics)) {
    char number[40];
    std::snprintf(number, sizeof number, name == "loss" ? ",%.9g" : ",%.4f", value);
    text += number;
  }
  return text;
}

std::vector<std::string> fields_of(const std::string& line) {
  std::vector<std::string> fields;
  std::istringstream text(line);
  for (std::string field; std::getline(text, field, ',');) fields.push_back(field);
  return fields;
}

}  // namespace

CsvLog::CsvLog(std::filesystem::path path, const std::vector<std::string>& columns, int64_t finished_epochs)
    : path_(std::move(path)), text_(header(columns) + "\n") {
  std::ifstream old(path_);
  std::string line;
  for (std::getline(old, line); finished_epochs > 0 && std::getline(old, line);) {
    const int64_t epoch = std::atoll(line.c_str());
    if (epoch >= 1 && epoch <= finished_epochs) text_ += line + "\n";
  }
  replace_file(path_, text_);
}

void CsvLog::append(const LogRow& row) {
  char end[80];
  std::snprintf(end, sizeof end, ",%.9g,%.2f\n", row.learning_rate, row.seconds);
  text_ += std::to_string(row.epoch) + values(row.train) + values(row.val) + end;
  replace_file(path_, text_);
}

double last_validation_accuracy(const std::filesystem::path& log) {
  std::ifstream file(log);
  std::string line, last;
  std::getline(file, line);
  const std::vector<std::string> names = fields_of(line);
  while (std::getline(file, line)) last = line;
  const auto column = static_cast<size_t>(std::find(names.begin(), names.end(), "val_top1") - names.begin());
  const std::vector<std::string> fields = fields_of(last);
  if (column >= names.size() || column >= fields.size()) {
    throw FileError(log.string() + ": holds no finished epoch with val_top1");
  }
  return std::strtod(fields[column].c_str(), nullptr);
}

}  // namespace iabn::train
