// The forward direction on the CPU: statistics (reads x: 1 pass), apply (reads and writes x: 2), and both fused. The
// fused form moves 3 * numel * sizeof(T) bytes, 2 * numel * sizeof(T) of them from and to memory where a unit of the
// partition stays in cache between its two passes.

#include <cmath>
#include <vector>

#include "iabn/kernels/cpu/partition.h"

namespace iabn::kernels::cpu {
namespace {

/// Mean and M2 of every column in every chunk, [chunks][2][columns], and of every channel once merged.
template <class A>
class PartialMoments {
 public:
  explicit PartialMoments(const Partition& partition)
      : partition_(partition),
        values_(static_cast<size_t>(partition.chunks() * 2 * partition.columns())),
        merged_(static_cast<size_t>(2 * partition.channels())) {}

  A* mean(int64_t chunk) { return values_.data() + chunk * 2 * partition_.columns(); }
  A* m2(int64_t chunk) { return mean(chunk) + partition_.columns(); }

  double merged_mean(int64_t channel) const { return merged_[static_cast<size_t>(channel)]; }
  double merged_m2(int64_t channel) const { return merged_[static_cast<size_t>(partition_.channels() + channel)]; }

  /// Merges channels begin to end, in double and in a fixed order. All counts are known, so the means come first,
  /// relative to one of them, and every deviation is taken from the final one: no division per chunk.
  void merge(int64_t begin, int64_t end) {
    double* mean = merged_.data();
    double* m2 = mean + partition_.channels();
    const double m = double(partition_.count());
    const A* origin = this->mean(0);
    each_partial([&](int64_t fold, double count, const A* partial_mean, const A*) {
      for (int64_t c = begin; c < end; ++c) mean[c] += count * (double(partial_mean[fold + c]) - double(origin[c]));
    });
    for (int64_t c = begin; c < end; ++c) mean[c] = double(origin[c]) + mean[c] / m;
    each_partial([&](int64_t fold, double count, const A* partial_mean, const A* partial_m2) {
      for (int64_t c = begin; c < end; ++c) {
        const double delta = double(partial_mean[fold + c]) - mean[c];
        m2[c] += double(partial_m2[fold + c]) + count * delta * delta;
      }
    });
  }

 private:
  /// f(first column, count, means, M2s) for the columns of all channels in every fold of every chunk.
  template <class F>
  void each_partial(F&& f) {
    for (int64_t chunk = 0; chunk < partition_.chunks(); ++chunk) {
      const double count = double(partition_.count(chunk));
      for (int64_t fold = 0; fold < partition_.columns(chunk); fold += partition_.channels()) {
        f(fold, count, mean(chunk), m2(chunk));
      }
    }
  }

  const Partition& partition_;
  std::vector<A> values_;
  std::vector<double> merged_;  // [2][channels]
};

/// mean, scale and shift of every column: [3][columns].
template <class A>
class ColumnCoefficients {
 public:
  ColumnCoefficients(const Partition& partition, const Affine<A>& affine)
      : partition_(partition), affine_(affine), values_(static_cast<size_t>(3 * partition.columns())) {}

  A* mean() { return values_.data(); }
  A* scale() { return mean() + partition_.columns(); }
  A* shift() { return scale() + partition_.columns(); }

  void set(int64_t channel, A channel_mean, A var) {
    const A rstd = A(1.0 / std::sqrt(double(var) + double(affine_.eps)));
    for (int64_t column = channel; column < partition_.columns(); column += partition_.channels()) {
      mean()[column] = quiet(channel_mean);
      scale()[column] = quiet(affine_.gamma(channel) * rstd);
      shift()[column] = quiet(affine_.beta(channel));
    }
  }

