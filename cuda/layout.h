// Where everything lies on a device: packed weights, the reserve of a training forward, workspaces.
//
// Units are padded to tiles of 16, each head by itself; a row of gates is [head][gate][padded unit], in gx, dgx, dgh and in
// the packed W_ih alike, so that a product over time makes what a step reads and the other way round. Rows are the caller's, in
// his order; time is the caller's too. T is float (double of float64); operands of products have the problem's dtype.
#pragma once
#include "cells/shape.h"
#include "core/call.h"
#include "core/carver.h"
#include "core/problem.h"
#include "core/storage.h"
#include "cuda/blas.h"

namespace rnnk {
namespace gpu {

constexpr int kTile = 16;  // units
constexpr int kMost = 3;   // stages
constexpr int kMostStates = 4;

RNNK_HD int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct Axis {
  int64_t units, heads, each, pad;  // each: units of a head; pad: the same in whole tiles
  Axis() = default;
  Axis(int64_t units, int64_t heads)
      : units(units), heads(heads), each(units / heads), pad(round_up(units / heads, kTile)) {}
  RNNK_HD int64_t padded() const { return heads * pad; }
  RNNK_HD int64_t tiles() const { return padded() / kTile; }
};

struct Layout {
  CellShape shape;
  int64_t I, H, P, I_padded;
  int own_params;
  Axis hidden, out;
  int64_t operand_size, value_size;  // bytes

  Layout(const Problem& p, const CellShape& shape)
      : shape(shape), I(p.input_size), H(p.hidden_size), P(p.output_size), I_padded(round_up(p.input_size, 8)),
        own_params(own_param_rows(p)), hidden(H, p.heads), out(P, p.heads), operand_size(item_size(p.dtype)),
        value_size(p.dtype == RNNK_FLOAT64 ? 8 : 4) {}

  const Stage& stage(int k) const { return shape.stage[k]; }
  const Axis& axis(int k) const { return stage(k).projected ? out : hidden; }       // of stage k's result
  const Axis& operand(int k) const { return k == 0 ? out : axis(k - 1); }           // of what stage k multiplies
  const Axis& state(int s) const { return s == 0 ? out : hidden; }                  // h has P entries, every other state H
  int64_t gate_columns() const { return shape.gates * hidden.padded(); }            // gx, dgx: one row
  int64_t stage_columns(int k) const { return stage(k).gates * axis(k).padded(); }  // gh, dgh of stage k: one row
  int64_t head_columns(int k) const { return stage(k).gates * axis(k).pad; }
  bool product(int k) const { return k < shape.stages && has_product(shape, k); }
  bool norm(int k) const { return k < shape.stages && stage(k).norm; }
  // Steps of a block, whose products over time are formed at once: some thousands of rows fill a GPU.
  static int64_t block_steps(int64_t steps, int64_t batch) {
    const int64_t rows = batch < 1 ? 1 : batch, n = (4096 + rows - 1) / rows;
    return n < steps ? n : steps < 1 ? 1 : steps;
  }
};

// cuBLASLt's workspace; it wants it aligned to 256 bytes, of which ours are to 64.
inline char* take_blas(Carver& c) {
  char* const p = c.take<char>(kBlasWorkspace + 192);
  return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(p) + 255) / 256 * 256);
}

// void* where the element type is the problem's dtype, char* where it is T.
struct Packed {
  char* w_ih;             // operands [gate_columns][I_padded]
  char *b_ih, *b_hh;      // T [gate_columns]
  char* params;           // T [own_params][hidden.padded]
  char* gamma[kMost][2];  // T [stage_columns] of a normalised stage, of gx and of gh
  char* beta[kMost];      // T, of one without a product
  char* w[kMost];         // stage k: operands [tile of axis(k)][fragment of its operand's head][gate][16 x K]
  char* w_back[kMost];    // stage k: operands [tile of operand(k)][fragment of the head's gate columns][16 x K]
  int64_t bytes;

