// pybind11 module `_core`: the functions of rnnkern.h over Python arrays; see python/rnnkern/_core.pyi for the contract.
#include <pybind11/stl.h>

#include <array>
#include <memory>

#include "arrays.h"
#include "memory.h"
#include "probe.h"

namespace rnnk_py {
namespace {

void check(rnnk_status status) {
  if (status == RNNK_OK) return;
  const char* text = rnnk_last_error();
  PyObject* type = PyExc_RuntimeError;
  if (status == RNNK_INVALID_VALUE) type = PyExc_ValueError;
  if (status == RNNK_INVALID_TYPE) type = PyExc_TypeError;
  if (status == RNNK_NOT_SUPPORTED) type = PyExc_NotImplementedError;
  if (status == RNNK_OUT_OF_MEMORY) type = PyExc_MemoryError;
  PyErr_SetString(type, text);
  throw py::error_already_set();
}

// Kernels expected to take less keep the GIL: giving it up and taking it back costs more than it frees.
constexpr double kReleaseAboveUs = 20;

// Without the GIL where that is worth it.
template <class Fn>
rnnk_status released(bool release, const Fn& fn) {
  if (!release) return fn();
  py::gil_scoped_release scope;
  return fn();
}

struct Packed {
  Buffer memory;
  bool forward, backward;
  std::string layout;  // of which plans: a pack is of use for those that lay weights out alike
};
// Bytes for whatever a caller keeps, from the memory that is kept between calls.
struct Block {
  Buffer memory;
};

struct PlanDeleter {
  void operator()(rnnk_plan* p) const { rnnk_plan_destroy(p); }
};

class Plan {
 public:
  Plan(const std::string& cell, const std::string& dtype, int64_t input_size, int64_t hidden_size, bool bias, bool reverse,
       bool recompute, const std::optional<std::string>& kernel) {
    problem_ = problem(cell, dtype, input_size, hidden_size);
    problem_.flags = (bias ? 0u : RNNK_NO_BIAS) | (reverse ? RNNK_REVERSE : 0u) | (recompute ? RNNK_RECOMPUTE : 0u);
    rnnk_plan* raw = nullptr;
    check(rnnk_plan_create(&problem_, kernel ? kernel->c_str() : nullptr, &raw));
    plan_.reset(raw);
    gates_ = rnnk_cell_gates(problem_.cell);
    cell_state_ = rnnk_cell_states(problem_.cell) > 1;
    layout_ = layout();
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

  const char* kernel() const { return rnnk_plan_kernel(plan_.get()); }
  std::string layout() const {
    static const char* const dtypes[] = {"float32", "float64", "bfloat16", "float16"};
    const rnnk_problem& p = problem_;
    return std::string(dtypes[p.dtype]) + " " + rnnk_cell_name(p.cell) + " of " + std::to_string(p.input_size) +
           " inputs and " + std::to_string(p.hidden_size) + " units for " + kernel() +
           (p.flags & RNNK_NO_BIAS ? " without bias" : "");
  }
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
                               const py::object& bias_hh, bool backward, bool forward) const {
    if (!forward && !backward) throw py::value_error("forward, backward: expected at least one of them");
    const int64_t rows = gates_ * problem_.hidden_size;
    std::vector<ArrayView> views;
    rnnk_weights w{};
    w.struct_size = sizeof w;
    w.weight_ih = contiguous(weight_ih, "weight_ih", {rows, problem_.input_size}, false, views);
    w.weight_hh = contiguous(weight_hh, "weight_hh", {rows, problem_.hidden_size}, false, views);
    if (bias_ih.is_none() != bias_hh.is_none()) throw py::value_error("bias_ih, bias_hh: expected both or neither");
    w.bias_ih = contiguous(bias_ih, "bias_ih", {rows}, false, views);
    w.bias_hh = contiguous(bias_hh, "bias_hh", {rows}, false, views);
    auto packed = std::make_shared<Packed>(Packed{Buffer(sizes(0, 0).packed), forward, backward, layout_});
    const int32_t halves = !backward ? RNNK_PACK_FORWARD : forward ? RNNK_PACK_BOTH : RNNK_PACK_BACKWARD;
    rnnk_status status;
    {
      py::gil_scoped_release release;
      status = rnnk_pack_weights(plan_.get(), &w, halves, packed->memory.data(), packed->memory.size());
    }
    check(status);
    return packed;
  }

