// Plans and packed weights over Python arrays: one kernel call each, its arguments checked and pointed to.
#pragma once
#include <array>
#include <memory>
#include <tuple>

#include "arrays.h"
#include "gpu.h"
#include "memory.h"

namespace rnnk_py {
namespace {

// Kernels expected to take less keep the GIL: giving it up and taking it back costs more than it frees.
constexpr double kReleaseAboveUs = 20;
constexpr size_t kReleaseAboveBytes = 128 << 10;  // of a pack: about as long

// Without the GIL where that is worth it.
template <class Fn>
rnnk_status released(bool release, const Fn& fn) {
  if (!release) return fn();
  py::gil_scoped_release scope;
  return fn();
}

struct Packed {
  Buffer memory;     // of a CPU's plan
  ArrayView on_gpu;  // of a GPU's: the caller's, kept alive
  bool forward, backward;
  std::shared_ptr<const std::string> layout;  // of which plans: a pack is of use for those that lay weights out alike
  void* data() const { return on_gpu.owner ? on_gpu.tensor.data : memory.data(); }
  size_t size() const { return on_gpu.owner ? static_cast<size_t>(on_gpu.shape[0]) : memory.size(); }
};
// Bytes for whatever a caller keeps, from the memory that is kept between calls.
struct Block {
  Buffer memory;
};

struct PlanDeleter {
  void operator()(rnnk_plan* p) const { rnnk_plan_destroy(p); }
};

// (seed, call, stream, first_step), or none: no random masks.
using Random = std::optional<std::tuple<uint64_t, uint32_t, uint32_t, int64_t>>;
// (index, directions): outputs have the columns of that many directions, states that many layers' rows [L*D, B, P], and the
// call's own are those of `index`. None: they are the call's alone, states [B, P].
using Place = std::optional<std::pair<int64_t, int64_t>>;

class Plan {
 public:
  Plan(const rnnk_problem& problem, const std::optional<std::string>& kernel) : problem_(problem) {
    if (problem_.device != RNNK_CPU) reach_cuda();
    rnnk_plan* raw = nullptr;
    check(rnnk_plan_create(&problem_, kernel ? kernel->c_str() : nullptr, &raw));
    plan_.reset(raw);
    where_ = {problem_.device, problem_.device_index};
    gates_ = rnnk_cell_gates(problem_.cell);
    outputs_ = problem_.proj_size ? problem_.proj_size : problem_.hidden_size;
    cell_units_ = (rnnk_cell_states(problem_.cell) - 1) * problem_.hidden_size;
    layout_ = std::make_shared<const std::string>(layout());
  }

