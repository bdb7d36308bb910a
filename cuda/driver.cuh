// The host's side of a call, the same for every strategy: what comes before and after the steps of a block of time. Which steps
// become which kernels is the strategy's (a function over [s0, s1) of the walk).
#pragma once
#include "core/kernel.h"
#include "cuda/backward.cuh"
#include "cuda/forward.cuh"
#include "cuda/moves.cuh"

namespace rnnk {
namespace gpu {

inline bool may_drop(const Problem& p, const CellShape& shape) { return shape.has_options && p.recurrent_dropout > 0; }

// x as it is, where a product can read it: whole rows beside each other, and nothing in them that must not be read.
inline bool reads_directly(const LayerCall& a, const Layout& d) {
  const rnnk_tensor& x = a.x;
  return x.stride[2] == 1 && x.stride[1] >= d.I && x.stride[0] == a.batch * x.stride[1] && x.stride[1] % 8 == 0 &&
         d.I == d.I_padded && !a.lengths && !a.mask.data && reinterpret_cast<uintptr_t>(x.data) % 16 == 0;
}

// What forward and backward share: the problem in time blocks.
template <class A>
struct Call {
  using T = typename A::T;
  const Problem& problem;
  const LayerCall& args;
  Layout d;
  Packed packed;
  Reserve reserve;
  void* stream;
  int64_t T_, B, first, last;  // last: of the steps that this call is to do

  Call(const Problem& p, const LayerCall& a, const CellShape& shape)
      : problem(p), args(a), d(p, shape), packed(d, a.packed), reserve(d, a.seq_len, a.batch, a.reserve),
        stream(a.cuda_stream), T_(a.seq_len), B(a.batch), first(a.first), last(a.last) {}

  static T* values(char* p) { return reinterpret_cast<T*>(p); }
  int64_t time_of(int64_t s) const { return problem.reverse ? T_ - 1 - s : s; }
  // First time of the steps [s0, s1) of the walk.
  int64_t first_time(int64_t s0, int64_t s1) const { return problem.reverse ? T_ - s1 : s0; }

  // x of times [t0, t0 + n) as a matrix; gathered into `space` where it must be.
  Matrix input(const Walk<T>& walk, int64_t t0, int64_t n, char* space) const {
    if (reads_directly(args, d)) return {at(args.x, t0 * args.x.stride[0]), args.x.stride[1], false};
    run_move(GatherInput<T>{n * B * d.I_padded, walk, args.x, space, t0, d.I, d.I_padded}, stream, "gather_input");
    return {space, d.I_padded, false};
  }

  void check_lengths() const {
    if (!args.lengths || B == 0) return;
    run_move(CheckLengths{B, dense_lengths(args.lengths), T_, fault_word_on_device(problem.device_index)}, stream,
             "check_lengths");
  }
};

template <class A>
struct Forward : Call<A> {
  using T = typename A::T;
  using Base = Call<A>;
  using Base::args, Base::B, Base::d, Base::first, Base::last, Base::packed, Base::problem, Base::reserve, Base::stream,
      Base::T_, Base::values;
  ForwardSpace space;
  ForwardData<T> data;
  void* fed[2];  // what stage 0 multiplies: space.h, or with recurrent dropout space.fed

  // Before step s h is in buffer s % 2, after it in the other.
  void at_step(int64_t s) {
    data.h_from = space.h[s & 1], data.h_to = space.h[(s + 1) & 1];
    data.fed_from = fed[s & 1], data.fed_to = fed[(s + 1) & 1];
  }

