// pybind11 module `_core`: the functions of rnnkern.h over Python arrays; see python/rnnkern/_core.pyi for the contract.
#include "ort/exports.h"
#include "probe.h"
#include "python/call.h"
#include "python/inference.h"
#include "python/stepper.h"
#include "python/training.h"
#include "python/xla.h"

namespace rnnk_py {
namespace {

// key: (seed, call, stream) of the mask's counters.
void dropout(const py::object& x, const py::object& out, double p, const std::tuple<uint64_t, uint32_t, uint32_t>& key,
             const py::object& lengths) {
  const ArrayView from = view(x, "x", {}, {-1, -1, -1}, false);
  const ArrayView to = view(out, "out", {}, {from.shape[0], from.shape[1], from.shape[2]}, true);
  rnnk_dropout_args a{};
  a.struct_size = sizeof a;
  a.p = p;
  std::tie(a.seed, a.call, a.stream) = key;
  a.seq_len = from.shape[0], a.batch = from.shape[1], a.hidden_size = from.shape[2];
  a.in = from.tensor, a.out = to.tensor;
  ArrayView rows;
  if (!lengths.is_none()) {
    rows = view_items(lengths, "lengths", {}, Items::lengths, {a.batch}, false);
    a.lengths = rows.tensor;
  }
  check(released(true, [&] { return rnnk_dropout(&a); }));
}

py::list explain(const std::string& cell, const std::string& dtype, const std::array<int64_t, 2>& sizes,
                 const std::array<int64_t, 2>& extent, int64_t layer, const py::kwargs& options) {
  rnnk_problem problem = Plan::problem(cell, dtype, sizes[0], sizes[1]);
  Plan::take_options(problem, options);
  if (problem.device != RNNK_CPU) reach_cuda();
  py::list out;
  for (int32_t i = 0; rnnk_kernel_name(i); ++i) {
    rnnk_verdict v{};
    v.struct_size = sizeof v;
    check(rnnk_explain(&problem, layer, extent[0], extent[1], i, &v));
    py::dict row;
    row["name"] = rnnk_kernel_name(i);
    row["declined"] = v.declined != 0;
    row["reason"] = v.reason;
    row["forward_us"] = v.forward_us;
    row["backward_us"] = v.backward_us;
    row["forward_split"] = py::make_tuple(v.forward_tasks, v.forward_by_units ? "units" : "rows");
    row["backward_split"] = py::make_tuple(v.backward_tasks, v.backward_by_units ? "units" : "rows");
    out.append(row);
  }
  return out;
}

py::tuple reserve_bound(const Plan& plan) {
  rnnk_reserve_bound b{};
  b.struct_size = sizeof b;
  check(rnnk_plan_reserve_bound(plan.native(), &b));
  return py::make_tuple(b.constant, b.per_row, b.per_row_dropped, b.border_row, b.border);
}

}  // namespace
}  // namespace rnnk_py

