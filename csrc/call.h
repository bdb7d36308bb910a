// The arguments of one kernel call over Python arrays: checked, pointed to, kept alive.
#pragma once
#include <tuple>

#include "plan.h"

namespace rnnk_py {
namespace {

// (seed, call, stream, first_step), or none: no random masks.
using Random = std::optional<std::tuple<uint64_t, uint32_t, uint32_t, int64_t>>;
// (index, directions): outputs have the columns of that many directions, states that many layers' rows [L*D, B, P], and the
// call's own are those of `index`. None: they are the call's alone, states [B, P].
using Place = std::optional<std::pair<int64_t, int64_t>>;

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
    views.push_back(view(x, "x", plan.where(), {-1, -1, plan.input_size()}, false));
    args.x = views.back().tensor;
    args.seq_len = views.back().shape[0];
    args.batch = views.back().shape[1];
    like_y(y, "y", args.y, forward);
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

  void tensor(const py::object& array, const char* name, std::initializer_list<int64_t> shape, rnnk_tensor& to, bool write) {
    if (array.is_none()) return;
    views.push_back(view(array, name, plan.where(), shape, write));
    to = views.back().tensor;
  }
  void* items(const py::object& array, const char* name, Items what, std::initializer_list<int64_t> shape, bool write) {
    views.push_back(gpu_items(array, name, plan.where(), what, shape, write));
    return views.back().tensor.data;
  }
  // y and its like.
  void like_y(const py::object& array, const char* name, rnnk_tensor& to, bool write) {
    const int64_t directions = place ? place->second : 1;
    tensor(array, name, {args.seq_len, args.batch, directions * plan.outputs()}, to, write);
    if (to.data && place) skip(to, place->first % directions * plan.outputs() * to.stride[2]);
  }
  void hidden(const py::object& array, const char* name, rnnk_tensor& to, bool write) {
    state(array, name, plan.outputs(), to, write);
  }
  void cell(const py::object& array, const char* name, rnnk_tensor& to, bool write) {
    state(array, name, plan.cell_units(), to, write);
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
    check(released(us(backward) > kReleaseAboveUs, [&] { return fn(plan.native(), &args); }));
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
    like_y(dy, "dy", args.dy, false);
    hidden(dh_n, "dh_n", args.dh_n, false);
    cell(dc_n, "dc_n", args.dc_n, false);
    tensor(dx, "dx", {args.seq_len, args.batch, plan.input_size()}, args.dx, true);
    reserve(kept, false);
    workspace_size = plan.sizes(args.seq_len, args.batch).workspace_backward;
  }

  void wanted(const py::dict& gradients) {
    const int64_t H = plan.hidden_size(), rows = plan.gates() * H;
    const auto parameter = [&](const char* name, const py::object& to, void*& at, std::initializer_list<int64_t> shape) {
      at = plan.contiguous(to, name, shape, true, views);
    };
    for (const auto& [key, value] : gradients) {
      const std::string name = py::cast<std::string>(key);
      const py::object to = py::reinterpret_borrow<py::object>(value);
      if (name == "dweight_ih") parameter("dweight_ih", to, args.dweight_ih, {rows, plan.input_size()});
      else if (name == "dweight_hh") parameter("dweight_hh", to, args.dweight_hh, {rows, plan.weight_hh_columns()});
      else if (name == "dbias_ih") parameter("dbias_ih", to, args.dbias_ih, {rows});
      else if (name == "dbias_hh") parameter("dbias_hh", to, args.dbias_hh, {rows});
      else if (name == "dweight_hr") parameter("dweight_hr", to, args.dweight_hr, {plan.outputs(), H});
      else if (name == "dparams") parameter("dparams", to, args.dparams, {plan.param_rows(), H});
      else if (name == "dh_0") hidden(to, "dh_0", args.dh_0, true);
      else if (name == "dc_0") cell(to, "dc_0", args.dc_0, true);
      else if (name == "dh") like_y(to, "dh", args.dh, true);
      else throw py::type_error("backward: there is no argument \"" + name + "\"");
    }
  }
};

}  // namespace
}  // namespace rnnk_py
