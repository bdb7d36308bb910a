// cpu_avx512_int8: products of bytes by VNNI.
#include "cpu/isa/int8_avx512_dot.h"
#include "cpu/unit_kernel.h"

namespace rnnk {
namespace {

constexpr WeightUnit kUnit{run_int8<Dot>, 0.5 / 4, 1};

}  // namespace

extern const UnitHost cpu_avx512_host;
extern const Kernel cpu_avx512_int8_kernel;
const Kernel cpu_avx512_int8_kernel = unit_kernel<cpu_avx512_host, kUnit>(
    "cpu_avx512_int8", kAvx512f | kAvx512bw | kAvx512vl | kAvx512dq | kAvx512vnni | kFma, WeightForm::int8);

}  // namespace rnnk
