#include "iabn/data/loader.h"

#include <ATen/Context.h>
#include <ATen/ops/empty.h>
#include <c10/core/MemoryFormat.h>

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
#include <set>
#include <utility>

#include "iabn/data/batch_memory.h"
#include "iabn/data/error.h"
#include "iabn/data/random.h"
#include "iabn/data/worker_pool.h"

namespace iabn::data {
namespace {

// More parts than threads, so that one slow sample does not leave the others idle at the end of a batch.
constexpr int64_t kPartsPerWorker = 4;

// The shuffle draws from the same generator as the samples: an index that no sample has keeps the two apart.
constexpr uint64_t kShuffleIndex = ~uint64_t{0};

void require(bool good, const char* where, const std::string& text) {
  if (!good) throw DataError("loader", where, text);
}

void check_options(const Samples* samples, const LoaderOptions& options) {
  const auto at_least = [](const char* where, int64_t least, int64_t got) {
    require(got >= least, where, "must be at least " + std::to_string(least) + ", got " + std::to_string(got));
  };
  require(samples != nullptr, "samples", "expected samples, got none");
  at_least("batch_size", 1, options.batch_size);
  at_least("workers", 0, options.workers);
  require(options.workers <= 1024, "workers", "at most 1024, got " + std::to_string(options.workers));
  at_least("prefetch", 1, options.prefetch);
  at_least("world_size", 1, options.world_size);
  require(options.rank >= 0 && options.rank < options.world_size, "rank",
          "must be 0 to " + std::to_string(options.world_size - 1) + ", got " + std::to_string(options.rank));
  require(!options.pinned || at::hasCUDA(), "pinned", "needs a CUDA device, got none; set it to false");
}

int64_t count_batches(int64_t samples, const LoaderOptions& options) {
  const int64_t step = options.batch_size * options.world_size;
  if (options.drop_last) return samples / step;
  const int64_t first = options.batch_size * options.rank;
  return first < samples ? (samples - 1 - first) / step + 1 : 0;
}

std::vector<int64_t> epoch_order(int64_t samples, const LoaderOptions& options, int64_t epoch) {
  std::vector<int64_t> order(static_cast<size_t>(samples));
  std::iota(order.begin(), order.end(), 0);
  if (!options.shuffle) return order;
  Random random(options.seed, static_cast<uint64_t>(epoch), kShuffleIndex);
  for (int64_t i = samples - 1; i > 0; --i) std::swap(order[i], order[random.below(i + 1)]);
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
  options.replace_skipped = false;
  return options;
}

struct Loader::State {
  State(std::shared_ptr<const Samples> samples, const LoaderOptions& options)
      : samples((check_options(samples.get(), options), std::move(samples))),
        shape(this->samples->shape()),
        options(options),
        batches(count_batches(this->samples->size(), options)),
        image_memory(make_memory(sizeof(float) * shape.image_numbers())),
        label_memory(make_memory(sizeof(int64_t) * shape.label_numbers())),
        pool(options.workers) {}

  void submit_next();
  void fill();
  std::shared_ptr<Pending> new_batch(int64_t count) const;
  void prepare(Pending& pending, int64_t slot, int64_t epoch);
  bool try_sample(Pending& pending, int64_t slot, int64_t index, const Random& random);
  void leave_out_bad(Pending& pending) const;

  std::shared_ptr<BatchMemory> make_memory(size_t sample_bytes) const {
    return std::make_shared<BatchMemory>(sample_bytes * options.batch_size, options.prefetch + 1);
  }

  const std::shared_ptr<const Samples> samples;
  const SampleShape shape;
  const LoaderOptions options;
  const int64_t batches;
  const std::shared_ptr<BatchMemory> image_memory, label_memory;

  bool started = false;
  int64_t epoch = 0;
  int64_t next_batch = 0;      // to be submitted
  std::vector<int64_t> order;  // of the epoch, indices of samples
  std::deque<std::shared_ptr<Pending>> pending;
  std::exception_ptr error;
  double wait_seconds = 0;

  mutable std::mutex skipped_mutex;
  std::map<int64_t, std::string> skipped;

