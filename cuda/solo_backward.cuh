// solo.cuh's kernel of BPTT: the mirror of solo_forward.cuh. Gradients of pre-activations go to memory for the products over
// time, and into shared memory for the next step's product.
#pragma once
#include "cuda/backward.cuh"
#include "cuda/solo.cuh"

namespace rnnk {
namespace gpu {

template <class A>
struct SoloBackwardParams {
  BackwardData<typename A::T> data;
  const typename A::Operand* weights[kMost];  // of the product of each stage, transposed
  const void* before;                         // rows of dgh of stage 0 in step s1, or null: that is past the end
  const typename A::T *gamma[kMost][2], *normed[kMost], *scale[kMost];
  int64_t s0, s1, batch, rows;  // rows: of a block
};

template <class A, class Cell, bool in_registers>
struct SoloBackwardSpace : SoloSpace<A> {
  using T = typename A::T;
  using Operand = typename A::Operand;
  using Base = SoloSpace<A>;
  static constexpr CellShape kShape = shape_of<Cell>();
  // dgh of stage k of the last step. Of cells of one stage a step reads one of near[0] and before, and writes the other.
  Operand *near[kMost], *other;
  T *dstate[kMostStates], *sums;
  int64_t ld_near[kMost];

  RNNK_HD SoloBackwardSpace(char* base, const Axis& hidden, const Axis& out, int warps, int64_t rows) : Base(base) {
    for_constants<0, Cell::kStages>([&](auto k) {
      constexpr Stage stage = kShape.stage[k];
      const Axis &result = stage.projected ? out : hidden, &operand = k == 0 ? out : hidden;
      const int64_t terms = stage.gates * result.pad;
      if (!in_registers && kProduct<k>) this->weights[k] = this->template take<Operand>(terms * operand.pad);
      ld_near[k] = terms + Base::kSkew;
      near[k] = this->template take<Operand>(rows * ld_near[k]);
    });
    other = Cell::kStages == 1 ? this->template take<Operand>(rows * ld_near[0]) : near[0];
    for (int i = 0; i < Cell::kStates; ++i) dstate[i] = this->template take<T>(rows * (i == 0 ? out.pad : hidden.pad));
    sums = this->template take<T>(warps * kRows * kSumsLd);
  }
  template <int k>
  static constexpr bool kProduct = has_product(kShape, k);
};

template <class A, class Cell, int F>
struct SoloBackward {
  using T = typename A::T;
  using Operand = typename A::Operand;
  using Space = SoloBackwardSpace<A, Cell, (F > 0)>;
  static constexpr CellShape kShape = shape_of<Cell>();
  static constexpr int S = Cell::kStages;

  template <int K, class Registers>
  static RNNK_DEVICE void stage(const SoloBackwardParams<A>& p, const BackwardData<T>& d, const Space& space,
                                const Registers& registers, int64_t s, int64_t first, int64_t count, int64_t head) {
    using Point = BackwardPoint<A, Cell, K>;
    constexpr int from = K == S - 1 ? 0 : K + 1;  // the stage whose product is multiplied back
    constexpr Stage kind = Cell::kStage[K], source = Cell::kStage[from];
    const Walk<T>& w = d.walk;
    const Axis& axis = kind.projected ? w.out : w.hidden;
    const int64_t terms = source.gates * (source.projected ? w.out.pad : w.hidden.pad), fragments = terms / A::K;
    T* const sums = space.sums + warp() * kRows * kSumsLd;
    const Operand* const near = S == 1 && (s & 1) ? space.near[0] : S == 1 ? space.other : space.near[from];
    const auto point = [&](const Place& at, const T(&sum)[1]) { Point::run(d, s, at, sum); };
    if constexpr (source.product == Product::identity) {
      const int each = static_cast<int>(axis.each);
      for (int e = thread(); e < static_cast<int>(count) * each; e += threads()) {
        const int row = e / each, i = e % each;
        const T sum[1] = {load<T>(near, w.dtype, row * space.ld_near[from] + i)};
        point(Place{first + row, head, i}, sum);
      }
    } else {
      const typename A::Rows rows(near, space.ld_near[from], count);
      for (int64_t tile = warp(); tile < axis.pad / kTile; tile += threads() / 32) {
        T sum[1][4] = {};
        if constexpr (F > 0) {
          registers.multiply(sum, rows, fragments);
        } else {
          const Operand* const weights = space.weights[from] + tile * fragments * (kTile * A::K);
          for (int64_t f = 0; f < fragments; ++f) {
            A::multiply(sum[0], A::load_a(weights + f * (kTile * A::K)), A::load_b(rows, f * A::K));  // path: product
          }
        }
        finish_tile(sums, sum, first, count, head, tile * kTile, axis.each, point);
      }
    }
    sync_block();  // path: begin
    if constexpr (kind.norm) {
      if (s >= 0) norm<K>(p, d, s, first, count);
      sync_block();
    }
    if constexpr (K > 0) {
      if (s >= 0) stage<K - 1>(p, d, space, registers, s, first, count, head);
    }
  }

