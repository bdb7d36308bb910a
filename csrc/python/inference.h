// Inference of a network on plain NumPy arrays in one call: it checks them, allocates the answer and runs the network.
#pragma once
#include "python/plan.h"

namespace rnnk_py {
namespace {

class Inference {
 public:
  Inference(std::shared_ptr<Plan> plan, std::shared_ptr<Packed> packed, bool batch_first)
      : plan_(std::move(plan)), packed_(std::move(packed)), batch_first_(batch_first) {
    if (plan_->on_gpu()) throw py::value_error("plan: expected one of the CPU");
    plan_->accept(*packed_, true);
    dtype_ = numpy_dtype(plan_->dtype());
    // States of half types, and of sLSTM, come in other forms than the kernels'.
    plain_ =
        (plan_->dtype() == RNNK_FLOAT32 || plan_->dtype() == RNNK_FLOAT64) && plan_->cell_units() <= plan_->hidden_size();
  }

  // (y, h_n) or (y, (h_n, c_n)) of contiguous x [T, B, I] (batch_first: [B, T, I]) and states [L*D, B, .] of the plan's dtype, or
  // of None for zeros. None: something is unusual and nothing was done.
  py::object try_call(const py::handle& x, const py::handle& state) const {
    rnnk_args args{};
    int64_t shape[3];
    if (!plain_ || !plain_array(x, 3, shape, false, args.x) || args.x.dtype != plan_->dtype() ||
        shape[2] != plan_->input_size()) {
      return py::none();
    }
    const int64_t T = shape[batch_first_ ? 1 : 0], B = shape[batch_first_ ? 0 : 1], P = plan_->outputs(),
                  C = plan_->cell_units();
    if (!take_states(state, B, args)) return py::none();
    args.struct_size = sizeof args;
    args.seq_len = T, args.batch = B;
    args.packed = packed_->data(), args.packed_size = packed_->size();
    py::array y(dtype_, {shape[0], shape[1], plan_->width()});
    py::array h_n(dtype_, {plan_->count(), B, P});
    py::object c_n = py::none();
    args.y = dense_of(y), args.h_n = dense_of(h_n);
    if (C > 0) {
      py::array c(dtype_, {plan_->count(), B, C});
      args.c_n = dense_of(c);
      c_n = std::move(c);
    }
    if (batch_first_) std::swap(args.x.stride[0], args.x.stride[1]), std::swap(args.y.stride[0], args.y.stride[1]);
    const Needs needs = plan_->needs(T, B);
    const Workspace workspace(std::max<size_t>(needs.sizes.workspace_forward, 64));
    args.workspace = workspace.data(), args.workspace_size = workspace.size();
    check(released(needs.forward_us > kReleaseAboveUs, [&] { return rnnk_forward(plan_->native(), &args); }));
    if (C > 0) return py::make_tuple(y, py::make_tuple(h_n, c_n));
    return py::make_tuple(y, h_n);
  }

 private:
  rnnk_tensor dense_of(const py::array& a) const {
    const int64_t last = a.shape(2);
    return {const_cast<void*>(a.data()), {a.shape(1) * last, last, 1}, plan_->dtype(), 0};
  }
  bool take_states(const py::handle& state, int64_t B, rnnk_args& args) const {
    if (state.is_none()) return true;
    const bool pair = plan_->cell_units() > 0;
    if (pair && !(PyTuple_CheckExact(state.ptr()) && PyTuple_GET_SIZE(state.ptr()) == 2)) return false;
    return take_state(pair ? PyTuple_GET_ITEM(state.ptr(), 0) : state.ptr(), B, plan_->outputs(), args.h_0) &&
           (!pair || take_state(PyTuple_GET_ITEM(state.ptr(), 1), B, plan_->cell_units(), args.c_0));
  }
  bool take_state(const py::handle& array, int64_t B, int64_t units, rnnk_tensor& to) const {
    int64_t shape[3];
    return plain_array(array, 3, shape, false, to) && to.dtype == plan_->dtype() && shape[0] == plan_->count() &&
           shape[1] == B && shape[2] == units;
  }

  std::shared_ptr<Plan> plan_;
  std::shared_ptr<Packed> packed_;
  bool batch_first_, plain_;
  py::dtype dtype_;
};

}  // namespace
}  // namespace rnnk_py