  Forward(const Problem& p, const LayerCall& a, const CellShape& shape)
      : Base(p, a, shape), space(d, may_drop(p, shape), a.seq_len, a.batch, a.workspace) {
    data = {};
    const bool drops = may_drop(p, shape) && a.train;
    data.walk = walk_of<T>(p, a, d, drops ? space.dropped : nullptr);
    data.b_ih = values(packed.b_ih), data.b_hh = values(packed.b_hh), data.params = values(packed.params);
    for (int k = 0; k < kMost; ++k) {
      for (int i = 0; i < 2; ++i) data.gamma[k][i] = values(packed.gamma[k][i]);
      data.beta[k] = values(packed.beta[k]);
      data.emit[k] = space.emit[k], data.raw[k] = values(space.raw[k]), data.moments[k] = values(space.moments[k]);
      data.emitted[k] = reserve.emitted[k], data.normed[k] = values(reserve.normed[k]);
      data.scale[k] = values(reserve.scale[k]);
    }
    for (int i = 0; i < 2; ++i) fed[i] = drops ? space.fed[i] : space.h[i];
    for (int i = 1; i < kMostStates; ++i) data.state[i] = values(space.state[i]);
    data.carry = values(space.carry);
    data.gx = values(space.gx), data.ld_gx = d.gate_columns(), data.gx_gate = data.bias_gate = d.hidden.pad;
    data.ld_h = d.out.padded(), data.ld_emit = data.ld_state = d.hidden.padded();
    data.saved = values(reserve.saved), data.y = a.y;
  }

  // steps(s0, s1): those of a block, whose gx is ready.
  template <class Steps>
  void run(const Steps& steps) {
    if (B == 0) return;
    if (first == 0) begin();
    for (int64_t s0 = first; s0 < last; s0 += space.block) {
      const int64_t s1 = s0 + space.block < last ? s0 + space.block : last;
      data.t0 = this->first_time(s0, s1);
      const Matrix x = this->input(data.walk, data.t0, s1 - s0, space.x);
      multiply({(s1 - s0) * B,
                d.gate_columns(),
                d.I,
                x,
                {packed.w_ih, d.I_padded, true},
                space.gx,
                d.gate_columns(),
                false,
                1,
                0,
                0,
                0,
                A::precision},
               space.blas, kBlasWorkspace, problem.device_index, stream);
      steps(s0, s1);
    }
    if (last == T_) end();
  }

  void begin() {
    this->check_lengths();
    clear(space.h[0], static_cast<size_t>(space.cleared), stream);
    const Walk<T>& walk = data.walk;
    if (walk.dropped) {
      run_move(DrawDropped<T>{B * d.out.padded(), walk, values(space.dropped)}, stream, "draw_dropped");
    }
    run_move(BeginHidden<T>{B * d.out.padded(), walk, args.h_0, {space.h[0], space.h[1]}, {fed[0], fed[1]}}, stream,
             "begin_hidden");
    for (int i = 1; i < d.shape.states; ++i) {
      run_move(MoveState<T, false>{B * d.hidden.padded(), d.hidden, state_of(args.c_0, i, d.H), data.state[i]}, stream,
               "begin_state");
    }
  }
  void end() {
    if (args.h_n.data) {
      run_move(EndHidden<T>{B * d.out.padded(), data.walk, args.h_n, {space.h[0], space.h[1]}}, stream, "end_hidden");
    }
    for (int i = 1; args.c_n.data && i < d.shape.states; ++i) {
      run_move(MoveState<T, true>{B * d.hidden.padded(), d.hidden, state_of(args.c_n, i, d.H), data.state[i]}, stream,
               "end_state");
    }
  }
};

template <class A>
struct Backward : Call<A> {
  using T = typename A::T;
  using Base = Call<A>;
  using Base::args, Base::B, Base::d, Base::first, Base::last, Base::packed, Base::problem, Base::reserve, Base::stream,
      Base::T_, Base::values;
  BackwardSpace space;
  BackwardData<T> data;

  Backward(const Problem& p, const LayerCall& a, const CellShape& shape)
      : Base(p, a, shape), space(d, may_drop(p, shape), a.seq_len, a.batch, a.workspace) {
    data = {};
    const bool drops = may_drop(p, shape) && a.train;
    data.walk = walk_of<T>(p, a, d, drops ? space.dropped : nullptr);
    data.params = values(packed.params), data.saved = values(reserve.saved);
    for (int i = 0; i < kMostStates; ++i) {
      data.dstate[i] = values(space.dstate[i]), data.ld_dstate[i] = d.state(i).padded();
    }
    data.dcarry = values(space.dcarry), data.dgx = space.dgx, data.dp = values(space.dp);
    for (int k = 0; k < kMost; ++k) data.dgh[k] = space.dgh[k], data.dv[k] = values(space.dv[k]);
    data.y = a.y, data.h_0 = a.h_0, data.c_0 = a.c_0, data.dy = a.dy, data.dh = a.dh;
    data.clip_dh = a.clip_dh;
  }