PYBIND11_MODULE(_core_of_main_interpreter, m) {
  using namespace rnnk_py;
  m.doc() = "rnnkern's native core; see _core.pyi";
  py::class_<Packed, std::shared_ptr<Packed>>(m, "Packed")
      .def_property_readonly("nbytes", [](const Packed& p) { return p.size(); })
      .def_readonly("forward", &Packed::forward)
      .def_readonly("backward", &Packed::backward);
  py::class_<Block>(m, "Block", py::buffer_protocol())
      .def(py::init([](size_t nbytes) { return Block{Buffer(std::max<size_t>(nbytes, 1))}; }), py::arg("nbytes"))
      .def_buffer([](Block& b) {
        return py::buffer_info(static_cast<uint8_t*>(b.memory.data()), static_cast<py::ssize_t>(b.memory.size()));
      });
  const auto none = py::none();
  py::class_<Plan, std::shared_ptr<Plan>>(m, "Plan")
      .def(py::init([](const std::string& cell, const std::string& dtype, int64_t input_size, int64_t hidden_size,
                       const std::optional<std::string>& kernel, const py::kwargs& options) {
             rnnk_problem p = Plan::problem(cell, dtype, input_size, hidden_size);
             Plan::take_options(p, options);
             return std::make_shared<Plan>(p, kernel);
           }),
           py::arg("cell"), py::arg("dtype"), py::arg("input_size"), py::arg("hidden_size"), py::kw_only(),
           py::arg("kernel") = none)
      .def_property_readonly("kernels", &Plan::kernels)
      .def_property_readonly("param_rows", &Plan::param_rows)
      .def_property_readonly("reserve_bound", &reserve_bound)
      .def("pack", &Plan::pack, py::arg("weights"), py::arg("forward") = true, py::arg("backward") = true,
           py::arg("into") = none, py::arg("stream") = 0)
      .def(
          "forward",
          [](const Plan& plan, const Packed& packed, const py::kwargs& arguments) {
            Call(plan, packed, false, arguments).run();
          },
          py::arg("packed"))
      .def(
          "backward",
          [](const Plan& plan, const Packed& packed, const py::kwargs& arguments) {
            Call(plan, packed, true, arguments).run();
          },
          py::arg("packed"))
      .def_property_readonly("problem", &Plan::problem_bytes)
      .def("estimate", &Plan::estimate, py::arg("seq_len"), py::arg("batch"), py::arg("backward") = false)
      .def(
          "sizes",
          [](const Plan& p, int64_t seq_len, int64_t batch) {
            const rnnk_sizes s = p.sizes(seq_len, batch);
            py::dict out;
            out["packed"] = s.packed, out["reserve"] = s.reserve;
            out["workspace_forward"] = s.workspace_forward, out["workspace_backward"] = s.workspace_backward;
            out["workspace_forward_least"] = s.workspace_forward_least;
            out["workspace_backward_least"] = s.workspace_backward_least;
            return out;
          },
          py::arg("seq_len"), py::arg("batch"));
  py::class_<Stepper>(m, "Stepper")
      .def(py::init<std::shared_ptr<Plan>, std::shared_ptr<Packed>, int64_t>(), py::arg("plan"), py::arg("packed"),
           py::arg("batch"))
      .def("step", &Stepper::step, py::arg("x"), py::arg("h"), py::arg("c") = none)
      .def("try_step", &Stepper::try_step, py::arg("x"), py::arg("state"));
  py::class_<Inference>(m, "Inference")
      .def(py::init<std::shared_ptr<Plan>, std::shared_ptr<Packed>, bool, bool>(), py::arg("plan"),
           py::arg("packed").none(true), py::arg("batch_first") = false, py::arg("step") = false)
      .def_property_readonly("plain", &Inference::plain)
      .def_property_readonly("keeps", &Inference::keeps)
      .def("forget", &Inference::forget)
      .def("try_call", &Inference::try_call, py::arg("x"), py::arg("state"))
      .def("try_tensors", &Inference::try_tensors, py::arg("x"), py::arg("state"), py::arg("weights") = none);
  py::class_<Training, Inference>(m, "Training")
      .def(py::init<std::shared_ptr<Plan>, bool, bool>(), py::arg("plan"), py::arg("batch_first") = false,
           py::arg("step") = false)
      .def("try_forward", &Training::try_forward, py::arg("x"), py::arg("state"), py::arg("weights"), py::arg("bytes"))
      .def("try_backward", &Training::try_backward, py::arg("inputs"), py::arg("weights"), py::arg("outputs"),
           py::arg("grads"), py::arg("needs"));
  m.def("dropout", &dropout, py::arg("x"), py::arg("out"), py::arg("p"), py::arg("key"), py::arg("lengths") = none);
  m.def("explain", &explain, py::arg("cell"), py::arg("dtype"), py::arg("sizes"), py::arg("extent"), py::arg("layer") = 0);
  m.def("device_count", &device_count);
  m.def("devices_unavailable", [] { return device_count() > 0 ? "" : rnnk_devices_unavailable(); });
  m.def("device_info", &device_info, py::arg("index"));
  m.def("device_check", &device_check, py::arg("index"));
  m.def("set_cublaslt", [](const std::string& path) { check(rnnk_set_cublaslt(path.c_str())); }, py::arg("path"));
  m.def(
      "fit",
      [](const py::list& tensors, const py::tuple& types, const std::string& dtype, const py::tuple& shapes) {
        return fit(tensors, types, dtype_from_name(dtype), shapes);
      },
      py::arg("tensors"), py::arg("types"), py::arg("dtype"), py::arg("shapes"));
  m.def(
      "span",
      [](const py::object& array, const char* name, int32_t device_index) {
        const Span s = span(array, name, {RNNK_CUDA, device_index});
        return py::make_tuple(s.begin, s.end, s.overlaps_itself);
      },
      py::arg("array"), py::arg("name"), py::arg("device_index"));
  m.def("cells", [] {
    py::list out;
    for (int32_t i = 0; rnnk_cell_name(i); ++i) {
      py::list options;
      for (int32_t k = 0; rnnk_cell_option(i, k); ++k) options.append(rnnk_cell_option(i, k));
      out.append(py::make_tuple(rnnk_cell_name(i), rnnk_cell_gates(i), rnnk_cell_states(i), rnnk_cell_activations(i),
                                py::tuple(options)));
    }
    return out;
  });
  m.def("kernels", [] {
    py::list out;
    for (int32_t i = 0; rnnk_kernel_name(i); ++i)
      out.append(py::make_tuple(rnnk_kernel_name(i), rnnk_kernel_unavailable(i)));
    return out;
  });
  m.def("kernel_weights", [] {
    py::dict out;
    for (int32_t i = 0; rnnk_kernel_name(i); ++i) out[rnnk_kernel_name(i)] = rnnk_kernel_weights(i);
    return out;
  });
  m.def(
      "set_num_threads", [](int32_t threads) { check(released(true, [&] { return rnnk_set_num_threads(threads); })); },
      py::arg("threads"));
  m.def("get_num_threads", &rnnk_get_num_threads);
  m.def(
      "set_pool",
      [](uintptr_t parallel, uintptr_t index, uintptr_t count) {
        check(released(true, [&] {
          return rnnk_set_pool(reinterpret_cast<rnnk_parallel>(parallel), reinterpret_cast<rnnk_thread_index>(index),
                               reinterpret_cast<rnnk_thread_count>(count));
        }));
      },
      py::arg("parallel"), py::arg("index") = 0, py::arg("count") = 0);
  m.def("pool_is_lent", [] { return rnnk_pool_is_lent() != 0; });
  m.def("xla_handler", [] { return py::capsule(xla_handler(), "xla._CUSTOM_CALL_TARGET"); });
  m.def("nodes_left_to_onnxruntime", &rnnk_ort::take_left_nodes);
  m.def("empty_cache", &empty_cache);
  m.def("cached_bytes", &cached_bytes);
  m.def("version", &rnnk_version);
  m.def("cpu_features", &rnnk_cpu_features);
  // Measurements of the machine, for the benchmark; see probe.h.
  m.def("probe_fma", &rnnk_probe_fma, py::arg("threads"), py::arg("dtype"), py::arg("seconds"),
        py::call_guard<WithoutGil>());
  m.def("probe_fed", &rnnk_probe_fed, py::arg("threads"), py::arg("narrow"), py::arg("seconds"),
        py::call_guard<WithoutGil>());
  m.def("probe_read", &rnnk_probe_read, py::arg("threads"), py::arg("bytes_per_thread"), py::arg("seconds"),
        py::call_guard<WithoutGil>());
  register_dlpack(m);
}

// pybind11 would wait for ever in a subinterpreter, for the GIL of the main one's state.
extern "C" PYBIND11_EXPORT PyObject* PyInit__core() {
  if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
    PyErr_SetString(PyExc_ImportError,
                    "rnnkern: expected the main interpreter, got a subinterpreter, which it does not support");
    return nullptr;
  }
  return PyInit__core_of_main_interpreter();
}
