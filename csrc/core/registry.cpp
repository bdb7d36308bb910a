// The kernel list.
#include "core/kernel.h"

namespace rnnk {

#define RNNK_KERNEL(name) extern const Kernel name##_kernel;
#include "core/kernels.generated.inc"
#undef RNNK_KERNEL

const Kernel* const kKernels[] = {
#define RNNK_KERNEL(name) &name##_kernel,
#include "core/kernels.generated.inc"
#undef RNNK_KERNEL
    nullptr};

const char* other_device(const Kernel& kernel) {
  return kernel.device == RNNK_CUDA ? "it runs on a GPU, and the problem's device is the CPU"
                                    : "it runs on the CPU, and the problem's device is a GPU";
}

}  // namespace rnnk
