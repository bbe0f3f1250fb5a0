#pragma once

// The processes of a job: torchrun's environment, and the process group over it.

#include <chrono>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include "iabn/nn/sync.h"

namespace iabn::train {

class NeighbourWatch;

/// This process among the others.
struct World {
  int rank = 0;
  int size = 1;
  int local_rank = 0;                     // on this machine: the number of its GPU
  bool on_gpus = false;                   // NCCL
  int nccl_blocks = 0;                    // thread blocks of its kernels at most; 0: any number
  nn::ProcessGroup group;                 // null where it is alone
  std::shared_ptr<NeighbourWatch> watch;  // of a job on GPUs

  bool first() const { return rank == 0; }
  /// The device of this process for what a user asked for: its own GPU of the machine, where nobody chose a number.
  std::string device_name(const std::string& asked) const;
  /// True on all ranks where it is on one; a collective that waits on the host. Throws std::runtime_error that names
  /// the rank where another process has ended or does not come.
  bool any(bool here) const;
  /// The sum over all ranks, on the CPU; otherwise as any(). `values` may be on the device and stays as it is. Waits at
  /// most `timeout`, by default the group's.
  at::Tensor sum(const at::Tensor& values, std::chrono::milliseconds timeout = {}) const;
  /// The texts of all ranks, on all, in the order of the ranks; a collective that waits on the host.
  std::vector<std::string> gather(const std::vector<std::string>& texts) const;

  /// Calls `part` of the job, which may leave work on a GPU. An exception passes as it is, but for a job on GPUs: there
  /// its text goes to stderr and the process ends at once, with exit code 2 for ConfigError and std::invalid_argument
  /// and 1 for all others, as without GPUs, because what waits on a GPU for a process
  /// that has gone can't be taken back, and the destructors of whatever uses the GPU would wait for it.
  template <class Part>
  auto run(Part&& part) const {
    try {
      return part();
    } catch (const std::exception& error) {
      if (on_gpus) end_process(error);
      throw;
    }
  }
  /// Takes leave of the others, after a part that went well; what was captured with the group must be gone.
  void leave() const;

 private:
  [[noreturn]] void fail_exchange(const std::exception& error) const;
  [[noreturn]] static void end_process(const std::exception& error);
};

/// Collectives that take longer fail.
inline constexpr std::chrono::minutes kDefaultTimeout{10};

/// Joins the job that RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT describe, as torchrun sets them: a
/// store over TCP, NCCL for tensors on GPUs, Gloo for those of the CPU. A job on GPUs ends as soon as one of its
/// processes has ended without leave(). Alone where WORLD_SIZE is not set or 1. Waits for all processes, at most
/// `timeout`. `nccl_blocks`: thread blocks of an NCCL kernel at most, each on a multiprocessor of its own, of a job of
/// at most 8 processes and one launcher; 0, or other jobs: any number. Throws std::invalid_argument for variables that
/// are missing or wrong, and std::runtime_error that names rank and address where the others can't be reached.
World join_world(c10::DeviceType device, std::chrono::milliseconds timeout = kDefaultTimeout, int nccl_blocks = 0);

/// The parts of join_world. NCCL needs a build with CUDA.
c10::intrusive_ptr<c10d::Backend> make_gloo(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                                            std::chrono::milliseconds timeout);
c10::intrusive_ptr<c10d::Backend> make_nccl(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                                            std::chrono::milliseconds timeout, int blocks = 0);

}  // namespace iabn::train