  static rnnk_problem problem(const std::string& cell, const std::string& dtype, int64_t input_size, int64_t hidden_size) {
    rnnk_problem p{};
    p.struct_size = sizeof p;
    std::string known;
    for (p.cell = 0; rnnk_cell_name(p.cell) && cell != rnnk_cell_name(p.cell); ++p.cell) {
      known += std::string(known.empty() ? "" : ", ") + rnnk_cell_name(p.cell);
    }
    if (!rnnk_cell_name(p.cell)) throw py::value_error("cell: expected one of " + known + ", got " + cell);
    p.dtype = dtype_from_name(dtype);
    p.input_size = input_size;
    p.hidden_size = hidden_size;
    return p;
  }
  static int32_t device_from_name(const std::string& name) {
    if (name != "cpu" && name != "cuda") throw py::value_error("device: expected \"cpu\" or \"cuda\", got \"" + name + "\"");
    return name == "cpu" ? RNNK_CPU : RNNK_CUDA;
  }
  // Options by their names in _core.pyi; those that are absent stay neutral.
  static void take_options(rnnk_problem& p, const py::kwargs& options) {
    const std::pair<const char*, uint32_t> flags[] = {
        {"peephole", RNNK_PEEPHOLE},
        {"coupled", RNNK_COUPLED},
        {"reset_before", RNNK_RESET_BEFORE},
        {"layer_norm", RNNK_LAYER_NORM},
        {"independent", RNNK_INDEPENDENT},
        {"masked", RNNK_MASKED},
        {"tf32", RNNK_TF32},
    };
    for (const auto& [key, value] : options) {
      const std::string name = py::cast<std::string>(key);
      const py::object option = py::reinterpret_borrow<py::object>(value);
      bool known = false;
      for (const auto& [flag, bit] : flags) {
        if (name == flag) known = true, p.flags |= py::cast<bool>(option) ? bit : 0u;
      }
      if (known) continue;
      if (name == "device") p.device = device_from_name(py::cast<std::string>(option));
      else if (name == "device_index") p.device_index = py::cast<int32_t>(option);
      else if (name == "proj_size") p.proj_size = py::cast<int64_t>(option);
      else if (name == "heads") p.heads = py::cast<int64_t>(option);
      else if (name == "clip") p.clip = py::cast<double>(option);
      else if (name == "recurrent_dropout") p.recurrent_dropout = py::cast<double>(option);
      else if (name == "zoneout") std::tie(p.zoneout[0], p.zoneout[1]) = py::cast<std::pair<double, double>>(option);
      else if (name == "activations") {
        const auto given = py::cast<std::vector<std::tuple<int32_t, double, double>>>(option);
        if (given.size() > 3) throw py::value_error("activations: expected at most 3");
        for (size_t i = 0; i < given.size(); ++i) {
          p.activations[i] = {std::get<0>(given[i]), std::get<1>(given[i]), std::get<2>(given[i])};
        }
      } else {
        throw py::type_error("Plan: there is no option \"" + name + "\"");
      }
    }
  }

  const char* kernel() const { return rnnk_plan_kernel(plan_.get()); }
  std::string layout() const {
    static const char* const dtypes[] = {"float32", "float64", "bfloat16", "float16"};
    const rnnk_problem& p = problem_;
    return std::string(dtypes[p.dtype]) + " " + rnnk_cell_name(p.cell) + " of " + std::to_string(p.input_size) +
           " inputs and " + std::to_string(p.hidden_size) + " units for " + kernel() +
           (p.device == RNNK_CPU ? "" : " on cuda:" + std::to_string(p.device_index)) +
           (p.flags & RNNK_NO_BIAS ? " without bias" : "") + (p.flags & RNNK_TF32 ? " in TF32" : "") +
           (p.proj_size ? " projected to " + std::to_string(p.proj_size) : "") +
           (p.heads > 1 ? " in " + std::to_string(p.heads) + " heads" : "") +
           (p.flags & RNNK_PEEPHOLE ? " with peepholes" : "") +
           (p.flags & RNNK_RESET_BEFORE ? " with the reset before" : "") +
           (p.flags & RNNK_LAYER_NORM ? " with layer norm" : "") + (p.flags & RNNK_INDEPENDENT ? " independent" : "");
  }
  int64_t param_rows() const { return rnnk_plan_param_rows(plan_.get()); }
  int64_t weight_hh_columns() const { return outputs_ / std::max<int64_t>(problem_.heads, 1); }
  double estimate(int64_t seq_len, int64_t batch, bool backward) const {
    return rnnk_plan_estimate(plan_.get(), seq_len, batch, backward);
  }
  rnnk_sizes sizes(int64_t seq_len, int64_t batch) const {
    rnnk_sizes s{};
    s.struct_size = sizeof s;
    check(rnnk_plan_sizes(plan_.get(), seq_len, batch, &s));
    return s;
  }

