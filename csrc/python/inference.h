// Inference of a network on plain arrays in one call: it checks them, allocates the answer and runs the network.
#pragma once
#include <array>

#include "python/digest.h"
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
    return call(NumpyArrays{}, x, state);
  }
  // The same for tensors with any strides. The caller knows that their memory holds their values, and that no graph is recorded.
  // weights: five for each layer and direction, as rnnk_weights has them but for params, None: absent. The caller has
  // compared their dtype and shapes. Null: the pack is read.
  py::object try_tensors(const py::handle& x, const py::handle& state, const py::object& weights) const {
    const Tensors tensors(x);
    if (!plain_ || !tensors) return py::none();
    if (weights.is_none()) return call(tensors, x, state);
    Weights given;
    if (!take_weights(tensors, py::cast<py::list>(weights), given)) return py::none();
    return call(tensors, x, state, &given);
  }
  bool plain() const { return plain_; }
  bool keeps() const { return kept_ != nullptr; }
  void forget() { kept_ = nullptr, seen_ = {}; }

 protected:
  // A pack of weights that came in two calls, with the digest of all their bytes.
  struct Kept {
    Digest::Value digest;
    Buffer memory;
  };

  // The outputs of a call; of a cell h_n is y, and c_n is absent where the network has no cell state.
  struct Outputs {
    py::object y, h_n, c_n;
  };

  // x and the states of a call. False: something is unusual.
  template <class Arrays>
  bool take_inputs(const Arrays& arrays, const py::handle& x, const py::handle& state, rnnk_args& args) const {
    int64_t shape[3] = {1, 1, 1};
    if (!take_sequence(arrays, x, plan_->input_size(), shape, args.x)) return false;
    args.struct_size = sizeof args;
    args.seq_len = shape[0], args.batch = shape[1];
    return take_states(arrays, state, args.batch, args.h_0, args.c_0);
  }
  template <class Arrays>
  Outputs give_outputs(const Arrays& arrays, rnnk_args& args) const {
    const int64_t B = args.batch, L = plan_->count(), P = plan_->outputs(), C = plan_->cell_units();
    Outputs out;
    out.y = give_sequence(arrays, args, plan_->width(), args.y);
    if (!step_) out.h_n = give_states(arrays, {L, B, P}, args.h_n);
    if (C > 0) out.c_n = give_states(arrays, {L, B, C}, args.c_n);
    return out;
  }
  // Runs a pass with the weights, or on args.packed where they are null.
  void run(bool backward, rnnk_args& args, const rnnk_weights* weights) const {
    const Needs needs = plan_->needs(args.seq_len, args.batch);
    const size_t pack_bytes = weights ? (needs.sizes.packed + 63) / 64 * 64 : 0;
    const size_t bytes = backward ? needs.sizes.workspace_backward : needs.sizes.workspace_forward;
    const Workspace workspace(pack_bytes + std::max<size_t>(bytes, 64));
    if (weights) args.packed = workspace.data(), args.packed_size = pack_bytes, args.weights = weights;
    args.workspace = static_cast<char*>(workspace.data()) + pack_bytes, args.workspace_size = workspace.size() - pack_bytes;
    const double us = backward ? needs.backward_us : needs.forward_us;
    check(released(us > kReleaseAboveUs || pack_bytes > kReleaseAboveBytes,
                   [&] { return (backward ? rnnk_backward : rnnk_forward)(plan_->native(), &args); }));
  }

  // The weights of a call: `kSlots` for each layer and direction.
  static constexpr size_t kSlots = 5;
  struct Weights {
    std::vector<rnnk_weights> all;
    std::vector<std::array<int64_t, 2>> shapes;  // of each slot; biases have one size
  };
  // weights: of the call; null: the pack is read.
  template <class Arrays>
  py::object call(const Arrays& arrays, const py::handle& x, const py::handle& state, Weights* weights = nullptr) const {
    if (!weights && !packed_) throw py::value_error("weights: expected a list, since there is no pack");
    rnnk_args args{};
    if (!take_inputs(arrays, x, state, args)) return py::none();
    const Outputs out = give_outputs(arrays, args);
    // A single step of few rows reads the weights once where they are, which costs no more than a digest and reading a pack.
    const auto kept = weights && args.seq_len > 1 ? kept_pack(*weights) : nullptr;
    if (kept) args.packed = kept->memory.data(), args.packed_size = kept->memory.size();
    else if (!weights) args.packed = packed_->data(), args.packed_size = packed_->size();
    run(false, args, kept || !weights ? nullptr : weights->all.data());
    const py::object& h_n = step_ ? out.y : out.h_n;
    py::object states = out.c_n ? py::object(py::make_tuple(h_n, out.c_n)) : h_n;
    return step_ ? states : py::object(py::make_tuple(out.y, states));
  }

  static rnnk_tensor& slot(rnnk_weights& w, size_t i) {
    rnnk_tensor* const slots[kSlots] = {&w.weight_ih, &w.weight_hh, &w.bias_ih, &w.bias_hh, &w.weight_hr};
    return *slots[i % kSlots];
  }
  static bool is_bias(size_t i) { return i % kSlots == 2 || i % kSlots == 3; }

  bool take_weights(const Tensors& tensors, const py::list& given, Weights& weights) const {
    const auto count = static_cast<size_t>(plan_->count());
    if (given.size() != kSlots * count) throw py::value_error("weights: expected five for each layer and direction");
    weights.all.assign(count, rnnk_weights{sizeof(rnnk_weights), {}, {}, {}, {}, {}, {}});
    weights.shapes.resize(given.size());
    for (size_t i = 0; i < given.size(); ++i) {
      const py::handle array = PyList_GET_ITEM(given.ptr(), static_cast<Py_ssize_t>(i));
      if (array.is_none()) continue;
      int64_t* const shape = weights.shapes[i].data();
      rnnk_tensor& to = slot(weights.all[i / kSlots], i);
      if (!tensors.read(array, is_bias(i) ? 1 : 2, shape, to) || to.dtype != plan_->dtype()) return false;
      if (is_bias(i) ? to.stride[0] != 1 : to.stride[1] != 1 || to.stride[0] != shape[1]) return false;
    }
    return true;
  }

  Digest::Value digest_of(Weights& given) const {
    Digest digest;
    for (size_t i = 0; i < given.shapes.size(); ++i) {
      const auto [rows, columns] = given.shapes[i];
      const void* const data = slot(given.all[i / kSlots], i).data;
      const auto count = static_cast<size_t>(rows * (is_bias(i) ? 1 : columns));
      digest.add(data, data ? count * (plan_->dtype() == RNNK_FLOAT64 ? 8 : 4) : 0);
    }
    return digest.value();
  }
  // The pack of weights that are, to the bit, those of the last call; null: they are new. A change of them while they are packed is
  // seen by the second digest. The members change with the GIL held.
  std::shared_ptr<const Kept> kept_pack(Weights& given) const {
    if (!Digest::fast()) return nullptr;
    const size_t bytes = plan_->sizes(0, 0).packed;
    const bool release = bytes > kReleaseAboveBytes;
    const auto digest = [&] { return released(release, [&] { return digest_of(given); }); };
    const Digest::Value now = digest();
    if (kept_ && kept_->digest == now) return kept_;
    const bool again = seen_ == now;
    seen_ = now;
    if (!again) return nullptr;
    kept_ = nullptr;
    const auto made = std::make_shared<Kept>(Kept{now, Buffer(bytes)});
    const Buffer& to = made->memory;
    check(released(release, [&] {
      return rnnk_pack_weights(plan_->native(), given.all.data(), RNNK_PACK_FORWARD, to.data(), to.size(), nullptr);
    }));
    if (digest() != now) return nullptr;
    return kept_ = made;
  }

  // An array with the axes that a layer's has; a cell's gets a first one of size 1.
  template <class Arrays>
  bool take(const Arrays& arrays, const py::handle& array, int64_t* shape, rnnk_tensor& to) const {
    if (!arrays.read(array, step_ ? 2 : 3, step_ ? shape + 1 : shape, to) || to.dtype != plan_->dtype()) return false;
    if (step_) lead(to);
    return true;
  }
  static void lead(rnnk_tensor& t) { t.stride[2] = t.stride[1], t.stride[1] = t.stride[0], t.stride[0] = 0; }

  // [T, B, width] whatever the order of the axes in the caller's array; shape: as the kernels have it.
  template <class Arrays>
  bool take_sequence(const Arrays& arrays, const py::handle& array, int64_t width, int64_t* shape, rnnk_tensor& to) const {
    if (!take(arrays, array, shape, to) || shape[2] != width) return false;
    if (batch_first_ && !step_) std::swap(shape[0], shape[1]), std::swap(to.stride[0], to.stride[1]);
    return true;
  }
  template <class Arrays>
  py::object give_sequence(const Arrays& arrays, const rnnk_args& a, int64_t width, rnnk_tensor& to) const {
    if (step_) return give_states(arrays, {1, a.batch, width}, to);
    if (!batch_first_) return arrays.make(plan_->dtype(), {a.seq_len, a.batch, width}, to);
    py::object made = arrays.make(plan_->dtype(), {a.batch, a.seq_len, width}, to);
    std::swap(to.stride[0], to.stride[1]);
    return made;
  }
  // [L*D, B, .]; of a cell [B, .].
  template <class Arrays>
  py::object give_states(const Arrays& arrays, std::initializer_list<int64_t> shape, rnnk_tensor& to) const {
    if (!step_) return arrays.make(plan_->dtype(), shape, to);
    py::object made = arrays.make(plan_->dtype(), {shape.begin()[1], shape.begin()[2]}, to);
    lead(to);
    return made;
  }
  template <class Arrays>
  bool take_state(const Arrays& arrays, const py::handle& array, int64_t B, int64_t units, rnnk_tensor& to) const {
    int64_t shape[3] = {1, 1, 1};
    return take(arrays, array, shape, to) && shape[0] == plan_->count() && shape[1] == B && shape[2] == units;
  }
  template <class Arrays>
  bool take_states(const Arrays& arrays, const py::handle& state, int64_t B, rnnk_tensor& h, rnnk_tensor& c) const {
    if (state.is_none()) return true;
    if (plan_->cell_units() == 0) return take_state(arrays, state, B, plan_->outputs(), h);
    return PyTuple_CheckExact(state.ptr()) && PyTuple_GET_SIZE(state.ptr()) == 2 &&
           take_state(arrays, PyTuple_GET_ITEM(state.ptr(), 0), B, plan_->outputs(), h) &&
           take_state(arrays, PyTuple_GET_ITEM(state.ptr(), 1), B, plan_->cell_units(), c);
  }

  std::shared_ptr<Plan> plan_;
  std::shared_ptr<Packed> packed_;
  bool batch_first_, step_, plain_;
  mutable std::shared_ptr<const Kept> kept_;
  mutable Digest::Value seen_{};
};

}  // namespace
}  // namespace rnnk_py
