// solo.cuh's forward kernel.
#pragma once
#include "cuda/forward.cuh"
#include "cuda/solo.cuh"

namespace rnnk {
namespace gpu {

template <class A>
struct SoloForwardParams {
  ForwardData<typename A::T> data;
  const typename A::Operand* weights[kMost];
  void *h[2], *fed[2];          // between launches: before step s in [s % 2]
  int64_t s0, s1, batch, rows;  // rows: of a block
};

// Shared memory of one block, by what it is for.
template <class A, class Cell, bool in_registers>
struct SoloForwardSpace : SoloSpace<A> {
  using T = typename A::T;
  using Operand = typename A::Operand;
  using Base = SoloSpace<A>;
  static constexpr CellShape kShape = shape_of<Cell>();
  Operand *h[2], *fed[2], *emit[kMost];
  T *state[kMostStates], *raw[kMost], *ring, *sums;
  int64_t ld_h, ld_emit, ld_gx;

  RNNK_HD SoloForwardSpace(char* base, const Axis& hidden, const Axis& out, bool drops, int warps, int64_t rows)
      : Base(base) {
    ld_h = out.pad + Base::kSkew, ld_emit = hidden.pad + Base::kSkew, ld_gx = Cell::kGates * hidden.pad;
    for_constants<0, Cell::kStages>([&](auto k) {
      const Axis &result = axis<k>(hidden, out), &terms = operand<k>(hidden, out);
      if (!in_registers && kProduct<k>) this->weights[k] = this->template take<Operand>(kGates<k> * result.pad * terms.pad);
      emit[k] = this->template take<Operand>(k > 0 && kProduct<k> ? rows * ld_emit : 0);
      raw[k] = this->template take<T>(kRaw<k> ? rows * kGates<k> * result.pad : 0);
    });
    for (int i = 0; i < 2; ++i) {
      h[i] = this->template take<Operand>(rows * ld_h);
      fed[i] = drops ? this->template take<Operand>(rows * ld_h) : h[i];
    }
    for (int i = 1; i < Cell::kStates; ++i) state[i] = this->template take<T>(rows * hidden.pad);
    sums = this->template take<T>(warps * Cell::kGates * kRows * kSumsLd);
    ring = this->template take<T>(kRing * rows * ld_gx);
  }
  template <int k>
  static constexpr bool kProduct = has_product(kShape, k);
  template <int k>
  static constexpr int kGates = kShape.stage[k].gates;
  template <int k>
  static constexpr bool kRaw = kShape.stage[k].norm || (!has_product(kShape, k) && k > 0);  // its gh stands in memory first
  template <int k>
  static RNNK_HD const Axis& axis(const Axis& hidden, const Axis& out) {  // of stage k's result
    return kShape.stage[k].projected ? out : hidden;
  }
  template <int k>
  static RNNK_HD const Axis& operand(const Axis& hidden, const Axis& out) {  // of what it multiplies
    return k == 0 ? out : hidden;
  }
};

template <class A, class Cell, int F>
struct SoloForward {
  using T = typename A::T;
  using Operand = typename A::Operand;
  using Space = SoloForwardSpace<A, Cell, (F > 0)>;
  static constexpr CellShape kShape = shape_of<Cell>();

