#include "iabn/data/loader.h"

#include <ATen/Context.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <numeric>
#include <optional>
#include <utility>

#include "iabn/data/batch_memory.h"
#include "iabn/data/error.h"
#include "iabn/data/random.h"
#include "iabn/data/transform.h"
#include "iabn/data/worker_pool.h"

namespace iabn::data {
namespace {

// More parts than threads, so that one slow image does not leave the others idle at the end of a batch.
constexpr int64_t kPartsPerWorker = 4;

// The shuffle draws from the same generator as the images: an index that no image has keeps the two apart.
constexpr uint64_t kShuffleIndex = ~uint64_t{0};

void require(bool good, const char* where, const std::string& text) {
  if (!good) throw DataError("loader", where, text);
}

void check_options(const Dataset* dataset, const InputOptions& input, const LoaderOptions& options) {
  const auto at_least = [](const char* where, int64_t least, int64_t got) {
    require(got >= least, where, "must be at least " + std::to_string(least) + ", got " + std::to_string(got));
  };
  require(dataset != nullptr, "dataset", "expected a dataset, got none");
  require(dataset->channels() == input.channels, "channels",
          "the dataset was opened with " + std::to_string(dataset->channels()) + ", the transforms want " +
              std::to_string(input.channels) + "; use the same options for both");
  at_least("batch_size", 1, options.batch_size);
  at_least("workers", 0, options.workers);
  require(options.workers <= 1024, "workers", "at most 1024, got " + std::to_string(options.workers));
  at_least("prefetch", 1, options.prefetch);
  at_least("world_size", 1, options.world_size);
  require(options.rank >= 0 && options.rank < options.world_size, "rank",
          "must be 0 to " + std::to_string(options.world_size - 1) + ", got " + std::to_string(options.rank));
  require(!options.pinned || at::hasCUDA(), "pinned", "needs a CUDA device, got none; set it to false");
}

int64_t count_batches(int64_t images, const LoaderOptions& options) {
  const int64_t step = options.batch_size * options.world_size;
  if (options.drop_last) return images / step;
  const int64_t first = options.batch_size * options.rank;
  return first < images ? (images - 1 - first) / step + 1 : 0;
}

std::vector<int64_t> epoch_order(int64_t images, const LoaderOptions& options, int64_t epoch) {
  std::vector<int64_t> order(static_cast<size_t>(images));
  std::iota(order.begin(), order.end(), 0);
  if (!options.shuffle) return order;
  Random random(options.seed, static_cast<uint64_t>(epoch), kShuffleIndex);
  for (int64_t i = images - 1; i > 0; --i) std::swap(order[i], order[random.below(i + 1)]);
  return order;
}

// A batch in preparation. Workers write to disjoint places of it.
struct Pending {
  Batch batch;
  float* images = nullptr;
  int64_t* labels = nullptr;
  std::vector<char> good;  // 0: left out
  std::shared_ptr<WorkerPool::Job> job;
};

}  // namespace

LoaderOptions LoaderOptions::for_validation(int64_t batch_size, int64_t workers) {
  LoaderOptions options;
  options.batch_size = batch_size;
  options.workers = workers;
  options.shuffle = false;
  options.drop_last = false;
  return options;
}

struct Loader::State {
  State(std::shared_ptr<const Dataset> dataset, const InputOptions& input, Split transforms,
        const LoaderOptions& options)
      : dataset((check_options(dataset.get(), input, options), std::move(dataset))),
        transform(input, transforms),
        replace_corrupt(transforms == Split::train),
        options(options),
        batches(count_batches(this->dataset->size(), options)),
        memory(
            std::make_shared<BatchMemory>(sizeof(float) * options.batch_size * image_numbers(), options.prefetch + 1)),
        pool(options.workers) {}

  void submit_next();
  void fill();
  void prepare(Pending& pending, int64_t slot, int64_t epoch);
  bool try_image(Pending& pending, int64_t slot, int64_t index, Random random);
  void leave_out_bad(Pending& pending) const;

