#include "iabn/data/single_thread.h"

#include <ATen/Parallel.h>
#include <dlfcn.h>

namespace iabn::data {
namespace {

// at::set_num_threads() would do it for every thread that starts from then on. OpenMP's own function does it for the
// calling thread, but it must be that of the OpenMP which ATen uses: PyTorch brings one, and a second copy linked here
// would keep its own settings. An ATen without OpenMP has none; then nothing is done.
void set_threads_of_this_thread(int count) {
  using Function = void (*)(int);
  static const auto function = reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, "omp_set_num_threads"));
  if (function != nullptr) function(count);
}

}  // namespace

// Asking ATen first also makes it set its own number, which it would otherwise do later, over ours.
SingleThread::SingleThread() : before_(at::get_num_threads()) { set_threads_of_this_thread(1); }

SingleThread::~SingleThread() { set_threads_of_this_thread(before_); }

}  // namespace iabn::data
