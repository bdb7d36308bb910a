// The bodies of rnnkern.h. The only place where exceptions are caught: inside, a check throws Failure; outside, a status and
// a sentence in rnnk_last_error().
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <new>
#include <vector>

#include "core/beside.h"
#include "core/check.h"
#include "core/device.h"
#include "core/dropout.h"
#include "core/pack_header.h"
#include "core/recompute.h"
#include "core/stack.h"
#include "core/team.h"

struct rnnk_plan {
  rnnk::Problem problem;
  const rnnk::Kernel* kernel;
  uint64_t layout;  // of its packs
};

namespace {

using namespace rnnk;

// A plain buffer, so that reporting a failure can never fail; as long as the longest sentence fail() makes.
thread_local char last_error[512] = "";

rnnk_status report(rnnk_status code, const char* text) {
  std::strncpy(last_error, text, sizeof last_error - 1);
  return code;
}

template <class Fn>
rnnk_status guarded(const Fn& fn) noexcept {
  try {
    fn();
    return RNNK_OK;
  } catch (const Failure& failure) {
    return report(failure.code, failure.text.c_str());
  } catch (const std::bad_alloc&) {
    return report(RNNK_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return report(RNNK_RUNTIME_ERROR, error.what());
  }
}

template <class T>
const T& required(const T* p, const char* name) {
  if (!p) fail(RNNK_INVALID_VALUE, "%s: expected a pointer, got NULL", name);
  return *p;
}

template <class Struct>
const Struct& required_struct(const Struct* p, const char* name) {
  required(p, name);
  if (p->struct_size < sizeof(Struct)) {
    fail(RNNK_INVALID_VALUE, "%s.struct_size: expected at least %zu, got %u", name, sizeof(Struct), p->struct_size);
  }
  return *p;
}

// A call's arguments after all checks, with ``packed`` as the kernels have it.
rnnk_args checked_args(const rnnk_plan& plan, const rnnk_args* args, const char* name, Pass pass) {
  rnnk_args a = adopted(args, offsetof(rnnk_args, dweight_hr), name);
  // Without rows a step has no work, and there may be more steps than anybody could walk: an array of them takes no memory.
  if (a.batch == 0 && a.seq_len > 0) a.seq_len = 0;
  check_args(plan.problem, *plan.kernel, a, pass);
  if (header_bytes(plan.problem)) {
    const bool backward = pass == Pass::backward;  // which runs the forward again if the plan recomputes
    a.packed = open_pack(a.packed, plan.layout, {!backward || plan.problem.recompute, backward});
  }
  return a;
}

const Kernel* kernel_at(int32_t index) {
  for (int32_t i = 0; kKernels[i]; ++i) {
    if (i == index) return kKernels[i];
  }
  return nullptr;
}

bool same_tensor(const rnnk_tensor& a, const rnnk_tensor& b) {
  return a.data == b.data && a.dtype == b.dtype && std::equal(a.stride, a.stride + 3, b.stride);
}

// The calls of a stack, each checked by itself.
struct Stack {
  std::vector<rnnk_args> args;
  std::vector<PlanCall> calls;

  Stack(const rnnk_plan* const* plans, const rnnk_args* const* given, int32_t layers, Pass pass) {
    required(plans, "plans");
    required(given, "args");
    if (layers < 1 || layers > 1024) fail(RNNK_INVALID_VALUE, "layers: expected 1 to 1024, got %d", layers);
    args.reserve(static_cast<size_t>(layers));
    for (int32_t i = 0; i < layers; ++i) {
      required(plans[i], "plans[i]");
      const rnnk_args& a = args.emplace_back(checked_args(*plans[i], given[i], "args[i]", pass));
      calls.push_back({plans[i]->problem, *plans[i]->kernel, a});
      if (i == 0) continue;
      const PlanCall &here = calls.back(), &below = calls[calls.size() - 2];
      if (here.problem.device != below.problem.device || here.problem.device_index != below.problem.device_index ||
          a.cuda_stream != below.args.cuda_stream) {
        fail(RNNK_INVALID_VALUE, "args[%d].cuda_stream: expected the device and stream of args[%d]", i, i - 1);
      }
    }
  }
  // Whether layer i is of the steps and rows of the one below, and as wide as that one's outputs.
  bool fits(size_t i) const {
    const PlanCall &here = calls[i], &below = calls[i - 1];
    return here.args.seq_len == below.args.seq_len && here.args.batch == below.args.batch &&
           here.problem.input_size == below.problem.output_size;
  }
};

}  // namespace

extern "C" {

rnnk_status rnnk_plan_create(const rnnk_problem* problem, const char* kernel, rnnk_plan** plan) {
  return guarded([&] {
    required(plan, "plan");
    *plan = nullptr;
    const Problem checked = check_problem(problem);
    const Kernel& chosen = choose_kernel(checked, kernel);
    *plan = new rnnk_plan{checked, &chosen, pack_layout(checked, chosen)};
  });
}

void rnnk_plan_destroy(rnnk_plan* plan) { delete plan; }

const char* rnnk_plan_kernel(const rnnk_plan* plan) { return plan ? plan->kernel->name : nullptr; }

uint64_t rnnk_plan_pack_layout(const rnnk_plan* plan) { return plan ? plan->layout : 0; }

int64_t rnnk_plan_param_rows(const rnnk_plan* plan) { return plan ? param_rows(plan->problem) : 0; }

rnnk_status rnnk_plan_sizes(const rnnk_plan* plan, int64_t seq_len, int64_t batch, rnnk_sizes* sizes) {
  return guarded([&] {
    required(plan, "plan");
    required_struct(sizes, "sizes");
    check_extent(plan->problem, seq_len, batch);
    const Sizes s = plan_sizes(plan->problem, *plan->kernel, seq_len, batch);
    sizes->packed = static_cast<size_t>(header_bytes(plan->problem) + s.packed);
    sizes->reserve = static_cast<size_t>(s.reserve);
    sizes->workspace_forward = static_cast<size_t>(s.workspace_forward);
    sizes->workspace_backward = static_cast<size_t>(s.workspace_backward);
  });
}

double rnnk_plan_estimate(const rnnk_plan* plan, int64_t seq_len, int64_t batch, int32_t backward) {
  double us = 0;
  guarded([&] {
    required(plan, "plan");
    check_extent(plan->problem, seq_len, batch);
    us = plan->kernel->estimate(plan->problem, seq_len, batch, backward != 0, team_size());
    if (backward && plan->problem.recompute) us += plan->kernel->estimate(plan->problem, seq_len, batch, false, team_size());
  });
  return us;
}

rnnk_status rnnk_pack_weights(const rnnk_plan* plan, const rnnk_weights* weights, int32_t backward, void* packed,
                              size_t packed_size) {
  return guarded([&] {
    required(plan, "plan");
    if (backward < RNNK_PACK_FORWARD || backward > RNNK_PACK_BACKWARD) {
      fail(RNNK_INVALID_VALUE, "backward: expected a value of rnnk_pack, got %d", backward);
    }
    const rnnk_weights w = adopted(weights, offsetof(rnnk_weights, weight_hr), "weights");
    check_weights(plan->problem, w);
    required(static_cast<const char*>(packed), "packed");
    const int64_t bytes = header_bytes(plan->problem) + plan->kernel->sizes(plan->problem, 0, 0).packed;
    if (packed_size < static_cast<size_t>(bytes)) {
      fail(RNNK_INVALID_VALUE, "packed_size: expected at least %lld bytes, got %zu", static_cast<long long>(bytes),
           packed_size);
    }
    if (reinterpret_cast<uintptr_t>(packed) % 64) {
      fail(RNNK_INVALID_VALUE, "packed: expected a 64-byte aligned pointer, got %p", packed);
    }
    // A recomputing backward runs the forward again.
    const Halves halves{backward != RNNK_PACK_BACKWARD || plan->problem.recompute, backward != RNNK_PACK_FORWARD};
    if (header_bytes(plan->problem)) packed = begin_pack(packed, plan->layout, halves);
    plan->kernel->pack(plan->problem, w, halves, packed);
  });
}

rnnk_status rnnk_forward(const rnnk_plan* plan, const rnnk_args* args) {
  return guarded([&] {
    const rnnk_args a = checked_args(required(plan, "plan"), args, "args", Pass::forward);
    plan_forward(plan->problem, *plan->kernel, a);
  });
}

rnnk_status rnnk_forward_both(const rnnk_plan* one, const rnnk_args* one_args, const rnnk_plan* other,
                              const rnnk_args* other_args) {
  return guarded([&] {
    required(one, "one");
    required(other, "other");
    const rnnk_args first = checked_args(*one, one_args, "one_args", Pass::forward);
    const rnnk_args second = checked_args(*other, other_args, "other_args", Pass::forward);
    forward_both({one->problem, *one->kernel, first}, {other->problem, *other->kernel, second});
  });
}

rnnk_status rnnk_forward_stack(const rnnk_plan* const* plans, const rnnk_args* const* args, int32_t layers) {
  return guarded([&] {
    const Stack stack(plans, args, layers, Pass::forward);
    for (size_t i = 1; i < stack.calls.size(); ++i) {
      if (!same_tensor(stack.calls[i].args.x, stack.calls[i - 1].args.y) || !stack.fits(i)) {
        fail(RNNK_INVALID_VALUE, "args[%zu].x: expected what is args[%zu].y, of the same steps, rows and units", i, i - 1);
      }
    }
    forward_stack(stack.calls.data(), layers);
  });
}

rnnk_status rnnk_backward_stack(const rnnk_plan* const* plans, const rnnk_args* const* args, int32_t layers) {
  return guarded([&] {
    const Stack stack(plans, args, layers, Pass::backward);
    for (size_t i = 1; i < stack.calls.size(); ++i) {
      const rnnk_args& here = stack.calls[i].args;
      const bool any = here.seq_len > 0 && here.batch > 0;
      if ((any && !here.dx.data) || !same_tensor(here.dx, stack.calls[i - 1].args.dy) || !stack.fits(i)) {
        fail(RNNK_INVALID_VALUE, "args[%zu].dx: expected what is args[%zu].dy, of the same steps, rows and units", i, i - 1);
      }
      if (here.flags & RNNK_ACCUMULATE_DX) {
        fail(RNNK_INVALID_VALUE, "args[%zu].flags: expected no RNNK_ACCUMULATE_DX, since its dx is args[%zu].dy", i, i - 1);
      }
    }
    backward_stack(stack.calls.data(), layers);
  });
}

rnnk_status rnnk_backward(const rnnk_plan* plan, const rnnk_args* args) {
  return guarded([&] {
    const rnnk_args a = checked_args(required(plan, "plan"), args, "args", Pass::backward);
    plan_backward(plan->problem, *plan->kernel, a);
  });
}

rnnk_status rnnk_backward_both(const rnnk_plan* one, const rnnk_args* one_args, const rnnk_plan* other,
                               const rnnk_args* other_args) {
  return guarded([&] {
    required(one, "one");
    required(other, "other");
    const rnnk_args first = checked_args(*one, one_args, "one_args", Pass::backward);
    const rnnk_args second = checked_args(*other, other_args, "other_args", Pass::backward);
    check_shared_dx(one->problem, first, other->problem, second);
    backward_both({one->problem, *one->kernel, first}, {other->problem, *other->kernel, second});
  });
}

rnnk_status rnnk_backward_both_workspace(const rnnk_plan* one, const rnnk_plan* other, int64_t seq_len, int64_t batch,
                                         size_t* bytes) {
  return guarded([&] {
    required(one, "one");
    required(other, "other");
    required(bytes, "bytes");
    for (const rnnk_plan* plan : {one, other}) check_extent(plan->problem, seq_len, batch);
    rnnk_args args{};
    args.seq_len = seq_len, args.batch = batch;
    *bytes = static_cast<size_t>(
        backward_both_workspace({one->problem, *one->kernel, args}, {other->problem, *other->kernel, args}));
  });
}

rnnk_status rnnk_dropout(const rnnk_dropout_args* args) {
  return guarded([&] {
    const rnnk_dropout_args a = adopted(args, offsetof(rnnk_dropout_args, device), "args");
    if (!(a.p >= 0 && a.p <= 1)) fail(RNNK_INVALID_VALUE, "p: expected 0 to 1, got %g", a.p);
    Problem shape;  // for the bounds on sizes that every call has
    shape.hidden_size = a.hidden_size;
    if (a.hidden_size < 1 || a.hidden_size > kMostUnits) {
      fail(RNNK_INVALID_VALUE, "hidden_size: expected 1 to %lld, got %lld", static_cast<long long>(kMostUnits),
           static_cast<long long>(a.hidden_size));
    }
    check_extent(shape, a.seq_len, a.batch);
    if (a.device != RNNK_CPU && a.device != RNNK_CUDA) {
      fail(RNNK_INVALID_VALUE, "device: expected RNNK_CPU (0) or RNNK_CUDA (1), got %d", a.device);
    }
    if (a.device == RNNK_CPU) check_lengths(a.lengths, a.seq_len, a.batch);
    else check_device(a.device_index, "device_index"), report_faults(a.device_index);
    if (a.seq_len == 0 || a.batch == 0) return;
    required(static_cast<const char*>(a.in.data), "in");
    required(static_cast<const char*>(a.out.data), "out");
    if (a.in.dtype < 0 || a.in.dtype > RNNK_FLOAT16 || a.in.dtype != a.out.dtype) {
      fail(RNNK_INVALID_TYPE, "in, out: expected the same dtype, got %s and %s", dtype_name(a.in.dtype),
           dtype_name(a.out.dtype));
    }
    if (a.device == RNNK_CPU) dropout(a);
    else device_dropout(a);
  });
}

const char* rnnk_cell_name(int32_t cell) { return cell_info(cell) ? cell_info(cell)->name : nullptr; }
int32_t rnnk_cell_gates(int32_t cell) { return cell_info(cell) ? cell_info(cell)->gates : -1; }
int32_t rnnk_cell_states(int32_t cell) { return cell_info(cell) ? cell_info(cell)->states : -1; }
int32_t rnnk_cell_activations(int32_t cell) { return cell_info(cell) ? cell_info(cell)->activation_count() : -1; }
const char* rnnk_cell_option(int32_t cell, int32_t index) {
  return cell_info(cell) && index >= 0 ? cell_option(*cell_info(cell), index) : nullptr;
}

const char* rnnk_kernel_name(int32_t index) { return kernel_at(index) ? kernel_at(index)->name : nullptr; }
const char* rnnk_kernel_unavailable(int32_t index) { return kernel_at(index) ? unavailable(*kernel_at(index)) : nullptr; }

rnnk_status rnnk_explain(const rnnk_problem* problem, int64_t seq_len, int64_t batch, int32_t index, rnnk_verdict* verdict) {
  return guarded([&] {
    const Problem p = check_problem(problem);
    required_struct(verdict, "verdict");
    const Kernel* kernel = kernel_at(index);
    if (!kernel) fail(RNNK_INVALID_VALUE, "index: there is no kernel number %d", index);
    check_extent(p, seq_len, batch);
    verdict->forward_us = verdict->backward_us = 0;
    verdict->reason[0] = 0;
    const char* missing = kernel->device != p.device ? other_device(*kernel) : unavailable(*kernel);
    if (*missing) std::strncat(verdict->reason, missing, sizeof verdict->reason - 1);
    verdict->declined = *missing || !kernel->accepts(p, verdict->reason, sizeof verdict->reason);
    if (verdict->declined) return;
    verdict->forward_us = kernel->estimate(p, seq_len, batch, false, team_size());
    verdict->backward_us = kernel->estimate(p, seq_len, batch, true, team_size());
  });
}

int32_t rnnk_device_count(void) { return device_count(); }
const char* rnnk_devices_unavailable(void) { return devices_unavailable(); }
rnnk_status rnnk_get_device_info(int32_t device_index, rnnk_device_info* info) {
  return guarded([&] {
    required_struct(info, "info");
    check_device(device_index, "device_index");
    const uint32_t size = info->struct_size;
    *info = device_info(device_index);
    info->struct_size = size;
  });
}
rnnk_status rnnk_device_check(int32_t device_index) {
  return guarded([&] {
    check_device(device_index, "device_index");
    report_faults(device_index);
  });
}
rnnk_status rnnk_set_cublaslt(const char* path) {
  return guarded([&] { set_cublaslt(&required(path, "path")); });
}

rnnk_status rnnk_set_num_threads(int32_t threads) {
  return guarded([&] {
    if (threads < 1 || threads > 256) fail(RNNK_INVALID_VALUE, "threads: expected 1 to 256, got %d", threads);
    if (!team_resize(threads)) {
      fail(RNNK_RUNTIME_ERROR, "threads: asked for %d, the system gave %d", threads, team_size());
    }
  });
}

rnnk_status rnnk_set_pool(rnnk_parallel parallel, rnnk_thread_index index, rnnk_thread_count count) {
  return guarded([&] {
    if (!team_borrow(parallel, index, count)) fail(RNNK_RUNTIME_ERROR, "threads: the system gave fewer, %d", team_size());
  });
}

int32_t rnnk_pool_is_lent(void) { return team_borrows(); }
int32_t rnnk_get_num_threads(void) {
  int32_t threads = 1;
  guarded([&] { threads = team_size(); });
  return threads;
}

const char* rnnk_version(void) { return RNNK_VERSION; }
const char* rnnk_cpu_features(void) { return cpu_feature_names(); }
const char* rnnk_last_error(void) { return last_error; }

}  // extern "C"