  std::shared_ptr<Packed> pack(const py::object& weight_ih, const py::object& weight_hh, const py::object& bias_ih,
                               const py::object& bias_hh, bool backward, bool forward, const py::object& weight_hr,
                               const py::object& params, const py::object& into, uintptr_t stream) const {
    if (!forward && !backward) throw py::value_error("forward, backward: expected at least one of them");
    const int64_t rows = gates_ * problem_.hidden_size;
    std::vector<ArrayView> views;
    rnnk_weights w{};
    w.struct_size = sizeof w;
    w.weight_ih = contiguous(weight_ih, "weight_ih", {rows, problem_.input_size}, false, views);
    w.weight_hh = contiguous(weight_hh, "weight_hh", {rows, weight_hh_columns()}, false, views);
    if (bias_ih.is_none() != bias_hh.is_none() && !(problem_.flags & RNNK_INDEPENDENT)) {
      throw py::value_error("bias_ih, bias_hh: expected both or neither");
    }
    w.bias_ih = contiguous(bias_ih, "bias_ih", {rows}, false, views);
    w.bias_hh = contiguous(bias_hh, "bias_hh", {rows}, false, views);
    w.weight_hr = contiguous(weight_hr, "weight_hr", {outputs_, problem_.hidden_size}, false, views);
    w.params = contiguous(params, "params", {param_rows(), problem_.hidden_size}, false, views);
    const size_t bytes = sizes(0, 0).packed;
    auto packed = std::make_shared<Packed>();
    packed->forward = forward, packed->backward = backward, packed->layout = layout_;
    if (on_gpu()) {
      reach_cuda();
      packed->on_gpu = gpu_bytes(into, "into", bytes);
      w.cuda_stream = reinterpret_cast<void*>(stream);
    } else if (into.is_none()) {
      packed->memory.reserve(bytes);
    } else {
      throw py::value_error("into: expected None, since the plan is not on a GPU");
    }
    const int32_t halves = !backward ? RNNK_PACK_FORWARD : forward ? RNNK_PACK_BOTH : RNNK_PACK_BACKWARD;
    check(released(bytes > kReleaseAboveBytes,
                   [&] { return rnnk_pack_weights(plan_.get(), &w, halves, packed->data(), packed->size()); }));
    return packed;
  }

  void forward(const Packed& packed, const py::object& x, const py::object& h_0, const py::object& c_0, const py::object& y,
               const py::object& h_n, const py::object& c_n, const py::object& lengths, const py::object& reserve,
               const py::object& mask, const py::object& reset, const Random& random, const py::object& workspace,
               uintptr_t stream, const Place& place) const {
    ForwardCall f(*this, packed, place, x, h_0, c_0, y, h_n, c_n, lengths, reserve);
    f.options(mask, reset, random);
    f.run(f.workspace_size, false, workspace, stream);
  }

  // Every pair has two entries: of this plan, whose direction is the first, and of the other. index: of the first.
  using Pair = std::array<py::object, 2>;
  void forward_both(const Plan& other, const std::array<std::shared_ptr<Packed>, 2>& packed, const py::object& x,
                    const py::object& h_0, const py::object& c_0, const py::object& y, const py::object& h_n,
                    const py::object& c_n, const py::object& lengths, const Pair& reserve, const py::object& mask,
                    const Pair& reset, const std::array<Random, 2>& random, const py::object& workspace, uintptr_t stream,
                    int64_t index) const {
    for (const auto& p : packed) {
      if (!p) throw py::type_error("packed: expected two Packed, got None");
    }
    const Place first_place{{index, 2}}, second_place{{index + 1, 2}};
    ForwardCall one(*this, *packed[0], first_place, x, h_0, c_0, y, h_n, c_n, lengths, reserve[0]);
    ForwardCall two(other, *packed[1], second_place, x, h_0, c_0, y, h_n, c_n, lengths, reserve[1]);
    one.options(mask, reset[0], random[0]);
    two.options(mask, reset[1], random[1]);
    const size_t first = (std::max<size_t>(one.workspace_size, 64) + 63) / 64 * 64;
    const Scratch scratch(*this, first + std::max<size_t>(two.workspace_size, 64), workspace);
    one.args.workspace = scratch.data, one.args.workspace_size = first;
    two.args.workspace = static_cast<char*>(scratch.data) + first, two.args.workspace_size = scratch.size - first;
    one.args.cuda_stream = two.args.cuda_stream = reinterpret_cast<void*>(stream);
    const bool release = one.us(false) + two.us(false) > kReleaseAboveUs;
    check(released(release, [&] { return rnnk_forward_both(plan_.get(), &one.args, other.plan_.get(), &two.args); }));
  }

