// The instances of moves.cuh that all strategies share. Of one that is missing here the linker says so.
#include "cuda/moves.cuh"

namespace rnnk {
namespace gpu {
RNNK_MOVES(template)
}  // namespace gpu
}  // namespace rnnk
