// The checks of the C ABI: everything a kernel relies on, verified before any work. Each throws Failure.
#pragma once
#include "core/kernel.h"

namespace rnnk {

// What of the arguments a call uses.
enum class Pass { forward, backward };

void check_args(const Problem&, const Kernel&, const rnnk_args&, Pass);
// dx may be both calls', where the second one adds to it.
void check_shared_dx(const Problem& one, const rnnk_args& one_args, const Problem& other, const rnnk_args& other_args);
void check_weights(const Problem&, const rnnk_weights&);
// seq_len and batch are in range and so small that no size computed from them overflows.
void check_extent(const Problem&, int64_t seq_len, int64_t batch);
void check_lengths(const int64_t* lengths, int64_t seq_len, int64_t batch);

}  // namespace rnnk