  // A layer for each plan; every vector has as many entries.
  static void forward_stack(const std::vector<std::shared_ptr<Plan>>& plans,
                            const std::vector<std::shared_ptr<Packed>>& packed, const py::object& x, const py::object& h_0,
                            const py::object& c_0, const std::vector<py::object>& y, const py::object& h_n,
                            const py::object& c_n) {
    const size_t n = plans.size();
    if (packed.size() != n || y.size() != n) throw py::value_error("plans: expected as many packed and y");
    const py::object none = py::none();
    std::vector<ForwardCall> calls;
    calls.reserve(n);
    size_t bytes = 0;
    double us = 0;
    for (size_t i = 0; i < n; ++i) {
      if (!plans[i] || !packed[i]) throw py::type_error("plans, packed: expected no None");
      if (plans[i]->on_gpu()) throw py::value_error("plans: expected plans of the CPU; a GPU's go layer by layer");
      const Place place{{static_cast<int64_t>(i), 1}};
      calls.emplace_back(*plans[i], *packed[i], place, i ? y[i - 1] : x, h_0, c_0, y[i], h_n, c_n, none, none);
      calls[i].workspace_size = (std::max<size_t>(calls[i].workspace_size, 64) + 63) / 64 * 64;
      bytes += calls[i].workspace_size;
      us += calls[i].us(false);
    }
    Workspace workspace(bytes);
    std::vector<const rnnk_plan*> raw;
    std::vector<const rnnk_args*> args;
    char* at = static_cast<char*>(workspace.data());
    for (ForwardCall& c : calls) {
      c.args.workspace = at, c.args.workspace_size = c.workspace_size;
      at += c.workspace_size;
      raw.push_back(c.plan.plan_.get());
      args.push_back(&c.args);
    }
    check(released(us > kReleaseAboveUs,
                   [&] { return rnnk_forward_stack(raw.data(), args.data(), static_cast<int32_t>(n)); }));
  }

  // gradients: outputs by name.
  void backward(const Packed& packed, const py::object& reserve, const py::object& x, const py::object& h_0,
                const py::object& c_0, const py::object& y, const py::object& dy, const py::object& dh_n,
                const py::object& dc_n, const py::object& dx, bool accumulate_dx, const py::object& lengths,
                const py::object& mask, const py::object& reset, const Random& random, double clip_dh,
                const py::object& workspace, uintptr_t stream, const Place& place, const py::dict& gradients) const {
    BackwardCall b(*this, packed, place, reserve, x, h_0, c_0, y, dy, dh_n, dc_n, dx, lengths);
    b.options(mask, reset, random);
    b.wanted(gradients);
    b.args.clip_dh = clip_dh;
    if (accumulate_dx) b.args.flags |= RNNK_ACCUMULATE_DX;
    b.run(b.workspace_size, true, workspace, stream);
  }

