// The bodies of rnnkern.h. The only place where exceptions are caught: inside, a check throws Failure; outside, a status and
// a sentence in rnnk_last_error().
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <new>

#include "core/device.h"
#include "core/dropout.h"
#include "core/team.h"
#include "network/calls.h"
#include "network/check.h"
#include "network/pack_header.h"

struct rnnk_plan {
  rnnk::Network network;
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

// Writes a struct of results, as much of it as the caller's has room for.
template <class Struct>
void give(Struct* to, const char* name, Struct result) {
  required(to, name);
  const uint32_t size = to->struct_size;
  if (size < sizeof size) fail(RNNK_INVALID_VALUE, "%s.struct_size: expected sizeof *%s, got %u", name, name, size);
  result.struct_size = size;
  std::memcpy(to, &result, std::min<size_t>(size, sizeof result));
}

// The threads that a call brings, checked.
Pool pool_of(const rnnk_pool& given) {
  const rnnk_pool p = adopted(&given, offsetof(rnnk_pool, parallel), "pool");
  check_between("pool.threads", p.threads, 1, 256);
  return {p.threads, p.parallel, p.context};
}

// The weights of a call that brings them: packed, unless the kernels read them where they are. Returns what follows the header.
void* take_weights(const Network& n, rnnk_args& a, Halves halves) {
  void* const own = header_bytes(n) ? no_pack(a.packed) : a.packed;
  if (reads_unpacked(n, a, halves.backward)) return own;
  pack_network(n, a.weights, halves, own, a.cuda_stream);
  a.weights = nullptr;
  return own;
}

// ``packed`` of a checked call becomes what the kernels have.
void find_weights(const Network& n, rnnk_args& a, bool backward) {
  const Halves halves{!backward || n.first().recompute, backward};  // a recomputing backward runs the forward again
  if (a.weights) a.packed = take_weights(n, a, halves);
  else if (header_bytes(n)) a.packed = open_pack(a.packed, n.layout, halves);
}

rnnk_status run(const rnnk_plan* plan, const rnnk_args* args, Pass pass) {
  return guarded([&] {
    const Network& n = required(plan, "plan").network;
    rnnk_args a = adopted(args, offsetof(rnnk_args, dy), "args");
    const Pool pool = a.pool ? pool_of(*a.pool) : Pool{};
    const PoolScope scope(a.pool ? &pool : nullptr);
    // Without rows a step has no work, and there may be more steps than anybody could walk: an array of them takes no memory.
    if (a.batch == 0 && a.seq_len > 0) a.seq_len = 0;
    check_args(n, a, pass);
    find_weights(n, a, pass == Pass::backward);
    if (pass == Pass::forward) network_forward(n, a);
    else network_backward(n, a);
  });
}

const Kernel* kernel_at(int32_t index) {
  for (int32_t i = 0; kKernels[i]; ++i) {
    if (i == index) return kKernels[i];
  }
  return nullptr;
}

}  // namespace