  // Rows of dgh of stage k (operands) in step s; of the step before the block was begun, of stage 0 alone, null: there is none.
  const char* dgh(int k, int64_t s, int64_t s1) const {
    if (s >= T_) return nullptr;
    if (s >= s1) return space.dgh_before;
    return static_cast<const char*>(data.dgh[k]) + (this->time_of(s) - data.t0) * B * dgh_columns(k) * d.operand_size;
  }
  int64_t dgh_columns(int k) const { return same_dg(d.shape, k) ? d.gate_columns() : d.stage_columns(k); }

  // steps(s, s0, s1): step s of a block [s0, s1); s = -1 after the last: what reaches the initial states.
  template <class Steps>
  void run(const Steps& steps) {
    if (last == T_ && args.start_sums) clear(space.w_ih, static_cast<size_t>(space.sums_bytes), stream);
    if (B > 0) {
      if (last == T_) begin();
      for (int64_t s1 = last; s1 > first; s1 -= space.block) {
        const int64_t s0 = s1 - space.block > first ? s1 - space.block : first;
        data.t0 = this->first_time(s0, s1);
        for (int64_t s = s1 - 1; s >= s0; --s) steps(s, s0, s1);
        products(s1 - s0);
        if (s0 > 0) {
          copy(space.dgh_before, dgh(0, s0, s1), static_cast<size_t>(B * dgh_columns(0) * d.operand_size), stream);
        } else {
          steps(-1, s0, s1);
        }
      }
      if (first == 0) end();
    }
    if (first == 0 && args.store_sums) store_sums();
  }

  void begin() {
    this->check_lengths();
    clear(space.dgx, static_cast<size_t>(space.cleared), stream);
    if (data.walk.dropped) {
      run_move(DrawDropped<T>{B * d.out.padded(), data.walk, values(space.dropped)}, stream, "draw_dropped");
    }
    run_move(MoveState<T, false>{B * d.out.padded(), d.out, args.dh_n, data.dstate[0]}, stream, "begin_hidden_gradient");
    for (int i = 1; i < d.shape.states; ++i) {
      run_move(MoveState<T, false>{B * d.hidden.padded(), d.hidden, state_of(args.dc_n, i, d.H), data.dstate[i]}, stream,
               "begin_state_gradient");
    }
  }
  void end() {
    if (args.dh_0.data) {
      run_move(MoveState<T, true>{B * d.out.padded(), d.out, args.dh_0, data.dstate[0]}, stream, "end_hidden_gradient");
    }
    for (int i = 1; args.dc_0.data && i < d.shape.states; ++i) {
      run_move(MoveState<T, true>{B * d.hidden.padded(), d.hidden, state_of(args.dc_0, i, d.H), data.dstate[i]}, stream,
               "end_state_gradient");
    }
  }

  void product(Matrix a, Matrix b, int64_t m, int64_t n, int64_t k, void* c, int64_t ldc, bool accumulate, int64_t batch = 1,
               int64_t a_stride = 0, int64_t b_stride = 0, int64_t c_stride = 0) const {
    multiply({m, n, k, a, b, c, ldc, accumulate, batch, a_stride, b_stride, c_stride, A::precision}, space.blas,
             kBlasWorkspace, problem.device_index, stream);
  }
  void sum_rows(const void* from, int dtype, int64_t rows, int64_t columns, char* to) const {
    if (columns == 0) return;
    const int64_t height = (rows + BackwardSpace::kSlabs - 1) / BackwardSpace::kSlabs, slabs = (rows + height - 1) / height;
    T* const partial = values(space.partial);
    run_move(SumSlabs<T>{slabs * columns, from, dtype, rows, columns, height, partial}, stream, "sum_slabs");
    run_move(AddSlabs<T>{columns, partial, slabs, values(to)}, stream, "add_slabs");
  }
  void sum_factors(int k, int dv_side, int side, bool shift, int64_t rows, char* to) const {
    const int64_t height = (rows + BackwardSpace::kSlabs - 1) / BackwardSpace::kSlabs, slabs = (rows + height - 1) / height;
    const int64_t columns = d.stage_columns(k);
    T* const partial = values(space.partial);
    run_move(SumFactorSlabs<T>{slabs * columns, data.walk, data.dv[k], shift ? nullptr : values(reserve.normed[k]), data.t0,
                               rows, columns, height, sides(d.shape, k), dv_side, side, partial},
             stream, "sum_factor_slabs");
    run_move(AddSlabs<T>{columns, partial, slabs, values(to)}, stream, "add_slabs");
  }

