// The operators of torch.ops.iabn: their schemas. Formulas and steps: iabn/kernels/kernels.h; checks: front.h.
//
// Argument values: `activation` is iabn::Activation, `activation_param` the slope or alpha, `gamma` is GammaMode
// (0 signed, 1 legacy), `momentum` None means cumulative average. Per-channel tensors returned are float32, or float64
// for float64 x. An operator whose name ends in `_` overwrites x.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(iabn, m) {
  // x [N, C, ...] -> z over x; mean, biased var [C] of the batch; the running statistics are updated.
  m.def(
      "abn_forward_(Tensor(a!) x, Tensor? weight, Tensor? bias, Tensor(b!)? running_mean, Tensor(c!)? running_var, "
      "Tensor(d!)? num_batches_tracked, float? momentum, float eps, int activation, float activation_param, int gamma) "
      "-> (Tensor mean, Tensor var)");
  // The same without overwriting x and without running statistics: what a compiler may reorder, recompute or turn into
  // the one above. Its autograd kernel comes from Python; `revision` does nothing but tell apart the compiled graphs of
  // releases whose autograd differs.
  m.def(
      "abn(Tensor x, Tensor? weight, Tensor? bias, float eps, int activation, float activation_param, int gamma, "
      "int revision) -> (Tensor z, Tensor mean, Tensor var)");
  // [3, C]: count, mean, M2 (sum of squared deviations). x may be empty.
  m.def("abn_statistics(Tensor x) -> Tensor");
  // Of all processes, from their packed statistics one below the other, [3*W, C]: mean, biased var [C], count [].
  // Updates the running statistics as abn_forward_ does; not where there are fewer than two values.
  m.def(
      "abn_merge(Tensor gathered, Tensor(a!)? running_mean, Tensor(b!)? running_var, Tensor(c!)? num_batches_tracked, "
      "float? momentum) -> (Tensor mean, Tensor var, Tensor count)");
  // x -> z over x from given statistics [C]: running ones in evaluation, merged ones of several processes.
  m.def(
      "abn_apply_(Tensor(a!) x, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, float eps, int activation, "
      "float activation_param, int gamma) -> ()");
  // d_weight, d_bias [C] are with respect to weight and bias; what is not asked for comes back with shape [0].
  // training: statistics were the batch's; otherwise they were constants.
  m.def(
      "abn_backward(Tensor z, Tensor d_z, Tensor var, Tensor? weight, Tensor? bias, bool training, float eps, "
      "int activation, float activation_param, int gamma, bool needs_d_x, bool needs_d_parameters) "
      "-> (Tensor d_x, Tensor d_weight, Tensor d_bias)");
  // [4, C]: A0, A1, B1, B2 of this process.
  m.def("abn_backward_reduce(Tensor z, Tensor d_z, Tensor? bias, int activation, float activation_param) -> Tensor");
  // d_x from the sums [4, C] and the count [] over all processes.
  m.def(
      "abn_backward_apply(Tensor z, Tensor d_z, Tensor sums, Tensor count, Tensor var, Tensor? weight, Tensor? bias, "
      "float eps, int activation, float activation_param, int gamma) -> Tensor");
  // d_weight, d_bias [C] of this process's samples, by the recovery of all processes' sums.
  m.def(
      "abn_backward_parameters(Tensor local_sums, Tensor sums, Tensor count, Tensor? weight, float eps, int gamma) "
      "-> (Tensor d_weight, Tensor d_bias)");
  // The layer over the GPUs of several processes in one launch per direction (iabn/kernels/cuda/peers.h). peers: rank,
  // multiprocessors to spare, channels of the areas, timeout in ms, then the addresses of the areas by rank. x may be
  // empty, and no float64. count []: elements per channel of all processes.
  m.def(
      "abn_peer_forward_(Tensor(a!) x, Tensor? weight, Tensor? bias, Tensor(b!)? running_mean, Tensor(c!)? "
      "running_var, "
      "Tensor(d!)? num_batches_tracked, float? momentum, float eps, int activation, float activation_param, int gamma, "
      "int[] peers) -> (Tensor mean, Tensor var, Tensor count)");
  m.def(
      "abn_peer_backward(Tensor z, Tensor d_z, Tensor count, Tensor var, Tensor? weight, Tensor? bias, float eps, "
      "int activation, float activation_param, int gamma, bool needs_d_x, bool needs_d_parameters, int[] peers) "
      "-> (Tensor d_x, Tensor d_weight, Tensor d_bias)");
  // Memory on CUDA device `device` that the GPUs of `processes` processes write into, for layers of at most `channels`
  // channels, and on `card`, 128 bytes on the CPU, what the others need to open it. Returns its address here, as
  // peer_open does of another process's area: 0 where this device can't reach it. Kept until the process ends.
  m.def("peer_area(Tensor(a!) card, int device, int channels, int processes) -> int");
  m.def("peer_open(Tensor card, int device) -> int");
}
