// Inference of a network on plain arrays in one call: it checks them, allocates the answer and runs the network.
#pragma once
#include "python/plan.h"

namespace rnnk_py {
namespace {

// NumPy's own arrays, with the members of Tensors.
struct NumpyArrays {
  bool read(const py::handle& array, int axes, int64_t* shape, rnnk_tensor& to) const {
    return plain_array(array, axes, shape, false, to);
  }
  py::object make(int dtype, std::initializer_list<int64_t> shape, rnnk_tensor& to) const {
    const py::array made(numpy_dtype(dtype), std::vector<py::ssize_t>(shape.begin(), shape.end()));
    to = {};
    to.data = const_cast<void*>(made.data());
    to.dtype = dtype;
    int64_t dense = 1;
    for (size_t i = shape.size(); i-- > 0;) to.stride[i] = dense, dense *= shape.begin()[i];
    return made;
  }
};

class Inference {
 public:
  // packed: null where each call brings weights. step: of a cell, whose arrays have no axes of time, layers and directions.
  Inference(std::shared_ptr<Plan> plan, std::shared_ptr<Packed> packed, bool batch_first, bool step)
      : plan_(std::move(plan)), packed_(std::move(packed)), batch_first_(batch_first), step_(step) {
    if (plan_->on_gpu()) throw py::value_error("plan: expected one of the CPU");
    if (step && plan_->count() > 1) throw py::value_error("plan: expected one layer in one direction");
    if (packed_) plan_->accept(*packed_, true);
    // States of half types, and of sLSTM, come in other forms than the kernels'.
    plain_ =
        (plan_->dtype() == RNNK_FLOAT32 || plan_->dtype() == RNNK_FLOAT64) && plan_->cell_units() <= plan_->hidden_size();
  }

  // (y, h_n) or (y, (h_n, c_n)) of x [T, B, I] (batch_first: [B, T, I]) and states [L*D, B, .], of a cell h or (h, c) of x [B, I]
  // and states [B, .]; all contiguous, in the plan's dtype, and NumPy's own. state None: zeros.
  // None: something is unusual and nothing was done.
  py::object try_call(const py::handle& x, const py::handle& state) const {
    if (!plain_ || Py_TYPE(x.ptr()) != py::detail::npy_api::get().PyArray_Type_) return py::none();
    return call(NumpyArrays{}, x, state, nullptr);
  }
  // The same for tensors with any strides. The caller knows that their memory holds their values, and that no graph is recorded.
  // weights: five for each layer and direction, as rnnk_weights has them but for params, None: absent. The caller has
  // compared their dtype and shapes. Null: the pack is read.
  py::object try_tensors(const py::handle& x, const py::handle& state, const py::object& weights) const {
    const Tensors tensors(x);
    if (!plain_ || !tensors) return py::none();
    if (weights.is_none()) return call(tensors, x, state, nullptr);
    std::vector<rnnk_weights> given;
    return take_weights(tensors, py::cast<py::list>(weights), given) ? call(tensors, x, state, given.data()) : py::none();
  }
  bool plain() const { return plain_; }

 private:
  template <class Arrays>
  py::object call(const Arrays& arrays, const py::handle& x, const py::handle& state, const rnnk_weights* weights) const {
    if (!weights && !packed_) throw py::value_error("weights: expected a list, since there is no pack");
    rnnk_args args{};
    int64_t shape[3] = {1, 1, 1};
    if (!take(arrays, x, shape, args.x) || shape[2] != plan_->input_size()) return py::none();
    const bool swapped = batch_first_ && !step_;
    const int64_t T = shape[swapped ? 1 : 0], B = shape[swapped ? 0 : 1], L = plan_->count();
    const int64_t P = plan_->outputs(), C = plan_->cell_units();
    if (!take_states(arrays, state, B, args)) return py::none();
    if (swapped) std::swap(args.x.stride[0], args.x.stride[1]);
    args.struct_size = sizeof args;
    args.seq_len = T, args.batch = B;
    py::object y, h_n, c_n;
    if (step_) {
      h_n = give(arrays, {B, P}, args.y);
      if (C > 0) c_n = give(arrays, {B, C}, args.c_n);
    } else {
      y = arrays.make(plan_->dtype(), {shape[0], shape[1], plan_->width()}, args.y);
      if (swapped) std::swap(args.y.stride[0], args.y.stride[1]);
      h_n = arrays.make(plan_->dtype(), {L, B, P}, args.h_n);
      if (C > 0) c_n = arrays.make(plan_->dtype(), {L, B, C}, args.c_n);
    }
    const Needs needs = plan_->needs(T, B);
    const size_t pack_bytes = weights ? (needs.sizes.packed + 63) / 64 * 64 : 0;
    const Workspace workspace(pack_bytes + std::max<size_t>(needs.sizes.workspace_forward, 64));
    args.packed = weights ? workspace.data() : packed_->data();
    args.packed_size = weights ? pack_bytes : packed_->size(), args.weights = weights;
    args.workspace = static_cast<char*>(workspace.data()) + pack_bytes, args.workspace_size = workspace.size() - pack_bytes;
    check(released(needs.forward_us > kReleaseAboveUs || pack_bytes > kReleaseAboveBytes,
                   [&] { return rnnk_forward(plan_->native(), &args); }));
    py::object states = C > 0 ? py::object(py::make_tuple(h_n, c_n)) : h_n;
    return step_ ? states : py::object(py::make_tuple(y, states));
  }