  void forward(const Packed& packed, const py::object& x, const py::object& h_0, const py::object& c_0, const py::object& y,
               const py::object& h_n, const py::object& c_n, const py::object& lengths, const py::object& reserve) const {
    ForwardCall f(*this, packed, x, h_0, c_0, y, h_n, c_n, lengths, reserve);
    f.run(f.workspace_size, false);
  }

  // Every tuple has two entries: of this plan and of the other.
  using Pair = std::array<py::object, 2>;
  void forward_both(const Plan& other, const std::array<std::shared_ptr<Packed>, 2>& packed, const py::object& x,
                    const Pair& h_0, const Pair& c_0, const Pair& y, const Pair& h_n, const Pair& c_n,
                    const py::object& lengths, const Pair& reserve) const {
    for (const auto& p : packed) {
      if (!p) throw py::type_error("packed: expected two Packed, got None");
    }
    ForwardCall one(*this, *packed[0], x, h_0[0], c_0[0], y[0], h_n[0], c_n[0], lengths, reserve[0]);
    ForwardCall two(other, *packed[1], x, h_0[1], c_0[1], y[1], h_n[1], c_n[1], lengths, reserve[1]);
    const size_t first = (std::max<size_t>(one.workspace_size, 64) + 63) / 64 * 64;
    Workspace workspace(first + std::max<size_t>(two.workspace_size, 64));
    one.args.workspace = workspace.data(), one.args.workspace_size = first;
    two.args.workspace = static_cast<char*>(workspace.data()) + first, two.args.workspace_size = workspace.size() - first;
    const bool release = one.us(false) + two.us(false) > kReleaseAboveUs;
    check(released(release, [&] { return rnnk_forward_both(plan_.get(), &one.args, other.plan_.get(), &two.args); }));
  }