  Packed(const Layout& d, const void* base) {
    Carver c(base);
    const auto values = [&](int64_t n) { return c.take<char>(n * d.value_size); };
    const auto operands = [&](int64_t n) { return c.take<char>(n * d.operand_size); };
    w_ih = operands(d.gate_columns() * d.I_padded);
    b_ih = values(d.gate_columns());
    b_hh = values(d.gate_columns());
    params = values(d.own_params * d.hidden.padded());
    for (int k = 0; k < kMost; ++k) {
      const int64_t n = d.norm(k) ? d.stage_columns(k) : 0, gh = d.product(k) ? d.stage_columns(k) * d.operand(k).pad : 0;
      gamma[k][0] = values(d.product(k) ? n : 0);
      gamma[k][1] = values(n);
      beta[k] = values(d.product(k) ? 0 : n);
      w[k] = operands(gh);
      w_back[k] = operands(d.product(k) ? d.operand(k).padded() * d.head_columns(k) : 0);
    }
    bytes = c.used();
  }
};

// What a training forward keeps, by time and row.
struct Reserve {
  char* saved;           // T [T][B][kSaved][hidden.padded]
  char* emitted[kMost];  // operands [T][B][operand(k).padded]: what stage k >= 1 multiplied
  char* normed[kMost];   // T [T][B][2][stage_columns]: gx (where there is a product) and gh of a normalised stage
  char* scale[kMost];    // T [T][B][2]: 1 / sqrt(var + eps) of each
  int64_t bytes;

  Reserve(const Layout& d, int64_t steps, int64_t batch, const void* base) {
    Carver c(base);
    const int64_t rows = steps * batch;
    const auto values = [&](int64_t n) { return c.take<char>(n * d.value_size); };
    saved = values(rows * d.shape.saved * d.hidden.padded());
    for (int k = 0; k < kMost; ++k) {
      emitted[k] = c.take<char>(k > 0 && d.product(k) ? rows * d.operand(k).padded() * d.operand_size : 0);
      normed[k] = values(d.norm(k) ? rows * 2 * d.stage_columns(k) : 0);
      scale[k] = values(d.norm(k) ? rows * 2 : 0);
    }
    bytes = c.used();
  }
};

// What both directions in time need at their beginning zero: padding units are operands of products.
struct ForwardSpace {
  char *h[2], *fed[2];       // operands [B][out.padded]: h before and after a step; the same as stage 0 multiplies it
  char* emit[kMost];         // operands [B][operand(k).padded], k >= 1
  int64_t cleared;           // bytes up to here are to be zero
  char* state[kMostStates];  // T [B][hidden.padded]: c and what stands behind it; entry 0 unused
  char* dropped;             // T [B][out.padded]: what recurrent dropout multiplies h by
  char* carry;               // T [B][kCarry][hidden.padded]
  char* raw[kMost];          // T [B][stage_columns]: gh where the pointwise part is a kernel of its own
  char* moments[kMost];      // T [B][2][2]: mean and scale of gx and gh
  char* x;                   // operands [block * B][I_padded]
  char* gx;                  // T [block * B][gate_columns]
  char* blas;
  int64_t block, bytes;

  ForwardSpace(const Layout& d, bool drops, int64_t steps, int64_t batch, const void* base) {
    Carver c(base);
    block = Layout::block_steps(steps, batch);
    const auto values = [&](int64_t n) { return c.take<char>(n * d.value_size); };
    const auto operands = [&](int64_t n) { return c.take<char>(n * d.operand_size); };
    for (int i = 0; i < 2; ++i) {
      h[i] = operands(batch * d.out.padded());
      char* const own = operands(drops ? batch * d.out.padded() : 0);
      fed[i] = drops ? own : h[i];
    }
    for (int k = 0; k < kMost; ++k) emit[k] = operands(k > 0 && d.product(k) ? batch * d.operand(k).padded() : 0);
    cleared = c.used();
    state[0] = nullptr;
    for (int i = 1; i < kMostStates; ++i) state[i] = values(i < d.shape.states ? batch * d.hidden.padded() : 0);
    dropped = values(drops ? batch * d.out.padded() : 0);
    carry = values(batch * d.shape.carry * d.hidden.padded());
    for (int k = 0; k < kMost; ++k) {
      raw[k] = values(k < d.shape.stages && d.shape.has_options ? batch * d.stage_columns(k) : 0);
      moments[k] = values(d.norm(k) ? batch * 4 : 0);
    }
    x = operands(block * batch * d.I_padded);
    gx = values(block * batch * d.gate_columns());
    blas = take_blas(c);
    bytes = c.used();
  }
};

