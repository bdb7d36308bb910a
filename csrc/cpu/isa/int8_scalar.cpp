// cpu_scalar_int8: one lane, for any CPU.
#include "cpu/int8_walk.h"
#include "cpu/isa/scalar_vec.h"
#include "cpu/unit_kernel.h"

namespace rnnk {
namespace {

struct ScalarI {
  using T = int32_t;
  static constexpr int lanes = 1, registers = 16;
  T v;

  RNNK_HD static ScalarI load(const T* p) { return {*p}; }
  RNNK_HD void store(T* p) const { *p = v; }
  RNNK_HD static ScalarI set1(T x) { return {x}; }
  friend RNNK_HD ScalarI operator+(ScalarI a, ScalarI b) { return {a.v + b.v}; }
};

struct Dot {
  using V = ScalarI;
  using F = ScalarF;
  static constexpr bool offset = false;
  RNNK_HD static const uint8_t* broadcast(const uint8_t* a) { return a; }
  RNNK_HD static const int8_t* load(const int8_t* w) { return w; }
  RNNK_HD static ScalarI mac(const uint8_t* x, const int8_t* w, ScalarI sum) {
    for (int i = 0; i < 4; ++i) sum.v += (x[i] - kInt8Offset) * w[i];
    return sum;
  }
  static void lower_bytes(ScalarF v, uint8_t* to) { rnnk::lower_bytes(v, to); }
  RNNK_HD static ScalarF to_float(ScalarI sum) { return {static_cast<float>(sum.v)}; }
};

constexpr WeightUnit kUnit{run_int8<Dot>, 1, 1};

}  // namespace

extern const UnitHost cpu_scalar_host;
extern const Kernel cpu_scalar_int8_kernel;
const Kernel cpu_scalar_int8_kernel = unit_kernel<cpu_scalar_host, kUnit>("cpu_scalar_int8", 0, WeightForm::int8);

}  // namespace rnnk