 private:
  const Partition& partition_;
  const Affine<A>& affine_;
  std::vector<A> values_;
};

template <class T>
void block_statistics(const T* x, const Block& block, int64_t chunk, PartialMoments<accumulate_t<T>>& partial,
                      bool contiguous) {
  const auto& primitives = active_primitives().get<T>();
  if (contiguous) {
    const auto moments = primitives.segment_statistics(x + block.offset, block.segments);
    partial.mean(chunk)[block.column] = moments.mean;
    partial.m2(chunk)[block.column] = moments.m2;
  } else {
    primitives.tile_statistics(x + block.offset, block.tile, partial.mean(chunk) + block.column,
                               partial.m2(chunk) + block.column);
  }
}

template <class T>
void block_apply(T* x, const Block& block, ColumnCoefficients<accumulate_t<T>>& coefficients,
                 const ActivationSpec& activation, bool contiguous) {
  const auto& primitives = active_primitives().get<T>();
  const int64_t c = block.column;
  if (contiguous) {
    primitives.segment_apply(x + block.offset, block.segments,
                             {coefficients.mean()[c], coefficients.scale()[c], coefficients.shift()[c]}, activation);
  } else {
    primitives.tile_apply(x + block.offset, block.tile, coefficients.mean() + c, coefficients.scale() + c,
                          coefficients.shift() + c, activation);
  }
}

/// Running statistics of one channel; `factor` is the weight of the new batch.
template <class A>
void update_running(const Running<A>& running, int64_t c, double factor, double m, A mean, A var) {
  // m = 1 has no unbiased variance; iabn/ops refuses it before it comes here.
  const double unbiased = m > 1 ? double(var) * m / (m - 1) : double(var);
  if (running.mean) running.mean[c] = A((1 - factor) * double(running.mean[c]) + factor * double(mean));
  if (running.var) running.var[c] = A((1 - factor) * double(running.var[c]) + factor * unbiased);
}

}  // namespace

template <class T>
void forward(T* x, const Shape& shape, const Affine<accumulate_t<T>>& affine, const ActivationSpec& activation,
             const Running<accumulate_t<T>>& running, accumulate_t<T>* mean, accumulate_t<T>* var,
             const Executor& executor) {
  using A = accumulate_t<T>;
  if (shape.numel() == 0) {  // no statistics: the running ones stay as they are
    std::fill_n(mean, shape.c, A(0));
    std::fill_n(var, shape.c, A(0));
    return;
  }
  if (running.batches) ++*running.batches;
  const double factor =
      running.momentum < 0 && running.batches ? 1.0 / double(*running.batches) : std::max(0.0, running.momentum);

  const Partition partition(shape, sizeof(T), 1);
  const bool contiguous = partition.contiguous();
  PartialMoments<A> partial(partition);
  ColumnCoefficients<A> coefficients(partition, affine);
  partition.two_passes(
      executor, [&](const Block& block, int64_t chunk) { block_statistics(x, block, chunk, partial, contiguous); },
      [&](int64_t begin, int64_t end) {
        partial.merge(begin, end);
        for (int64_t c = begin; c < end; ++c) {
          mean[c] = A(partial.merged_mean(c));
          var[c] = A(partial.merged_m2(c)) / A(shape.count());  // rounded as by the separate steps: the same bits
          coefficients.set(c, mean[c], var[c]);
          update_running(running, c, factor, double(shape.count()), mean[c], var[c]);
        }
      },
      [&](const Block& block, int64_t) { block_apply(x, block, coefficients, activation, contiguous); });
}

template <class T>
void statistics(const T* x, const Shape& shape, accumulate_t<T>* packed, const Executor& executor) {
  using A = accumulate_t<T>;
  if (shape.numel() == 0) return void(std::fill_n(packed, 3 * shape.c, A(0)));
  const Partition partition(shape, sizeof(T), 1);
  PartialMoments<A> partial(partition);
  partition.each_block(executor, [&](const Block& block, int64_t chunk) {
    block_statistics(x, block, chunk, partial, partition.contiguous());
  });
  partial.merge(0, shape.c);
  for (int64_t c = 0; c < shape.c; ++c) {
    packed[c] = A(shape.count());
    packed[shape.c + c] = A(partial.merged_mean(c));
    packed[2 * shape.c + c] = A(partial.merged_m2(c));
  }
}

template <class T>
void apply(T* x, const Shape& shape, const accumulate_t<T>* mean, const accumulate_t<T>* var,
           const Affine<accumulate_t<T>>& affine, const ActivationSpec& activation, const Executor& executor) {
  using A = accumulate_t<T>;
  if (shape.numel() == 0) return;
  const Partition partition(shape, sizeof(T), 1);
  ColumnCoefficients<A> coefficients(partition, affine);
  for (int64_t c = 0; c < shape.c; ++c) coefficients.set(c, mean[c], var[c]);
  partition.each_block(executor, [&](const Block& block, int64_t) {
    block_apply(x, block, coefficients, activation, partition.contiguous());
  });
}

#define IABN_INSTANTIATE(T)                                                                                       \
  template void forward<T>(T*, const Shape&, const Affine<accumulate_t<T>>&, const ActivationSpec&,               \
                           const Running<accumulate_t<T>>&, accumulate_t<T>*, accumulate_t<T>*, const Executor&); \
  template void statistics<T>(const T*, const Shape&, accumulate_t<T>*, const Executor&);                         \
  template void apply<T>(T*, const Shape&, const accumulate_t<T>*, const accumulate_t<T>*,                        \
                         const Affine<accumulate_t<T>>&, const ActivationSpec&, const Executor&);
IABN_INSTANTIATE(double)
IABN_INSTANTIATE(float)
IABN_INSTANTIATE(Half)
IABN_INSTANTIATE(BFloat16)
#undef IABN_INSTANTIATE

}  // namespace iabn::kernels::cpu
