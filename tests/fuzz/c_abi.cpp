// The C ABI under libFuzzer: arbitrary structs, sizes, absent and short buffers. Whatever comes, a call returns a status, and
// touches no byte that is not the caller's (tests/fuzz/run builds it with the address and undefined-behaviour sanitizers).
//
// The caller's side of the contract is kept: a tensor that is given has the memory that its strides reach. So every buffer is
// allocated to the byte, and sizes that are told are those of the buffers, or smaller.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <vector>

#include "rnnkern/rnnkern.h"

namespace {

constexpr int64_t kMost = 4 << 20;  // bytes of a buffer: larger problems are only planned

struct Input {
  const uint8_t* at;
  size_t left;
  template <class T>
  T take() {
    T value{};
    const size_t n = left < sizeof value ? left : sizeof value;
    std::memcpy(&value, at, n);
    at += n, left -= n;
    return value;
  }
  int below(int n) { return take<uint8_t>() % n; }
  bool one_in(int n) { return below(n) == n - 1; }
  // Mostly one of the plausible values, sometimes anything.
  template <class T>
  T any_of(std::initializer_list<T> values) {
    return one_in(24) ? take<T>() : *(values.begin() + below(static_cast<int>(values.size())));
  }
};

struct Free {
  void operator()(void* p) const { std::free(p); }
};
// Buffers of one call, each of as many bytes as are asked for and not one more.
class Memory {
 public:
  explicit Memory(Input& in) : in_(in) {}
  // null: now and then, or where it would be too large.
  void* get(int64_t bytes, int null_in = 24) {
    if (bytes < 0 || bytes > kMost || in_.one_in(null_in)) return nullptr;
    void* p = nullptr;
    if (posix_memalign(&p, 64, bytes ? static_cast<size_t>(bytes) : 1)) std::abort();
    std::memset(p, in_.below(4) == 0 ? 0xff : 0, static_cast<size_t>(bytes));
    kept_.emplace_back(p);
    return p;
  }

