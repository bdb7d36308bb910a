// The C ABI under libFuzzer: arbitrary structs, sizes, absent and short buffers. Whatever comes, a call returns a status, and
// touches no byte that is not the caller's (tests/fuzz/run builds it with the address and undefined-behaviour sanitizers).
//
// The caller's side of the contract is kept: a tensor that is given has the memory that its strides reach. So every buffer is
// allocated to the byte, structs included, and sizes that are told are those of the buffers, or smaller.
#include <algorithm>
#include <cmath>
#include <cstddef>
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
  // A struct, or an array of them, as an older or a newer caller has it: `each` bytes of each.
  template <class Struct>
  Struct* structs(const std::vector<Struct>& from, size_t each) {
    const size_t room = std::max(std::min(each, sizeof(Struct) + 64), sizeof each);
    char* to = nullptr;
    if (posix_memalign(reinterpret_cast<void**>(&to), 64, from.size() * room)) std::abort();
    kept_.emplace_back(to);
    std::memset(to, 0, from.size() * room);
    for (size_t i = 0; i < from.size(); ++i) std::memcpy(to + i * room, &from[i], std::min(room, sizeof(Struct)));
    return reinterpret_cast<Struct*>(to);
  }

 private:
  Input& in_;
  std::vector<std::unique_ptr<void, Free>> kept_;
};

int item(int32_t dtype) { return dtype == RNNK_FLOAT64 ? 8 : dtype == RNNK_FLOAT32 ? 4 : 2; }

// odd_in: how rarely its dtype or a stride is not the plain one.
rnnk_tensor tensor(Input& in, Memory& memory, int32_t dtype, std::initializer_list<int64_t> shape, int null_in,
                   int odd_in = 8) {
  rnnk_tensor t{};
  t.dtype = in.one_in(2 * odd_in) ? in.any_of<int32_t>({0, 1, 2, 3}) : dtype;
  int64_t reach = 1, dense = 1, low = 0;
  int64_t dims[3] = {1, 1, 1};
  const size_t n = shape.size();
  std::copy(shape.begin(), shape.end(), dims);
  for (size_t i = n; i-- > 0;) {
    const int64_t stride = in.one_in(odd_in) ? in.below(9) - 3 : dense * (in.one_in(odd_in) ? 2 : 1);
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
  t.reserved = in.one_in(32 * odd_in > 255 ? 255 : 32 * odd_in);
  return t;
}

rnnk_tensor lengths(Input& in, Memory& memory, int64_t seq_len, int64_t batch) {
  rnnk_tensor t{};
  if (batch < 0 || batch > kMost) return t;
  t.dtype = in.any_of<int32_t>({RNNK_INT64, RNNK_INT64, RNNK_INT64, RNNK_INT32, RNNK_INT32, RNNK_UINT8});
  t.stride[0] = in.any_of<int64_t>({1, 1, 1, 2, -1, 0});
  if (t.stride[0] < -2 || t.stride[0] > 2) t.stride[0] = 2;  // there is memory for so much
  t.reserved = in.one_in(60);
  const int size = t.dtype == RNNK_INT64 ? 8 : 4;
  const int64_t last = batch > 0 ? (batch - 1) * t.stride[0] : 0;
  char* const base = static_cast<char*>(memory.get(batch > 0 ? (std::abs(last) + 1) * size : 0));
  if (!base) return t;
  t.data = base - std::min<int64_t>(last, 0) * size;
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t length = in.any_of<int64_t>({0, 1, 2, seq_len, seq_len});
    char* const to = static_cast<char*>(t.data) + b * t.stride[0] * size;
    if (size == 8) std::memcpy(to, &length, 8);
    else *reinterpret_cast<int32_t*>(to) = static_cast<int32_t>(length);
  }
  return t;
}