  // As norm.cuh's kernel: a warp a row.
  template <int K>
  static RNNK_DEVICE void norm(const SoloBackwardParams<A>& p, const BackwardData<T>& d, int64_t s, int64_t first,
                               int64_t count) {
    constexpr Stage kind = Cell::kStage[K];
    constexpr int n = sides(kShape, K);
    const Walk<T>& w = d.walk;
    const Axis& axis = kind.projected ? w.out : w.hidden;
    const int64_t t = w.time(s);
    const int pad = static_cast<int>(axis.pad), columns = kind.gates * pad;
    for (int64_t r = warp(); r < count; r += threads() / 32) {
      const int64_t row = first + r, in_block = (t - d.t0) * w.batch + row;
      const bool any = w.alive(s, row) && !w.masked(t, row);  // what is saved of others may be NaN
      for (int side = kind.product == Product::identity ? 1 : 0; side < 2; ++side) {
        const int64_t record = (t * w.batch + row) * 2 + side;
        const T *const dg = d.dv[K] + (in_block * n + (n == 2 ? side : 0)) * columns, *const gamma = p.gamma[K][side];
        const T* const normed = p.normed[K] + record * columns;
        const T units = static_cast<T>(kind.gates * axis.each);
        T sum = 0, dot = 0;
        for (int c = lane(); any && c < columns; c += 32) {
          if (c % pad >= axis.each) continue;
          const T dn = gamma[c] * dg[c];
          sum += dn, dot = fused(dn, normed[c], dot);
        }
        for (int mask = 16; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask), dot += shuffle_xor(dot, mask);
        const T mean = sum / units, slope = dot / units;
        for (int c = lane(); c < columns; c += 32) {
          const bool valid = any && c % pad < axis.each;
          const T v = valid ? p.scale[K][record] * (gamma[c] * dg[c] - mean - normed[c] * slope) : T(0);
          store(side == 0 ? d.dgx : d.dgh[K], w.dtype, in_block * columns + c, v);
          if (side == 1) store(d.near[K], w.dtype, row * d.ld_near[K] + c, v);  // path: state
        }
      }
    }
  }

  // A step that none of the rows takes: its gradients are terms of sums over time.
  static RNNK_DEVICE void nothing(const BackwardData<T>& d, int64_t s, int64_t first, int64_t count, int64_t head) {
    const Walk<T>& w = d.walk;
    const int64_t row = (w.time(s) - d.t0) * w.batch + first, H = w.hidden.padded();
    const auto zero = [&](void* to, int64_t columns, int64_t part) {
      const int n = static_cast<int>(part);
      for (int e = thread(); e < static_cast<int>(count) * n; e += threads()) {
        store(to, w.dtype, (row + e / n) * columns + head * part + e % n, T(0));
      }
    };
    zero(d.dgx, Cell::kGates * H, Cell::kGates * w.hidden.pad);
    for_constants<0, S>([&](auto k) {
      constexpr Stage stage = kShape.stage[k];
      const Axis& axis = stage.projected ? w.out : w.hidden;
      if constexpr (!same_dg(kShape, k)) zero(d.dgh[k], stage.gates * axis.padded(), stage.gates * axis.pad);
    });
    const int units = static_cast<int>(H), all = static_cast<int>(count) * w.own_params * units;
    for (int e = thread(); e < all; e += threads()) {
      if (e % units / static_cast<int>(w.hidden.pad) == head) d.dp[row * w.own_params * H + e] = T(0);
    }
  }

