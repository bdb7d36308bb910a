// The part of cuBLASLt's C interface that blas.cpp calls, so that it needs neither NVIDIA's headers to compile nor the library
// to link. Names and values are those of cublasLt.h, cublas_api.h and library_types.h, compared in versions 12.9.3 and 13.10.0;
// tests/cuda/test_blas.py compares them again where those headers are installed.
//
// Descriptors are always made by the library's own Create functions: 13 has enlarged two of them (layouts from 8 words to 14,
// preferences from 8 to 12), so memory of a size known here would be wrong for one of the two. What the caller does own, an
// algorithm and a heuristic's result, has the same size in both. cudaStream_t is the driver's CUstream, and statuses and
// attributes are C enums, passed as int.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace rnnk {
namespace gpu {
namespace cublaslt {

enum : int { CUDA_R_32F = 0, CUDA_R_64F = 1, CUDA_R_16F = 2, CUDA_R_16BF = 14 };
enum : int {
  CUBLAS_COMPUTE_32F = 68,
  CUBLAS_COMPUTE_32F_PEDANTIC = 69,
  CUBLAS_COMPUTE_64F = 70,
  CUBLAS_COMPUTE_32F_FAST_TF32 = 77
};
enum : int { CUBLAS_OP_N = 0, CUBLAS_OP_T = 1 };
enum : int {
  CUBLAS_STATUS_SUCCESS = 0,
  CUBLAS_STATUS_ALLOC_FAILED = 3,
  CUBLAS_STATUS_ARCH_MISMATCH = 8,
  CUBLAS_STATUS_NOT_SUPPORTED = 15
};
enum : int { CUBLASLT_MATMUL_DESC_TRANSA = 3, CUBLASLT_MATMUL_DESC_TRANSB = 4 };                         // int32_t
enum : int { CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT = 5, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET = 6 };  // int32_t, int64_t
enum : int {
  CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES = 1,    // uint64_t
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES = 5,  // uint32_t, as the next three
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES = 6,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES = 7,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES = 8
};

struct Algorithm {  // cublasLtMatmulAlgo_t
  uint64_t data[8];
};
struct Heuristic {  // cublasLtMatmulHeuristicResult_t
  Algorithm algorithm;
  size_t workspace_bytes;
  int status;
  float waves;
  int reserved[4];
};
static_assert(sizeof(Heuristic) == 96 && offsetof(Heuristic, status) == 72, "the layout of cublasLtMatmulHeuristicResult_t");

// name without "cublasLt", type
#define RNNK_CUBLASLT(FUNCTION)                                                                                          \
  FUNCTION(GetVersion, size_t())                                                                                         \
  FUNCTION(GetStatusName, const char*(int status))                                                                       \
  FUNCTION(Create, int(void** handle))                                                                                   \
  FUNCTION(MatmulDescCreate, int(void** description, int compute, int scale_type))                                       \
  FUNCTION(MatmulDescSetAttribute, int(void* description, int attribute, const void* value, size_t bytes))               \
  FUNCTION(MatmulDescDestroy, int(void* description))                                                                    \
  FUNCTION(MatrixLayoutCreate, int(void** layout, int type, uint64_t rows, uint64_t columns, int64_t ld))                \
  FUNCTION(MatrixLayoutSetAttribute, int(void* layout, int attribute, const void* value, size_t bytes))                  \
  FUNCTION(MatrixLayoutDestroy, int(void* layout))                                                                       \
  FUNCTION(MatmulPreferenceCreate, int(void** preference))                                                               \
  FUNCTION(MatmulPreferenceSetAttribute, int(void* preference, int attribute, const void* value, size_t bytes))          \
  FUNCTION(MatmulPreferenceDestroy, int(void* preference))                                                               \
  FUNCTION(MatmulAlgoGetHeuristic, int(void* handle, void* description, void* a_layout, void* b_layout, void* c_layout,  \
                                       void* d_layout, void* preference, int asked, Heuristic* results, int* returned))  \
  FUNCTION(Matmul, int(void* handle, void* description, const void* alpha, const void* a, void* a_layout, const void* b, \
                       void* b_layout, const void* beta, const void* c, void* c_layout, void* d, void* d_layout,         \
                       const Algorithm* algorithm, void* workspace, size_t workspace_bytes, void* stream))

struct Library {
#define RNNK_MEMBER(name, ...) std::add_pointer_t<__VA_ARGS__> name = nullptr;
  RNNK_CUBLASLT(RNNK_MEMBER)
#undef RNNK_MEMBER
};

}  // namespace cublaslt
}  // namespace gpu
}  // namespace rnnk