// Bytes [T, B], the first axis or the second innermost.
rnnk_tensor marks(Input& in, Memory& memory, int64_t seq_len, int64_t batch) {
  rnnk_tensor t{};
  const int64_t count = seq_len * batch;
  auto* const bytes = static_cast<uint8_t*>(memory.get(count));
  for (int64_t i = 0; bytes && i < count; ++i) bytes[i] = static_cast<uint8_t>(in.below(3));
  const bool turned = in.one_in(3);
  t.data = bytes, t.stride[0] = turned ? 1 : batch, t.stride[1] = turned ? seq_len : 1;
  t.dtype = in.one_in(40) ? RNNK_FLOAT32 : RNNK_UINT8;
  return t;
}

// A struct_size of no version, too small: the library may then read nothing but that field.
uint32_t odd_size(Input& in, size_t least) { return in.take<uint32_t>() % static_cast<uint32_t>(least); }

rnnk_problem problem(Input& in) {
  rnnk_problem p{};
  p.struct_size = in.any_of<uint32_t>({sizeof p, sizeof p, sizeof p, sizeof p, sizeof p, sizeof p + 8,
                                       offsetof(rnnk_problem, typical_seq_len), offsetof(rnnk_problem, proj_size),
                                       offsetof(rnnk_problem, num_layers), 8});
  p.cell = in.any_of<int32_t>({0, 1, 2, 3, 3, 4, 4, 5});
  p.dtype = in.any_of<int32_t>({0, 0, 0, 1, 2, 3});
  p.device = in.any_of<int32_t>({0, 0, 0, 0, 0, 0, 0, 1});
  p.device_index = in.any_of<int32_t>({0});
  for (uint32_t bit = 1; bit <= 256; bit *= 2) p.flags |= in.one_in(bit == 4 || bit == 256 ? 40 : 5) ? bit : 0;
  if (in.one_in(24)) p.flags = in.take<uint32_t>();
  p.input_size = in.any_of<int64_t>({1, 2, 3, 5, 8, 17});
  p.hidden_size = in.any_of<int64_t>({1, 2, 3, 6, 8, 9, 16, 18});
  p.num_layers = in.any_of<int64_t>({0, 1, 1, 2, 2, 2, 3, 3});
  p.direction = in.any_of<int32_t>({0, 1, 2, 2});
  p.reserved = in.one_in(60);
  if (in.one_in(2)) p.dropout = in.any_of<double>({0, .3, .3, 1});
  if (in.one_in(4)) p.proj_size = in.any_of<int64_t>({1, 2, 5});
  if (in.one_in(4)) p.heads = in.any_of<int64_t>({1, 2, 3});
  if (in.one_in(4)) p.clip = in.any_of<double>({0.5, 1e-3, 1e30, -1.0});
  for (auto& a : p.activations) {
    if (in.one_in(4))
      a = {in.any_of<int32_t>({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}), in.one_in(40), in.any_of<double>({0, .5, 1}),
           in.any_of<double>({0, .5, 1})};
  }
  for (double& z : p.zoneout) {
    if (in.one_in(4)) z = in.any_of<double>({0, .3, 1, 1.5});
  }
  if (in.one_in(4)) p.recurrent_dropout = in.any_of<double>({0, .3, 1, -1});
  if (in.one_in(8)) p.typical_seq_len = in.any_of<int64_t>({1, 100, -1}), p.typical_batch = in.any_of<int64_t>({1, 100, -1});
  // An older caller's struct ends earlier: the library must take what stands behind for neutral, and so must this file.
  if (p.struct_size < sizeof p) std::memset(reinterpret_cast<char*>(&p) + p.struct_size, 0, sizeof p - p.struct_size);
  return p;
}

struct Made {
  rnnk_plan* plan = nullptr;
  ~Made() { rnnk_plan_destroy(plan); }
};

