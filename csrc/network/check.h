// The checks of the C ABI: everything that kernels rely on, verified before any work. Each throws Failure.
#pragma once
#include "network/network.h"

namespace rnnk {

// Which arguments a call uses.
enum class Pass { forward, backward };

void check_args(const Network&, const rnnk_args&, Pass);
// weights: [L*D], or the gradients of weights, of which all may be absent.
enum class Wanted { all, some };
void check_weights(const Network&, const rnnk_weights* weights, Wanted);
// seq_len and batch are in range and so small that no size computed from them overflows.
void check_extent(const Network&, int64_t seq_len, int64_t batch);
void check_extent(const Problem&, int64_t layers, int64_t seq_len, int64_t batch);
// values: they are in host memory, and are checked too.
void check_lengths(const rnnk_tensor& lengths, int64_t seq_len, int64_t batch, bool values);
// A buffer has the bytes that are needed, and is aligned.
void check_room(const char* name, const void* data, size_t size, int64_t needed);

}  // namespace rnnk