  // The products over the `n` steps of a block, and sums over its rows.
  void products(int64_t n) const {
    const int64_t rows = n * B, columns = d.gate_columns();
    const int value_dtype = native_dtype<T>();
    if (args.dweight_ih) {
      const Matrix x = this->input(data.walk, data.t0, n, space.x);
      product({space.dgx, columns, true}, x, columns, d.I, rows, space.w_ih, d.I, true);
    }
    if (args.dx.data) {
      product({space.dgx, columns, false}, {packed.w_ih, d.I_padded, false}, rows, d.I, columns, space.dx, d.I_padded,
              false);
      run_move(
          StoreInputGradient<T>{rows * d.I, data.walk, values(space.dx), args.dx, data.t0, d.I, d.I_padded, args.add_to_dx},
          stream, "store_input_gradient");
    }
    const bool norm = d.norm(0);  // shifts are then behind the normalisation: their sums are of dv
    if (args.dbias_ih && !norm) sum_rows(space.dgx, problem.dtype, rows, columns, space.b_ih);
    if (args.dparams) sum_rows(space.dp, value_dtype, rows, d.own_params * d.hidden.padded(), space.params);
    for (int k = 0; k < d.shape.stages; ++k) {
      const Stage& stage = d.stage(k);
      const Axis& operand = d.operand(k);
      void* const to = stage.product == Product::weight_hr ? args.dweight_hr : args.dweight_hh;
      if (d.product(k) && to) {
        const int64_t most = rows * operand.padded();
        if (k == 0)
          run_move(GatherHidden<T>{most, data.walk, args.y, args.h_0, space.operand, data.t0}, stream, "gather_hidden");
        else
          run_move(GatherEmitted<T>{most, data.walk, operand, reserve.emitted[k], space.operand, data.t0}, stream,
                   "gather_emitted");
        product({data.dgh[k], dgh_columns(k), true}, {space.operand, operand.padded(), false}, d.head_columns(k),
                operand.pad, rows, space.w[k], operand.pad, true, operand.heads, d.head_columns(k), operand.pad,
                d.head_columns(k) * operand.pad);
      }
      if (stage.norm) {
        const bool both = stage.product == Product::weight_hh;
        const int last = sides(d.shape, k) - 1;
        if (args.dparams && both) sum_factors(k, 0, 0, false, rows, space.gamma[k][0]);
        if (args.dparams) sum_factors(k, last, 1, false, rows, space.gamma[k][1]);
        if (args.dparams && !both) sum_factors(k, last, 1, true, rows, space.beta[k]);
        if (both && args.dbias_ih) sum_factors(k, 0, 0, true, rows, space.b_ih);
        if (both && args.dbias_hh) sum_factors(k, last, 1, true, rows, space.b_hh);
      } else if (stage.product == Product::weight_hh && args.dbias_hh) {
        sum_rows(data.dgh[k], problem.dtype, rows, dgh_columns(k), space.b_hh + b_hh_at(k));
      }
    }
  }
  // With several stages each has its own gates' sums, one after the other: heads are then outermost of each stage alone.
  int64_t b_hh_at(int k) const { return d.stage(k).first_gate * d.hidden.padded() * d.value_size; }

