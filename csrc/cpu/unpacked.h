// Products of few rows that need no pack: with weights where they are, and in BPTT with so few terms that a sum is one short chain.
// Their bits are those of tile.h's.
#pragma once
#include "cpu/pack.h"

namespace rnnk {
namespace {

// Forward: vectors of results whose weights are transposed in turn, so that the chains of one hide the latency of another's; as many
// as the shuffles of a block leave room for (measured on Zen 4 with 16 and 8 lanes).
template <class V, int R>
constexpr int vectors_in_turn() {
  return V::lanes >= 16 ? 1 : R <= 2 ? 16 / V::lanes > 4 ? 4 : 16 / V::lanes : 1;
}
constexpr int kMostRowsInPlace = 4;  // with more, a transposed panel is better kept for all of them

// sums [R][row_of_sums] of R rows by the N vectors of results from vector v on: of panel v / G and gate v % G. Rows of weights have
// tile.count terms, and stand one after the other.
template <class A, int G, int R, int N>
__attribute__((noinline)) void multiply_columns(const Tile<A>& tile, int v, int64_t row_of_sums) {
  using V = typename A::V;
  constexpr int W = V::lanes;
  const int64_t K = tile.count;
  V sum[R][N], chain[R][N];
  const typename A::Operand* a[R];
  const typename A::T *source[N], *start[N];
  RNNK_UNROLL for (int r = 0; r < R; ++r) a[r] = tile.a[r];
  RNNK_UNROLL for (int n = 0; n < N; ++n) {
    const int panel = (v + n) / G, gate = (v + n) % G;
    source[n] = tile.w + panel * tile.panel_stride + gate * tile.gate_stride;
    start[n] = tile.start ? tile.start + panel * tile.start_panel + gate * W : nullptr;
  }
  const auto term = [&](int n, V weights, int64_t k) RNNK_INLINE {
    RNNK_UNROLL for (int r = 0; r < R; ++r) chain[r][n] = A::mac(A::broadcast(a[r] + k), weights, chain[r][n]);
  };
  for (int64_t k = 0; k < K;) {
    const bool first = k == 0;
    RNNK_UNROLL for (int r = 0; r < R; ++r) { RNNK_UNROLL for (int n = 0; n < N; ++n) chain[r][n] = V::set1(0); }
    const int64_t end = smaller(k + tile.chain, K);
    for (; k + W <= end; k += W) {
      RNNK_UNROLL for (int n = 0; n < N; ++n) {
        V block[W];
        load_columns<V>([&](int i) RNNK_INLINE { return source[n] + i * K + k; }, block);
        RNNK_UNROLL for (int i = 0; i < W; ++i) term(n, block[i], k + i);
      }
    }
    for (; k < end; ++k) {
      RNNK_UNROLL for (int n = 0; n < N; ++n) {
        typename A::T lanes[W];
        for (int i = 0; i < W; ++i) lanes[i] = source[n][i * K + k];
        term(n, V::load(lanes), k);
      }
    }
    RNNK_UNROLL for (int r = 0; r < R; ++r) {
      RNNK_UNROLL for (int n = 0; n < N; ++n) {
        if (!first) sum[r][n] = sum[r][n] + chain[r][n];
        else sum[r][n] = start[n] ? V::load(start[n]) + chain[r][n] : chain[r][n];
      }
    }
  }
  RNNK_UNROLL for (int r = 0; r < R; ++r) {
    RNNK_UNROLL for (int n = 0; n < N; ++n) sum[r][n].store(tile.sums + r * row_of_sums + (v + n) * W);
  }
}

// The micro-kernel of R rows by P panels.
template <class A, int G, int R, int P>
void multiply_by_columns(const Tile<A>& tile) {
  constexpr int N = vectors_in_turn<typename A::V, R>(), in_turn = P * G % N == 0 ? N : 1;
  for (int v = 0; v < P * G; v += in_turn) multiply_columns<A, G, R, in_turn>(tile, v, P * G * A::V::lanes);
}

// Panels that R rows take at once, so that whole vectors_in_turn are left.
template <class V, int G, int R>
constexpr int panels_in_turn() {
  constexpr int N = vectors_in_turn<V, R>();
  return N / (N % G == 0 ? G : G % N == 0 ? N : 1);
}

// product's R rows from `row` on, over those of panels [p0, p1), which have no padding.
template <class A, int G, int R>
void walk_in_place(const TiledProduct<A, G>& product, int64_t row, int64_t p0, int64_t p1, const WeightMatrix<A>& m) {
  constexpr int W = A::V::lanes, at_once = panels_in_turn<typename A::V, G, R>();
  alignas(64) typename A::T sums[R * at_once * G * W];
  Tile<A> tile{};
  tile.count = m.K, tile.chain = product.chain, tile.sums = sums;
  tile.panel_stride = W * m.K, tile.gate_stride = m.rows.stride * m.K, tile.start_panel = product.start.stride;
  for (int panels; p0 < p1; p0 += panels) {
    panels = p0 + at_once <= p1 ? at_once : 1;
    tile.w = static_cast<const typename A::Weight*>(m.source) + m.rows(0, p0 * W) * m.K;
    tile.start = product.start.from ? product.start.from + p0 * product.start.stride : nullptr;
    const auto kernel = panels == at_once ? multiply_by_columns<A, G, R, at_once> : multiply_by_columns<A, G, R, 1>;
    product.run(product.fn, kernel, row, R, p0, panels, 0, true, tile);
  }
}

// for_tiles<A, G> of up to kMostRowsInPlace rows over the panels of [p0, p1) that have no padding. Returns the first panel that is left.
template <class A, int G>
__attribute__((noinline)) int64_t whole_panels_in_place(const TiledProduct<A, G>& product, int64_t r0, int64_t r1,
                                                        int64_t p0, int64_t p1, const WeightMatrix<A>& m) {
  const int64_t end = smaller(p1, m.rows.units / A::V::lanes);
  if (r1 - r0 > kMostRowsInPlace || end <= p0) return p0;
  switch (r1 - r0) {
    case 1: walk_in_place<A, G, 1>(product, r0, p0, end, m); break;
    case 2: walk_in_place<A, G, 2>(product, r0, p0, end, m); break;
    case 3: walk_in_place<A, G, 3>(product, r0, p0, end, m); break;
    case 4: walk_in_place<A, G, 4>(product, r0, p0, end, m); break;
  }
  return end;
}

// BPTT: rows and panels of a block whose sums are in registers.
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
        RNNK_UNROLL for (int p = 0; p < P; ++p) chain[r][p] = A::mac(x, b[p], chain[r][p]);
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
