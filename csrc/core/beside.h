// Two calls that need nothing of each other, the directions of a layer.
#pragma once
#include "core/kernel.h"

namespace rnnk {

struct PlanCall {
  const Problem& problem;
  const Kernel& kernel;
  const rnnk_args& args;
};

// One after the other with the whole team on each, or side by side with one thread on each (on a GPU: on two streams),
// whichever the kernels' estimates say is shorter. The bits do not change.
void forward_both(const PlanCall& one, const PlanCall& other);

// The same of two backward calls. Where `other` adds to one's dx (RNNK_ACCUMULATE_DX), side by side it has a dx of its own, in
// the type of computation, behind its workspace; where there is no room for that they go one after the other.
void backward_both(const PlanCall& one, const PlanCall& other);
// Bytes of other's workspace with that room, if it would be used; of args only seq_len and batch are looked at.
int64_t backward_both_workspace(const PlanCall& one, const PlanCall& other);

}  // namespace rnnk
