#include "iabn/train/csv_log.h"

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "iabn/train/atomic_file.h"

namespace iabn::train {
namespace {

constexpr const char* kHeader =
    "epoch,train_loss,train_top1,train_top5,val_loss,val_top1,val_top5,learning_rate,seconds";
constexpr int kValTop1 = 5;

}  // namespace

CsvLog::CsvLog(std::filesystem::path path, int64_t finished_epochs)
    : path_(std::move(path)), text_(std::string(kHeader) + "\n") {
  std::ifstream old(path_);
  std::string line;
  for (std::getline(old, line); finished_epochs > 0 && std::getline(old, line);) {
    const int64_t epoch = std::atoll(line.c_str());
    if (epoch >= 1 && epoch <= finished_epochs) text_ += line + "\n";
  }
  replace_file(path_, text_);
}

void CsvLog::append(const LogRow& row) {
  char line[256];
  std::snprintf(line, sizeof line, "%" PRId64 ",%.9g,%.4f,%.4f,%.9g,%.4f,%.4f,%.9g,%.2f\n", row.epoch, row.train.loss,
                row.train.top1, row.train.top5, row.val.loss, row.val.top1, row.val.top5, row.learning_rate,
                row.seconds);
  text_ += line;
  replace_file(path_, text_);
}

double last_validation_accuracy(const std::filesystem::path& log) {
  std::ifstream file(log);
  std::string line, last;
  while (std::getline(file, line)) last = line;
  std::istringstream fields(last);
  for (int i = 0; i <= kValTop1; ++i) std::getline(fields, line, ',');
  char* end = nullptr;
  const double accuracy = std::strtod(line.c_str(), &end);
  if (!fields || end == line.c_str()) throw FileError(log.string() + ": holds no finished epoch");
  return accuracy;
}

}  // namespace iabn::train
