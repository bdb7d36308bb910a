// Products by cuBLASLt: finds the library, keeps a handle per device and, per shape, what cuBLASLt chose for it. Shapes, strides
// and results are blas.h's, the library's numbers cublaslt.h's.
//
// Which library. cuBLASLt links a CUDA runtime of its own, so it meets this library's only in the driver: both make the device's
// primary context current, and a stream is the driver's in both. That is how frameworks already run it beside another runtime;
// so cuBLAS 12 and 13 both serve, with any driver new enough for this library's runtime 13 (drivers run what older toolkits
// built). What a version does not know, such as a GPU newer than it, is refused by its own status.
//
// The same bits from run to run. cuBLAS promises them for one version of it on GPUs of one architecture and number of
// multiprocessors; with several streams only if each product has a workspace of its own, which our callers give. Sums that it
// splits over k it adds in a fixed order. The algorithm is the first of its heuristic, a function of what is in Key.
#include "cuda/blas.h"

#include <dlfcn.h>

#include <algorithm>
#include <compare>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "cuda/cublaslt.h"
#include "cuda/runtime.h"

namespace rnnk {
namespace gpu {
namespace {

using namespace cublaslt;

constexpr size_t kMostPlans = 1024;  // about a kilobyte each; sequences of every length up to some hundreds fit

using Owned = std::unique_ptr<void, int (*)(void*)>;

// All that decides the algorithm. c added to or not is not among it: both get the same one.
struct Key {
  int device;
  Precision precision;
  int64_t m, n, k, lda, ldb, ldc, batch, a_stride, b_stride, c_stride, workspace_bytes;
  bool a_transposed, b_transposed;
  uint32_t a_aligned, b_aligned, c_aligned;
  auto operator<=>(const Key&) const = default;
};

struct Plan {
  void* handle;
  Owned description, a, b, c;
  Algorithm algorithm;
};

struct State {
  std::mutex mutex;  // of everything here; not held while cuBLASLt launches
  std::string path;
  bool open = false;
  Library library;  // constant once open
  std::map<int, void*> handles;
  std::map<Key, std::shared_ptr<const Plan>> plans;
};
State& state() {
  static State& kept = *new State;  // never destroyed: the driver may be gone before static objects are
  return kept;
}

// "" and the functions, or why not.
std::string functions_of(void* file, Library& into) {
#define RNNK_LOAD(name, ...)                                                        \
  into.name = reinterpret_cast<decltype(into.name)>(dlsym(file, "cublasLt" #name)); \
  if (!into.name) return "it has no function cublasLt" #name;
  RNNK_CUBLASLT(RNNK_LOAD)
#undef RNNK_LOAD
  return "";
}

// Opens the library, or says what was tried.
std::string open(State& s) {
  if (s.open) return "";
  std::string tried;
  const auto attempt = [&](const char* name, const char* where, int flags) {
    void* file = dlopen(name, RTLD_NOW | RTLD_LOCAL | flags);
    const char* error = file ? nullptr : dlerror();
    if (!file && flags) return false;  // simply not loaded
    const std::string why = file ? functions_of(file, s.library) : error ? error : "dlopen failed";
    s.open = why.empty();
    if (!s.open) tried += std::string(" ") + where + " " + name + ": " + why + ".";
    if (!s.open && file) dlclose(file);
    return s.open;
  };
  // The version that a framework has loaded is the one whose kernels are already in memory.
  for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12"}) {
    if (attempt(name, "Loaded already,", RTLD_NOLOAD)) return "";
  }
  for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12"}) {
    if (attempt(name, "On the loader's path", 0)) return "";
  }
  if (!s.path.empty() && attempt(s.path.c_str(), "As given,", 0)) return "";
  const char* const advice =
      "cuBLASLt 12 or 13 cannot be opened; install NVIDIA's CUDA toolkit or the Python package nvidia-cublas. "
      "It was looked for in this process, on the loader's path and at a path given by the caller.";
  return advice + tried + (s.path.empty() ? " No other file was given." : "");
}

[[noreturn]] void refused(const char* function, int status, const MatrixProduct& p) {
  const Library& lt = state().library;
  const rnnk_status code = status == CUBLAS_STATUS_ALLOC_FAILED ? RNNK_OUT_OF_MEMORY
                           : status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_ARCH_MISMATCH
                               ? RNNK_NOT_SUPPORTED
                               : RNNK_RUNTIME_ERROR;
  fail(code, "%s (cuBLASLt %zu): %s (%d) for %s", function, lt.GetVersion(), lt.GetStatusName(status), status,
       describe(p).text);
}

// lt.name(arguments), of p.
#define RNNK_LT(name, ...)                                                     \
  do {                                                                         \
    const int status = lt.name(__VA_ARGS__);                                   \
    if (status != CUBLAS_STATUS_SUCCESS) refused("cublasLt" #name, status, p); \
  } while (0)

void* handle_of(State& s, int device, const MatrixProduct& p) {
  void*& handle = s.handles[device];
  const Library& lt = s.library;
  if (!handle) RNNK_LT(Create, &handle);
  return handle;
}

// The alignment of a pointer and of all those a stride leads to. 16 bytes is the most that cuBLAS has a use for ("Tensor Core Usage"); telling it
// of more would make the algorithm, and so the bits, depend on where an allocation happened to begin.
uint32_t alignment(const void* data, int64_t stride_bytes) {
  const uint64_t bits = reinterpret_cast<uintptr_t>(data) | static_cast<uint64_t>(stride_bytes) | 16;
  return static_cast<uint32_t>(bits & -bits);
}

Key key_of(const MatrixProduct& p, int64_t workspace_bytes, int device) {
  // The distance to the next line says nothing where there is none: callers may then have anything there.
  const auto ld = [](const Matrix& x, int64_t rows, int64_t columns) {
    const int64_t lines = x.transposed ? columns : rows, length = x.transposed ? rows : columns;
    return lines == 1 ? length : x.ld;
  };
  const auto stride = [&](int64_t elements) { return p.batch == 1 ? 0 : elements; };
  const int64_t operand = operand_bytes(p.precision), result = result_bytes(p.precision);
  Key key{};
  key.device = device;
  key.precision = p.precision;
  key.m = p.m, key.n = p.n, key.k = p.k;
  key.lda = ld(p.a, p.m, p.k), key.ldb = ld(p.b, p.k, p.n), key.ldc = p.m == 1 ? p.n : p.ldc;
  key.batch = p.batch;
  key.a_stride = stride(p.a_stride), key.b_stride = stride(p.b_stride), key.c_stride = stride(p.c_stride);
  key.workspace_bytes = workspace_bytes;
  key.a_transposed = p.a.transposed, key.b_transposed = p.b.transposed;
  key.a_aligned = alignment(p.a.data, key.a_stride * operand);
  key.b_aligned = alignment(p.b.data, key.b_stride * operand);
  key.c_aligned = alignment(p.c, key.c_stride * result);
  return key;
}

struct Types {
  int compute, operand, result;
};
// f32: the pedantic mode is the one whose description excludes tensor cores, hence TF32, whatever the environment says:
// NVIDIA_TF32_OVERRIDE=1 and CUBLAS_EMULATE_SINGLE_PRECISION=1 loosen the plain one. NVIDIA_TF32_OVERRIDE=0 makes tf32 strict.
Types types_of(Precision precision) {
  switch (precision) {
    case Precision::bf16: return {CUBLAS_COMPUTE_32F, CUDA_R_16BF, CUDA_R_32F};
    case Precision::f16: return {CUBLAS_COMPUTE_32F, CUDA_R_16F, CUDA_R_32F};
    case Precision::tf32: return {CUBLAS_COMPUTE_32F_FAST_TF32, CUDA_R_32F, CUDA_R_32F};
    case Precision::f32: return {CUBLAS_COMPUTE_32F_PEDANTIC, CUDA_R_32F, CUDA_R_32F};
    default: return {CUBLAS_COMPUTE_64F, CUDA_R_64F, CUDA_R_64F};
  }
}

// cuBLAS counts by columns: what it sees is c' [n, m] = b' [n, k] a' [k, m]. So its A is our b, and a matrix by rows needs no
// transposition there.
std::shared_ptr<const Plan> make_plan(State& s, const Key& key, const MatrixProduct& p) {
  const Library& lt = s.library;
  const Types types = types_of(key.precision);
  const auto layout = [&](int type, int64_t rows, int64_t columns, int64_t ld, int64_t stride) {
    void* made = nullptr;
    RNNK_LT(MatrixLayoutCreate, &made, type, rows, columns, ld);
    Owned owned(made, lt.MatrixLayoutDestroy);
    const int32_t batch = static_cast<int32_t>(key.batch);
    RNNK_LT(MatrixLayoutSetAttribute, made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch);
    RNNK_LT(MatrixLayoutSetAttribute, made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride);
    return owned;
  };
  const auto operand = [&](bool transposed, int64_t rows, int64_t columns, int64_t ld, int64_t stride) {
    return transposed ? layout(types.operand, rows, columns, ld, stride) : layout(types.operand, columns, rows, ld, stride);
  };
  void* made = nullptr;
  RNNK_LT(MatmulDescCreate, &made, types.compute, types.result);
  Owned description(made, lt.MatmulDescDestroy);
  const int32_t op_a = key.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N, op_b = key.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
  RNNK_LT(MatmulDescSetAttribute, made, CUBLASLT_MATMUL_DESC_TRANSA, &op_a, sizeof op_a);
  RNNK_LT(MatmulDescSetAttribute, made, CUBLASLT_MATMUL_DESC_TRANSB, &op_b, sizeof op_b);
  Plan plan{handle_of(s, key.device, p),
            std::move(description),
            operand(key.b_transposed, key.k, key.n, key.ldb, key.b_stride),
            operand(key.a_transposed, key.m, key.k, key.lda, key.a_stride),
            layout(types.result, key.n, key.m, key.ldc, key.c_stride),
            {}};

  RNNK_LT(MatmulPreferenceCreate, &made);
  const Owned preference(made, lt.MatmulPreferenceDestroy);
  const uint64_t limit = key.workspace_bytes;
  RNNK_LT(MatmulPreferenceSetAttribute, made, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &limit, sizeof limit);
  const auto aligned = [&](int attribute, uint32_t bytes) {
    RNNK_LT(MatmulPreferenceSetAttribute, made, attribute, &bytes, sizeof bytes);
  };
  aligned(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.b_aligned);
  aligned(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.a_aligned);
  aligned(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.c_aligned);
  aligned(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.c_aligned);
  Heuristic best{};
  int found = 0;
  RNNK_LT(MatmulAlgoGetHeuristic, plan.handle, plan.description.get(), plan.a.get(), plan.b.get(), plan.c.get(),
          plan.c.get(), made, 1, &best, &found);
  if (found < 1) refused("cublasLtMatmulAlgoGetHeuristic, which knows no algorithm", CUBLAS_STATUS_NOT_SUPPORTED, p);
  if (best.status != CUBLAS_STATUS_SUCCESS) refused("cublasLtMatmulAlgoGetHeuristic's choice", best.status, p);
  plan.algorithm = best.algorithm;
  return std::make_shared<const Plan>(std::move(plan));
}

std::shared_ptr<const Plan> plan_for(const Key& key, const MatrixProduct& p) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  const std::string why = open(s);
  if (!why.empty()) fail(RNNK_NOT_SUPPORTED, "%s", why.c_str());
  if (const auto found = s.plans.find(key); found != s.plans.end()) return found->second;
  auto made = make_plan(s, key, p);
  if (s.plans.size() >= kMostPlans) s.plans.clear();  // those in use live until their calls are done
  s.plans.emplace(key, made);
  return made;
}

void clear_result(const MatrixProduct& p, void* stream) {
  const int64_t size = result_bytes(p.precision);
  const bool rows_touch = p.m == 1 || p.ldc == p.n, all_touch = rows_touch && (p.batch == 1 || p.c_stride == p.m * p.n);
  const int64_t batches = all_touch ? 1 : p.batch, rows = rows_touch ? 1 : p.m;
  const int64_t elements = p.n * (rows_touch ? p.m : 1) * (all_touch ? p.batch : 1);
  for (int64_t i = 0; i < batches; ++i) {
    for (int64_t r = 0; r < rows; ++r) {
      clear(static_cast<char*>(p.c) + (i * p.c_stride + r * p.ldc) * size, elements * size, stream);
    }
  }
}

}  // namespace

void multiply(const MatrixProduct& p, void* workspace, int64_t workspace_bytes, int device, void* stream) {
  check_product(p, workspace);
  if (p.m == 0 || p.n == 0 || p.batch == 0) return;
  const OnDevice here(device);
  if (p.k == 0) {
    if (!p.accumulate) clear_result(p, stream);
    return;
  }
  const std::shared_ptr<const Plan> plan = plan_for(key_of(p, workspace_bytes, device), p);
  const Library& lt = state().library;
  // The scalars have the type of the sums, and are read before the call returns.
  const double one = 1, beta = p.accumulate ? 1 : 0;
  const float one_float = 1, beta_float = p.accumulate ? 1.f : 0.f;
  const bool wide = p.precision == Precision::f64;
  RNNK_LT(Matmul, plan->handle, plan->description.get(), wide ? static_cast<const void*>(&one) : &one_float, p.b.data,
          plan->a.get(), p.a.data, plan->b.get(), wide ? static_cast<const void*>(&beta) : &beta_float, p.c, plan->c.get(),
          p.c, plan->c.get(), &plan->algorithm, workspace, static_cast<size_t>(workspace_bytes), stream);
}

const char* blas_unavailable() {
  thread_local std::string why;
  State& s = state();
  const std::lock_guard lock(s.mutex);
  why = open(s);
  return why.c_str();
}

void set_blas_path(const char* path) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  s.path = path ? path : "";
}

}  // namespace gpu
}  // namespace rnnk
