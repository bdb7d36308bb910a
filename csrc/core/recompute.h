// BPTT that keeps little: instead of every step's gates, the states at the borders of segments; backward runs each segment's
// forward again, last segment first. Works over any kernel: a segment is a call of its own on a part of the tensors.
//
// Segments are whole numbers of the kernel's gradient blocks, counted from the end of the walk, and sums over segments go on
// where the one before stopped; so gradients have the bits of the stored variant.
#pragma once
#include "core/kernel.h"

namespace rnnk {

// Of the kernel itself where the problem does not ask for recomputation.
Sizes plan_sizes(const Problem&, const Kernel&, int64_t seq_len, int64_t batch);
void plan_forward(const Problem&, const Kernel&, const rnnk_args&);
void plan_backward(const Problem&, const Kernel&, const rnnk_args&);

}  // namespace rnnk
