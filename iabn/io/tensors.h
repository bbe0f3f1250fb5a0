#pragma once

// Tensors of a checkpoint as LibTorch's, and back.

#include <ATen/core/Tensor.h>

#include "iabn/io/value.h"

namespace iabn::io {

/// A tensor on the CPU with the same values, sizes and strides, without gradient. It shares the checkpoint's memory
/// where that is aligned for its type, so it must not be written to: clone() it first.
at::Tensor to_at(const Tensor& tensor);

/// Shares the memory of a tensor on the CPU (with all its storage, so that tensors that share one share it in a file,
/// too), copies one of another device. Write the file before the tensor changes. Throws CheckpointError for sparse or
/// quantised tensors and for types that checkpoints do not have.
Tensor from_at(const at::Tensor& tensor);

/// An OrderedDict of from_at of each tensor, the keys behind `prefix`: what torch.save(model.state_dict()) holds, with
/// the prefix "module." that of a DistributedDataParallel model. A snapshot is then
///
///   Dict snapshot;
///   snapshot.set("epoch", 3);
///   snapshot.set("state_dict", to_state_dict(tensors, "module."));
///   std::string file = pytorch_bytes(snapshot);
Dict to_state_dict(const std::vector<std::pair<std::string, at::Tensor>>& tensors, const std::string& prefix = "");

}  // namespace iabn::io
