// A stack of layers over one sequence.
#pragma once
#include "core/beside.h"

namespace rnnk {

// calls[i].args.x is calls[i - 1].args.y. Layer after layer with the whole device on each, or as a wavefront, one thread (on a GPU:
// one stream) on each layer and each a block of steps behind the one below: whichever the kernels' estimates say is shorter. The
// bits do not change, but where a product over time of a GPU adds up in an order that goes by the number of rows.
void forward_stack(const PlanCall* calls, int layers);

// The same of backward calls: calls[i].args.dy is calls[i + 1].args.dx. A wavefront on a GPU alone.
void backward_stack(const PlanCall* calls, int layers);

}  // namespace rnnk