  // Stage K of step s of the rows [first, first + count) of a head.
  template <int K, class Registers>
  static RNNK_DEVICE void stage(const ForwardData<T>& d, const Space& space, const Registers& registers, int64_t s,
                                int64_t first, int64_t count, int64_t head) {
    using Point = ForwardPoint<A, Cell, K>;
    constexpr Stage kind = Cell::kStage[K];
    constexpr int G = kind.gates;
    const Walk<T>& w = d.walk;
    const Axis& axis = kind.projected ? w.out : w.hidden;
    const Axis& terms = K == 0 ? w.out : w.hidden;
    const int64_t fragments = terms.pad / A::K, columns = G * axis.pad;
    T* const sums = space.sums + warp() * Cell::kGates * kRows * kSumsLd;
    const auto point = [&](const Place& at, const T(&gh)[G]) { Point::run(d, s, at, gh); };
    if constexpr (kind.product != Product::identity) {
      const typename A::Rows rows(K == 0 ? (s & 1 ? space.fed[1] : space.fed[0]) : space.emit[K],
                                  K == 0 ? space.ld_h : space.ld_emit, count);
      for (int64_t tile = warp(); tile < axis.pad / kTile; tile += threads() / 32) {
        T sum[G][4] = {};
        if constexpr (F > 0) {
          registers.multiply(sum, rows, fragments);
        } else {
          const Operand* const weights = space.weights[K] + tile * fragments * (G * kTile * A::K);
          for (int64_t f = 0; f < fragments; ++f) {
            const typename A::B b = A::load_b(rows, f * A::K);
            for (int g = 0; g < G; ++g)
              A::multiply(sum[g], A::load_a(weights + (f * G + g) * (kTile * A::K)), b);  // path: product
          }
        }
        if constexpr (kind.norm) {
          finish_tile(sums, sum, 0, count, 0, tile * kTile, axis.each, [&](const Place& at, const T(&gh)[G]) {
            for (int g = 0; g < G; ++g) space.raw[K][at.row * columns + g * axis.pad + at.i] = gh[g];
          });
        } else {
          finish_tile(sums, sum, first, count, head, tile * kTile, axis.each, point);
        }
      }
    }
    if constexpr (kind.norm) {
      sync_block();
      const T* const gx =
          kind.product == Product::weight_hh ? d.gx + ((w.time(s) - d.t0) * w.batch + first) * d.ld_gx : nullptr;
      row_moments(gx, space.raw[K], d.ld_gx, columns, count, axis, d.moments[K] + first * 4);
      sync_block();
    }
    if constexpr (kind.norm || kind.product == Product::identity) {
      const int each = static_cast<int>(axis.each);
      for (int e = thread(); e < static_cast<int>(count) * each; e += threads()) {
        const int row = e / each, i = e % each;
        T gh[G];
        for (int g = 0; g < G; ++g) {
          gh[g] = kind.norm || K > 0 ? space.raw[K][row * columns + g * axis.pad + i] : T(0);
        }
        point(Place{first + row, head, i}, gh);
      }
    }
    if constexpr (K + 1 < Cell::kStages) {
      sync_block();
      stage<K + 1>(d, space, registers, s, first, count, head);
    }
  }