  int64_t image_numbers() const {
    return transform.crops() * transform.channels() * transform.size() * transform.size();
  }

  const std::shared_ptr<const Dataset> dataset;
  const Transform transform;
  const bool replace_corrupt;
  const LoaderOptions options;
  const int64_t batches;
  const std::shared_ptr<BatchMemory> memory;

  bool started = false;
  int64_t epoch = 0;
  int64_t next_batch = 0;      // to be submitted
  std::vector<int64_t> order;  // of the epoch, dataset indices
  std::deque<std::shared_ptr<Pending>> pending;
  std::exception_ptr error;
  double wait_seconds = 0;

  mutable std::mutex skipped_mutex;
  std::map<int64_t, std::string> skipped;

  WorkerPool pool;  // last: its threads use everything above, and end first
};

// Reads and transforms one image; false where it is corrupt and may be passed over.
bool Loader::State::try_image(Pending& p, int64_t slot, int64_t index, Random random) {
  try {
    std::optional<Plan> plan;
    const Part part = dataset->part(index, [&](int64_t height, int64_t width) {
      try {
        return plan.emplace(transform.plan(height, width, random)).wanted;
      } catch (const DecodeError& e) {
        throw DecodeError("loader", dataset->name(index), e.what());
      }
    });
    transform.write(part, plan.value(), options.channels_last, p.images + slot * image_numbers());
  } catch (const DecodeError& e) {
    if (!options.skip_corrupt) throw;
    const std::lock_guard lock(skipped_mutex);
    skipped.emplace(index, e.what());
    return false;
  } catch (const DataError&) {
    throw;
  } catch (const std::exception& e) {
    throw DataError("loader", dataset->name(index), e.what());
  }
  p.labels[slot] = dataset->label(index);
  p.batch.indices[static_cast<size_t>(slot)] = index;
  return true;
}

void Loader::State::prepare(Pending& p, int64_t slot, int64_t of_epoch) {
  const int64_t index = p.batch.indices[static_cast<size_t>(slot)];
  const Random random(options.seed, static_cast<uint64_t>(of_epoch), static_cast<uint64_t>(index));
  const int64_t size = dataset->size();
  const int64_t tries = replace_corrupt ? size : 1;
  for (int64_t i = 0; i < tries; ++i) {
    if (try_image(p, slot, (index + i) % size, random)) return;
  }
  if (replace_corrupt) throw DataError("loader", dataset->name(index), "no image of the dataset can be decoded");
  p.good[static_cast<size_t>(slot)] = 0;
}

void Loader::State::submit_next() {
  const int64_t number = next_batch++;
  const int64_t first = (number * options.world_size + options.rank) * options.batch_size;
  const int64_t count = std::min(options.batch_size, static_cast<int64_t>(order.size()) - first);

  auto p = std::make_shared<Pending>();
  const std::array<int64_t, 4> sizes = {count * transform.crops(), transform.channels(), transform.size(),
                                        transform.size()};
  const auto format = options.channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  const auto pinned = at::TensorOptions().pinned_memory(options.pinned);
  // PyTorch's allocator of pinned memory keeps what it gets back by itself.
  p->batch.images = options.pinned ? at::empty(sizes, pinned.dtype(at::kFloat), format) : memory->take(sizes, format);
  p->batch.labels = at::empty({count}, pinned.dtype(at::kLong));
  p->batch.indices.assign(order.begin() + first, order.begin() + first + count);
  p->batch.number = number;
  p->images = p->batch.images.mutable_data_ptr<float>();
  p->labels = p->batch.labels.mutable_data_ptr<int64_t>();
  p->good.assign(static_cast<size_t>(count), 1);

  const int64_t parts = std::clamp<int64_t>(kPartsPerWorker * pool.threads(), 1, count);
  // The job keeps its batch by a plain pointer: `pending` holds both, and cancel() comes before dropping them.
  p->job = pool.submit(parts, [this, to = p.get(), count, parts, of_epoch = epoch](int64_t part) {
    for (int64_t slot = part * count / parts; slot < (part + 1) * count / parts; ++slot) prepare(*to, slot, of_epoch);
  });
  pending.push_back(std::move(p));
}

void Loader::State::fill() {
  const auto limit = static_cast<size_t>(pool.threads() > 0 ? options.prefetch : 1);
  while (pending.size() < limit && next_batch < batches) submit_next();
}

void Loader::State::leave_out_bad(Pending& p) const {
  const auto good = static_cast<int64_t>(std::count(p.good.begin(), p.good.end(), 1));
  if (good == static_cast<int64_t>(p.good.size())) return;
  int64_t to = 0;
  for (size_t from = 0; from < p.good.size(); ++from) {
    if (p.good[from] == 0) continue;
    std::memmove(p.images + to * image_numbers(), p.images + static_cast<int64_t>(from) * image_numbers(),
                 static_cast<size_t>(image_numbers()) * sizeof(float));
    p.labels[to] = p.labels[from];
    p.batch.indices[static_cast<size_t>(to)] = p.batch.indices[from];
    ++to;
  }
  p.batch.images = p.batch.images.narrow(0, 0, good * transform.crops());
  p.batch.labels = p.batch.labels.narrow(0, 0, good);
  p.batch.indices.resize(static_cast<size_t>(good));
}

Loader::Loader(std::shared_ptr<const Dataset> dataset, const InputOptions& input, Split transforms,
               const LoaderOptions& options)
    : state_(std::make_unique<State>(std::move(dataset), input, transforms, options)) {
  require(!options.drop_last || state_->batches > 0, "batch_size",
          "at most the number of images where the last incomplete batch is dropped (" +
              std::to_string(state_->dataset->size()) + " images for " + std::to_string(options.world_size) +
              " processes), got " + std::to_string(options.batch_size) + "; lower it or add images");
}

Loader::~Loader() { state_->pool.cancel(); }

void Loader::start_epoch(int64_t epoch, int64_t first_batch) {
  State& s = *state_;
  require(epoch >= 0, "epoch", "must be at least 0, got " + std::to_string(epoch));
  require(first_batch >= 0 && first_batch <= s.batches, "first_batch",
          "must be 0 to " + std::to_string(s.batches) + " (batches of an epoch), got " + std::to_string(first_batch));
  s.pool.cancel();
  s.pending.clear();
  s.error = nullptr;
  s.wait_seconds = 0;
  s.order = epoch_order(s.dataset->size(), s.options, epoch);
  s.epoch = epoch;
  s.next_batch = first_batch;
  s.started = true;
  if (s.pool.threads() > 0) s.fill();
}

std::optional<Batch> Loader::next() {
  State& s = *state_;
  require(s.started, "next", "no epoch has begun; call start_epoch() first");
  if (s.error) std::rethrow_exception(s.error);
  while (true) {
    s.fill();
    if (s.pending.empty()) return std::nullopt;
    const std::shared_ptr<Pending> pending = s.pending.front();
    const auto begin = std::chrono::steady_clock::now();
    try {
      s.pool.wait(pending->job);
    } catch (...) {
      s.error = std::current_exception();
    }
    s.wait_seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (s.error) {
      s.pool.cancel();
      s.pending.clear();
      std::rethrow_exception(s.error);
    }
    s.pending.pop_front();
    if (s.pool.threads() > 0) s.fill();
    s.leave_out_bad(*pending);
    if (!pending->batch.indices.empty()) return std::move(pending->batch);
  }
}

int64_t Loader::batches() const { return state_->batches; }
double Loader::wait_seconds() const { return state_->wait_seconds; }
const Dataset& Loader::dataset() const { return *state_->dataset; }
const LoaderOptions& Loader::options() const { return state_->options; }

std::vector<std::string> Loader::skipped() const {
  const std::lock_guard lock(state_->skipped_mutex);
  std::vector<std::string> texts;
  for (const auto& [index, text] : state_->skipped) texts.push_back(text);
  return texts;
}

}  // namespace iabn::data
