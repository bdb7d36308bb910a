// cpu_avx512: bfloat16 by widening.
#include "cpu/isa/avx512_vec.h"

#include "cpu/instantiate.h"

namespace rnnk {

extern const Kernel cpu_avx512_kernel;
const Kernel cpu_avx512_kernel = cpu_kernel<Arithmetics<Native<VecF>, Native<VecD>, Widened<VecF>>>(
    "cpu_avx512", kAvx512f | kAvx512bw | kAvx512vl | kAvx512dq | kFma);

extern const UnitHost cpu_avx512_host;
const UnitHost cpu_avx512_host = unit_host<VecF>();

}  // namespace rnnk
