// The instances of moves.cuh that all strategies share. A missing instance is a link error.
#include "cuda/moves.cuh"

namespace rnnk {
namespace gpu {
RNNK_MOVES(template)
}  // namespace gpu
}  // namespace rnnk
