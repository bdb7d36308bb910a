// Layer normalisation of rows (J. Ba et al., 2016), forward and backward: a block a row; sums in a fixed order.
#pragma once
#include "cuda/step.cuh"

namespace rnnk {
namespace gpu {

constexpr int kNormThreads = 128;

// The sum over the block's threads, the same in all of them. Shared memory: kNormThreads of T.
template <class T>
RNNK_DEVICE T block_sum(T v) {
  T* const all = reinterpret_cast<T*>(shared());
  sync_block();
  all[thread()] = v;
  for (int half = kNormThreads / 2; half > 0; half /= 2) {
    sync_block();
    if (thread() < half) all[thread()] += all[thread() + half];
  }
  sync_block();
  return all[0];
}

template <class T>
struct MomentsParams {
  const T *gx, *gh;                        // [B] rows of `columns`; gx null: there is none
  T* moments;                              // [B][2][2]
  int64_t columns, units, pad, first_row;  // of units in a row's gates; gx rows begin at first_row
};

// Mean and 1 / sqrt(var + 1e-5) (torch.nn.LayerNorm's). Block x: row, side.
template <class T>
RNNK_GLOBAL void RNNK_BOUNDS(kNormThreads) moments_kernel(MomentsParams<T> p) {
  const int64_t row = block_x() / 2, side = block_x() % 2;
  const T* const v = side == 1 ? p.gh + row * p.columns : p.gx ? p.gx + (p.first_row + row) * p.columns : nullptr;
  if (!v) return;
  const T n = static_cast<T>(p.columns / p.pad * p.units);
  T sum = 0, squares = 0;
  for (int64_t c = thread(); c < p.columns; c += kNormThreads) sum += c % p.pad < p.units ? v[c] : T(0);
  const T mean = block_sum(sum) / n;
  for (int64_t c = thread(); c < p.columns; c += kNormThreads) {
    const T off = c % p.pad < p.units ? v[c] - mean : T(0);
    squares = fused(off, off, squares);
  }
  const T variance = block_sum(squares) / n;
  if (thread() > 0) return;
  p.moments[(row * 2 + side) * 2] = mean;
  p.moments[(row * 2 + side) * 2 + 1] = T(1) / static_cast<T>(::sqrt(static_cast<double>(variance + T(1e-5))));
}

template <class T>
struct NormBackwardParams {
  Walk<T> walk;
  int64_t s, t0;
  const T *dv, *gamma, *normed,
      *scale;  // dv of the block: [.][B][dv_sides][columns]; of the reserve: [T][B][2][columns], [T][B][2]
  void* to;    // operands [.][B][columns] of the block
  int64_t columns, units, pad, dv_sides, dv_side, side;
};

// dv of v from the gradient of gamma * normed: with dn = gamma * dg,
//   dv = scale * (dn - mean(dn) - normed * mean(dn * normed)). Block x: row.
template <class T>
RNNK_GLOBAL void RNNK_BOUNDS(kNormThreads) norm_backward_kernel(NormBackwardParams<T> p) {
  const Walk<T>& w = p.walk;
  const int64_t row = block_x(), t = w.time(p.s), in_block = (t - p.t0) * w.batch + row;
  const bool any = w.alive(p.s, row) && !w.masked(t, row);  // what is saved of others may be NaN
  const T* const dg = p.dv + (in_block * p.dv_sides + p.dv_side) * p.columns;
  const int64_t record = (t * w.batch + row) * 2 + p.side;
  const T* const normed = p.normed + record * p.columns;
  const T n = static_cast<T>(p.columns / p.pad * p.units);
  T sum = 0, dot = 0;
  for (int64_t c = thread(); any && c < p.columns; c += kNormThreads) {
    if (c % p.pad >= p.units) continue;
    const T dn = p.gamma[c] * dg[c];
    sum += dn, dot = fused(dn, normed[c], dot);
  }
  const T mean = block_sum(sum) / n, slope = block_sum(dot) / n;
  for (int64_t c = thread(); c < p.columns; c += kNormThreads) {
    const bool valid = any && c % p.pad < p.units;
    const T dn = valid ? p.gamma[c] * dg[c] : T(0);
    store(p.to, w.dtype, in_block * p.columns + c, valid ? p.scale[record] * (dn - mean - normed[c] * slope) : T(0));
  }
}

}  // namespace gpu
}  // namespace rnnk