  // As forward_both; the other plan adds to dx.
  void backward_both(const Plan& other, const std::array<std::shared_ptr<Packed>, 2>& packed, const Pair& reserve,
                     const py::object& x, const py::object& h_0, const py::object& c_0, const py::object& y,
                     const py::object& dy, const py::object& dh_n, const py::object& dc_n, const py::object& dx,
                     const py::object& lengths, const py::object& mask, const Pair& reset,
                     const std::array<Random, 2>& random, double clip_dh, const py::object& workspace, uintptr_t stream,
                     int64_t index, const std::array<py::dict, 2>& gradients) const {
    for (const auto& p : packed) {
      if (!p) throw py::type_error("packed: expected two Packed, got None");
    }
    const Place first_place{{index, 2}}, second_place{{index + 1, 2}};
    BackwardCall one(*this, *packed[0], first_place, reserve[0], x, h_0, c_0, y, dy, dh_n, dc_n, dx, lengths);
    BackwardCall two(other, *packed[1], second_place, reserve[1], x, h_0, c_0, y, dy, dh_n, dc_n, dx, lengths);
    one.options(mask, reset[0], random[0]);
    two.options(mask, reset[1], random[1]);
    one.wanted(gradients[0]);
    two.wanted(gradients[1]);
    one.args.clip_dh = two.args.clip_dh = clip_dh;
    two.args.flags |= RNNK_ACCUMULATE_DX;
    const size_t first = (std::max<size_t>(one.workspace_size, 64) + 63) / 64 * 64;
    const size_t second = dx.is_none() ? two.workspace_size : other.workspace_beside(two.args.seq_len, two.args.batch);
    const Scratch scratch(*this, first + std::max<size_t>(second, 64), workspace);
    one.args.workspace = scratch.data, one.args.workspace_size = first;
    two.args.workspace = static_cast<char*>(scratch.data) + first, two.args.workspace_size = scratch.size - first;
    one.args.cuda_stream = two.args.cuda_stream = reinterpret_cast<void*>(stream);
    const bool release = one.us(true) + two.us(true) > kReleaseAboveUs;
    check(released(release, [&] { return rnnk_backward_both(plan_.get(), &one.args, other.plan_.get(), &two.args); }));
  }
  // Bytes that backward_both asks for as the other plan's.
  size_t workspace_beside(int64_t seq_len, int64_t batch) const {
    size_t bytes = 0;
    check(rnnk_backward_both_workspace(plan_.get(), seq_len, batch, &bytes));
    return bytes;
  }

 private:
  friend class Stepper;

  bool on_gpu() const { return where_.device != RNNK_CPU; }

  // The caller's bytes on the GPU, at least so many.
  ArrayView gpu_bytes(const py::object& array, const char* name, size_t least) const {
    if (array.is_none()) {
      throw py::value_error(std::string(name) + ": expected " + std::to_string(least) + " bytes on the GPU, got None");
    }
    ArrayView v = gpu_items(array, name, where_, Items::uint8, {-1}, true);
    if (static_cast<size_t>(v.shape[0]) < least) {
      throw py::value_error(std::string(name) + ": expected at least " + std::to_string(least) + " bytes, got " +
                            std::to_string(v.shape[0]));
    }
    return v;
  }

  // Workspace of a call: the thread's own, or on a GPU the caller's.
  struct Scratch {
    std::optional<Workspace> own;
    ArrayView given;
    void* data;
    size_t size;
    Scratch(const Plan& plan, size_t least, const py::object& workspace) {
      if (plan.on_gpu()) {
        given = plan.gpu_bytes(workspace, "workspace", least);
        data = given.tensor.data, size = static_cast<size_t>(given.shape[0]);
        return;
      }
      if (!workspace.is_none()) throw py::value_error("workspace: expected None, since the plan is not on a GPU");
      own.emplace(least);
      data = own->data(), size = own->size();
    }
  };

  void accept(const Packed& packed, bool forward) const {
    if (packed.layout != layout_ && *packed.layout != *layout_) {
      throw py::value_error("packed: expected weights packed for " + *layout_ + ", got " + *packed.layout);
    }
    if (!(forward ? packed.forward : packed.backward)) {
      throw py::value_error(std::string("packed: expected weights packed with ") + (forward ? "forward" : "backward") +
                            "=True");
    }
  }

