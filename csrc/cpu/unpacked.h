// Products of few rows in BPTT that need no pack: with weights where they are, and with so few terms that a sum is one short chain.
// Their bits are those of tile.h's.
#pragma once
#include "cpu/pack.h"

namespace rnnk {
namespace {

// Rows and panels of a block whose sums are in registers.
template <class V>
struct InPlace {
  static constexpr int rows = V::registers >= 32 ? 4 : 2, panels = 4;
};

// sums [R][P][lanes] of R rows of dg . source, by P panels from `panel` on. source [m.rows, K]: term c is the row that column c of a
// backward panel comes from (pack.h), so a term's lanes stand side by side.
template <class A, int R, int P>
__attribute__((noinline)) void multiply_in_place(const typename A::Operand* const* rows, const WeightMatrix<A>& m,
                                                 int64_t panel, typename A::T* sums) {
  using V = typename A::V;
  constexpr int W = V::lanes;
  const auto* const source = static_cast<const typename A::Weight*>(m.source) + panel * W;
  const int64_t valid = smaller<int64_t>(W, m.K - panel * W);
  const typename A::Operand* dg[R];
  V sum[R][P], chain[R][P];
  RNNK_UNROLL for (int r = 0; r < R; ++r) dg[r] = rows[r];
  const auto clear = [&] {
    RNNK_UNROLL for (int r = 0; r < R; ++r) { RNNK_UNROLL for (int p = 0; p < P; ++p) chain[r][p] = V::set1(0); }
  };
  const auto add = [&](bool first) {
    RNNK_UNROLL for (int r = 0; r < R; ++r) {
      RNNK_UNROLL for (int p = 0; p < P; ++p) sum[r][p] = first ? chain[r][p] : sum[r][p] + chain[r][p];
    }
  };
  const int gates = m.rows.gates;
  const int64_t runs = gates * ceil_div(m.rows.units, W), chain_runs = kChain / W;  // a run: W columns of one gate
  clear();
  for (int64_t run = 0; run < runs; ++run) {
    if (run > 0 && run % chain_runs == 0) add(run == chain_runs), clear();
    const int64_t unit = run / gates * W, count = smaller<int64_t>(W, m.rows.units - unit);
    const auto* w = source + m.rows(run % gates, unit) * m.K;
    for (int64_t i = 0; i < count; ++i, w += m.K) {
      V b[P];
      RNNK_UNROLL for (int p = 0; p < P; ++p) b[p] = P == 1 ? V::load_n(w, valid) : V::load(w + p * W);
      RNNK_UNROLL for (int r = 0; r < R; ++r) {
        const V x = V::set1(dg[r][run * W + i]);
        RNNK_UNROLL for (int p = 0; p < P; ++p) chain[r][p] = fma(x, b[p], chain[r][p]);
      }
    }
  }
  add(runs <= chain_runs);
  RNNK_UNROLL for (int r = 0; r < R; ++r) {
    RNNK_UNROLL for (int p = 0; p < P; ++p) sum[r][p].store(sums + (r * P + p) * W);
  }
}

// for_tiles<A, 1> over backward panels [p0, p1) of m.
template <class A, class Fn>
void product_in_place(const Fn& fn, int64_t r0, int64_t r1, int64_t p0, int64_t p1, const WeightMatrix<A>& m) {
  using V = typename A::V;
  using B = InPlace<V>;
  constexpr int W = V::lanes;
  alignas(64) typename A::T sums[B::rows * B::panels * W];
  for (int64_t p = p0; p < p1;) {
    const bool wide = p + B::panels <= p1 && (p + B::panels) * W <= m.K;
    const int panels = wide ? B::panels : 1;
    for (int64_t r = r0; r < r1;) {
      const int rows = r + B::rows <= r1 ? B::rows : 1;
      const typename A::Operand* dg[B::rows];
      for (int i = 0; i < rows; ++i) dg[i] = fn.operand(r + i);
      const auto multiply = rows > 1 ? wide ? multiply_in_place<A, B::rows, B::panels> : multiply_in_place<A, B::rows, 1>
                            : wide   ? multiply_in_place<A, 1, B::panels>
                                     : multiply_in_place<A, 1, 1>;
      multiply(dg, m, p, sums);
      for (int i = 0; i < rows * panels; ++i) {
        const V sum[1] = {V::load(sums + i * W)};
        fn.finish(r + i / panels, p + i % panels, sum);
      }
      r += rows;
    }
    p += panels;
  }
}

// Rows [r0, r1) of fn, of one chain of n terms, by panels [0, panels) of b: an outer product, or the sum of a few.
template <class A, class Fn>
void outer_product(const Fn& fn, int64_t r0, int64_t r1, int64_t panels, int64_t n, const typename A::Weight* b,
                   int64_t ld_panel) {
  using V = typename A::V;
  for (int64_t row = r0; row < r1; ++row) {
    const typename A::Operand* const a = fn.operand(row);
    for (int64_t p = 0; p < panels; ++p) {
      V chain[1] = {V::set1(0)};
      for (int64_t j = 0; j < n; ++j) {
        chain[0] = fma(V::set1(a[j]), V::load(b + p * ld_panel + j * V::lanes), chain[0]);
      }
      fn.finish(row, p, chain);
    }
  }
}

}  // namespace
}  // namespace rnnk
