// cpu_neon: bfloat16 by widening.
#include "cpu/isa/neon_vec.h"

#include "cpu/instantiate.h"

namespace rnnk {

extern const Kernel cpu_neon_kernel;
const Kernel cpu_neon_kernel = cpu_kernel<Arithmetics<Native<VecF>, Native<VecD>, Widened<VecF>>>("cpu_neon", kNeon);

extern const UnitHost cpu_neon_host;
const UnitHost cpu_neon_host = unit_host<VecF>();

}  // namespace rnnk
