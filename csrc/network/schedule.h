// Every choice of when layers, directions and steps run, and of the kernels that run them; core/costs.h has the constants. No choice
// but that of a kernel changes a bit.
#pragma once
#include "core/costs.h"
#include "network/kernel_call.h"
#include "network/network.h"

namespace rnnk {

// The kernel called `name` (Failure when there is none, or it declines), or with null: RNNKERN_KERNEL if set, else the smallest
// estimate of a forward and a backward call on one thread; list order breaks ties. The same for every call of a plan.
const Kernel& choose_kernel(const Problem&, const rnnk_problem& hints, const char* name);
// Why the kernel cannot run the problem here, in reason (with the numbers), or true.
bool can_run(const Kernel&, const Problem&, char* reason, int64_t size);

// Steps of a segment of recomputation: a multiple of the kernel's gradient blocks.
int64_t segment_steps(const Kernel&, int64_t seq_len, int64_t batch);

// Whether two calls that need nothing of each other are faster at the same time, on one thread each (on a GPU: on two streams),
// than one after the other on all threads, though it takes extra_us afterwards (on a GPU too little to count).
bool faster_at_once(const KernelCall& one, const KernelCall& other, bool backward, double extra_us);
// Bytes of a dx of its own for the second direction of a layer, where the two are faster at once; else 0.
int64_t second_dx_bytes(const KernelCall& one, const KernelCall& other);

// How a stack of layers of one direction walks time: in blocks of steps, all layers of a block in turn, or at the same time, each
// layer one block behind the one below it. steps == seq_len: layer after layer.
struct Wave {
  int64_t steps;
  bool at_once;
};
// workspace: bytes that are there; -1: no limit; 0: as little as possible.
Wave forward_wave(const Network&, const Extent&, int64_t workspace);
Wave backward_wave(const Network&, const Extent&, int64_t lowest, int64_t workspace);

}  // namespace rnnk