  // Inputs may have any strides in host memory (a copy is made where they are not contiguous); all else must be contiguous.
  void* contiguous(const py::object& array, const char* name, std::initializer_list<int64_t> shape, bool write,
                   std::vector<ArrayView>& views) const {
    if (array.is_none()) return nullptr;
    ArrayView v = view(array, name, where_, shape, write);
    if (v.tensor.dtype != problem_.dtype) {
      throw py::type_error(std::string(name) + ": expected dtype " +
                           py::str(static_cast<py::object>(numpy_dtype(problem_.dtype))).cast<std::string>() + ", got " +
                           py::str(static_cast<py::object>(numpy_dtype(v.tensor.dtype))).cast<std::string>());
    }
    if (!dense(v)) {
      if (write || on_gpu()) throw py::value_error(std::string(name) + ": expected a contiguous array");
      const py::array strided = numpy_view(v, numpy_dtype(v.tensor.dtype));
      v = view(py::module_::import("numpy").attr("ascontiguousarray")(strided), name, where_, shape, false);
    }
    views.push_back(std::move(v));
    return views.back().tensor.data;
  }

  // The arguments of one call and the arrays they point into.
  struct Call {
    const Plan& plan;
    const Place place;
    rnnk_args args{};
    std::vector<ArrayView> views;

    Call(const Plan& plan, const Packed& packed, const Place& place, const py::object& x, const py::object& y,
         const py::object& lengths, bool forward)
        : plan(plan), place(place) {
      if (place && (place->first < 0 || place->second < 1)) throw py::value_error("place: expected an index and directions");
      if (plan.on_gpu()) reach_cuda();
      plan.accept(packed, forward);
      views.reserve(24);
      args.struct_size = sizeof args;
      args.packed = packed.data();
      views.push_back(view(x, "x", plan.where_, {-1, -1, plan.problem_.input_size}, false));
      args.x = views.back().tensor;
      args.seq_len = views.back().shape[0];
      args.batch = views.back().shape[1];
      outputs(y, "y", args.y, forward);
      if (lengths.is_none()) return;
      if (plan.on_gpu()) {
        args.lengths = static_cast<const int64_t*>(items(lengths, "lengths", Items::int64, {args.batch}, false));
        return;
      }
      if (!py::isinstance<py::array_t<int64_t>>(lengths)) throw py::type_error("lengths: expected a NumPy array of int64");
      const auto array = py::reinterpret_borrow<py::array_t<int64_t>>(lengths);
      if (array.ndim() != 1 || array.shape(0) != args.batch) {
        throw py::value_error("lengths: expected shape (" + std::to_string(args.batch) + ",), got " +
                              py::str(static_cast<py::object>(array.attr("shape"))).cast<std::string>());
      }
      if (!(array.flags() & py::array::c_style)) throw py::value_error("lengths: expected a contiguous array");
      args.lengths = array.data();
    }

