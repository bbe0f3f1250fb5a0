#pragma once

// Batches for training and validation, prepared by worker threads ahead of their use.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "iabn/data/samples.h"

namespace iabn::data {

/// The defaults are those of training; for_validation() gives the others.
struct LoaderOptions {
  int64_t batch_size = 256;     ///< samples per batch of this process
  int64_t workers = 2;          ///< threads; 0 = the work is done inside next()
  int64_t prefetch = 3;         ///< batches in preparation or ready at most; the memory bound
  uint64_t seed = 0;            ///< of shuffling and augmentation
  bool shuffle = true;          ///< a new order each epoch
  bool drop_last = true;        ///< leave out the incomplete last batch: one sample alone would break batch norm
  bool channels_last = false;   ///< memory format of Batch::images
  bool pinned = false;          ///< page-locked memory, for asynchronous copies to a GPU; needs CUDA
  bool skip_corrupt = false;    ///< pass over samples that cannot be decoded instead of failing
  bool replace_skipped = true;  ///< by the next good sample in the order of files, so that batches keep their size
  int64_t rank = 0;             ///< this process's share of every batch of the job; see batches()
  int64_t world_size = 1;

  /// Every sample once, in order; bad ones are left out.
  static LoaderOptions for_validation(int64_t batch_size, int64_t workers);
};

/// The tensors are the caller's for good. Their memory is used for another batch when the last reference goes.
struct Batch {
  at::Tensor images;             ///< float32 [B * crops, C, H, W], normalised; see SampleShape
  at::Tensor labels;             ///< int64 [B], or [B, H, W] for a class per pixel
  std::vector<int64_t> indices;  ///< [B], of the samples
  int64_t number = 0;            ///< within the epoch, from 0
};

/// Images and labels depend on (seed, epoch, index) only: not on the number of workers, not on where an epoch was
/// resumed. One thread at a time may use a loader. It may be destroyed at any time; running work is waited for.
class Loader {
 public:
  /// Throws DataError for options that cannot work, e.g. fewer samples than one batch with drop_last.
  Loader(std::shared_ptr<const Samples> samples, const LoaderOptions& options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// Begins an epoch at one of its batches, giving up what is left of the one before; resets wait_seconds().
  void start_epoch(int64_t epoch, int64_t first_batch = 0);

  /// The next batch, or nothing at the end of the epoch. Throws the first error met in preparing the batch, with the
  /// file's path; from then on again until start_epoch().
  /// With skip_corrupt a bad sample is replaced by the next good one, or (replace_skipped false) left out, so that
  /// batches may be smaller and fewer.
  std::optional<Batch> next();

  /// Batches of a whole epoch. With several processes, batch b of rank r holds places (b * world_size + r) * batch_size
  /// onwards of the epoch's order: no sample twice, and the same samples per step as one process with the whole batch.
  int64_t batches() const;

  /// Time next() has spent waiting for data since start_epoch(), in seconds. Near the epoch's whole time: the loader is
  /// the bottleneck.
  double wait_seconds() const;

  /// One text per Samples::name() that skip_corrupt has passed over so far, with path and reason, in order of index.
  std::vector<std::string> skipped() const;

  const Samples& samples() const;
  const LoaderOptions& options() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace iabn::data