  void store_matrix(const char* from, void* to, const Axis& axis, int gates, int first_gate, int64_t columns,
                    int64_t ld) const {
    if (!to) return;
    run_move(StoreSums<T>{gates * axis.units * columns, values(const_cast<char*>(from)), ld, columns, axis, gates,
                          first_gate, problem.dtype, to},
             stream, "store_sums");
  }
  void store_sums() const {
    const int G = d.shape.gates;
    store_matrix(space.w_ih, args.dweight_ih, d.hidden, G, 0, d.I, d.I);
    store_matrix(space.b_ih, args.dbias_ih, d.hidden, G, 0, 1, 1);
    auto* const params = static_cast<char*>(args.dparams);
    int64_t row = 0;
    const auto store_rows = [&](const char* from, int gates) {
      if (params) store_matrix(from, params + row * d.H * d.operand_size, d.hidden, gates, 0, 1, 1);
      row += gates;
    };
    for (int i = 0; i < d.own_params; ++i) store_rows(space.params + i * d.hidden.padded() * d.value_size, 1);
    for (int k = 0; k < d.shape.stages; ++k) {
      const Stage& stage = d.stage(k);
      const int64_t columns = d.operand(k).each, ld = d.operand(k).pad;
      if (stage.product == Product::weight_hr) store_matrix(space.w[k], args.dweight_hr, d.axis(k), 1, 0, columns, ld);
      if (stage.product == Product::weight_hh) {
        store_matrix(space.w[k], args.dweight_hh, d.hidden, stage.gates, stage.first_gate, columns, ld);
        store_matrix(space.b_hh + b_hh_at(k), args.dbias_hh, d.hidden, stage.gates, stage.first_gate, 1, 1);
      }
      if (!stage.norm) continue;
      if (stage.product == Product::weight_hh) store_rows(space.gamma[k][0], stage.gates);
      store_rows(space.gamma[k][1], stage.gates);
      if (stage.product == Product::identity) store_rows(space.beta[k], stage.gates);
    }
  }
};

template <class A>
void pack_call(const Problem& p, const CellShape& shape, const Parameters& w, Halves halves, void* to) {
  using T = typename A::T;
  using Operand = typename A::Operand;
  const Layout d(p, shape);
  const Packed packed(d, to);
  void* const stream = w.cuda_stream;
  const int G = shape.gates;
  const auto vector = [&](const void* from, char* at, int gates, int64_t first) {
    run_move(PackVector<T>{gates * d.hidden.padded(), from, reinterpret_cast<T*>(at), d.hidden, gates, p.dtype, first},
             stream, "pack_vector");
  };
  run_move(PackRows<A>{d.gate_columns() * d.I_padded, w.weight_ih, reinterpret_cast<Operand*>(packed.w_ih), d.hidden, G, d.I,
                       d.I_padded},
           stream, "pack_rows");
  vector(w.bias_ih, packed.b_ih, G, 0);
  vector(w.bias_hh, packed.b_hh, G, 0);
  int64_t row = 0;
  for (int i = 0; i < d.own_params; ++i) {
    vector(w.params, packed.params + i * d.hidden.padded() * d.value_size, 1, row++ * d.H);
  }
  for (int k = 0; k < shape.stages; ++k) {
    const Stage& stage = d.stage(k);
    if (stage.norm) {
      const bool both = stage.product == Product::weight_hh;
      if (both) vector(w.params, packed.gamma[k][0], stage.gates, row * d.H), row += stage.gates;
      vector(w.params, packed.gamma[k][1], stage.gates, row * d.H), row += stage.gates;
      if (!both) vector(w.params, packed.beta[k], stage.gates, row * d.H), row += stage.gates;
    }
    if (!d.product(k)) continue;
    const Axis &result = d.axis(k), &terms = d.operand(k);
    const void* from = stage.product == Product::weight_hr ? w.weight_hr : w.weight_hh;
    const auto fragments = [&](char* at, bool back, int64_t count) {
      run_move(PackFragments<A>{count, from, reinterpret_cast<Operand*>(at), terms.each, result, terms, stage.gates,
                                stage.first_gate, back},
               stream, "pack_fragments");
    };
    if (halves.forward) fragments(packed.w[k], false, d.stage_columns(k) * terms.pad);
    if (halves.backward) fragments(packed.w_back[k], true, terms.padded() * d.head_columns(k));
  }
}

}  // namespace gpu
}  // namespace rnnk