    void tensor(const py::object& array, const char* name, std::initializer_list<int64_t> shape, rnnk_tensor& to,
                bool write) {
      if (array.is_none()) return;
      views.push_back(view(array, name, plan.where_, shape, write));
      to = views.back().tensor;
    }
    void* items(const py::object& array, const char* name, Items what, std::initializer_list<int64_t> shape, bool write) {
      views.push_back(gpu_items(array, name, plan.where_, what, shape, write));
      return views.back().tensor.data;
    }
    // y and its like.
    void outputs(const py::object& array, const char* name, rnnk_tensor& to, bool write) {
      const int64_t directions = place ? place->second : 1;
      tensor(array, name, {args.seq_len, args.batch, directions * plan.outputs_}, to, write);
      if (to.data && place) skip(to, place->first % directions * plan.outputs_ * to.stride[2]);
    }
    void hidden(const py::object& array, const char* name, rnnk_tensor& to, bool write) {
      state(array, name, plan.outputs_, to, write);
    }
    void cell(const py::object& array, const char* name, rnnk_tensor& to, bool write) {
      state(array, name, plan.cell_units_, to, write);
    }
    void state(const py::object& array, const char* name, int64_t units, rnnk_tensor& to, bool write) {
      if (!place) return tensor(array, name, {args.batch, units}, to, write);
      tensor(array, name, {-1, args.batch, units}, to, write);
      if (!to.data) return;
      const int64_t rows = views.back().shape[0];
      if (place->first >= rows) {
        throw py::value_error(std::string(name) + ": expected states of more than " + std::to_string(place->first) +
                              " layers and directions, got " + std::to_string(rows));
      }
      skip(to, place->first * to.stride[0]);
      to.stride[0] = to.stride[1], to.stride[1] = to.stride[2];
    }
    static void skip(rnnk_tensor& t, int64_t items) {
      t.data = static_cast<char*>(t.data) + items * (t.dtype == RNNK_FLOAT64 ? 8 : t.dtype == RNNK_FLOAT32 ? 4 : 2);
    }

    // mask, reset: NumPy arrays of bool or uint8 [T, B]; random: (seed, call, stream, first_step) turns random masks on.
    void options(const py::object& mask, const py::object& reset, const Random& random) {
      args.mask = marks(mask, "mask");
      args.reset = marks(reset, "reset");
      if (!random) return;
      args.flags |= RNNK_TRAIN;
      std::tie(args.seed, args.call, args.stream, args.first_step) = *random;
    }
    const uint8_t* marks(const py::object& given, const char* name) {
      if (given.is_none()) return nullptr;
      if (plan.on_gpu()) {
        return static_cast<const uint8_t*>(items(given, name, Items::marks, {args.seq_len, args.batch}, false));
      }
      if (!py::isinstance<py::array>(given)) throw py::type_error(std::string(name) + ": expected a NumPy array");
      const auto array = py::reinterpret_borrow<py::array>(given);
      const char kind = array.dtype().kind();
      if ((kind != 'b' && kind != 'u') || array.itemsize() != 1) {
        throw py::type_error(std::string(name) + ": expected bool or uint8");
      }
      if (array.ndim() != 2 || array.shape(0) != args.seq_len || array.shape(1) != args.batch ||
          !(array.flags() & py::array::c_style)) {
        throw py::value_error(std::string(name) + ": expected a contiguous array of shape (seq_len, batch)");
      }
      return static_cast<const uint8_t*>(array.data());
    }

    void reserve(const py::object& bytes, bool write) {
      alignas(64) static uint8_t nothing[64];  // NumPy's empty arrays may point anywhere
      if (bytes.is_none()) return;
      if (plan.on_gpu()) {
        void* const data = items(bytes, "reserve", Items::uint8, {-1}, write);
        args.reserve_size = static_cast<size_t>(views.back().shape[0]);
        args.reserve = args.reserve_size ? data : nothing;  // empty arrays may point anywhere; nobody reads it
        return;
      }
      if (!py::isinstance<py::array_t<uint8_t>>(bytes)) throw py::type_error("reserve: expected a NumPy array of uint8");
      const auto array = py::reinterpret_borrow<py::array_t<uint8_t>>(bytes);
      if (array.ndim() != 1 || !(array.flags() & py::array::c_style)) {
        throw py::value_error("reserve: expected one contiguous axis");
      }
      if (write && !array.writeable()) throw py::value_error("reserve: expected a writeable array");
      args.reserve = array.size() ? const_cast<uint8_t*>(array.data()) : nothing;
      args.reserve_size = static_cast<size_t>(array.size());
    }

