// A stack of layers over one sequence.
#pragma once
#include "core/beside.h"

namespace rnnk {

// calls[i].args.x is calls[i - 1].args.y. Layer after layer with the whole team on each, or as a wavefront, one thread on each
// layer and each a block of steps behind the one below: whichever the kernels' estimates say is shorter. The bits do not change.
void forward_stack(const PlanCall* calls, int layers);

}  // namespace rnnk