  // A layer for each plan; every vector has as many entries.
  using Objects = std::vector<py::object>;
  static void forward_stack(const std::vector<std::shared_ptr<Plan>>& plans,
                            const std::vector<std::shared_ptr<Packed>>& packed, const py::object& x, const Objects& h_0,
                            const Objects& c_0, const Objects& y, const Objects& h_n, const Objects& c_n) {
    const size_t n = plans.size();
    for (const size_t other : {packed.size(), h_0.size(), c_0.size(), y.size(), h_n.size(), c_n.size()}) {
      if (other != n) throw py::value_error("plans: expected as many entries in every argument");
    }
    const py::object none = py::none();
    std::vector<ForwardCall> calls;
    calls.reserve(n);
    size_t bytes = 0;
    double us = 0;
    for (size_t i = 0; i < n; ++i) {
      if (!plans[i] || !packed[i]) throw py::type_error("plans, packed: expected no None");
      calls.emplace_back(*plans[i], *packed[i], i ? y[i - 1] : x, h_0[i], c_0[i], y[i], h_n[i], c_n[i], none, none);
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

  void backward(const Packed& packed, const py::object& reserve, const py::object& x, const py::object& h_0,
                const py::object& c_0, const py::object& y, const py::object& dy, const py::object& dh_n,
                const py::object& dc_n, const py::object& dx, bool accumulate_dx, const py::object& dh_0,
                const py::object& dc_0, const py::object& dweight_ih, const py::object& dweight_hh,
                const py::object& dbias_ih, const py::object& dbias_hh, const py::object& lengths) const {
    Call call(*this, packed, x, y, lengths, false);
    rnnk_args& a = call.args;
    const int64_t T = a.seq_len, B = a.batch, rows = gates_ * problem_.hidden_size;
    call.state(h_0, "h_0", a.h_0, false);
    call.state(c_0, "c_0", a.c_0, false);
    call.tensor(dy, "dy", {T, B, problem_.hidden_size}, a.dy, false);
    call.state(dh_n, "dh_n", a.dh_n, false);
    call.state(dc_n, "dc_n", a.dc_n, false);
    call.tensor(dx, "dx", {T, B, problem_.input_size}, a.dx, true);
    call.state(dh_0, "dh_0", a.dh_0, true);
    call.state(dc_0, "dc_0", a.dc_0, true);
    a.dweight_ih = contiguous(dweight_ih, "dweight_ih", {rows, problem_.input_size}, true, call.views);
    a.dweight_hh = contiguous(dweight_hh, "dweight_hh", {rows, problem_.hidden_size}, true, call.views);
    a.dbias_ih = contiguous(dbias_ih, "dbias_ih", {rows}, true, call.views);
    a.dbias_hh = contiguous(dbias_hh, "dbias_hh", {rows}, true, call.views);
    if (accumulate_dx) a.flags |= RNNK_ACCUMULATE_DX;
    call.reserve(reserve, false);
    call.run(sizes(T, B).workspace_backward, true);
  }

 private:
  friend class Stepper;

  void accept(const Packed& packed, bool forward) const {
    if (packed.layout != layout_) {
      throw py::value_error("packed: expected weights packed for " + layout_ + ", got " + packed.layout);
    }
    if (!(forward ? packed.forward : packed.backward)) {
      throw py::value_error(std::string("packed: expected weights packed with ") + (forward ? "forward" : "backward") +
                            "=True");
    }
  }

  // Inputs may have any strides (a copy is made where they are not contiguous); outputs must be contiguous.
  void* contiguous(const py::object& array, const char* name, std::initializer_list<int64_t> shape, bool write,
                   std::vector<ArrayView>& views) const {
    if (array.is_none()) return nullptr;
    ArrayView v = view(array, name, shape, write);
    if (v.tensor.dtype != problem_.dtype) {
      throw py::type_error(std::string(name) + ": expected dtype " +
                           py::str(static_cast<py::object>(numpy_dtype(problem_.dtype))).cast<std::string>() + ", got " +
                           py::str(static_cast<py::object>(numpy_dtype(v.tensor.dtype))).cast<std::string>());
    }
    int64_t step = 1;
    bool dense = true;
    for (size_t i = v.shape.size(); i-- > 0;) {
      dense = dense && (v.shape[i] == 1 || v.strides[i] == step);
      step *= v.shape[i];
    }
    if (!dense) {
      if (write) throw py::value_error(std::string(name) + ": expected a contiguous array");
      const py::array strided = numpy_view(v, numpy_dtype(v.tensor.dtype));
      v = view(py::module_::import("numpy").attr("ascontiguousarray")(strided), name, shape, false);
    }
    views.push_back(std::move(v));
    return views.back().tensor.data;
  }

  // The arguments of one call and the arrays they point into.
  struct Call {
    const Plan& plan;
    rnnk_args args{};
    std::vector<ArrayView> views;

    Call(const Plan& plan, const Packed& packed, const py::object& x, const py::object& y, const py::object& lengths,
         bool forward)
        : plan(plan) {
      plan.accept(packed, forward);
      views.reserve(20);
      args.struct_size = sizeof args;
      args.packed = packed.memory.data();
      views.push_back(view(x, "x", {-1, -1, plan.problem_.input_size}, false));
      args.x = views.back().tensor;
      args.seq_len = views.back().shape[0];
      args.batch = views.back().shape[1];
      tensor(y, "y", {args.seq_len, args.batch, plan.problem_.hidden_size}, args.y, forward);
      if (lengths.is_none()) return;
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
      views.push_back(view(array, name, shape, write));
      to = views.back().tensor;
    }
    void state(const py::object& array, const char* name, rnnk_tensor& to, bool write) {
      tensor(array, name, {args.batch, plan.problem_.hidden_size}, to, write);
    }

    void reserve(const py::object& bytes, bool write) {
      if (bytes.is_none()) return;
      if (!py::isinstance<py::array_t<uint8_t>>(bytes)) throw py::type_error("reserve: expected a NumPy array of uint8");
      const auto array = py::reinterpret_borrow<py::array_t<uint8_t>>(bytes);
      if (array.ndim() != 1 || !(array.flags() & py::array::c_style)) {
        throw py::value_error("reserve: expected one contiguous axis");
      }
      if (write && !array.writeable()) throw py::value_error("reserve: expected a writeable array");
      alignas(64) static uint8_t nothing[64];  // NumPy's empty arrays may point anywhere
      args.reserve = array.size() ? const_cast<uint8_t*>(array.data()) : nothing;
      args.reserve_size = static_cast<size_t>(array.size());
    }

    void run(size_t workspace_size, bool backward) {
      Workspace workspace(std::max<size_t>(workspace_size, 64));
      args.workspace = workspace.data();
      args.workspace_size = workspace.size();
      const auto fn = backward ? rnnk_backward : rnnk_forward;
      check(released(us(backward) > kReleaseAboveUs, [&] { return fn(plan.plan_.get(), &args); }));
    }
    double us(bool backward) const { return plan.estimate(args.seq_len, args.batch, backward); }
  };

  struct ForwardCall : Call {
    size_t workspace_size;
    ForwardCall(const Plan& plan, const Packed& packed, const py::object& x, const py::object& h_0, const py::object& c_0,
                const py::object& y, const py::object& h_n, const py::object& c_n, const py::object& lengths,
                const py::object& kept)
        : Call(plan, packed, x, y, lengths, true) {
      state(h_0, "h_0", args.h_0, false);
      state(c_0, "c_0", args.c_0, false);
      state(h_n, "h_n", args.h_n, true);
      state(c_n, "c_n", args.c_n, true);
      reserve(kept, true);
      workspace_size = plan.sizes(args.seq_len, args.batch).workspace_forward;
    }
  };

  rnnk_problem problem_;
  std::unique_ptr<rnnk_plan, PlanDeleter> plan_;
  int64_t gates_;
  bool cell_state_;
  std::string layout_;
};

// A step in place: y is the caller's h itself, which the kernel reads whole before it writes.
class Stepper {
 public:
  Stepper(std::shared_ptr<Plan> plan, std::shared_ptr<Packed> packed, int64_t batch)
      : plan_(std::move(plan)), packed_(std::move(packed)), batch_(batch),
        workspace_size_(std::max<size_t>(plan_->sizes(1, batch).workspace_forward, 64)),
        release_(plan_->estimate(1, batch, false) > kReleaseAboveUs) {
    plan_->accept(*packed_, true);
    args_.struct_size = sizeof args_;
    args_.seq_len = 1;
    args_.batch = batch;
    args_.packed = packed_->memory.data();
  }

  void step(const py::object& x, const py::object& h, const py::object& c) {
    const int64_t H = plan_->problem_.hidden_size;
    const ArrayView vx = view(x, "x", {batch_, plan_->problem_.input_size}, false), vh = view(h, "h", {batch_, H}, true);
    ArrayView vc;
    if (c.is_none() == plan_->cell_state_) {
      throw py::value_error(plan_->cell_state_ ? "c: expected an array, got None" : "c: this cell has no cell state");
    }
    if (plan_->cell_state_) vc = view(c, "c", {batch_, H}, true);
    run(vx.tensor, vh.tensor, vc.tensor);
  }

  // The same for the usual case, told by a glance: contiguous NumPy arrays apart from each other. False: something is
  // unusual and nothing was done; step() then finds out what, or converts.
  bool try_step(const py::handle& x, const py::handle& state) {
    const bool pair = plan_->cell_state_;
    if (pair && !(PyTuple_CheckExact(state.ptr()) && PyTuple_GET_SIZE(state.ptr()) == 2)) return false;
    const py::handle h = pair ? PyTuple_GET_ITEM(state.ptr(), 0) : state.ptr();
    const py::handle c = pair ? PyTuple_GET_ITEM(state.ptr(), 1) : nullptr;
    const int64_t H = plan_->problem_.hidden_size;
    rnnk_tensor vx, vh, vc{};
    if (!plain_rows(x, batch_, plan_->problem_.input_size, false, vx) || !plain_rows(h, batch_, H, true, vh) ||
        vx.dtype != plan_->problem_.dtype || vh.dtype != plan_->problem_.dtype || overlap(vx, vh)) {
      return false;
    }
    if (pair &&
        (!plain_rows(c, batch_, H, true, vc) || vc.dtype != plan_->problem_.dtype || overlap(vx, vc) || overlap(vh, vc))) {
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
    args.h_0 = h;
    if (plan_->cell_state_) args.c_0 = args.c_n = c;
    rnnk_status status;
    if (release_) {
      py::gil_scoped_release release;
      status = rnnk_forward(plan_->plan_.get(), &args);
    } else {
      status = rnnk_forward(plan_->plan_.get(), &args);
    }
    check(status);
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

void dropout(const py::object& x, const py::object& out, double p, uint64_t seed, uint32_t call, uint32_t stream,
             const py::object& lengths) {
  const ArrayView from = view(x, "x", {-1, -1, -1}, false);
  const ArrayView to = view(out, "out", {from.shape[0], from.shape[1], from.shape[2]}, true);
  rnnk_dropout_args a{};
  a.struct_size = sizeof a;
  a.call = call, a.stream = stream, a.p = p, a.seed = seed;
  a.seq_len = from.shape[0], a.batch = from.shape[1], a.hidden_size = from.shape[2];
  a.in = from.tensor, a.out = to.tensor;
  py::array_t<int64_t, py::array::c_style> held;
  if (!lengths.is_none()) {
    held = py::cast<py::array_t<int64_t, py::array::c_style>>(lengths);
    if (held.ndim() != 1 || held.shape(0) != a.batch) throw py::value_error("lengths: expected shape [batch]");
    a.lengths = held.data();
  }
  rnnk_status status;
  {
    py::gil_scoped_release release;
    status = rnnk_dropout(&a);
  }
  check(status);
}

py::list explain(const std::string& cell, const std::string& dtype, int64_t input_size, int64_t hidden_size, int64_t seq_len,
                 int64_t batch) {
  const rnnk_problem problem = Plan::problem(cell, dtype, input_size, hidden_size);
  py::list out;
  for (int32_t i = 0; rnnk_kernel_name(i); ++i) {
    rnnk_verdict v{};
    v.struct_size = sizeof v;
    check(rnnk_explain(&problem, seq_len, batch, i, &v));
    py::dict row;
    row["name"] = rnnk_kernel_name(i);
    row["declined"] = v.declined != 0;
    row["reason"] = v.reason;
    row["forward_us"] = v.forward_us;
    row["backward_us"] = v.backward_us;
    out.append(row);
  }
  return out;
}

}  // namespace
}  // namespace rnnk_py

PYBIND11_MODULE(_core, m) {
  using namespace rnnk_py;
  m.doc() = "rnnkern's native core; see _core.pyi";
  py::class_<Packed, std::shared_ptr<Packed>>(m, "Packed")
      .def_property_readonly("nbytes", [](const Packed& p) { return p.memory.size(); })
      .def_readonly("forward", &Packed::forward)
      .def_readonly("backward", &Packed::backward);
  py::class_<Block>(m, "Block", py::buffer_protocol())
      .def(py::init([](size_t nbytes) { return Block{Buffer(std::max<size_t>(nbytes, 1))}; }), py::arg("nbytes"))
      .def_buffer([](Block& b) {
        return py::buffer_info(static_cast<uint8_t*>(b.memory.data()), static_cast<py::ssize_t>(b.memory.size()));
      });
  const auto none = py::none();
  py::class_<Plan, std::shared_ptr<Plan>>(m, "Plan")
      .def(py::init<const std::string&, const std::string&, int64_t, int64_t, bool, bool, bool,
                    const std::optional<std::string>&>(),
           py::arg("cell"), py::arg("dtype"), py::arg("input_size"), py::arg("hidden_size"), py::kw_only(),
           py::arg("bias") = true, py::arg("reverse") = false, py::arg("recompute") = false, py::arg("kernel") = none)
      .def_property_readonly("kernel", &Plan::kernel)
      .def("pack", &Plan::pack, py::arg("weight_ih"), py::arg("weight_hh"), py::arg("bias_ih").none(true),
           py::arg("bias_hh").none(true), py::arg("backward") = true, py::arg("forward") = true)
      .def("forward", &Plan::forward, py::arg("packed"), py::arg("x"), py::arg("h_0").none(true), py::arg("c_0").none(true),
           py::arg("y"), py::arg("h_n").none(true), py::arg("c_n").none(true), py::arg("lengths") = none,
           py::arg("reserve") = none)
      .def("forward_both", &Plan::forward_both, py::arg("other"), py::arg("packed"), py::arg("x"), py::arg("h_0"),
           py::arg("c_0"), py::arg("y"), py::arg("h_n"), py::arg("c_n"), py::arg("lengths").none(true), py::arg("reserve"))
      .def_static("forward_stack", &Plan::forward_stack, py::arg("plans"), py::arg("packed"), py::arg("x"), py::arg("h_0"),
                  py::arg("c_0"), py::arg("y"), py::arg("h_n"), py::arg("c_n"))
      .def("backward", &Plan::backward, py::arg("packed"), py::arg("reserve"), py::arg("x"), py::arg("h_0").none(true),
           py::arg("c_0").none(true), py::arg("y"), py::arg("dy").none(true), py::arg("dh_n").none(true),
           py::arg("dc_n").none(true), py::kw_only(), py::arg("dx") = none, py::arg("accumulate_dx") = false,
           py::arg("dh_0") = none, py::arg("dc_0") = none, py::arg("dweight_ih") = none, py::arg("dweight_hh") = none,
           py::arg("dbias_ih") = none, py::arg("dbias_hh") = none, py::arg("lengths") = none)
      .def("estimate", &Plan::estimate, py::arg("seq_len"), py::arg("batch"), py::arg("backward") = false)
      .def(
          "sizes",
          [](const Plan& p, int64_t seq_len, int64_t batch) {
            const rnnk_sizes s = p.sizes(seq_len, batch);
            py::dict out;
            out["packed"] = s.packed, out["reserve"] = s.reserve;
            out["workspace_forward"] = s.workspace_forward, out["workspace_backward"] = s.workspace_backward;
            return out;
          },
          py::arg("seq_len"), py::arg("batch"));
  py::class_<Stepper>(m, "Stepper")
      .def(py::init<std::shared_ptr<Plan>, std::shared_ptr<Packed>, int64_t>(), py::arg("plan"), py::arg("packed"),
           py::arg("batch"))
      .def("step", &Stepper::step, py::arg("x"), py::arg("h"), py::arg("c") = none)
      .def("try_step", &Stepper::try_step, py::arg("x"), py::arg("state"));
  m.def("dropout", &dropout, py::arg("x"), py::arg("out"), py::arg("p"), py::arg("seed"), py::arg("call"), py::arg("stream"),
        py::arg("lengths") = none);
  m.def("explain", &explain, py::arg("cell"), py::arg("dtype"), py::arg("input_size"), py::arg("hidden_size"),
        py::arg("seq_len"), py::arg("batch"));
  m.def("cells", [] {
    py::list out;
    for (int32_t i = 0; rnnk_cell_name(i); ++i) {
      out.append(py::make_tuple(rnnk_cell_name(i), rnnk_cell_gates(i), rnnk_cell_states(i)));
    }
    return out;
  });
  m.def("kernels", [] {
    py::list out;
    for (int32_t i = 0; rnnk_kernel_name(i); ++i)
      out.append(py::make_tuple(rnnk_kernel_name(i), rnnk_kernel_unavailable(i)));
    return out;
  });
  m.def(
      "set_num_threads",
      [](int32_t threads) {
        rnnk_status status;
        {
          py::gil_scoped_release release;
          status = rnnk_set_num_threads(threads);
        }
        check(status);
      },
      py::arg("threads"));
  m.def("get_num_threads", &rnnk_get_num_threads);
  m.def(
      "set_pool",
      [](uintptr_t parallel, uintptr_t index, int32_t threads) {
        rnnk_status status;
        {
          py::gil_scoped_release release;
          status =
              rnnk_set_pool(reinterpret_cast<rnnk_parallel>(parallel), reinterpret_cast<rnnk_thread_index>(index), threads);
        }
        check(status);
      },
      py::arg("parallel"), py::arg("index") = 0, py::arg("threads") = 0);
  m.def("pool_is_lent", [] { return rnnk_pool_is_lent() != 0; });
  m.def("empty_cache", &empty_cache);
  m.def("cached_bytes", &cached_bytes);
  m.def("version", &rnnk_version);
  m.def("cpu_features", &rnnk_cpu_features);
  // Measurements of the machine, for the benchmark; see probe.h.
  m.def("probe_fma", &rnnk_probe_fma, py::arg("threads"), py::arg("dtype"), py::arg("seconds"),
        py::call_guard<py::gil_scoped_release>());
  m.def("probe_fed", &rnnk_probe_fed, py::arg("threads"), py::arg("narrow"), py::arg("seconds"),
        py::call_guard<py::gil_scoped_release>());
  m.def("probe_read", &rnnk_probe_read, py::arg("threads"), py::arg("bytes_per_thread"), py::arg("seconds"),
        py::call_guard<py::gil_scoped_release>());
  register_dlpack(m);
}
