// The strategy that does everything: a step is a kernel (of cells with options, a few), which the stream puts in order. Weights are
// read from the second-level cache in every step.
#pragma once
#include "cuda/driver.cuh"
#include "cuda/norm.cuh"
#include "cuda/tile.cuh"

namespace rnnk {
namespace gpu {

template <class A, class Point, int N>
void launch_step(const StepParams<A, Point>& p, void* stream) {
  const int64_t tiles = p.axis.tiles(), rows = (p.batch + kRows * N - 1) / (kRows * N);
  const int64_t bytes = int64_t{kWarps} * N * Point::gates * kRows * kSumsLd * int64_t{sizeof(typename A::T)};
  launch(step_kernel<A, Point, N>, {tiles * rows, 1, kThreads, bytes, stream}, p, "step_kernel");
}
// More rows a block read the weights less often; double's sums would not fit.
template <class A, class Point>
void launch_step(const StepParams<A, Point>& p, void* stream) {
  if constexpr (sizeof(typename A::T) == 4) {
    if (p.batch > kRows) return launch_step<A, Point, 4>(p, stream);
  }
  launch_step<A, Point, 1>(p, stream);
}

template <class A>
const typename A::Operand* operands(const void* p) {
  return static_cast<const typename A::Operand*>(p);
}

// The product of a stage into memory, for pointwise parts that are kernels of their own.
template <class A, int G>
void launch_raw(const Walk<typename A::T>& walk, int64_t s, bool forward, const void* weights, const void* rows, int64_t ld,
                int64_t head_terms, const Axis& axis, typename A::T* to, void* stream) {
  using Point = RawPoint<typename A::T, G>;
  launch_step<A, Point>(
      {{walk, to, axis}, s, walk.batch, operands<A>(weights), operands<A>(rows), ld, head_terms, axis, forward}, stream);
}

template <class Point>
void launch_point(const PointParams<Point>& p, void* stream) {
  launch(point_kernel<Point>, {(p.batch * p.axis.padded() + kThreads - 1) / kThreads, 1, kThreads, 0, stream}, p,
         "point_kernel");
}

// Pointwise parts of cells with options are kernels of their own, compiled once for each type of values.
template <class A, class Cell>
using PointIn = std::conditional_t<Cell::kHasOptions, AnyStorage<typename A::T>, A>;

// --- forward -------------------------------------------------------------------------------------------------------------------
template <class A, class Cell, int K = 0>
void forward_stages(const Forward<A>& f, int64_t s) {
  using T = typename A::T;
  using Point = ForwardPoint<PointIn<A, Cell>, Cell, K>;
  constexpr Stage stage = Cell::kStage[K];
  const Layout& d = f.d;
  const Axis &axis = d.axis(K), &terms = d.operand(K);
  const void* const rows = K == 0 ? f.data.fed_from : f.data.emit[K];
  if constexpr (!Cell::kHasOptions) {
    launch_step<A, Point>(
        {f.data, s, f.B, operands<A>(f.packed.w[K]), operands<A>(rows), terms.padded(), terms.pad, axis, true}, f.stream);
  } else {
    if constexpr (stage.product != Product::identity) {
      launch_raw<A, stage.gates>(f.data.walk, s, true, f.packed.w[K], rows, terms.padded(), terms.pad, axis, f.data.raw[K],
                                 f.stream);
    }
    if constexpr (stage.norm) {
      const T* const gx = stage.product == Product::weight_hh ? f.data.gx : nullptr;
      launch(
          moments_kernel<T>, {f.B * 2, 1, kNormThreads, kNormThreads * int64_t{sizeof(T)}, f.stream},
          {gx, f.data.raw[K], f.data.moments[K], d.stage_columns(K), axis.each, axis.pad, (f.time_of(s) - f.data.t0) * f.B},
          "moments_kernel");
    }
    constexpr bool reads = stage.product != Product::identity || K > 0;
    launch_point<Point>({f.data, s, f.B, axis, reads ? f.data.raw[K] : nullptr, nullptr}, f.stream);
  }
  if constexpr (K + 1 < Cell::kStages) forward_stages<A, Cell, K + 1>(f, s);
}

template <class A, class Cell>
void stepwise_forward(const Problem& p, const LayerCall& a) {
  static constexpr CellShape shape = shape_of<Cell>();
  Forward<A> f(p, a, shape);
  f.run([&](int64_t s0, int64_t s1) {
    for (int64_t s = s0; s < s1; ++s) {
      f.at_step(s);
      forward_stages<A, Cell>(f, s);
    }
  });
}

// --- backward --------------------------------------------------------------------------------------------------------------------
template <class A, class Cell, int K = Cell::kStages - 1>
void backward_stages(const Backward<A>& b, int64_t s, int64_t s1) {
  using T = typename A::T;
  using Point = BackwardPoint<PointIn<A, Cell>, Cell, K>;
  constexpr bool last = K == Cell::kStages - 1;
  constexpr int from = last ? 0 : K + 1;  // the stage whose product is multiplied back
  constexpr Stage source = Cell::kStage[from], stage = Cell::kStage[K];
  const Layout& d = b.d;
  const Axis& axis = d.axis(K);
  const void* const rows = b.dgh(from, last ? s + 1 : s, s1);
  const int64_t ld = b.dgh_columns(from), terms = d.head_columns(from);
  if constexpr (!Cell::kHasOptions) {
    launch_step<A, Point>({b.data, s, b.B, operands<A>(b.packed.w_back[from]), operands<A>(rows), ld, terms, axis, false},
                          b.stream);
  } else {
    T* const raw = Call<A>::values(b.space.sum_of_product[from]);
    constexpr bool product = source.product != Product::identity;
    if (product) {
      if (rows)
        launch_raw<A, 1>(b.data.walk, last ? s : s - 1, false, b.packed.w_back[from], rows, ld, terms, axis, raw, b.stream);
    }
    launch_point<Point>({b.data, s, b.B, axis, product && rows ? raw : nullptr, product ? nullptr : rows}, b.stream);
  }
  if (s < 0) return;
  if constexpr (stage.norm) {
    for (int side = stage.product == Product::identity ? 1 : 0; side < 2; ++side) {
      const int n = sides(d.shape, K);
      void* const to = side == 0 ? b.data.dgx : b.data.dgh[K];
      launch(norm_backward_kernel<T>, {b.B, 1, kNormThreads, kNormThreads * int64_t{sizeof(T)}, b.stream},
             {b.data.walk, s, b.data.t0, b.data.dv[K], Call<A>::values(b.packed.gamma[K][side]),
              Call<A>::values(b.reserve.normed[K]), Call<A>::values(b.reserve.scale[K]), to, d.stage_columns(K), axis.each,
              axis.pad, n, n == 2 ? side : 0, side},
             "norm_backward_kernel");
    }
  }
  if constexpr (K > 0) backward_stages<A, Cell, K - 1>(b, s, s1);
}

template <class A, class Cell>
void stepwise_backward(const Problem& p, const LayerCall& a) {
  static constexpr CellShape shape = shape_of<Cell>();
  Backward<A> b(p, a, shape);
  b.run([&](int64_t s, int64_t, int64_t s1) { backward_stages<A, Cell>(b, s, s1); });
}

}  // namespace gpu
}  // namespace rnnk