  static RNNK_DEVICE void run(const SoloForwardParams<A>& p) {
    ForwardData<T> d = p.data;
    const Walk<T>& w = p.data.walk;
    const Axis &hidden = w.hidden, &out = w.out;
    const bool drops = w.dropped != nullptr;
    const int64_t head = block_x() % hidden.heads, first = block_x() / hidden.heads * p.rows;
    const int64_t count = least(p.rows, p.batch - first), warps = threads() / 32;
    const Space space(shared(), hidden, out, drops, static_cast<int>(warps), p.rows);

    Resident<A, Cell::kGates, (F > 0 ? F : 1)> registers;
    if constexpr (F > 0) {
      const int64_t fragments = out.pad / A::K;
      registers.load(p.weights[0] + (head * (hidden.pad / kTile) + warp()) * fragments * (Cell::kGates * kTile * A::K),
                     fragments);
    } else {
      for_constants<0, Cell::kStages>([&](auto k) {
        if constexpr (Space::template kProduct<k>) {
          const int64_t size = Space::template kGates<k> * Space::template axis<k>(hidden, out).pad *
                               Space::template operand<k>(hidden, out).pad;
          fill_shared(space.weights[k], p.weights[k] + head * size, size * static_cast<int64_t>(sizeof(Operand)));
        }
      });
    }
    for (int i = 0; i < 2; ++i) {
      const int64_t at = first * out.padded() + head * out.pad;
      move_rows(space.h[i], space.ld_h, static_cast<const Operand*>(p.h[i]) + at, out.padded(), count, out.pad);
      if (drops)
        move_rows(space.fed[i], space.ld_h, static_cast<const Operand*>(p.fed[i]) + at, out.padded(), count, out.pad);
    }
    const int64_t state_at = first * hidden.padded() + head * hidden.pad;
    RNNK_UNROLL for (int i = 1; i < Cell::kStates; ++i) {
      move_rows(space.state[i], hidden.pad, p.data.state[i] + state_at, hidden.padded(), count, hidden.pad);
      d.state[i] = space.state[i] - (first + head) * hidden.pad, d.ld_state = hidden.pad;
    }
    for_constants<0, Cell::kStages>([&](auto k) {
      if constexpr (k > 0 && Space::template kProduct<k>) {
        for (int64_t e = thread(); e < p.rows * space.ld_emit; e += threads()) space.emit[k][e] = Operand(0);
        d.emit[k] = space.emit[k] - first * space.ld_emit - head * hidden.pad;
      }
      if constexpr (Space::template kRaw<k>) d.raw[k] = space.raw[k] - first * Space::template kGates<k> * hidden.pad;
    });
    d.ld_h = space.ld_h, d.ld_emit = space.ld_emit, d.ld_gx = space.ld_gx;
    const int64_t h_offset = first * space.ld_h + head * out.pad;

    // No row lives outside of [begin, end).
    int64_t begin = 0, end = w.steps;
    if (w.lengths) {
      int64_t longest = 0;
      for (int64_t r = 0; r < count; ++r) longest = w.length(first + r) > longest ? w.length(first + r) : longest;
      if (w.reverse) begin = w.steps - longest;
      else end = longest;
    }
    int ahead = 0;                       // the place in the ring of the step that is fetched next
    const auto fetch = [&](int64_t s) {  // gx of step s, in the background; a division for each element would take longer
      if (s < p.s1 && s >= begin && s < end) {
        T* to = space.ring + ahead * (p.rows * space.ld_gx);
        const T* from = p.data.gx + ((w.time(s) - p.data.t0) * w.batch + first) * p.data.ld_gx + head * space.ld_gx;
        constexpr int n = 16 / sizeof(T);
        const int columns = static_cast<int>(space.ld_gx), rows = static_cast<int>(count);
        for (int r = 0; r < rows; ++r, to += columns, from += p.data.ld_gx) {
          for (int c = thread() * n; c < columns; c += threads() * n) copy_async(to + c, from + c);  // path: fetch
        }
      }
      copy_commit();
      ahead = ahead + 1 < kRing ? ahead + 1 : 0;
    };
    fetch(p.s0);
    fetch(p.s0 + 1);
    int slot = 0;
    for (int64_t s = p.s0; s < p.s1; ++s, slot = slot + 1 < kRing ? slot + 1 : 0) {
      copy_wait<1>();
      sync_block();  // gx of this step is there, and h; the slot of the step before is free; path: begin
      fetch(s + 2);
      if (s < begin || s >= end) {
        const int each = static_cast<int>(out.each);
        for (int e = thread(); e < static_cast<int>(count) * each; e += threads()) {
          store3<T>(d.y, w.time(s), first + e / each, head * each + e % each, T(0));
        }
        continue;
      }
      d.gx = space.ring + slot * (p.rows * space.ld_gx) - ((w.time(s) - d.t0) * w.batch + first) * space.ld_gx -
             head * space.ld_gx;
      d.h_from = (s & 1 ? space.h[1] : space.h[0]) - h_offset, d.h_to = (s & 1 ? space.h[0] : space.h[1]) - h_offset;
      d.fed_from = (s & 1 ? space.fed[1] : space.fed[0]) - h_offset;
      d.fed_to = (s & 1 ? space.fed[0] : space.fed[1]) - h_offset;
      stage<0>(d, space, registers, s, first, count, head);
    }
    sync_block();
    for (int i = 0; i < 2; ++i) {
      const int64_t at = first * out.padded() + head * out.pad;
      move_rows(static_cast<Operand*>(p.h[i]) + at, out.padded(), space.h[i], space.ld_h, count, out.pad);
      if (drops) move_rows(static_cast<Operand*>(p.fed[i]) + at, out.padded(), space.fed[i], space.ld_h, count, out.pad);
    }
    RNNK_UNROLL for (int i = 1; i < Cell::kStates; ++i) {
      move_rows(p.data.state[i] + state_at, hidden.padded(), space.state[i], hidden.pad, count, hidden.pad);
    }
  }
};

template <class A, class Cell, int F>
RNNK_GLOBAL void RNNK_BOUNDS(32 * kMostWarps, 1) solo_forward_kernel(SoloForwardParams<A> p) {
  SoloForward<A, Cell, F>::run(p);
}

}  // namespace gpu
}  // namespace rnnk