struct BackwardSpace {
  // Sums over time, T, in padded layout. They are first, where calls of any length find them.
  char *w_ih, *w[kMost], *b_ih, *b_hh, *params, *gamma[kMost][2], *beta[kMost];
  int64_t sums_bytes;             // from w_ih on, to be zero
  char *dgx, *dgx_before;         // operands [block][B][gate_columns]; the step walked before the block
  char *dgh[kMost], *dgh_before;  // operands [block][B][stage_columns]; dgx's own where they are equal
  int64_t cleared;                // bytes from dgx up to here are to be zero
  char* dstate[kMostStates];      // T [B][state(i).padded]
  char* dcarry;                   // T [B][kCarry][hidden.padded]
  char* dropped;                  // T [B][out.padded]
  char* sum_of_product[kMost];    // T [B][operand(k).padded]: what comes back through the product of stage k
  char* dv[kMost];                // T [block][B][sides][stage_columns] of a normalised stage
  char* dp;                       // T [block][B][own_params][hidden.padded]
  char *x, *dx;                   // operands [block * B][I_padded], T [block * B][I_padded]
  char* operand;                  // operands [block * B][most of operand(k).padded]
  char* partial;                  // T [kSlabs][most columns]
  char* blas;
  int64_t block, bytes;
  static constexpr int64_t kSlabs = 64;

  BackwardSpace(const Layout& d, bool drops, int64_t steps, int64_t batch, const void* base) {
    Carver c(base);
    block = Layout::block_steps(steps, batch);
    const int64_t rows = block * batch;
    const auto values = [&](int64_t n) { return c.take<char>(n * d.value_size); };
    const auto operands = [&](int64_t n) { return c.take<char>(n * d.operand_size); };
    w_ih = values(d.gate_columns() * d.I);
    b_ih = values(d.gate_columns());
    b_hh = values(d.gate_columns());
    params = values(d.own_params * d.hidden.padded());
    for (int k = 0; k < kMost; ++k) {
      w[k] = values(d.product(k) ? d.stage_columns(k) * d.operand(k).pad : 0);
      for (int i = 0; i < 2; ++i) gamma[k][i] = values(d.norm(k) ? d.stage_columns(k) : 0);
      beta[k] = values(d.norm(k) ? d.stage_columns(k) : 0);
    }
    sums_bytes = c.used();
    dgx = operands(rows * d.gate_columns());
    dgh_before = dgx_before = operands(batch * d.gate_columns());
    int64_t widest = d.gate_columns(), widest_operand = 0;
    for (int k = 0; k < kMost; ++k) {
      const bool own = k < d.shape.stages && !same_dg(d.shape, k);
      dgh[k] = own ? operands(rows * d.stage_columns(k)) : dgx;
      if (own && k == 0) dgh_before = operands(batch * d.stage_columns(k));
      if (d.product(k) && d.operand(k).padded() > widest_operand) widest_operand = d.operand(k).padded();
      if (k < d.shape.stages && d.stage_columns(k) > widest) widest = d.stage_columns(k);
    }
    cleared = c.used() - sums_bytes;
    for (int i = 0; i < kMostStates; ++i) dstate[i] = values(i < d.shape.states ? batch * d.state(i).padded() : 0);
    dcarry = values(batch * d.shape.carry * d.hidden.padded());
    dropped = values(drops ? batch * d.out.padded() : 0);
    for (int k = 0; k < kMost; ++k) {
      sum_of_product[k] = values(d.shape.has_options && k < d.shape.stages ? batch * d.operand(k).padded() : 0);
      dv[k] = values(d.norm(k) ? rows * sides(d.shape, k) * d.stage_columns(k) : 0);
    }
    dp = values(rows * d.own_params * d.hidden.padded());
    x = operands(rows * d.I_padded);
    dx = values(rows * d.I_padded);
    operand = operands(rows * widest_operand);
    const int64_t params_columns = d.own_params * d.hidden.padded();
    partial = values(kSlabs * (widest > params_columns ? widest : params_columns));
    blas = take_blas(c);
    bytes = c.used();
  }
};

}  // namespace gpu
}  // namespace rnnk