extern "C" {

rnnk_status rnnk_plan_create(const rnnk_problem* problem, const char* kernel, rnnk_plan** plan) {
  return guarded([&] {
    required(plan, "plan");
    *plan = nullptr;
    *plan = new rnnk_plan{Network(checked_problem(problem), kernel)};
  });
}

void rnnk_plan_destroy(rnnk_plan* plan) { delete plan; }

const char* rnnk_plan_kernel(const rnnk_plan* plan, int64_t layer) {
  if (!plan || layer < 0 || layer >= plan->network.num_layers) return nullptr;
  return plan->network.layer(layer, 0).kernel->name;
}

uint64_t rnnk_plan_pack_layout(const rnnk_plan* plan) { return plan ? plan->network.layout : 0; }

int64_t rnnk_plan_param_rows(const rnnk_plan* plan) { return plan ? param_rows(plan->network.first()) : 0; }

rnnk_status rnnk_plan_sizes(const rnnk_plan* plan, int64_t seq_len, int64_t batch, rnnk_sizes* sizes) {
  return guarded([&] {
    const Network& n = required(plan, "plan").network;
    required(sizes, "sizes");
    check_extent(n, seq_len, batch);
    const NetworkSizes s = network_sizes(n, seq_len, batch);
    rnnk_sizes out{};
    out.packed = static_cast<size_t>(header_bytes(n) + n.packed_bytes);
    out.reserve = static_cast<size_t>(s.reserve);
    out.workspace_forward = static_cast<size_t>(s.forward);
    out.workspace_forward_least = static_cast<size_t>(s.forward_least);
    out.workspace_backward = static_cast<size_t>(s.backward);
    out.workspace_backward_least = static_cast<size_t>(s.backward_least);
    give(sizes, "sizes", out);
  });
}

rnnk_status rnnk_plan_reserve_bound(const rnnk_plan* plan, rnnk_reserve_bound* bound) {
  return guarded([&] { give(bound, "bound", reserve_bound(required(plan, "plan").network)); });
}

double rnnk_plan_estimate(const rnnk_plan* plan, int64_t seq_len, int64_t batch, int32_t backward) {
  double us = 0;
  guarded([&] {
    const Network& n = required(plan, "plan").network;
    check_extent(n, seq_len, batch);
    const int threads = team_size();
    for (int64_t l = 0; l < std::min<int64_t>(n.num_layers, 2); ++l) {
      const Layer& layer = n.layer(l, 0);
      double each = layer.kernel->estimate(layer.plain, seq_len, batch, backward != 0, threads);
      if (backward && layer.plain.recompute) each += layer.kernel->estimate(layer.plain, seq_len, batch, false, threads);
      us += each * static_cast<double>(n.directions * (l == 0 ? 1 : n.num_layers - 1));
    }
  });
  return us;
}

rnnk_status rnnk_pack_weights(const rnnk_plan* plan, const rnnk_weights* weights, int32_t halves, void* packed,
                              size_t packed_size, void* cuda_stream) {
  return guarded([&] {
    const Network& n = required(plan, "plan").network;
    if (halves < RNNK_PACK_FORWARD || halves > RNNK_PACK_BOTH) {
      fail(RNNK_INVALID_VALUE, "halves: expected a value of rnnk_halves, got %d", halves);
    }
    required(weights, "weights");
    check_weights(n, weights, Wanted::all);
    check_room("packed", packed, packed_size, header_bytes(n) + n.packed_bytes);
    // A recomputing backward runs the forward again.
    const Halves wanted{(halves & RNNK_PACK_FORWARD) || n.first().recompute, (halves & RNNK_PACK_BACKWARD) != 0};
    if (header_bytes(n)) packed = begin_pack(packed, n.layout, wanted);
    pack_network(n, weights, wanted, packed, cuda_stream);
  });
}

rnnk_status rnnk_forward(const rnnk_plan* plan, const rnnk_args* args) { return run(plan, args, Pass::forward); }
rnnk_status rnnk_backward(const rnnk_plan* plan, const rnnk_args* args) { return run(plan, args, Pass::backward); }

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
    check_extent(shape, 1, a.seq_len, a.batch);
    if (a.device != RNNK_CPU && a.device != RNNK_CUDA) {
      fail(RNNK_INVALID_VALUE, "device: expected RNNK_CPU (0) or RNNK_CUDA (1), got %d", a.device);
    }
    check_lengths(a.lengths, a.seq_len, a.batch, a.device == RNNK_CPU);
    if (a.device != RNNK_CPU) check_device(a.device_index, "device_index"), report_faults(a.device_index);
    if (a.seq_len == 0 || a.batch == 0) return;
    required(static_cast<const char*>(a.in.data), "in");
    required(static_cast<const char*>(a.out.data), "out");
    if (a.in.reserved || a.out.reserved) fail(RNNK_INVALID_VALUE, "in.reserved, out.reserved: expected 0");
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
const char* rnnk_kernel_weights(int32_t index) { return kernel_at(index) ? form_name(kernel_at(index)->form) : nullptr; }

rnnk_status rnnk_explain(const rnnk_problem* problem, int64_t layer, int64_t seq_len, int64_t batch, int32_t index,
                         rnnk_verdict* verdict) {
  return guarded([&] {
    const rnnk_problem whole = checked_problem(problem);
    check_between("layer", layer, 0, whole.num_layers - 1);
    required(verdict, "verdict");
    const Kernel* kernel = kernel_at(index);
    if (!kernel) fail(RNNK_INVALID_VALUE, "index: there is no kernel number %d", index);
    const Problem p = choosing_problem(whole, layer);
    check_extent(p, 1, seq_len, batch);
    rnnk_verdict said{};
    said.declined = !can_run(*kernel, p, said.reason, sizeof said.reason);
    if (!said.declined) {
      const int threads = team_size();
      said.forward_us = kernel->estimate(p, seq_len, batch, false, threads);
      said.backward_us = kernel->estimate(p, seq_len, batch, true, threads);
      if (kernel->schedule) {
        const Schedule forward = kernel->schedule(p, seq_len, batch, false, threads);
        const Schedule backward = kernel->schedule(p, seq_len, batch, true, threads);
        said.forward_tasks = forward.tasks, said.forward_by_units = !forward.by_rows;
        said.backward_tasks = backward.tasks, said.backward_by_units = !backward.by_rows;
      }
    }
    give(verdict, "verdict", said);
  });
}

int32_t rnnk_device_count(void) { return device_count(); }
const char* rnnk_devices_unavailable(void) { return devices_unavailable(); }
rnnk_status rnnk_get_device_info(int32_t device_index, rnnk_device_info* info) {
  return guarded([&] {
    required(info, "info");
    check_device(device_index, "device_index");
    give(info, "info", device_info(device_index));
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
