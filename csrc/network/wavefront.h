// A stack of layers of one direction in blocks of steps (schedule.h's Wave). The bits do not change, except where a product over
// time on a GPU adds up in an order that depends on its number of rows.
#pragma once
#include "network/calls.h"

namespace rnnk {

// CPU inference: layers of a block in turn, or at the same time, one thread on each. Reads x and writes y of args.
void forward_in_blocks(const Network&, const rnnk_args&, const Extent&, Wave, const Calls&, const ForwardSpace&);

// GPU: calls[i], in the order in which they depend on each other, each on a stream of its own.
void wave_on_streams(const KernelCall* calls, int64_t count, int64_t block_steps, bool backward);

}  // namespace rnnk
