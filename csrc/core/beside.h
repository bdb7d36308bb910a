// Two calls that need nothing of each other, the directions of a layer.
#pragma once
#include "core/kernel.h"

namespace rnnk {

struct ForwardCall {
  const Problem& problem;
  const Kernel& kernel;
  const rnnk_args& args;
};

// One after the other with the whole team on each, or side by side with one thread on each: whichever the kernels' estimates
// say is shorter. The bits do not change.
void forward_both(const ForwardCall& one, const ForwardCall& other);

}  // namespace rnnk
