// The arguments of one network call over Python arrays: checked, pointed to, kept alive.
#pragma once
#include <algorithm>
#include <array>
#include <tuple>

#include "python/plan.h"

namespace rnnk_py {
namespace {

// Workspace of a call: the thread's own, or on a GPU the caller's.
struct Scratch {
  std::optional<Workspace> own;
  ArrayView given;
  void* data;
  size_t size;
  Scratch(const Plan& plan, size_t wanted, const py::handle& workspace) {
    if (plan.on_gpu()) {
      given = plan.gpu_bytes(workspace, "workspace", 0);
      data = given.tensor.data, size = static_cast<size_t>(given.shape[0]);
      return;
    }
    if (workspace) throw py::value_error("workspace: expected None, since the plan is not on a GPU");
    own.emplace(std::max<size_t>(wanted, 64));
    data = own->data(), size = own->size();
  }
};

// The keywords of a call. None counts as absent.
enum Argument {
  kX,
  kH0,
  kC0,
  kY,
  kHn,
  kCn,
  kLengths,
  kMask,
  kReset,
  kReserve,
  kRandom,
  kWorkspace,
  kStream,
  kDy,
  kDhn,
  kDcn,
  kDx,
  kDh0,
  kDc0,
  kGradients,
  kDh,
  kClipDh,
  kArguments
};
constexpr const char* kNames[kArguments] = {"x",     "h_0",     "c_0",    "y",         "h_n",    "c_n",    "lengths", "mask",
                                            "reset", "reserve", "random", "workspace", "stream", "dy",     "dh_n",    "dc_n",
                                            "dx",    "dh_0",    "dc_0",   "gradients", "dh",     "clip_dh"};
using Given = std::array<py::handle, kArguments>;

inline Given by_name(const py::kwargs& keywords) {
  static PyObject** const names = [] {  // interned, as the keywords of a call in Python's source are; never freed
    static PyObject* made[kArguments];
    for (int i = 0; i < kArguments; ++i) made[i] = PyUnicode_InternFromString(kNames[i]);
    return made;
  }();
  Given given{};
  for (const auto& [key, value] : keywords) {
    int i = 0;
    while (i < kArguments && key.ptr() != names[i]) ++i;
    for (int k = 0; i == kArguments && k < kArguments; ++k) {
      if (PyUnicode_Compare(key.ptr(), names[k]) == 0) i = k;
      if (i < kArguments) break;
    }
    if (i == kArguments) throw py::type_error("there is no argument \"" + py::cast<std::string>(py::str(key)) + "\"");
    if (!value.is_none()) given[static_cast<size_t>(i)] = value;
  }
  return given;
}

// The arguments of one call and the arrays they point into.
class Call {
 public:
  Call(const Plan& plan, const Packed& packed, bool backward, const py::kwargs& keywords)
      : plan_(plan), given_(by_name(keywords)), backward_(backward) {
    if (plan.on_gpu()) reach_cuda();
    plan.accept(packed, !backward);
    views_.reserve(16);
    args_.struct_size = sizeof args_;
    args_.packed = packed.data(), args_.packed_size = packed.size();
    if (!given_[kX]) throw py::type_error("x: expected an array, got None");
    int64_t shape[3];
    if (plan.on_gpu() || !plain_array(given_[kX], 3, shape, false, args_.x) || shape[2] != plan.input_size()) {
      views_.push_back(view(given_[kX], "x", plan.where(), {-1, -1, plan.input_size()}, false));
      args_.x = views_.back().tensor;
      std::copy_n(views_.back().shape.begin(), 3, shape);
    }
    T_ = args_.seq_len = shape[0];
    B_ = args_.batch = shape[1];
    sequence(kY, args_.y, !backward);
    states(kH0, plan.outputs(), args_.h_0, false);
    states(kC0, plan.cell_units(), args_.c_0, false);
    rows();
    if (given_[kRandom]) {
      args_.flags |= RNNK_CALL_TRAIN;
      std::tie(args_.seed, args_.call, args_.stream, args_.first_step) =
          py::cast<std::tuple<uint64_t, uint32_t, uint32_t, int64_t>>(given_[kRandom]);
    }
    reserve(!backward);
    if (backward) gradients();
    else {
      for (int i = kDy; i < kArguments; ++i) {
        if (given_[static_cast<size_t>(i)]) throw py::type_error(std::string(kNames[i]) + ": it is an argument of backward");
      }
    }
    states(kHn, plan.outputs(), args_.h_n, true);
    states(kCn, plan.cell_units(), args_.c_n, true);
    if (given_[kStream]) args_.cuda_stream = reinterpret_cast<void*>(py::cast<uintptr_t>(given_[kStream]));
  }

