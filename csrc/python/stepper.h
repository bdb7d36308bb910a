// One step at a time, in place and without allocation: for streaming.
#pragma once
#include "python/plan.h"

namespace rnnk_py {
namespace {

// A step in place: y is the caller's h itself, which the kernel reads whole before it writes.
class Stepper {
 public:
  Stepper(std::shared_ptr<Plan> plan, std::shared_ptr<Packed> packed, int64_t batch)
      : plan_(std::move(plan)), packed_(std::move(packed)), batch_(batch),
        workspace_size_(std::max<size_t>(plan_->sizes(1, batch).workspace_forward, 64)),
        release_(plan_->estimate(1, batch, false) > kReleaseAboveUs) {
    if (plan_->count() > 1) throw py::value_error("plan: expected one layer in one direction");
    if (plan_->on_gpu()) throw py::value_error("plan: expected one of the CPU; a GPU's steps go through forward");
    plan_->accept(*packed_, true);
    args_.struct_size = sizeof args_;
    args_.seq_len = 1;
    args_.batch = batch;
    args_.packed = packed_->data(), args_.packed_size = packed_->size();
  }

  void step(const py::object& x, const py::object& h, const py::object& c) {
    const int64_t C = plan_->cell_units();
    const ArrayView vx = view(x, "x", {}, {batch_, plan_->input_size()}, false),
                    vh = view(h, "h", {}, {batch_, plan_->outputs()}, true);
    ArrayView vc;
    if (c.is_none() == (C > 0)) {
      throw py::value_error(C > 0 ? "c: expected an array, got None" : "c: this cell has no cell state");
    }
    if (C > 0) vc = view(c, "c", {}, {batch_, C}, true);
    run(vx.tensor, vh.tensor, vc.tensor);
  }

  // The same for the usual case: contiguous NumPy arrays apart from each other. False: something is
  // unusual and nothing was done; step() then finds out what, or converts.
  bool try_step(const py::handle& x, const py::handle& state) {
    const bool pair = plan_->cell_units() > 0;
    if (pair && !(PyTuple_CheckExact(state.ptr()) && PyTuple_GET_SIZE(state.ptr()) == 2)) return false;
    const py::handle h = pair ? PyTuple_GET_ITEM(state.ptr(), 0) : state.ptr();
    const py::handle c = pair ? PyTuple_GET_ITEM(state.ptr(), 1) : nullptr;
    const int64_t C = plan_->cell_units();
    rnnk_tensor vx, vh, vc{};
    if (!plain_rows(x, batch_, plan_->input_size(), false, vx) || !plain_rows(h, batch_, plan_->outputs(), true, vh) ||
        vx.dtype != plan_->dtype() || vh.dtype != plan_->dtype() || overlap(vx, vh)) {
      return false;
    }
    if (pair && (!plain_rows(c, batch_, C, true, vc) || vc.dtype != plan_->dtype() || overlap(vx, vc) || overlap(vh, vc))) {
      return false;
    }
    run(vx, vh, vc);
    return true;
  }

 private:
  bool overlap(const rnnk_tensor& a, const rnnk_tensor& b) const {  // of plain rows
    const auto end = [this](const rnnk_tensor& t) {
      const int64_t item = t.dtype == RNNK_FLOAT64 ? 8 : t.dtype == RNNK_FLOAT32 ? 4 : 2;
      return static_cast<const char*>(t.data) + batch_ * t.stride[0] * item;
    };
    return static_cast<const char*>(a.data) < end(b) && static_cast<const char*>(b.data) < end(a);
  }

  // [B, X] tensors.
  void run(const rnnk_tensor& x, const rnnk_tensor& h, const rnnk_tensor& c) {
    const Workspace workspace(workspace_size_);  // the thread's own: two threads may step one cell at once
    rnnk_args args = args_;
    args.workspace = workspace.data();
    args.workspace_size = workspace.size();
    args.x = sequence(x);
    args.y = sequence(h);
    args.h_0 = args.y;
    if (plan_->cell_units() > 0) args.c_0 = args.c_n = sequence(c);
    check(released(release_, [&] { return rnnk_forward(plan_->native(), &args); }));
  }

  static rnnk_tensor sequence(rnnk_tensor t) {  // [B, X] as [1, B, X]
    t.stride[2] = t.stride[1], t.stride[1] = t.stride[0], t.stride[0] = 0;
    return t;
  }

  std::shared_ptr<Plan> plan_;
  std::shared_ptr<Packed> packed_;
  int64_t batch_;
  size_t workspace_size_;
  bool release_;
  rnnk_args args_{};
};

}  // namespace
}  // namespace rnnk_py
