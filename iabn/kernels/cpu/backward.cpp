// The backward direction on the CPU: backward_reduce (reads z and d_z: 2 passes), backward_apply (reads both, writes
// d_x: 3), and both fused, 5 * numel * sizeof(T) bytes, 3 of the 5 from and to memory where a unit of the partition
// stays in cache between its two passes. Frozen statistics need no sums for d_x: 3 in all, and the reduction only for
// the gradients of the parameters.

#include <cmath>
#include <vector>

#include "iabn/kernels/cpu/partition.h"

namespace iabn::kernels::cpu {
namespace {

constexpr int64_t kSums = 4;  // A0, A1, B1, B2

/// beta of every column.
template <class A>
std::vector<A> column_beta(const Partition& partition, const Affine<A>& affine) {
  std::vector<A> beta(static_cast<size_t>(partition.columns()));
  for (size_t column = 0; column < beta.size(); ++column) {
    beta[column] = quiet(affine.beta(static_cast<int64_t>(column) % partition.channels()));
  }
  return beta;
}

/// The sums of every column in every chunk: [chunks][4][columns].
template <class A>
class PartialSums {
 public:
  explicit PartialSums(const Partition& partition)
      : partition_(partition), values_(static_cast<size_t>(partition.chunks() * kSums * partition.columns())) {}

  A* of(int64_t chunk) { return values_.data() + chunk * kSums * partition_.columns(); }

  /// Adds up channels begin to end, in double and in a fixed order; writes sums[k * channels + channel].
  void merge(int64_t begin, int64_t end, A* sums) {
    std::vector<double> total(static_cast<size_t>(end - begin));
    for (int64_t k = 0; k < kSums; ++k) {
      std::fill(total.begin(), total.end(), 0.0);
      for (int64_t chunk = 0; chunk < partition_.chunks(); ++chunk) {
        const A* partial = of(chunk) + k * partition_.columns();
        for (int64_t fold = 0; fold < partition_.columns(chunk); fold += partition_.channels()) {
          for (int64_t c = begin; c < end; ++c) total[static_cast<size_t>(c - begin)] += double(partial[fold + c]);
        }
      }
      for (int64_t c = begin; c < end; ++c) {
        sums[k * partition_.channels() + c] = A(total[static_cast<size_t>(c - begin)]);
      }
    }
  }

 private:
  const Partition& partition_;
  std::vector<A> values_;
};

/// a, b and c of every column: [3][columns].
template <class A>
class ColumnGradients {
 public:
  explicit ColumnGradients(const Partition& partition)
      : partition_(partition), values_(static_cast<size_t>(3 * partition.columns())) {}

  A* a() { return values_.data(); }
  A* b() { return a() + partition_.columns(); }
  A* c() { return b() + partition_.columns(); }

  void set(int64_t channel, const BackwardCoefficients<A>& coefficients) {
    for (int64_t column = channel; column < partition_.columns(); column += partition_.channels()) {
      a()[column] = quiet(coefficients.a);
      b()[column] = quiet(coefficients.b);
      c()[column] = quiet(coefficients.c);
    }
  }

 private:
  const Partition& partition_;
  std::vector<A> values_;
};

template <class A>
double rstd_of(A var, const Affine<A>& affine) {
  return 1.0 / std::sqrt(double(var) + double(affine.eps));
}

/// What the sums [4, C] of all processes say about a channel. In double: mu and the spread come from differences.
template <class A>
struct ChannelGradient {
  Recovery<double> recovered;
  BackwardCoefficients<A> coefficients;