  static RNNK_DEVICE void run(const SoloBackwardParams<A>& p) {
    BackwardData<T> d = p.data;
    const Walk<T>& w = p.data.walk;
    const Axis &hidden = w.hidden, &out = w.out;
    const int64_t head = block_x() % hidden.heads, first = block_x() / hidden.heads * p.rows;
    const int64_t count = least(p.rows, p.batch - first), warps = threads() / 32;
    const Space space(shared(), hidden, out, static_cast<int>(warps), p.rows);
    Resident<A, 1, (F > 0 ? F : 1)> registers;
    if constexpr (F > 0) {
      const int64_t fragments = Cell::kGates * hidden.pad / A::K;
      registers.load(p.weights[0] + (head * (out.pad / kTile) + warp()) * fragments * (kTile * A::K), fragments);
    } else {
      for_constants<0, S>([&](auto k) {
        if constexpr (Space::template kProduct<k>) {
          const int64_t size = (space.ld_near[k] - Space::kSkew) * (k == 0 ? out.pad : hidden.pad);
          fill_shared(space.weights[k], p.weights[k] + head * size, size * static_cast<int64_t>(sizeof(Operand)));
        }
      });
      copy_commit();
      copy_wait<0>();
    }
    for (int k = 0; k < S; ++k) {
      const int ld = static_cast<int>(space.ld_near[k]), terms = ld - static_cast<int>(Space::kSkew);
      const auto* const before = static_cast<const Operand*>(p.before) + (first * hidden.heads + head) * terms;
      for (int e = thread(); e < static_cast<int>(p.rows) * ld; e += threads()) {
        const bool any = k == 0 && p.before && e / ld < count && e % ld < terms;
        space.near[k][e] = any ? before[e / ld * hidden.heads * terms + e % ld] : Operand(0);
        if (S == 1) space.other[e] = space.near[k][e];
      }
      d.near[k] = space.near[k] - first * ld;
      d.ld_near[k] = ld;
    }
    for_constants<0, S>([&](auto k) { d.near_gate[k] = kShape.stage[k].projected ? out.pad : hidden.pad; });
    for (int i = 0; i < Cell::kStates; ++i) {
      const Axis& axis = i == 0 ? out : hidden;
      move_rows(space.dstate[i], axis.pad, p.data.dstate[i] + first * axis.padded() + head * axis.pad, axis.padded(), count,
                axis.pad);
      d.dstate[i] = space.dstate[i] - (first + head) * axis.pad, d.ld_dstate[i] = axis.pad;
    }
    int64_t begin = 0, end = w.steps;  // no row lives outside
    if (w.lengths) {
      int64_t longest = 0;
      for (int64_t r = 0; r < count; ++r) longest = w.length(first + r) > longest ? w.length(first + r) : longest;
      if (w.reverse) begin = w.steps - longest;
      else end = longest;
    }
    sync_block();
    for (int64_t s = p.s1 - 1; s >= (p.s0 == 0 ? -1 : p.s0); --s) {
      for (int e = thread(); e < static_cast<int>(count) * static_cast<int>(hidden.pad) / kTile; e += threads()) {
        const int n = static_cast<int>(hidden.pad) / kTile;
        BackwardPoint<A, Cell, S - 1>::prefetch_step(d, s - 2, Place{first + e / n, head, e % n * kTile});
      }
      if (S == 1) d.near[0] = (s & 1 ? space.other : space.near[0]) - first * space.ld_near[0];
      if (s < end && s + 1 >= begin) stage<S - 1>(p, d, space, registers, s, first, count, head);
      else if (s >= 0) nothing(d, s, first, count, head);
    }
    sync_block();
    for (int i = 0; i < Cell::kStates; ++i) {
      const Axis& axis = i == 0 ? out : hidden;
      move_rows(p.data.dstate[i] + first * axis.padded() + head * axis.pad, axis.padded(), space.dstate[i], axis.pad, count,
                axis.pad);
    }
  }
};

template <class A, class Cell, int F>
RNNK_GLOBAL void RNNK_BOUNDS(32 * kMostWarps, 1) solo_backward_kernel(SoloBackwardParams<A> p) {
  SoloBackward<A, Cell, F>::run(p);
}

}  // namespace gpu
}  // namespace rnnk
