// Plans and packed weights over Python arrays.
#pragma once
#include <atomic>
#include <memory>

#include "python/arrays.h"
#include "python/gil.h"
#include "python/gpu.h"
#include "python/memory.h"

namespace rnnk_py {
namespace {

// Kernels expected to take less keep the GIL: giving it up and taking it back costs more than it frees.
constexpr double kReleaseAboveUs = 20;
constexpr size_t kReleaseAboveBytes = 128 << 10;  // of a pack in host memory: about as long

// Without the GIL where that is worth it.
template <class Fn>
auto released(bool release, const Fn& fn) {
  if (!release) return fn();
  WithoutGil scope;
  return fn();
}

struct Packed {
  Buffer memory;     // of a CPU's plan
  ArrayView on_gpu;  // of a GPU's: the caller's, kept alive
  bool forward, backward;
  uint64_t layout;                          // of the plans that can read it
  std::shared_ptr<const std::string> said;  // the same in words, for an error
  void* data() const { return on_gpu.owner ? on_gpu.tensor.data : memory.data(); }
  size_t size() const { return on_gpu.owner ? static_cast<size_t>(on_gpu.shape[0]) : memory.size(); }
};
// Bytes for whatever a caller keeps, from the memory that is kept between calls.
struct Block {
  Buffer memory;
};

struct Needs {
  rnnk_sizes sizes;
  double forward_us, backward_us;
};

struct PlanDeleter {
  void operator()(rnnk_plan* p) const { rnnk_plan_destroy(p); }
};

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
    said_ = std::make_shared<const std::string>(said());
    static std::atomic<uint64_t> plans{0};
    number_ = ++plans;
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
  static int32_t direction_from_name(const std::string& name) {
    for (const auto& [known, value] : {std::pair<const char*, int32_t>{"forward", RNNK_FORWARD_ONLY},
                                       {"reverse", RNNK_REVERSE_ONLY},
                                       {"both", RNNK_BOTH_DIRECTIONS}}) {
      if (name == known) return value;
    }
    throw py::value_error("direction: expected \"forward\", \"reverse\" or \"both\", got \"" + name + "\"");
  }
  // Keywords by their names in _core.pyi; those that are absent stay neutral.
  static void take_options(rnnk_problem& p, const py::kwargs& options) {
    const std::pair<const char*, uint32_t> flags[] = {
        {"recompute", RNNK_PROBLEM_RECOMPUTE},
        {"peephole", RNNK_PROBLEM_PEEPHOLE},
        {"coupled", RNNK_PROBLEM_COUPLED},
        {"reset_before", RNNK_PROBLEM_RESET_BEFORE},
        {"layer_norm", RNNK_PROBLEM_LAYER_NORM},
        {"independent", RNNK_PROBLEM_INDEPENDENT},
        {"tf32", RNNK_PROBLEM_TF32},
        {"int8", RNNK_PROBLEM_INT8},
        {"given_gx", RNNK_PROBLEM_GIVEN_GX},
        {"bf16_weights", RNNK_PROBLEM_BF16_WEIGHTS},
    };
    for (const auto& [key, value] : options) {
      const std::string name = py::cast<std::string>(key);
      const py::object option = py::reinterpret_borrow<py::object>(value);
      bool known = false;
      for (const auto& [flag, bit] : flags) {
        if (name == flag) known = true, p.flags |= py::cast<bool>(option) ? bit : 0u;
      }
      if (known) continue;
      if (name == "bias") p.flags |= py::cast<bool>(option) ? 0u : RNNK_PROBLEM_NO_BIAS;
      else if (name == "num_layers") p.num_layers = py::cast<int64_t>(option);
      else if (name == "direction") p.direction = direction_from_name(py::cast<std::string>(option));
      else if (name == "dropout") p.dropout = py::cast<double>(option);
      else if (name == "device") p.device = device_from_name(py::cast<std::string>(option));
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
          p.activations[i] = {std::get<0>(given[i]), 0, std::get<1>(given[i]), std::get<2>(given[i])};
        }
      } else {
        throw py::type_error("Plan: there is no option \"" + name + "\"");
      }
    }
  }

  py::tuple kernels() const {
    py::tuple names(static_cast<size_t>(num_layers()));
    for (int64_t l = 0; l < num_layers(); ++l) names[static_cast<size_t>(l)] = rnnk_plan_kernel(plan_.get(), l);
    return names;
  }
  std::string said() const {
    static const char* const dtypes[] = {"float32", "float64", "bfloat16", "float16"};
    const rnnk_problem& p = problem_;
    return std::string(dtypes[p.dtype]) + " " + rnnk_cell_name(p.cell) + " of " + std::to_string(p.input_size) +
           " inputs and " + std::to_string(p.hidden_size) + " units for " + rnnk_plan_kernel(plan_.get(), 0) +
           (num_layers() > 1 ? " in " + std::to_string(num_layers()) + " layers" : "") +
           (directions() > 1 ? " in both directions" : "") +
           (p.device == RNNK_CPU ? "" : " on cuda:" + std::to_string(p.device_index)) +
           (p.flags & RNNK_PROBLEM_NO_BIAS ? " without bias" : "") + (p.flags & RNNK_PROBLEM_TF32 ? " in TF32" : "") +
           (p.flags & RNNK_PROBLEM_INT8 ? " with int8 weights" : "") +
           (p.flags & RNNK_PROBLEM_BF16_WEIGHTS ? " with bfloat16 weights" : "") +
           (p.flags & RNNK_PROBLEM_GIVEN_GX ? " with the input product given" : "") +
           (p.proj_size ? " projected to " + std::to_string(p.proj_size) : "") +
           (p.heads > 1 ? " in " + std::to_string(p.heads) + " heads" : "") +
           (p.flags & RNNK_PROBLEM_PEEPHOLE ? " with peepholes" : "") +
           (p.flags & RNNK_PROBLEM_RESET_BEFORE ? " with the reset before" : "") +
           (p.flags & RNNK_PROBLEM_LAYER_NORM ? " with layer norm" : "") +
           (p.flags & RNNK_PROBLEM_INDEPENDENT ? " independent" : "");
  }
  py::bytes problem_bytes() const { return {reinterpret_cast<const char*>(&problem_), sizeof problem_}; }
  uint64_t layout() const { return rnnk_plan_pack_layout(plan_.get()); }
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
  // What the binding asks before each call, from the answers that this thread got last.
  Needs needs(int64_t seq_len, int64_t batch) const {
    struct Known {
      uint64_t plan = 0;
      int64_t seq_len = 0, batch = 0;
      int32_t threads = 0;
      Needs needs{};
    };
    static thread_local Known known[8];
    static thread_local unsigned next = 0;
    const int32_t threads = rnnk_get_num_threads();
    for (const Known& k : known) {
      if (k.plan == number_ && k.seq_len == seq_len && k.batch == batch && k.threads == threads) return k.needs;
    }
    Known& k = known[next++ % 8];
    k = {};
    const Needs made{sizes(seq_len, batch), estimate(seq_len, batch, false), estimate(seq_len, batch, true)};
    k = {number_, seq_len, batch, threads, made};
    return made;
  }

  // arrays: six for each layer and direction, in the order of rnnk_weights; None: absent.
  std::vector<rnnk_weights> weights(const py::list& arrays, const char* what, bool write,
                                    std::vector<ArrayView>& views) const {
    if (static_cast<int64_t>(arrays.size()) != 6 * count()) {
      throw py::value_error(std::string(what) + ": expected six arrays for each layer and direction, " +
                            std::to_string(6 * count()) + ", got " + std::to_string(arrays.size()));
    }
    const int64_t H = problem_.hidden_size, rows = gates_ * H, K = param_rows();
    std::vector<rnnk_weights> all(static_cast<size_t>(count()));
    views.reserve(views.size() + arrays.size());
    for (int64_t index = 0; index < count(); ++index) {
      const int64_t inputs = index < directions() ? problem_.input_size : width();
      rnnk_weights& w = all[static_cast<size_t>(index)];
      w.struct_size = sizeof w;
      const auto take = [&](int slot, const char* name, std::initializer_list<int64_t> shape, rnnk_tensor& to) {
        const py::handle array = arrays[static_cast<size_t>(6 * index + slot)];
        if (!array.is_none()) to = contiguous(array, name, shape, write, views);
      };
      take(0, write ? "dweight_ih" : "weight_ih", {rows, inputs}, w.weight_ih);
      take(1, write ? "dweight_hh" : "weight_hh", {rows, weight_hh_columns()}, w.weight_hh);
      take(2, write ? "dbias_ih" : "bias_ih", {rows}, w.bias_ih);
      take(3, write ? "dbias_hh" : "bias_hh", {rows}, w.bias_hh);
      take(4, write ? "dweight_hr" : "weight_hr", {outputs_, H}, w.weight_hr);
      take(5, write ? "dparams" : "params", {K, H}, w.params);
    }
    return all;
  }

  std::shared_ptr<Packed> pack(const py::list& arrays, bool forward, bool backward, const py::object& into,
                               uintptr_t stream) const {
    if (!forward && !backward) throw py::value_error("forward, backward: expected at least one of them");
    std::vector<ArrayView> views;
    const std::vector<rnnk_weights> given = weights(arrays, "weights", false, views);
    const size_t bytes = sizes(0, 0).packed;
    auto packed = std::make_shared<Packed>();
    packed->forward = forward, packed->backward = backward, packed->layout = layout(), packed->said = said_;
    if (on_gpu()) {
      reach_cuda();
      packed->on_gpu = gpu_bytes(into, "into", bytes);
    } else if (into.is_none()) {
      packed->memory.reserve(bytes);
    } else {
      throw py::value_error("into: expected None, since the plan is not on a GPU");
    }
    const int32_t halves = (forward ? RNNK_PACK_FORWARD : 0) | (backward ? RNNK_PACK_BACKWARD : 0);
    check(released(on_gpu() || bytes > kReleaseAboveBytes, [&] {
      return rnnk_pack_weights(plan_.get(), given.data(), halves, packed->data(), packed->size(),
                               reinterpret_cast<void*>(stream));
    }));
    return packed;
  }

  const rnnk_plan* native() const { return plan_.get(); }
  const Where& where() const { return where_; }
  int32_t dtype() const { return problem_.dtype; }
  int64_t input_size() const { return problem_.input_size; }
  int64_t hidden_size() const { return problem_.hidden_size; }
  int64_t num_layers() const { return problem_.num_layers ? problem_.num_layers : 1; }
  int64_t directions() const { return problem_.direction == RNNK_BOTH_DIRECTIONS ? 2 : 1; }
  int64_t count() const { return num_layers() * directions(); }  // L*D
  int64_t width() const { return directions() * outputs_; }      // of y
  int64_t outputs() const { return outputs_; }                   // entries of h
  int64_t cell_units() const { return cell_units_; }             // of the states behind h, side by side
  bool on_gpu() const { return where_.device != RNNK_CPU; }

  // The caller's bytes on the GPU, at least so many.
  ArrayView gpu_bytes(const py::handle& array, const char* name, size_t least) const {
    if (!array || array.is_none()) {
      throw py::value_error(std::string(name) + ": expected " + std::to_string(least) + " bytes on the GPU, got None");
    }
    ArrayView v = view_items(array, name, where_, Items::bytes, {-1}, true);
    if (static_cast<size_t>(v.shape[0]) < least) {
      throw py::value_error(std::string(name) + ": expected at least " + std::to_string(least) + " bytes, got " +
                            std::to_string(v.shape[0]));
    }
    return v;
  }

  void accept(const Packed& packed, bool forward) const {
    if (packed.layout != layout()) {
      throw py::value_error("packed: expected weights packed for " + *said_ + ", got " + *packed.said);
    }
    if (!(forward ? packed.forward : packed.backward)) {
      throw py::value_error(std::string("packed: expected weights packed with ") + (forward ? "forward" : "backward") +
                            "=True");
    }
  }

  // Inputs may have any strides in host memory (a copy is made where they are not contiguous); all else must be contiguous.
  rnnk_tensor contiguous(const py::handle& array, const char* name, std::initializer_list<int64_t> shape, bool write,
                         std::vector<ArrayView>& views) const {
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
    return views.back().tensor;
  }

 private:
  rnnk_problem problem_;
  Where where_;
  std::unique_ptr<rnnk_plan, PlanDeleter> plan_;
  int64_t gates_, outputs_, cell_units_;
  uint64_t number_ = 0;  // of this plan among all of the process
  std::shared_ptr<const std::string> said_;
};

}  // namespace
}  // namespace rnnk_py
