// BPTT that keeps little: instead of every step's gates, the states at the borders of segments; backward runs each segment's
// forward again, last segment first. Works over any kernel: a segment is a call of its own on a part of the tensors.
//
// Segments are whole numbers of the kernel's gradient blocks, counted from the end of the walk, and sums over segments go on
// where the one before stopped; so gradients have the bits of the stored variant.
#pragma once
#include "network/kernel_call.h"

namespace rnnk {

// The kernel's own where the problem does not ask for recomputation.
int64_t layer_bytes(const Problem&, const Kernel&, Space, int64_t seq_len, int64_t batch);
void forward_layer(const KernelCall&);
void backward_layer(const KernelCall&);

}  // namespace rnnk
