// The two directions of a layer: one after the other with the whole team on each, or at the same time with one thread on each (on
// a GPU: on two streams), whichever the kernels' estimates say is shorter (schedule.h). The bits do not change.
#pragma once
#include "network/kernel_call.h"

namespace rnnk {

// The workspace that `other` has for itself; null: none, so the two share one and run one after the other.
struct SecondWorkspace {
  void* data;
  int64_t kernel_bytes;  // the kernel's
  int64_t more_bytes;    // behind those
};

void forward_pair(const KernelCall& one, KernelCall other, const SecondWorkspace&);

// Both directions' gradients go to the same dx, the second one's being added. At the same time, the second has a dx of its own, in
// the type of computation, in the bytes that its workspace has more; where those are too few they run one after the other.
void backward_pair(const KernelCall& one, KernelCall other, const SecondWorkspace&);

}  // namespace rnnk