  bool take_weights(const Tensors& tensors, const py::list& given, std::vector<rnnk_weights>& all) const {
    if (static_cast<int64_t>(given.size()) != 5 * plan_->count())
      throw py::value_error("weights: expected five for each layer and direction");
    all.resize(static_cast<size_t>(plan_->count()));
    for (size_t i = 0; i < given.size(); ++i) {
      rnnk_weights& w = all[i / 5];
      w.struct_size = sizeof w;
      rnnk_tensor* const slots[] = {&w.weight_ih, &w.weight_hh, &w.bias_ih, &w.bias_hh, &w.weight_hr};
      const py::handle array = PyList_GET_ITEM(given.ptr(), static_cast<Py_ssize_t>(i));
      const int axes = i % 5 == 2 || i % 5 == 3 ? 1 : 2;
      int64_t shape[2] = {1, 1};
      rnnk_tensor& to = *slots[i % 5];
      if (array.is_none()) continue;
      if (!tensors.read(array, axes, shape, to) || to.dtype != plan_->dtype()) return false;
      if (axes == 2 ? to.stride[1] != 1 || to.stride[0] != shape[1] : to.stride[0] != 1) return false;
    }
    return true;
  }

  // An array with the axes that a layer's has; a cell's gets a first one of size 1.
  template <class Arrays>
  bool take(const Arrays& arrays, const py::handle& array, int64_t* shape, rnnk_tensor& to) const {
    if (!arrays.read(array, step_ ? 2 : 3, step_ ? shape + 1 : shape, to) || to.dtype != plan_->dtype()) return false;
    if (step_) to.stride[2] = to.stride[1], to.stride[1] = to.stride[0], to.stride[0] = 0;
    return true;
  }
  template <class Arrays>
  py::object give(const Arrays& arrays, std::initializer_list<int64_t> shape, rnnk_tensor& to) const {
    py::object made = arrays.make(plan_->dtype(), shape, to);
    to.stride[2] = to.stride[1], to.stride[1] = to.stride[0], to.stride[0] = 0;
    return made;
  }
  template <class Arrays>
  bool take_states(const Arrays& arrays, const py::handle& state, int64_t B, rnnk_args& args) const {
    if (state.is_none()) return true;
    const bool pair = plan_->cell_units() > 0;
    if (pair && !(PyTuple_CheckExact(state.ptr()) && PyTuple_GET_SIZE(state.ptr()) == 2)) return false;
    const auto one = [&](const py::handle& array, int64_t units, rnnk_tensor& to) {
      int64_t shape[3] = {1, 1, 1};
      return take(arrays, array, shape, to) && shape[0] == plan_->count() && shape[1] == B && shape[2] == units;
    };
    return one(pair ? PyTuple_GET_ITEM(state.ptr(), 0) : state.ptr(), plan_->outputs(), args.h_0) &&
           (!pair || one(PyTuple_GET_ITEM(state.ptr(), 1), plan_->cell_units(), args.c_0));
  }

  std::shared_ptr<Plan> plan_;
  std::shared_ptr<Packed> packed_;
  bool batch_first_, step_, plain_;
};

}  // namespace
}  // namespace rnnk_py
