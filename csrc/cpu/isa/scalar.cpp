// cpu_scalar: the driver over one-lane vectors, for any CPU. Tests compare every other kernel with it.
#include "cpu/instantiate.h"
#include "cpu/isa/scalar_vec.h"

namespace rnnk {

extern const Kernel cpu_scalar_kernel;
const Kernel cpu_scalar_kernel =
    cpu_kernel<Arithmetics<Native<ScalarF>, Native<ScalarD>, Widened<ScalarF>>>("cpu_scalar", 0);

extern const UnitHost cpu_scalar_host;
const UnitHost cpu_scalar_host = unit_host<ScalarF>();

}  // namespace rnnk