  void run() {
    const Needs needs = plan_.needs(T_, B_);
    const Scratch scratch(plan_, backward_ ? needs.sizes.workspace_backward : needs.sizes.workspace_forward,
                          given_[kWorkspace]);
    args_.workspace = scratch.data, args_.workspace_size = scratch.size;
    const auto fn = backward_ ? rnnk_backward : rnnk_forward;
    const double us = backward_ ? needs.backward_us : needs.forward_us;
    check(released(us > kReleaseAboveUs, [&] { return fn(plan_.native(), &args_); }));
  }

 private:
  void tensor(Argument which, std::initializer_list<int64_t> shape, rnnk_tensor& to, bool write) {
    tensor(given_[which], kNames[which], shape, to, write);
  }
  void tensor(const py::handle& array, const char* name, std::initializer_list<int64_t> shape, rnnk_tensor& to, bool write) {
    if (!array) return;
    int64_t found[3];
    // Plain NumPy arrays need no view of their own; the keywords keep them alive.
    if (!plan_.on_gpu() && shape.size() == 3 && plain_array(array, 3, found, write, to) &&
        std::equal(shape.begin(), shape.end(), found)) {
      return;
    }
    views_.push_back(view(array, name, plan_.where(), shape, write));
    to = views_.back().tensor;
  }
  void sequence(Argument which, rnnk_tensor& to, bool write) { tensor(which, {T_, B_, plan_.width()}, to, write); }
  void states(Argument which, int64_t units, rnnk_tensor& to, bool write) {
    tensor(which, {plan_.count(), B_, units}, to, write);
  }

  // Of NumPy, or on the GPU: lengths of int32 or int64 [B], mask and reset of bool or uint8 [T, B].
  void rows() {
    integers(kLengths, Items::lengths, {B_}, args_.lengths);
    integers(kMask, Items::marks, {T_, B_}, args_.mask);
    integers(kReset, Items::marks, {T_, B_}, args_.reset);
  }
  void integers(Argument which, Items what, std::initializer_list<int64_t> shape, rnnk_tensor& to) {
    if (!given_[which]) return;
    views_.push_back(view_items(given_[which], kNames[which], plan_.where(), what, shape, false));
    to = views_.back().tensor;
  }

  void reserve(bool write) {
    alignas(64) static uint8_t nothing[64];  // NumPy's empty arrays may point anywhere; nobody reads it
    const py::handle bytes = given_[kReserve];
    if (!bytes) return;
    void* data = nullptr;
    if (plan_.on_gpu()) {
      views_.push_back(view_items(bytes, "reserve", plan_.where(), Items::bytes, {-1}, write));
      data = views_.back().tensor.data;
      args_.reserve_size = static_cast<size_t>(views_.back().shape[0]);
    } else {
      if (!py::isinstance<py::array_t<uint8_t>>(bytes)) throw py::type_error("reserve: expected a NumPy array of uint8");
      const auto array = py::reinterpret_borrow<py::array_t<uint8_t>>(bytes);
      if (array.ndim() != 1 || !(array.flags() & py::array::c_style)) {
        throw py::value_error("reserve: expected one contiguous axis");
      }
      if (write && !array.writeable()) throw py::value_error("reserve: expected a writeable array");
      data = const_cast<uint8_t*>(array.data()), args_.reserve_size = static_cast<size_t>(array.size());
    }
    args_.reserve = args_.reserve_size ? data : nothing;
  }

  void gradients() {
    const int64_t P = plan_.outputs(), C = plan_.cell_units();
    sequence(kDy, args_.dy, false);
    states(kDhn, P, args_.dh_n, false);
    states(kDcn, C, args_.dc_n, false);
    tensor(kDx, {T_, B_, plan_.input_size()}, args_.dx, true);
    states(kDh0, P, args_.dh_0, true);
    states(kDc0, C, args_.dc_0, true);
    if (given_[kClipDh]) args_.clip_dh = py::cast<double>(given_[kClipDh]);
    if (given_[kGradients]) {
      weights_ = plan_.weights(py::cast<py::list>(given_[kGradients]), "gradients", true, views_);
      args_.dweights = weights_.data();
    }
    if (!given_[kDh]) return;
    const auto layers = py::cast<py::list>(given_[kDh]);
    if (static_cast<int64_t>(layers.size()) != plan_.num_layers()) {
      throw py::value_error("dh: expected an array for each layer, got " + std::to_string(layers.size()));
    }
    for (const py::handle each : layers) tensor(each, "dh", {T_, B_, plan_.width()}, dh_.emplace_back(), true);
    args_.dh = dh_.data();
  }

  const Plan& plan_;
  const Given given_;
  const bool backward_;
  int64_t T_ = 0, B_ = 0;
  rnnk_args args_{};
  std::vector<ArrayView> views_;
  std::vector<rnnk_weights> weights_;
  std::vector<rnnk_tensor> dh_;
};

}  // namespace
}  // namespace rnnk_py
