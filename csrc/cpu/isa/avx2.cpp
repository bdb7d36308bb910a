// cpu_avx2: bfloat16 by widening.
#include "cpu/isa/avx2_vec.h"

#include "cpu/instantiate.h"

namespace rnnk {

extern const Kernel cpu_avx2_kernel;
const Kernel cpu_avx2_kernel = cpu_kernel<Arithmetics<Native<VecF>, Native<VecD>, Widened<VecF>>>("cpu_avx2", kAvx2 | kFma);

extern const UnitHost cpu_avx2_host;
const UnitHost cpu_avx2_host = unit_host<VecF>();

}  // namespace rnnk