    void run(size_t workspace_size, bool backward, const py::object& workspace, uintptr_t stream) {
      const Scratch scratch(plan, std::max<size_t>(workspace_size, 64), workspace);
      args.workspace = scratch.data;
      args.workspace_size = scratch.size;
      args.cuda_stream = reinterpret_cast<void*>(stream);
      const auto fn = backward ? rnnk_backward : rnnk_forward;
      check(released(us(backward) > kReleaseAboveUs, [&] { return fn(plan.plan_.get(), &args); }));
    }
    double us(bool backward) const { return plan.estimate(args.seq_len, args.batch, backward); }
  };

  struct ForwardCall : Call {
    size_t workspace_size;
    ForwardCall(const Plan& plan, const Packed& packed, const Place& place, const py::object& x, const py::object& h_0,
                const py::object& c_0, const py::object& y, const py::object& h_n, const py::object& c_n,
                const py::object& lengths, const py::object& kept)
        : Call(plan, packed, place, x, y, lengths, true) {
      hidden(h_0, "h_0", args.h_0, false);
      cell(c_0, "c_0", args.c_0, false);
      hidden(h_n, "h_n", args.h_n, true);
      cell(c_n, "c_n", args.c_n, true);
      reserve(kept, true);
      workspace_size = plan.sizes(args.seq_len, args.batch).workspace_forward;
    }
  };

  struct BackwardCall : Call {
    size_t workspace_size;
    BackwardCall(const Plan& plan, const Packed& packed, const Place& place, const py::object& kept, const py::object& x,
                 const py::object& h_0, const py::object& c_0, const py::object& y, const py::object& dy,
                 const py::object& dh_n, const py::object& dc_n, const py::object& dx, const py::object& lengths)
        : Call(plan, packed, place, x, y, lengths, false) {
      hidden(h_0, "h_0", args.h_0, false);
      cell(c_0, "c_0", args.c_0, false);
      outputs(dy, "dy", args.dy, false);
      hidden(dh_n, "dh_n", args.dh_n, false);
      cell(dc_n, "dc_n", args.dc_n, false);
      tensor(dx, "dx", {args.seq_len, args.batch, plan.problem_.input_size}, args.dx, true);
      reserve(kept, false);
      workspace_size = plan.sizes(args.seq_len, args.batch).workspace_backward;
    }

    void wanted(const py::dict& gradients) {
      const int64_t H = plan.problem_.hidden_size, rows = plan.gates_ * H;
      const auto parameter = [&](const char* name, const py::object& to, void*& at, std::initializer_list<int64_t> shape) {
        at = plan.contiguous(to, name, shape, true, views);
      };
      for (const auto& [key, value] : gradients) {
        const std::string name = py::cast<std::string>(key);
        const py::object to = py::reinterpret_borrow<py::object>(value);
        if (name == "dweight_ih") parameter("dweight_ih", to, args.dweight_ih, {rows, plan.problem_.input_size});
        else if (name == "dweight_hh") parameter("dweight_hh", to, args.dweight_hh, {rows, plan.weight_hh_columns()});
        else if (name == "dbias_ih") parameter("dbias_ih", to, args.dbias_ih, {rows});
        else if (name == "dbias_hh") parameter("dbias_hh", to, args.dbias_hh, {rows});
        else if (name == "dweight_hr") parameter("dweight_hr", to, args.dweight_hr, {plan.outputs_, H});
        else if (name == "dparams") parameter("dparams", to, args.dparams, {plan.param_rows(), H});
        else if (name == "dh_0") hidden(to, "dh_0", args.dh_0, true);
        else if (name == "dc_0") cell(to, "dc_0", args.dc_0, true);
        else if (name == "dh") outputs(to, "dh", args.dh, true);
        else throw py::type_error("backward: there is no output \"" + name + "\"");
      }
    }
  };

  rnnk_problem problem_;
  Where where_;
  std::unique_ptr<rnnk_plan, PlanDeleter> plan_;
  int64_t gates_, outputs_;
  int64_t cell_units_;  // of the states behind h, side by side
  std::shared_ptr<const std::string> layout_;
};

}  // namespace
}  // namespace rnnk_py
