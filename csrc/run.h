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

// Of a stack's calls, a layer each, one workspace and one stream.
template <class C>
void run_stack(std::vector<C>& calls, bool backward, const py::object& workspace, uintptr_t stream) {
  size_t bytes = 0;
  double us = 0;
  for (C& c : calls) {
    c.workspace_size = lines(c.workspace_size);
    bytes += c.workspace_size;
    us += c.us(backward);
  }
  const Scratch scratch(calls[0].plan, bytes, workspace);
  std::vector<const rnnk_plan*> raw;
  std::vector<const rnnk_args*> args;
  char* at = static_cast<char*>(scratch.data);
  for (C& c : calls) {
    c.args.workspace = at, c.args.workspace_size = c.workspace_size;
    c.args.cuda_stream = reinterpret_cast<void*>(stream);
    at += c.workspace_size;
    raw.push_back(c.plan.native());
    args.push_back(&c.args);
  }
  const auto fn = backward ? rnnk_backward_stack : rnnk_forward_stack;
  check(released(us > kReleaseAboveUs, [&] { return fn(raw.data(), args.data(), static_cast<int32_t>(calls.size())); }));
}

using Plans = std::vector<std::shared_ptr<Plan>>;
using Packs = std::vector<std::shared_ptr<Packed>>;
using Objects = std::vector<py::object>;

void check_stack(const Plans& plans, const Packs& packed, std::initializer_list<std::pair<const char*, size_t>> others) {
  const size_t n = plans.size();
  if (n == 0) throw py::value_error("plans: expected at least one, got none");
  if (packed.size() != n) throw py::value_error("packed: expected one for each plan");
  for (size_t i = 0; i < n; ++i) {
    if (!plans[i] || !packed[i]) throw py::type_error("plans, packed: expected no None");
  }
  for (const auto& [name, count] : others) {
    if (count != n) throw py::value_error(std::string(name) + ": expected one for each plan");
  }
}

// A layer for each plan; every vector has as many entries. reserve, random: none, or one for each layer.
void forward_stack(const Plans& plans, const Packs& packed, const py::object& x, const py::object& h_0,
                   const py::object& c_0, const Objects& y, const py::object& h_n, const py::object& c_n,
                   const py::object& workspace, uintptr_t stream, const py::object& lengths,
                   const std::optional<Objects>& reserve, const py::object& mask, const py::object& reset,
                   const std::optional<std::vector<Random>>& random) {
  const size_t n = plans.size();
  check_stack(plans, packed,
              {{"y", y.size()}, {"reserve", reserve ? reserve->size() : n}, {"random", random ? random->size() : n}});
  const py::object none = py::none();
  std::vector<ForwardCall> calls;
  calls.reserve(n);
  for (size_t i = 0; i < n; ++i) {
    const Place place{{static_cast<int64_t>(i), 1}};
    calls.emplace_back(*plans[i], *packed[i], place, i ? y[i - 1] : x, h_0, c_0, y[i], h_n, c_n, lengths,
                       reserve ? (*reserve)[i] : none);
    calls[i].options(mask, reset, random ? (*random)[i] : Random());
  }
  run_stack(calls, false, workspace, stream);
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

// As forward_stack, of layers from `first` on: dy is the last one's, dx has one for each, the lowest one's may be None.
void backward_stack(const Plans& plans, const Packs& packed, const Objects& reserve, const Objects& x, const py::object& h_0,
                    const py::object& c_0, const Objects& y, const py::object& dy, const py::object& dh_n,
                    const py::object& dc_n, const Objects& dx, const py::object& lengths, const py::object& mask,
                    const py::object& reset, const std::vector<Random>& random, double clip_dh, const py::object& workspace,
                    uintptr_t stream, int64_t first, const std::vector<py::dict>& gradients) {
  const size_t n = plans.size();
  check_stack(plans, packed,
              {{"reserve", reserve.size()},
               {"x", x.size()},
               {"y", y.size()},
               {"dx", dx.size()},
               {"random", random.size()},
               {"gradients", gradients.size()}});
  std::vector<BackwardCall> calls;
  calls.reserve(n);
  for (size_t i = 0; i < n; ++i) {
    const Place place{{first + static_cast<int64_t>(i), 1}};
    calls.emplace_back(*plans[i], *packed[i], place, reserve[i], x[i], h_0, c_0, y[i], i + 1 < n ? dx[i + 1] : dy, dh_n,
                       dc_n, dx[i], lengths);
    calls[i].options(mask, reset, random[i]);
    calls[i].wanted(gradients[i]);
    calls[i].args.clip_dh = clip_dh;
  }
  run_stack(calls, true, workspace, stream);
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