// What the header promises of the sizes of a plan.
void check_sizes(const rnnk_problem& p, const rnnk_plan* plan, int64_t seq_len, int64_t batch, const rnnk_sizes& s) {
  rnnk_reserve_bound b{};
  b.struct_size = sizeof b;
  if (rnnk_plan_reserve_bound(plan, &b) != RNNK_OK) std::abort();
  const double T = static_cast<double>(seq_len), B = static_cast<double>(batch);
  const double most =
      static_cast<double>(b.constant) + static_cast<double>(p.dropout > 0 ? b.per_row_dropped : b.per_row) * T * B +
      std::ceil(1.6 * std::sqrt(T)) * (static_cast<double>(b.border_row) * B + static_cast<double>(b.border));
  if (static_cast<double>(s.reserve) > most) std::abort();
  if (s.workspace_forward < s.workspace_forward_least || s.workspace_backward < s.workspace_backward_least) std::abort();
}

void run_dropout(Input& in) {
  Memory memory(in);
  rnnk_dropout_args d{};
  d.struct_size = in.one_in(8) ? odd_size(in, offsetof(rnnk_dropout_args, device)) : sizeof d;
  d.call = in.take<uint32_t>(), d.stream = in.take<uint32_t>(), d.seed = in.take<uint64_t>();
  d.p = in.any_of<double>({0, .3, 1, -1});
  d.seq_len = in.any_of<int64_t>({0, 1, 5}), d.batch = in.any_of<int64_t>({0, 1, 3}),
  d.hidden_size = in.any_of<int64_t>({1, 3, 17});
  if (in.one_in(3)) d.lengths = lengths(in, memory, d.seq_len, d.batch);
  const int32_t dtype = in.any_of<int32_t>({0, 1, 2, 3});
  d.in = tensor(in, memory, dtype, {d.seq_len, d.batch, d.hidden_size}, 24, 20);
  d.out = in.one_in(4) ? d.in : tensor(in, memory, dtype, {d.seq_len, d.batch, d.hidden_size}, 24, 20);
  d.device = in.any_of<int32_t>({0, 0, 0, 0, 1});
  rnnk_dropout(memory.structs<rnnk_dropout_args>({d}, d.struct_size));
}

// One direction of one layer, or its gradients; absent_in: how rarely an array that belongs to the problem is left out.
rnnk_weights weights(Input& in, Memory& memory, const rnnk_problem& p, int64_t inputs, int64_t param_rows, int absent_in) {
  const int64_t G = rnnk_cell_gates(p.cell), H = p.hidden_size, P = p.proj_size > 0 ? p.proj_size : H;
  const bool bias = !(p.flags & RNNK_PROBLEM_NO_BIAS), vector = (p.flags & RNNK_PROBLEM_INDEPENDENT) != 0;
  const auto array = [&](std::initializer_list<int64_t> shape, bool exists) {
    if (exists ? in.one_in(absent_in) : !in.one_in(120)) return rnnk_tensor{};
    return tensor(in, memory, p.dtype, shape, 120, 120);
  };
  rnnk_weights w{};
  w.weight_ih = array({G * H, inputs}, true);
  w.weight_hh = array({G * H, P / std::max<int64_t>(p.heads, 1)}, !vector);
  w.bias_ih = array({G * H}, bias);
  w.bias_hh = array({G * H}, bias && !vector);
  w.weight_hr = array({P, H}, p.proj_size > 0);
  w.params = array({std::max<int64_t>(param_rows, 1), H}, param_rows > 0);
  return w;
}