  WorkerPool pool;  // last: its threads use everything above, and end first
};

// Reads one sample; false where it is corrupt and may be passed over.
bool Loader::State::try_sample(Pending& p, int64_t slot, int64_t index, const Random& random) {
  try {
    samples->read(index, random, options.channels_last, p.images + slot * shape.image_numbers(),
                  p.labels + slot * shape.label_numbers());
  } catch (const DecodeError& e) {
    if (!options.skip_corrupt) throw;
    const std::lock_guard lock(skipped_mutex);
    skipped.emplace(index, e.what());
    return false;
  } catch (const DataError&) {
    throw;
  } catch (const std::exception& e) {
    throw DataError("loader", samples->name(index), e.what());
  }
  p.batch.indices[static_cast<size_t>(slot)] = index;
  return true;
}

void Loader::State::prepare(Pending& p, int64_t slot, int64_t of_epoch) {
  const int64_t index = p.batch.indices[static_cast<size_t>(slot)];
  const Random random(options.seed, static_cast<uint64_t>(of_epoch), static_cast<uint64_t>(index));
  const int64_t size = samples->size();
  const int64_t tries = options.replace_skipped ? size : 1;
  for (int64_t i = 0; i < tries; ++i) {
    if (try_sample(p, slot, (index + i) % size, random)) return;
  }
  if (options.replace_skipped)
    throw DataError("loader", samples->name(index), "no image of the dataset can be decoded");
  p.good[static_cast<size_t>(slot)] = 0;
}

std::shared_ptr<Pending> Loader::State::new_batch(int64_t count) const {
  auto p = std::make_shared<Pending>();
  const std::array<int64_t, 4> images = {count * shape.crops, shape.channels, shape.height, shape.width};
  std::vector<int64_t> labels = {count};
  labels.insert(labels.end(), shape.labels.begin(), shape.labels.end());
  const auto format = options.channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  if (options.pinned) {  // PyTorch's allocator of pinned memory keeps what it gets back by itself
    const auto pinned = at::TensorOptions().pinned_memory(true);
    p->batch.images = at::empty(images, pinned.dtype(at::kFloat), format);
    p->batch.labels = at::empty(labels, pinned.dtype(at::kLong));
  } else {
    p->batch.images = image_memory->take(images, at::kFloat, format);
    p->batch.labels = label_memory->take(labels, at::kLong, at::MemoryFormat::Contiguous);
  }
  p->images = p->batch.images.mutable_data_ptr<float>();
  p->labels = p->batch.labels.mutable_data_ptr<int64_t>();
  p->good.assign(static_cast<size_t>(count), 1);
  return p;
}

void Loader::State::submit_next() {
  const int64_t number = next_batch++;
  const int64_t first = (number * options.world_size + options.rank) * options.batch_size;
  const int64_t count = std::min(options.batch_size, static_cast<int64_t>(order.size()) - first);

  const std::shared_ptr<Pending> p = new_batch(count);
  p->batch.indices.assign(order.begin() + first, order.begin() + first + count);
  p->batch.number = number;
  const int64_t parts = std::clamp<int64_t>(kPartsPerWorker * pool.threads(), 1, count);
  // The job keeps its batch by a plain pointer: `pending` holds both, and cancel() comes before dropping them.
  p->job = pool.submit(parts, [this, to = p.get(), count, parts, of_epoch = epoch](int64_t part) {
    for (int64_t slot = part * count / parts; slot < (part + 1) * count / parts; ++slot) prepare(*to, slot, of_epoch);
  });
  pending.push_back(p);
}

void Loader::State::fill() {
  const auto limit = static_cast<size_t>(pool.threads() > 0 ? options.prefetch : 1);
  while (pending.size() < limit && next_batch < batches) submit_next();
}

void Loader::State::leave_out_bad(Pending& p) const {
  const auto good = static_cast<int64_t>(std::count(p.good.begin(), p.good.end(), 1));
  if (good == static_cast<int64_t>(p.good.size())) return;
  const auto move = [](auto* numbers, int64_t per_sample, int64_t from, int64_t to) {
    std::memmove(numbers + to * per_sample, numbers + from * per_sample,
                 static_cast<size_t>(per_sample) * sizeof(*numbers));
  };
  int64_t to = 0;
  for (size_t from = 0; from < p.good.size(); ++from) {
    if (p.good[from] == 0) continue;
    move(p.images, shape.image_numbers(), static_cast<int64_t>(from), to);
    move(p.labels, shape.label_numbers(), static_cast<int64_t>(from), to);
    p.batch.indices[static_cast<size_t>(to)] = p.batch.indices[from];
    ++to;
  }
  p.batch.images = p.batch.images.narrow(0, 0, good * shape.crops);
  p.batch.labels = p.batch.labels.narrow(0, 0, good);
  p.batch.indices.resize(static_cast<size_t>(good));
}

Loader::Loader(std::shared_ptr<const Samples> samples, const LoaderOptions& options)
    : state_(std::make_unique<State>(std::move(samples), options)) {
  require(!options.drop_last || state_->batches > 0, "batch_size",
          "at most the number of images where the last incomplete batch is dropped (" +
              std::to_string(state_->samples->size()) + " images for " + std::to_string(options.world_size) +
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
  s.order = epoch_order(s.samples->size(), s.options, epoch);
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
const Samples& Loader::samples() const { return *state_->samples; }
const LoaderOptions& Loader::options() const { return state_->options; }

std::vector<std::string> Loader::skipped() const {
  const std::lock_guard lock(state_->skipped_mutex);
  std::vector<std::string> texts;
  std::set<std::string> names;  // repeated samples share theirs
  for (const auto& [index, text] : state_->skipped) {
    if (names.insert(samples().name(index)).second) texts.push_back(text);
  }
  return texts;
}

}  // namespace iabn::data