 private:
  Input& in_;
  std::vector<std::unique_ptr<void, Free>> kept_;
};

int item(int32_t dtype) { return dtype == RNNK_FLOAT64 ? 8 : dtype == RNNK_FLOAT32 ? 4 : 2; }

rnnk_tensor tensor(Input& in, Memory& memory, int32_t dtype, std::initializer_list<int64_t> shape, int null_in) {
  rnnk_tensor t{};
  t.dtype = in.one_in(16) ? in.any_of<int32_t>({0, 1, 2, 3}) : dtype;
  int64_t reach = 1, dense = 1, low = 0;
  int64_t dims[3] = {1, 1, 1};
  const size_t n = shape.size();
  std::copy(shape.begin(), shape.end(), dims);
  for (size_t i = n; i-- > 0;) {
    const int64_t stride = in.one_in(8) ? in.below(9) - 3 : dense * (in.one_in(8) ? 2 : 1);
    t.stride[i] = stride;
    if (dims[i] < 0 || dims[i] > kMost) return t;
    dense *= dims[i] > 0 ? dims[i] : 1;
    if (dense > kMost) return t;
    const int64_t far = dims[i] > 0 ? (dims[i] - 1) * stride : 0;
    if (far < 0) low -= far;
    else reach += far;
  }
  const int size = t.dtype >= 0 && t.dtype <= 3 ? item(t.dtype) : 8;
  char* base = static_cast<char*>(memory.get((reach + low) * size, null_in));
  t.data = base ? base + low * size : nullptr;
  return t;
}

rnnk_problem problem(Input& in) {
  rnnk_problem p{};
  p.struct_size = in.any_of<uint32_t>({sizeof p, sizeof p, sizeof p, sizeof p + 8, 8, 40});
  p.cell = in.any_of<int32_t>({0, 1, 2, 3, 3, 4, 4, 5});
  p.dtype = in.any_of<int32_t>({0, 0, 0, 1, 2, 3});
  p.device = in.any_of<int32_t>({0, 0, 0, 0, 0, 0, 0, 1});
  p.device_index = in.any_of<int32_t>({0});
  for (uint32_t bit = 1; bit <= 512; bit *= 2) p.flags |= in.one_in(5) ? bit : 0;
  if (in.one_in(24)) p.flags = in.take<uint32_t>();
  p.input_size = in.any_of<int64_t>({1, 2, 3, 5, 8, 17});
  p.hidden_size = in.any_of<int64_t>({1, 2, 3, 6, 8, 9, 16, 18});
  if (in.one_in(4)) p.proj_size = in.any_of<int64_t>({1, 2, 5});
  if (in.one_in(4)) p.heads = in.any_of<int64_t>({1, 2, 3});
  if (in.one_in(4)) p.clip = in.any_of<double>({0.5, 1e-3, 1e30, -1.0});
  for (auto& a : p.activations) {
    if (in.one_in(4))
      a = {in.any_of<int32_t>({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}), in.any_of<double>({0, .5, 1}),
           in.any_of<double>({0, .5, 1})};
  }
  for (double& z : p.zoneout) {
    if (in.one_in(4)) z = in.any_of<double>({0, .3, 1, 1.5});
  }
  if (in.one_in(4)) p.recurrent_dropout = in.any_of<double>({0, .3, 1, -1});
  // An older caller's struct ends earlier: the library must take what stands behind for neutral, and so must this file.
  if (p.struct_size < sizeof p) std::memset(reinterpret_cast<char*>(&p) + p.struct_size, 0, sizeof p - p.struct_size);
  return p;
}

struct Made {
  rnnk_plan* plan = nullptr;
  ~Made() { rnnk_plan_destroy(plan); }
};

void run(Input& in) {
  Memory memory(in);
  const rnnk_problem p = problem(in);
  Made made;
  static const char* const kernels[] = {nullptr, nullptr, nullptr, "cpu_scalar", "cpu_avx2", "", "no such kernel"};
  rnnk_plan_create(in.one_in(40) ? nullptr : &p, kernels[in.below(7)], in.one_in(40) ? nullptr : &made.plan);
  rnnk_verdict verdict{};
  verdict.struct_size = in.any_of<uint32_t>({sizeof verdict, sizeof verdict, 8});
  rnnk_explain(&p, in.any_of<int64_t>({1, 5}), in.any_of<int64_t>({1, 3}), in.any_of<int32_t>({0, 1, 2}), &verdict);
  const int64_t T = in.any_of<int64_t>({0, 1, 2, 3, 5, 9}), B = in.any_of<int64_t>({0, 1, 2, 3, 7});
  rnnk_sizes sizes{};
  sizes.struct_size = in.any_of<uint32_t>({sizeof sizes, sizeof sizes, sizeof sizes, 4});
  if (rnnk_plan_sizes(made.plan, T, B, &sizes) != RNNK_OK || !made.plan) return;
  rnnk_plan_estimate(made.plan, T, B, in.below(2));
  const int64_t G = rnnk_cell_gates(p.cell), states = rnnk_cell_states(p.cell), I = p.input_size, H = p.hidden_size;
  const int64_t P = p.proj_size > 0 ? p.proj_size : H, heads = p.heads > 1 ? p.heads : 1, each = item(p.dtype);
  const int64_t K = rnnk_plan_param_rows(made.plan), C = (states - 1) * H;
  if (I > 4096 || H > 4096) return;
  const int32_t wide = each == 2 ? static_cast<int32_t>(RNNK_FLOAT32) : p.dtype;
  // A size that is told, and as much memory.
  const auto sized = [&](size_t bytes, size_t& told) {
    told = in.one_in(24) ? bytes / 2 : bytes;
    return memory.get(static_cast<int64_t>(told));
  };
  rnnk_weights w{};
  w.struct_size = in.any_of<uint32_t>({sizeof w, sizeof w, sizeof w, 8});
  const bool bias = !(p.flags & RNNK_NO_BIAS), vector = (p.flags & RNNK_INDEPENDENT) != 0;
  w.weight_ih = memory.get(G * H * I * each);
  if (!vector || in.one_in(8)) w.weight_hh = memory.get(G * H * (P / heads + 1) * each);
  if (bias || in.one_in(8)) w.bias_ih = memory.get(G * H * each);
  if ((bias && !vector) || in.one_in(8)) w.bias_hh = memory.get(G * H * each);
  if (p.proj_size > 0 || in.one_in(8)) w.weight_hr = memory.get(P * H * each);
  if (K > 0 || in.one_in(8)) w.params = memory.get((K + 1) * H * each);
  size_t packed_size;
  void* packed = sized(sizes.packed, packed_size);
  const int32_t halves = in.any_of<int32_t>({1, 1, 1, 0, 2});
  const bool ready = rnnk_pack_weights(made.plan, in.one_in(40) ? nullptr : &w, halves, packed, packed_size) == RNNK_OK;
  if (packed && (!ready || halves != 1))
    std::memset(packed, 0, packed_size);  // what is not packed must not be read as numbers

  rnnk_args a{};
  a.struct_size = in.any_of<uint32_t>({sizeof a, sizeof a, sizeof a, sizeof a, 8, 100});
  a.flags = in.any_of<uint32_t>({0, 0, 1, 2, 3});
  a.seq_len = T, a.batch = B;
  if (packed_size == sizes.packed) a.packed = packed;
  if (in.one_in(3)) {
    int64_t* lengths = static_cast<int64_t*>(memory.get(B * 8));
    for (int64_t b = 0; lengths && b < B; ++b) lengths[b] = in.any_of<int64_t>({0, 1, 2, T, T});
    a.lengths = lengths;
  }
  a.x = tensor(in, memory, p.dtype, {T, B, I}, 40);
  if (in.one_in(2)) a.h_0 = tensor(in, memory, p.dtype, {B, P}, 8);
  if (in.one_in(2)) a.c_0 = tensor(in, memory, in.one_in(2) ? p.dtype : wide, {B, C > 0 ? C : H}, 8);
  a.y = tensor(in, memory, p.dtype, {T, B, P}, 40);
  if (in.one_in(2)) a.h_n = tensor(in, memory, p.dtype, {B, P}, 8);
  if (in.one_in(2)) a.c_n = tensor(in, memory, in.one_in(2) ? p.dtype : wide, {B, C > 0 ? C : H}, 8);
  const bool keep = in.one_in(2);
  if (keep) a.reserve = sized(sizes.reserve, a.reserve_size);
  a.workspace = sized(sizes.workspace_forward, a.workspace_size);
  const int64_t marks = T * B;
  const auto bytes_of = [&](int n) {
    uint8_t* m = in.one_in(n) ? static_cast<uint8_t*>(memory.get(marks)) : nullptr;
    for (int64_t i = 0; m && i < marks; ++i) m[i] = static_cast<uint8_t>(in.below(3));
    return m;
  };
  a.mask = bytes_of(4), a.reset = bytes_of(4);
  a.clip_dh = in.any_of<double>({0, 0, 1, -1});
  a.seed = in.take<uint64_t>(), a.call = in.take<uint32_t>(), a.stream = in.take<uint32_t>();
  a.first_step = in.any_of<int64_t>({0, 0, 5});
  const rnnk_plan* plan = in.one_in(40) ? nullptr : made.plan;
  const bool kept = rnnk_forward(plan, in.one_in(40) ? nullptr : &a) == RNNK_OK && keep && a.reserve && plan;
  if (!kept) return;
  a.workspace = sized(sizes.workspace_backward, a.workspace_size);
  if (in.one_in(2)) a.dy = tensor(in, memory, p.dtype, {T, B, P}, 8);
  if (in.one_in(2)) a.dh_n = tensor(in, memory, wide, {B, P}, 8);
  if (in.one_in(2)) a.dc_n = tensor(in, memory, wide, {B, C > 0 ? C : H}, 8);
  if (in.one_in(2)) a.dx = tensor(in, memory, p.dtype, {T, B, I}, 8);
  if (in.one_in(2)) a.dh_0 = tensor(in, memory, wide, {B, P}, 8);
  if (in.one_in(2)) a.dc_0 = tensor(in, memory, wide, {B, C > 0 ? C : H}, 8);
  if (in.one_in(4)) a.dh = tensor(in, memory, wide, {T, B, P}, 8);
  if (in.one_in(2)) a.dweight_ih = memory.get(G * H * I * each);
  if (in.one_in(2)) a.dweight_hh = memory.get(G * H * (P / heads + 1) * each);
  if (in.one_in(2)) a.dbias_ih = memory.get(G * H * each);
  if (in.one_in(2)) a.dbias_hh = memory.get(G * H * each);
  if (in.one_in(4)) a.dweight_hr = memory.get(P * H * each);
  if (in.one_in(4)) a.dparams = memory.get((K + 1) * H * each);
  rnnk_backward(plan, &a);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const bool once = [] { return rnnk_set_num_threads(1) == RNNK_OK; }();
  (void)once;
  Input in{data, size};
  run(in);
  rnnk_last_error();
  return 0;
}
