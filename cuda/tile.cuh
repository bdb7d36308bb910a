// A step's product for one tile of 16 units and a few batch rows: warps share its terms, their sums meet in shared memory in
// a fixed order, then each thread hands whole elements (all gates of one unit of one row) to a pointwise part.
#pragma once
#include "cuda/arithmetic.cuh"
#include "cuda/step.cuh"

namespace rnnk {
namespace gpu {

constexpr int kWarps = 4, kThreads = 32 * kWarps;
// Sums of a tile by row, then unit; 20 apart, so that the lanes of a warp write them without meeting in a bank.
constexpr int kSumsLd = 20;

// d[n][g] += fragments [f0, f1) of a tile's weights times those terms of the rows.
template <class A, int G, int N>
RNNK_DEVICE void multiply_tile(typename A::T (&d)[N][G][4], const typename A::Operand* weights,
                               const typename A::Rows (&rows)[N], int64_t f0, int64_t f1) {
  for (int64_t f = f0; f < f1; ++f) {
    typename A::B b[N];
    for (int n = 0; n < N; ++n) b[n] = A::load_b(rows[n], f * A::K);
    for (int g = 0; g < G; ++g) {
      const typename A::A a = A::load_a(weights + (f * G + g) * (kTile * A::K));
      for (int n = 0; n < N; ++n) A::multiply(d[n][g], a, b[n]);
    }
  }
}

// A warp's 16 x 8 sums as [row][unit] with rows kSumsLd apart.
template <class T>
RNNK_DEVICE void put_sums(T* to, const T (&d)[4]) {
  T* const at = to + lane() % 4 * 2 * kSumsLd + lane() / 4;
  at[0] = d[0], at[kSumsLd] = d[1], at[8] = d[2], at[kSumsLd + 8] = d[3];
}

template <class A, class Point>
struct StepParams {
  typename Point::Data data;
  int64_t s, batch;
  const typename A::Operand* weights;  // packed: [tile][fragment][gate]
  const typename A::Operand* rows;     // [batch] rows ld apart; null: the product is zero
  int64_t ld, head_terms;              // terms of a head's product, whole fragments
  Axis axis;                           // of the results
  bool forward;                        // rows that are dead in step s need no product (backward: in step s + 1)
};

// Point::run(data, s, place, sums of its gates) for every unit and row. Block x: tile, then 8 * N rows.
template <class A, class Point, int N>
RNNK_GLOBAL void RNNK_BOUNDS(kThreads) step_kernel(StepParams<A, Point> p) {
  using T = typename A::T;
  constexpr int G = Point::gates, size = kRows * kSumsLd;
  const int64_t tile = block_x() % p.axis.tiles(), first = block_x() / p.axis.tiles() * (kRows * N);
  const int64_t head = tile * kTile / p.axis.pad, i0 = tile * kTile % p.axis.pad, count = least(p.batch - first, kRows * N);
  T* const sums = reinterpret_cast<T*>(shared());  // [warp][n][gate][size]
  bool any = p.rows != nullptr && !p.data.walk.lengths;
  for (int64_t r = first; p.rows && !any && r < first + count; ++r) any = p.data.walk.alive(p.forward ? p.s : p.s + 1, r);
  T d[N][G][4] = {};
  if (any) {
    const int64_t fragments = p.head_terms / A::K, each = (fragments + kWarps - 1) / kWarps;
    const int64_t f0 = least(fragments, warp() * each), f1 = least(fragments, f0 + each);
    const typename A::Operand* const operand = p.rows + first * p.ld + head * p.head_terms;
    if constexpr (N == 1) {
      const typename A::Rows rows[1] = {{operand, p.ld, count}};
      multiply_tile<A, G, N>(d, p.weights + tile * fragments * (G * kTile * A::K), rows, f0, f1);
    } else {
      const auto at = [&](int n) {
        const int64_t r = least(n * kRows, count - 1);
        return typename A::Rows(operand + r * p.ld, p.ld, least(kRows, count - r));
      };
      const typename A::Rows rows[4] = {at(0), at(1), at(2), at(3)};
      multiply_tile<A, G, N>(d, p.weights + tile * fragments * (G * kTile * A::K), rows, f0, f1);
    }
  }
  for (int n = 0; n < N; ++n) {
    for (int g = 0; g < G; ++g) put_sums(sums + ((warp() * N + n) * G + g) * size, d[n][g]);
  }
  sync_block();
  for (int e = thread(); e < kTile * kRows * N; e += kThreads) {
    const int unit = e % kTile, row = e / kTile;
    if (row >= count || i0 + unit >= p.axis.each) continue;
    T total[G];
    for (int g = 0; g < G; ++g) {
      const T* const at = sums + (row / kRows * G + g) * size + row % kRows * kSumsLd + unit;
      total[g] = at[0];
      for (int w = 1; w < kWarps; ++w) total[g] += at[w * N * G * size];
    }
    Point::run(p.data, p.s, Place{first + row, head, i0 + unit}, total);
  }
}

// Where the pointwise part is a kernel of its own: the product as it is.
template <class Element, int Gates>
struct RawPoint {
  using T = Element;
  static constexpr int gates = Gates;
  struct Data {
    Walk<T> walk;
    T* to;  // [B][gates * axis.padded]
    Axis axis;
  };
  static RNNK_DEVICE void run(const Data& d, int64_t, const Place& at, const T (&sums)[gates]) {
    for (int g = 0; g < gates; ++g) d.to[at.row * gates * d.axis.padded() + at.gate(d.axis, gates, g)] = sums[g];
  }
};

template <class Point>
struct PointParams {
  typename Point::Data data;
  int64_t s, batch;
  Axis axis;
  const typename Point::T* raw;  // [B][gates * axis.padded], or null:
  const void* operand;           // what comes back is this, as it is ([B][axis.padded] of walk.dtype); or null: zero
};

template <class Point>
RNNK_GLOBAL void RNNK_BOUNDS(kThreads) point_kernel(PointParams<Point> p) {
  using T = typename Point::T;
  const int64_t e = block_x() * kThreads + thread(), columns = p.axis.padded(), row = e / columns;
  Place at;
  if (row >= p.batch || !Place::at(p.axis, row, e % columns, at)) return;
  T sums[Point::gates];
  for (int g = 0; g < Point::gates; ++g) {
    sums[g] = p.raw ? p.raw[row * Point::gates * columns + at.gate(p.axis, Point::gates, g)] : T(0);
  }
  if (p.operand) sums[0] = load<T>(p.operand, p.data.walk.dtype, row * columns + at.column(p.axis));
  Point::run(p.data, p.s, at, sums);
}

}  // namespace gpu
}  // namespace rnnk
