// The calls of plans: one layer in one direction, both directions, a stack.
#pragma once
#include <array>

#include "call.h"

namespace rnnk_py {
namespace {

void forward(const Plan& plan, const Packed& packed, const py::object& x, const py::object& h_0, const py::object& c_0,
             const py::object& y, const py::object& h_n, const py::object& c_n, const py::object& lengths,
             const py::object& reserve, const py::object& mask, const py::object& reset, const Random& random,
             const py::object& workspace, uintptr_t stream, const Place& place) {
  ForwardCall f(plan, packed, place, x, h_0, c_0, y, h_n, c_n, lengths, reserve);
  f.options(mask, reset, random);
  f.run(f.workspace_size, false, workspace, stream);
}

size_t lines(size_t bytes) { return (std::max<size_t>(bytes, 64) + 63) / 64 * 64; }

// One workspace for two calls, the first one's rounded up to a line; and the stream they are on.
struct Shared {
  size_t first;
  Scratch scratch;
  template <class C>
  Shared(C& one, C& two, const py::object& workspace, uintptr_t stream)
      : first(lines(one.workspace_size)), scratch(one.plan, first + lines(two.workspace_size), workspace) {
    one.args.workspace = scratch.data, one.args.workspace_size = first;
    two.args.workspace = static_cast<char*>(scratch.data) + first, two.args.workspace_size = scratch.size - first;
    one.args.cuda_stream = two.args.cuda_stream = reinterpret_cast<void*>(stream);
  }
};

// Every pair has two entries: of this plan, whose direction is the first, and of the other. index: of the first.
using Pair = std::array<py::object, 2>;
void forward_both(const Plan& plan, const Plan& other, const std::array<std::shared_ptr<Packed>, 2>& packed,
                  const py::object& x, const py::object& h_0, const py::object& c_0, const py::object& y,
                  const py::object& h_n, const py::object& c_n, const py::object& lengths, const Pair& reserve,
                  const py::object& mask, const Pair& reset, const std::array<Random, 2>& random,
                  const py::object& workspace, uintptr_t stream, int64_t index) {
  for (const auto& p : packed) {
    if (!p) throw py::type_error("packed: expected two Packed, got None");
  }
  const Place first_place{{index, 2}}, second_place{{index + 1, 2}};
  ForwardCall one(plan, *packed[0], first_place, x, h_0, c_0, y, h_n, c_n, lengths, reserve[0]);
  ForwardCall two(other, *packed[1], second_place, x, h_0, c_0, y, h_n, c_n, lengths, reserve[1]);
  one.options(mask, reset[0], random[0]);
  two.options(mask, reset[1], random[1]);
  const Shared shared(one, two, workspace, stream);
  const bool release = one.us(false) + two.us(false) > kReleaseAboveUs;
  check(released(release, [&] { return rnnk_forward_both(plan.native(), &one.args, other.native(), &two.args); }));
}

// A layer for each plan; every vector has as many entries.
void forward_stack(const std::vector<std::shared_ptr<Plan>>& plans, const std::vector<std::shared_ptr<Packed>>& packed,
                   const py::object& x, const py::object& h_0, const py::object& c_0, const std::vector<py::object>& y,
                   const py::object& h_n, const py::object& c_n) {
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
    calls[i].workspace_size = lines(calls[i].workspace_size);
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
    raw.push_back(c.plan.native());
    args.push_back(&c.args);
  }
  check(
      released(us > kReleaseAboveUs, [&] { return rnnk_forward_stack(raw.data(), args.data(), static_cast<int32_t>(n)); }));
}

// gradients: outputs by name.
void backward(const Plan& plan, const Packed& packed, const py::object& reserve, const py::object& x, const py::object& h_0,
              const py::object& c_0, const py::object& y, const py::object& dy, const py::object& dh_n,
              const py::object& dc_n, const py::object& dx, bool accumulate_dx, const py::object& lengths,
              const py::object& mask, const py::object& reset, const Random& random, double clip_dh,
              const py::object& workspace, uintptr_t stream, const Place& place, const py::kwargs& gradients) {
  BackwardCall b(plan, packed, place, reserve, x, h_0, c_0, y, dy, dh_n, dc_n, dx, lengths);
  b.options(mask, reset, random);
  b.wanted(gradients);
  b.args.clip_dh = clip_dh;
  if (accumulate_dx) b.args.flags |= RNNK_ACCUMULATE_DX;
  b.run(b.workspace_size, true, workspace, stream);
}

// As forward_both; the other plan adds to dx.
void backward_both(const Plan& plan, const Plan& other, const std::array<std::shared_ptr<Packed>, 2>& packed,
                   const Pair& reserve, const py::object& x, const py::object& h_0, const py::object& c_0,
                   const py::object& y, const py::object& dy, const py::object& dh_n, const py::object& dc_n,
                   const py::object& dx, const py::object& lengths, const py::object& mask, const Pair& reset,
                   const std::array<Random, 2>& random, double clip_dh, const py::object& workspace, uintptr_t stream,
                   int64_t index, const std::array<py::dict, 2>& gradients) {
  for (const auto& p : packed) {
    if (!p) throw py::type_error("packed: expected two Packed, got None");
  }
  const Place first_place{{index, 2}}, second_place{{index + 1, 2}};
  BackwardCall one(plan, *packed[0], first_place, reserve[0], x, h_0, c_0, y, dy, dh_n, dc_n, dx, lengths);
  BackwardCall two(other, *packed[1], second_place, reserve[1], x, h_0, c_0, y, dy, dh_n, dc_n, dx, lengths);
  one.options(mask, reset[0], random[0]);
  two.options(mask, reset[1], random[1]);
  one.wanted(gradients[0]);
  two.wanted(gradients[1]);
  one.args.clip_dh = two.args.clip_dh = clip_dh;
  two.args.flags |= RNNK_ACCUMULATE_DX;
  if (!dx.is_none()) two.workspace_size = plan.workspace_beside(other, two.args.seq_len, two.args.batch);
  const Shared shared(one, two, workspace, stream);
  const bool release = one.us(true) + two.us(true) > kReleaseAboveUs;
  check(released(release, [&] { return rnnk_backward_both(plan.native(), &one.args, other.native(), &two.args); }));
}

}  // namespace
}  // namespace rnnk_py