  ChannelGradient(const A* sums, int64_t channels, int64_t c, double m, A var, const Affine<A>& affine) {
    const double a0 = double(sums[c]);
    const double gamma = double(affine.gamma(c));
    recovered = recovery<double>(gamma, m, double(sums[2 * channels + c]), double(sums[3 * channels + c]));
    const double d_gamma = gamma_gradient(recovered, a0, double(sums[channels + c]));
    const auto exact = backward_coefficients<double>(recovered, gamma, rstd_of(var, affine), m, a0, d_gamma);
    coefficients = {A(exact.a), A(exact.b), A(exact.c)};
  }
};

template <class T>
void block_reduce(const T* z, const T* d_z, const Block& block, const std::vector<accumulate_t<T>>& beta,
                  const ActivationSpec& activation, accumulate_t<T>* sums, const Partition& partition) {
  using A = accumulate_t<T>;
  const auto& primitives = active_primitives().get<T>();
  const int64_t stride = partition.columns();
  if (partition.contiguous()) {
    A channel_sums[kSums];
    primitives.segment_reduce(z + block.offset, d_z + block.offset, block.segments,
                              beta[static_cast<size_t>(block.column)], activation, channel_sums);
    for (int64_t k = 0; k < kSums; ++k) sums[k * stride + block.column] = channel_sums[k];
  } else {
    primitives.tile_reduce(z + block.offset, d_z + block.offset, block.tile, beta.data() + block.column, activation,
                           sums + block.column, stride);
  }
}

template <class T>
void block_backward(const T* z, const T* d_z, T* d_x, const Block& block, const std::vector<accumulate_t<T>>& beta,
                    ColumnGradients<accumulate_t<T>>& gradients, bool linear, const ActivationSpec& activation,
                    const Partition& partition) {
  const auto& primitives = active_primitives().get<T>();
  const BackwardForm form{linear, partition.exceeds_cache() && d_x != d_z};
  const int64_t c = block.column;
  z += block.offset;
  d_z += block.offset;
  d_x += block.offset;
  if (partition.contiguous()) {
    primitives.segment_backward(z, d_z, d_x, block.segments, beta[static_cast<size_t>(c)],
                                {gradients.a()[c], gradients.b()[c], gradients.c()[c]}, form, activation);
  } else {
    primitives.tile_backward(z, d_z, d_x, block.tile, beta.data() + c, gradients.a() + c, gradients.b() + c,
                             gradients.c() + c, form, activation);
  }
}

template <class A>
void zero_parameters(int64_t channels, A* d_weight, A* d_bias) {
  if (d_weight) std::fill_n(d_weight, channels, A(0));
  if (d_bias) std::fill_n(d_bias, channels, A(0));
}

}  // namespace

template <class T>
void backward_reduce(const T* z, const T* d_z, const Shape& shape, const Affine<accumulate_t<T>>& affine,
                     const ActivationSpec& activation, accumulate_t<T>* sums, const Executor& executor) {
  using A = accumulate_t<T>;
  if (shape.numel() == 0) return void(std::fill_n(sums, kSums * shape.c, A(0)));
  const Partition partition(shape, sizeof(T), 2);
  const auto beta = column_beta(partition, affine);
  PartialSums<A> partial(partition);
  partition.each_block(executor, [&](const Block& block, int64_t chunk) {
    block_reduce(z, d_z, block, beta, activation, partial.of(chunk), partition);
  });
  partial.merge(0, shape.c, sums);
}

template <class T>
void backward_apply(const T* z, const T* d_z, T* d_x, const Shape& shape, const accumulate_t<T>* sums,
                    const accumulate_t<T>* count, const accumulate_t<T>* var, const Affine<accumulate_t<T>>& affine,
                    const ActivationSpec& activation, const Executor& executor) {
  using A = accumulate_t<T>;
  if (shape.numel() == 0 || d_x == nullptr) return;
  const Partition partition(shape, sizeof(T), 2);
  const auto beta = column_beta(partition, affine);
  ColumnGradients<A> gradients(partition);
  for (int64_t c = 0; c < shape.c; ++c) {
    gradients.set(c, ChannelGradient<A>(sums, shape.c, c, double(count[0]), var[c], affine).coefficients);
  }
  partition.each_block(executor, [&](const Block& block, int64_t) {
    block_backward(z, d_z, d_x, block, beta, gradients, true, activation, partition);
  });
}

template <class A>
void backward_parameters(const A* local_sums, const A* sums, const A* count, int64_t channels, const Affine<A>& affine,
                         A* d_weight, A* d_bias) {
  if (count[0] == A(0)) return zero_parameters(channels, d_weight, d_bias);
  for (int64_t c = 0; c < channels; ++c) {
    const double gamma = double(affine.gamma(c));
    const auto recovered =
        recovery<double>(gamma, double(count[0]), double(sums[2 * channels + c]), double(sums[3 * channels + c]));
    const double d_gamma = gamma_gradient(recovered, double(local_sums[c]), double(local_sums[channels + c]));
    if (d_weight) d_weight[c] = A(d_gamma) * affine.gamma_sign(c);
    if (d_bias) d_bias[c] = local_sums[c];
  }
}

template <class T>
void backward(const T* z, const T* d_z, T* d_x, const Shape& shape, const accumulate_t<T>* var,
              const Affine<accumulate_t<T>>& affine, const ActivationSpec& activation, accumulate_t<T>* d_weight,
              accumulate_t<T>* d_bias, const Executor& executor) {
  using A = accumulate_t<T>;
  if (shape.numel() == 0) return zero_parameters(shape.c, d_weight, d_bias);
  const A count = A(shape.count());
  std::vector<A> sums(static_cast<size_t>(kSums * shape.c));
  if (d_x == nullptr) {
    backward_reduce(z, d_z, shape, affine, activation, sums.data(), executor);
    return backward_parameters(sums.data(), sums.data(), &count, shape.c, affine, d_weight, d_bias);
  }
  const Partition partition(shape, sizeof(T), 2);
  const auto beta = column_beta(partition, affine);
  PartialSums<A> partial(partition);
  ColumnGradients<A> gradients(partition);
  partition.two_passes(
      executor,
      [&](const Block& block, int64_t chunk) {
        block_reduce(z, d_z, block, beta, activation, partial.of(chunk), partition);
      },
      [&](int64_t begin, int64_t end) {
        partial.merge(begin, end, sums.data());
        for (int64_t c = begin; c < end; ++c) {
          gradients.set(c, ChannelGradient<A>(sums.data(), shape.c, c, double(count), var[c], affine).coefficients);
        }
      },
      [&](const Block& block, int64_t) {
        block_backward(z, d_z, d_x, block, beta, gradients, true, activation, partition);
      });
  backward_parameters(sums.data(), sums.data(), &count, shape.c, affine, d_weight, d_bias);
}

template <class T>
void backward_frozen(const T* z, const T* d_z, T* d_x, const Shape& shape, const accumulate_t<T>* var,
                     const Affine<accumulate_t<T>>& affine, const ActivationSpec& activation, accumulate_t<T>* d_weight,
                     accumulate_t<T>* d_bias, const Executor& executor) {
  using A = accumulate_t<T>;
  if (shape.numel() == 0) return zero_parameters(shape.c, d_weight, d_bias);
  const Partition partition(shape, sizeof(T), 2);
  const auto beta = column_beta(partition, affine);
  ColumnGradients<A> gradients(partition);
  for (int64_t c = 0; c < shape.c; ++c) {
    gradients.set(c, {A(double(affine.gamma(c)) * rstd_of(var[c], affine)), A(0), A(0)});
  }
  const auto second = [&](const Block& block, int64_t) {
    block_backward(z, d_z, d_x, block, beta, gradients, false, activation, partition);
  };
  if (!d_weight && !d_bias) {
    if (d_x) partition.each_block(executor, second);
    return;
  }
  PartialSums<A> partial(partition);
  std::vector<A> sums(static_cast<size_t>(kSums * shape.c));
  const auto first = [&](const Block& block, int64_t chunk) {
    block_reduce(z, d_z, block, beta, activation, partial.of(chunk), partition);
  };
  const auto finish = [&](int64_t begin, int64_t end) {
    partial.merge(begin, end, sums.data());
    for (int64_t c = begin; c < end; ++c) {
      const A gamma = affine.gamma(c);
      if (d_weight) d_weight[c] = gamma == A(0) ? A(0) : affine.gamma_sign(c) * sums[shape.c + c] / gamma;
      if (d_bias) d_bias[c] = sums[c];
    }
  };
  if (d_x) return partition.two_passes(executor, first, finish, second);
  partition.each_block(executor, first);
  finish(0, shape.c);
}

#define IABN_INSTANTIATE(T)                                                                                            \
  template void backward<T>(const T*, const T*, T*, const Shape&, const accumulate_t<T>*,                              \
                            const Affine<accumulate_t<T>>&, const ActivationSpec&, accumulate_t<T>*, accumulate_t<T>*, \
                            const Executor&);                                                                          \
  template void backward_frozen<T>(const T*, const T*, T*, const Shape&, const accumulate_t<T>*,                       \
                                   const Affine<accumulate_t<T>>&, const ActivationSpec&, accumulate_t<T>*,            \
                                   accumulate_t<T>*, const Executor&);                                                 \
  template void backward_reduce<T>(const T*, const T*, const Shape&, const Affine<accumulate_t<T>>&,                   \
                                   const ActivationSpec&, accumulate_t<T>*, const Executor&);                          \
  template void backward_apply<T>(const T*, const T*, T*, const Shape&, const accumulate_t<T>*,                        \
                                  const accumulate_t<T>*, const accumulate_t<T>*, const Affine<accumulate_t<T>>&,      \
                                  const ActivationSpec&, const Executor&);
IABN_INSTANTIATE(double)
IABN_INSTANTIATE(float)
IABN_INSTANTIATE(Half)
IABN_INSTANTIATE(BFloat16)
#undef IABN_INSTANTIATE

template void backward_parameters<double>(const double*, const double*, const double*, int64_t, const Affine<double>&,
                                          double*, double*);
template void backward_parameters<float>(const float*, const float*, const float*, int64_t, const Affine<float>&,
                                         float*, float*);

}  // namespace iabn::kernels::cpu