void run(Input& in) {
  Memory memory(in);
  const rnnk_problem p = problem(in);
  const rnnk_problem* const given = memory.structs<rnnk_problem>({p}, p.struct_size);
  Made made;
  static const char* const kernels[] = {nullptr, nullptr, nullptr, "cpu_scalar", "cpu_avx2", "", "no such kernel"};
  rnnk_plan_create(in.one_in(40) ? nullptr : given, kernels[in.below(7)], in.one_in(40) ? nullptr : &made.plan);
  rnnk_verdict verdict{};
  verdict.struct_size = in.any_of<uint32_t>({sizeof verdict, sizeof verdict, 8});
  rnnk_explain(given, in.any_of<int64_t>({0, 1, 2}), in.any_of<int64_t>({1, 5}), in.any_of<int64_t>({1, 3}),
               in.any_of<int32_t>({0, 1, 2}), memory.structs<rnnk_verdict>({verdict}, verdict.struct_size));
  const int64_t T = in.any_of<int64_t>({0, 1, 2, 3, 5, 9, 17}), B = in.any_of<int64_t>({0, 1, 2, 3, 7});
  rnnk_sizes told{};
  told.struct_size = in.any_of<uint32_t>({sizeof told, sizeof told, sizeof told, sizeof told, 4});
  rnnk_sizes* const asked = memory.structs<rnnk_sizes>({told}, told.struct_size);
  if (rnnk_plan_sizes(made.plan, T, B, asked) != RNNK_OK || !made.plan) return;
  rnnk_sizes sizes{};
  std::memcpy(&sizes, asked, std::min<size_t>(told.struct_size, sizeof sizes));
  if (told.struct_size >= sizeof sizes) check_sizes(p, made.plan, T, B, sizes);
  rnnk_plan_estimate(made.plan, T, B, in.below(2));
  rnnk_plan_kernel(made.plan, in.any_of<int64_t>({0, 1, 5}));
  const int64_t L = std::max<int64_t>(p.num_layers, 1), D = p.direction == RNNK_BOTH_DIRECTIONS ? 2 : 1;
  const int64_t I = p.input_size, H = p.hidden_size, P = p.proj_size > 0 ? p.proj_size : H;
  const int64_t states = rnnk_cell_states(p.cell), K = rnnk_plan_param_rows(made.plan);
  const int64_t C = states > 1 ? (states - 1) * H : H;  // H: a state that the cell does not have, to be refused
  if (I > 4096 || H > 4096 || L > 3) return;
  const int32_t wide = p.dtype > RNNK_FLOAT64 ? static_cast<int32_t>(RNNK_FLOAT32) : p.dtype;
  // A size that is told, and as much memory.
  const auto sized = [&](size_t bytes, size_t& size) {
    size = in.one_in(24) ? bytes / 2 : bytes;
    return memory.get(static_cast<int64_t>(size));
  };
  const auto workspace = [&](size_t least, size_t all, size_t& size) {
    const int share = in.below(3);
    return sized(share == 0 ? all : share == 1 ? least : least + (all - least) / 2, size);
  };
  // For every direction of every layer, in structs of this or an older version.
  const auto arrays = [&](int absent_in) {
    uint32_t size = in.one_in(6) ? sizeof(rnnk_weights) + 16 : sizeof(rnnk_weights);
    if (in.one_in(6)) size = offsetof(rnnk_weights, weight_hr);
    if (in.one_in(40)) size = odd_size(in, offsetof(rnnk_weights, weight_hr));
    std::vector<rnnk_weights> all;
    for (int64_t i = 0; i < L * D; ++i) {
      all.push_back(weights(in, memory, p, i < D ? I : D * P, K, absent_in));
      all.back().struct_size = i == 0 ? size : in.take<uint8_t>();  // the first one's counts
    }
    return memory.structs(all, size);
  };
  size_t packed_size;
  void* packed = sized(sizes.packed, packed_size);
  const rnnk_weights* const w = in.one_in(40) ? nullptr : arrays(200);
  rnnk_pack_weights(made.plan, w, in.any_of<int32_t>({3, 3, 3, 3, 3, 1, 2, 0, 4}), packed, packed_size, nullptr);

  rnnk_args a{};
  static constexpr uint32_t versions[] = {sizeof a,
                                          sizeof a + 8,
                                          offsetof(rnnk_args, dy),
                                          offsetof(rnnk_args, dx),
                                          offsetof(rnnk_args, dh),
                                          offsetof(rnnk_args, weights),
                                          offsetof(rnnk_args, pool)};
  a.struct_size = versions[in.one_in(2) ? in.below(7) : 0];
  if (in.one_in(40)) a.struct_size = odd_size(in, offsetof(rnnk_args, dy));
  a.flags = in.any_of<uint32_t>({0, 0, 1, 1, 1, 2});
  a.seq_len = T, a.batch = B;
  a.packed = packed, a.packed_size = packed_size;
  if (in.one_in(3)) a.lengths = lengths(in, memory, T, B);
  const auto state = [&](int32_t dtype, int64_t width) {
    return in.one_in(2) ? tensor(in, memory, dtype, {L * D, B, width}, 8, 20) : rnnk_tensor{};
  };
  // Not every cell has a c, and a call that gives one to the others is refused.
  const auto cell_state = [&](int32_t dtype) { return states > 1 || in.one_in(24) ? state(dtype, C) : rnnk_tensor{}; };
  a.x = tensor(in, memory, p.dtype, {T, B, I}, 40, 20);
  a.h_0 = state(p.dtype, P), a.c_0 = cell_state(in.one_in(2) ? p.dtype : wide);
  a.y = tensor(in, memory, p.dtype, {T, B, D * P}, 40, 20);
  a.h_n = state(p.dtype, P), a.c_n = cell_state(in.one_in(2) ? p.dtype : wide);
  const bool keep = !in.one_in(3);
  if (keep) a.reserve = sized(sizes.reserve, a.reserve_size);
  a.workspace = workspace(sizes.workspace_forward_least, sizes.workspace_forward, a.workspace_size);
  if (in.one_in(4)) a.mask = marks(in, memory, T, B);
  if (in.one_in(4)) a.reset = marks(in, memory, T, B);
  a.clip_dh = in.any_of<double>({0, 0, 1, -1});
  a.seed = in.take<uint64_t>(), a.call = in.take<uint32_t>(), a.stream = in.take<uint32_t>();
  a.first_step = in.any_of<int64_t>({0, 0, 5});
  if (in.one_in(4)) a.weights = arrays(200);
  if (in.one_in(8)) {
    rnnk_pool pool{};
    pool.struct_size = in.any_of<uint32_t>({sizeof pool, sizeof pool, sizeof pool, 8, 4});
    pool.threads = in.any_of<int32_t>({1, 2, 3, 256, 0, -1});
    if (in.one_in(2)) {
      pool.parallel = [](void*, void (*fn)(void*), void* data, int32_t threads) {
        for (int32_t i = 0; i < threads; ++i) fn(data);
      };
    }
    a.pool = memory.structs<rnnk_pool>({pool}, pool.struct_size);
  }
  const rnnk_plan* plan = in.one_in(40) ? nullptr : made.plan;
  const rnnk_args* const forward = in.one_in(40) ? nullptr : memory.structs<rnnk_args>({a}, a.struct_size);
  const bool kept = rnnk_forward(plan, forward) == RNNK_OK && keep && a.reserve && plan;
  if (!kept) return;
  a.workspace = workspace(sizes.workspace_backward_least, sizes.workspace_backward, a.workspace_size);
  if (in.one_in(2)) a.dy = tensor(in, memory, p.dtype, {T, B, D * P}, 8, 20);
  a.dh_n = state(wide, P), a.dc_n = cell_state(wide);
  if (in.one_in(2)) a.dx = tensor(in, memory, p.dtype, {T, B, I}, 8, 20);
  a.dh_0 = state(wide, P), a.dc_0 = cell_state(wide);
  if (in.one_in(2)) a.dweights = arrays(3);
  if (in.one_in(4)) {
    std::vector<rnnk_tensor> dh;
    for (int64_t l = 0; l < L; ++l) dh.push_back(tensor(in, memory, wide, {T, B, D * P}, 60, 20));
    a.dh = memory.structs(dh, sizeof(rnnk_tensor));
  }
  rnnk_backward(plan, memory.structs<rnnk_args>({a}, a.struct_size));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static int threads = 0;
  Input in{data, size};
  const int wanted = in.one_in(8) ? 2 : 1;  // two: layers and directions run at the same time
  if (threads != wanted && rnnk_set_num_threads(wanted) != RNNK_OK) std::abort();
  threads = wanted;
  if (in.one_in(16)) run_dropout(in);
  else run(in);
  rnnk_last_error();
  return 0;
}
