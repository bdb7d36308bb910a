// cuda_solo: which problems it takes, the record and the instances.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <type_traits>

#include "cuda/dispatch.cuh"
#include "cuda/solo_backward.cuh"
#include "cuda/solo_forward.cuh"

namespace rnnk {
namespace gpu {
namespace {

// Plain cells of at most this many tiles keep their weights in registers: per gate and fragment 4 of the 255 that a thread has.
template <class A, class Cell>
constexpr int kMostTilesInRegisters = Cell::kHasOptions || A::K == 4 ? 0
                                      : A::K == 16                   ? 8
                                                                     : 4;
// Instances hold up to so many tiles' fragments.
constexpr int kSteps[] = {4, 8};

template <class A, class Cell>
int instance(const Layout& d) {  // tiles that the instance for it has room for; 0: weights in shared memory
  const int64_t tiles = d.hidden.pad / kTile;
  if (tiles > kMostTilesInRegisters<A, Cell>) return 0;
  return *std::find_if(std::begin(kSteps), std::end(kSteps), [&](int n) { return n >= tiles; });
}
inline int64_t warps_of(const Layout& d) { return std::min<int64_t>(kMostWarps, std::max(d.hidden.pad, d.out.pad) / kTile); }

template <class A, class Cell>
struct Bytes {
  int64_t forward, backward;
  Bytes(const Problem& p, int64_t rows) {
    static constexpr CellShape shape = shape_of<Cell>();
    const Layout d(p, shape);
    const int warps = static_cast<int>(warps_of(d));
    const bool drops = may_drop(p, shape);
    if (instance<A, Cell>(d) > 0) {
      forward = SoloForwardSpace<A, Cell, true>(nullptr, d.hidden, d.out, drops, warps, rows).used;
      backward = SoloBackwardSpace<A, Cell, true>(nullptr, d.hidden, d.out, warps, rows).used;
    } else {
      forward = SoloForwardSpace<A, Cell, false>(nullptr, d.hidden, d.out, drops, warps, rows).used;
      backward = SoloBackwardSpace<A, Cell, false>(nullptr, d.hidden, d.out, warps, rows).used;
    }
  }
};
struct BytesOf {
  template <class A, class Cell>
  static int64_t run(const Problem& p, int64_t rows) {
    const Bytes<A, Cell> bytes(p, rows);
    return std::max(bytes.forward, bytes.backward);
  }
};
int64_t bytes_of(const Problem& p, int64_t rows) { return with_arithmetic<BytesOf, false>(p, rows); }

constexpr int64_t kLeastRows = 2;  // with fewer a large batch would take too many turns
// Rows of a block: so many that all multiprocessors have some, as they fit. Rows are independent: no bit depends on it.
int64_t rows_of(const Problem& p, int64_t batch) {
  const Facts& f = facts(p.device_index);
  const int64_t wanted = (batch * p.heads + f.multiprocessors - 1) / f.multiprocessors;
  int64_t rows = std::clamp<int64_t>(wanted + wanted % 2, kLeastRows, kRows);  // an even number fills a warp's lanes
  while (rows > kLeastRows && bytes_of(p, rows) > f.shared_per_block) --rows;
  return rows;
}

int64_t blocks_of(const Problem& p, int64_t batch) {
  const int64_t rows = rows_of(p, batch);
  return (batch + rows - 1) / rows * p.heads;
}

// fn(integral_constant) of the instance.
template <class A, class Cell, class Fn>
void with_instance(const Layout& d, const Fn& fn) {
  constexpr int most = kMostTilesInRegisters<A, Cell>;
  switch (instance<A, Cell>(d)) {
    case 4:
      if constexpr (most >= 4) return fn(std::integral_constant<int, 4>());
      break;
    case 8:
      if constexpr (most >= 8) return fn(std::integral_constant<int, 8>());
      break;
    default: break;
  }
  fn(std::integral_constant<int, 0>());
}

struct ForwardOf {
  template <class A, class Cell>
  static void run(const Problem& p, const LayerCall& a) {
    static constexpr CellShape shape = shape_of<Cell>();
    Forward<A> f(p, a, shape);
    const int64_t rows = rows_of(p, f.B), blocks = blocks_of(p, f.B), bytes = Bytes<A, Cell>(p, rows).forward;
    f.run([&](int64_t s0, int64_t s1) {
      SoloForwardParams<A> params{f.data, {}, {f.space.h[0], f.space.h[1]}, {f.fed[0], f.fed[1]}, s0, s1, f.B, rows};
      for (int k = 0; k < kMost; ++k) params.weights[k] = reinterpret_cast<const typename A::Operand*>(f.packed.w[k]);
      with_instance<A, Cell>(f.d, [&](auto tiles) {
        constexpr int F = tiles * kTile / A::K;
        launch(solo_forward_kernel<A, Cell, F>, {blocks, 1, static_cast<int>(warps_of(f.d)) * 32, bytes, f.stream}, params,
               "solo_forward_kernel");
      });
    });
  }
};

struct BackwardOf {
  template <class A, class Cell>
  static void run(const Problem& p, const LayerCall& a) {
    static constexpr CellShape shape = shape_of<Cell>();
    Backward<A> b(p, a, shape);
    const int64_t rows = rows_of(p, b.B), blocks = blocks_of(p, b.B), bytes = Bytes<A, Cell>(p, rows).backward;
    // The driver walks step by step; this kernel takes a block's at its first.
    b.run([&](int64_t s, int64_t s0, int64_t s1) {
      if (s + 1 != s1) return;
      SoloBackwardParams<A> params{};
      params.data = b.data;
      params.before = s1 < b.T_ ? b.space.dgh_before : nullptr;
      for (int k = 0; k < kMost; ++k) {
        params.weights[k] = reinterpret_cast<const typename A::Operand*>(b.packed.w_back[k]);
        for (int i = 0; i < 2; ++i) params.gamma[k][i] = Call<A>::values(b.packed.gamma[k][i]);
        params.normed[k] = Call<A>::values(b.reserve.normed[k]), params.scale[k] = Call<A>::values(b.reserve.scale[k]);
      }
      params.s1 = s1, params.s0 = s0, params.batch = b.B, params.rows = rows;
      with_instance<A, Cell>(b.d, [&](auto tiles) {
        constexpr int F = Cell::kGates * tiles * kTile / A::K;
        launch(solo_backward_kernel<A, Cell, F>, {blocks, 1, static_cast<int>(warps_of(b.d)) * 32, bytes, b.stream}, params,
               "solo_backward_kernel");
      });
    });
  }
};

// Calls with a mask run another instance of a plain cell, which multiplies in float32: its pack is another one.
bool packs_otherwise(const Problem& p) {
  if (!p.tf32 || !p.masked) return false;
  Problem without = p;
  without.masked = false, without.variant = -1;
  choose_variant(without);
  return without.variant < 0;
}

bool accepts(const Problem& p, char* reason, int64_t size) {
  const auto decline = [&](const char* why) {
    std::snprintf(reason, static_cast<size_t>(size), "%s", why);
    return false;
  };
  if (*cannot_run(p)) return decline(cannot_run(p));
  if (p.dtype == RNNK_FLOAT64) return decline("it has no float64");
  if (packs_otherwise(p)) return decline("with TF32 allowed it takes masks and resets in cells with options alone");
  const int64_t bytes = bytes_of(p, kLeastRows), most = facts(p.device_index).shared_per_block;
  if (bytes <= most) return true;
  std::snprintf(
      reason, static_cast<size_t>(size), "a head of %lld units needs %lld bytes of shared memory, a block has %lld",
      static_cast<long long>(p.hidden_size / p.heads), static_cast<long long>(bytes), static_cast<long long>(most));
  return false;
}

// A model, not a measurement: a step waits for its barrier and loads, forms its products (published rates of mma.sync on H100; of
// float32 from shared memory the rate of its loads) and runs the pointwise part of so many elements a thread (cycles read in the
// machine code, instances.tsv, at 1.755 GHz); groups that do not fit side by side take turns.
double estimate(const Problem& p, int64_t seq_len, int64_t batch, bool backward, int) {
  constexpr double step_us = 0.35, element_us = 0.4, products_per_us = 128 * 1024 * 4.0;  // multiply-adds by 8 rows
  const CellShape shape = shape_of_problem(p);
  const Layout d(p, shape);
  double products = 0;
  for (int k = 0; k < shape.stages; ++k) {
    if (d.product(k)) products += static_cast<double>(d.head_columns(k) * d.operand(k).pad);
  }
  const double slower = p.dtype == RNNK_FLOAT32 ? (p.tf32 ? 2 : 12) : 1;
  const double rows = static_cast<double>(rows_of(p, batch)), threads = static_cast<double>(warps_of(d) * 32);
  const double elements = std::ceil(rows * static_cast<double>(d.hidden.pad) / threads);
  const double turns =
      std::max(1.0, std::ceil(static_cast<double>(blocks_of(p, batch)) / facts(p.device_index).multiprocessors));
  const double step = shape.stages * (step_us + element_us * elements) + products * slower * 4 / products_per_us;
  return around_steps_us(d, seq_len, batch, backward) + static_cast<double>(seq_len) * turns * step * (backward ? 2 : 1);
}

double share(const Problem& p, int64_t batch, bool) {
  return std::min(1.0, static_cast<double>(blocks_of(p, batch)) / facts(p.device_index).multiprocessors);
}

}  // namespace
}  // namespace gpu

extern const Kernel cuda_solo_kernel;
const Kernel cuda_solo_kernel =
    gpu::device_kernel<gpu::ForwardOf, gpu::BackwardOf, false>("cuda_solo", gpu::accepts, gpu::estimate, gpu::share);

}  // namespace rnnk
