/* rnnkern's C ABI: fused recurrent kernels, forward and back-propagation through time.
 *
 * A *problem* says what: one layer in one direction. A *plan* is a problem bound to a kernel: it knows sizes and
 * packed layouts and owns neither weights nor buffers. The caller allocates everything (64-byte aligned where it says so).
 * Sequence length, batch and row lengths come with each call.
 *
 *     rnnk_plan_create -> rnnk_plan_sizes -> rnnk_pack_weights -> rnnk_forward -> rnnk_backward -> rnnk_plan_destroy
 *
 * Shapes stand in brackets: T seq_len, B batch, I input_size, H hidden_size, G gates (RNN 1, GRU 3, LSTM 4).
 * Gate order is PyTorch's: LSTM i f g o, GRU r z n. Strides are in elements. Every function that can fail returns an
 * rnnk_status; rnnk_last_error() has the sentence. Nothing prints, aborts or exits. All functions are thread-safe; a plan
 * is immutable and may be used by many threads at once.
 *
 * Compatibility: structs begin with struct_size (set it to sizeof); fields and enum values are only ever appended.
 */
#ifndef RNNKERN_RNNKERN_H
#define RNNKERN_RNNKERN_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#  if defined(RNNK_BUILDING)
#    define RNNK_API __declspec(dllexport)
#  elif defined(RNNK_STATIC)
#    define RNNK_API
#  else
#    define RNNK_API __declspec(dllimport)
#  endif
#else
#  define RNNK_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum rnnk_status {
  RNNK_OK = 0,
  RNNK_INVALID_VALUE = 1, /* ValueError: a size, pointer, length or name does not fit */
  RNNK_INVALID_TYPE = 2,  /* TypeError: a dtype does not fit */
  RNNK_NOT_SUPPORTED = 3, /* NotImplementedError: no kernel does this; the reason names the fact */
  RNNK_OUT_OF_MEMORY = 4, /* MemoryError */
  RNNK_RUNTIME_ERROR = 5  /* RuntimeError: anything else, named */
} rnnk_status;

typedef enum rnnk_dtype {
  RNNK_FLOAT32 = 0,
  RNNK_FLOAT64 = 1,
  RNNK_BFLOAT16 = 2, /* summed in float32 */
  RNNK_FLOAT16 = 3   /* storage only: computed in float32 */
} rnnk_dtype;

typedef enum rnnk_device { RNNK_CPU = 0, RNNK_CUDA = 1 } rnnk_device;

/* RNNK_CELL_lstm, RNNK_CELL_gru, ... one per line of cells.inc */
typedef enum rnnk_cell {
#define RNNK_CELL(value, name, type) RNNK_CELL_##name = value,
#include "rnnkern/cells.inc"
#undef RNNK_CELL
  RNNK_CELL_FORCE_INT = 0x7fffffff
} rnnk_cell;

enum {
  RNNK_NO_BIAS = 1,  /* problem flag: b_ih and b_hh are absent (zero) */
  RNNK_REVERSE = 2,  /* problem flag: walk each row from its last valid step to step 0 */
  RNNK_RECOMPUTE = 4 /* problem flag: the reserve keeps the states of some steps alone and grows with sqrt(T); rnnk_backward
                        runs the forward again, with the same results to the bit. It does not read y then. */
};

/* What is computed: one layer, one direction. */
typedef struct rnnk_problem {
  uint32_t struct_size;
  int32_t cell;         /* rnnk_cell */
  int32_t dtype;        /* rnnk_dtype of x, y, h and the weights */
  int32_t device;       /* rnnk_device */
  int32_t device_index; /* 0 for the CPU */
  uint32_t flags;       /* RNNK_NO_BIAS | RNNK_REVERSE | RNNK_RECOMPUTE */
  int64_t input_size;   /* I >= 1 */
  int64_t hidden_size;  /* H >= 1 */
} rnnk_problem;

/* Bytes the caller provides. */
typedef struct rnnk_sizes {
  uint32_t struct_size;
  size_t packed;             /* packed weights, for forward and backward; depends on the problem alone */
  size_t reserve;            /* what a training forward keeps for BPTT; grows with T*B */
  size_t workspace_forward;  /* scratch of rnnk_forward; bounded in T */
  size_t workspace_backward; /* scratch of rnnk_backward; bounded in T, with RNNK_RECOMPUTE in sqrt(T) */
} rnnk_sizes;

/* A strided view. data == NULL means absent. Inputs are never written to. */
typedef struct rnnk_tensor {
  void* data;
  int64_t stride[3]; /* elements; [B,H] tensors use the first two */
  int32_t dtype; /* rnnk_dtype; c and every gradient of a state may be float32 where the problem's dtype is a half type */
} rnnk_tensor;

/* One layer's parameters, contiguous, in the problem's dtype, PyTorch's layout. */
typedef struct rnnk_weights {
  uint32_t struct_size;
  const void* weight_ih; /* [G*H, I] */
  const void* weight_hh; /* [G*H, H] */
  const void* bias_ih;   /* [G*H], NULL with RNNK_NO_BIAS */
  const void* bias_hh;   /* [G*H], NULL with RNNK_NO_BIAS */
} rnnk_weights;

/* The tensors of one call. Absent h_0, c_0, dy, dh_n, dc_n count as zero; absent outputs are not computed. */
typedef struct rnnk_args {
  uint32_t struct_size;
  uint32_t flags;         /* RNNK_ACCUMULATE_DX */
  int64_t seq_len;        /* T >= 0 */
  int64_t batch;          /* B >= 0 */
  const int64_t* lengths; /* [B] each in [0, T], any order, or NULL for T everywhere */
  const void* packed;     /* from rnnk_pack_weights; 64-byte aligned */
  rnnk_tensor x;          /* [T, B, I] */
  rnnk_tensor h_0, c_0;   /* [B, H]; c_0 only where the cell has a cell state */
  rnnk_tensor y;          /* [T, B, H]; written by forward (zero past each row's length), read by backward */
  rnnk_tensor h_n, c_n;   /* [B, H] out */
  void* reserve;          /* forward: NULL for inference; backward: as forward left it, not written; 64-byte aligned */
  size_t reserve_size;
  void* workspace; /* scratch, contents irrelevant; 64-byte aligned */
  size_t workspace_size;
  /* rnnk_backward only */
  rnnk_tensor dy;                /* [T, B, H] */
  rnnk_tensor dh_n, dc_n;        /* [B, H] */
  rnnk_tensor dx;                /* [T, B, I] out; zero past each row's length */
  rnnk_tensor dh_0, dc_0;        /* [B, H] out */
  void *dweight_ih, *dweight_hh; /* out, contiguous, shapes and dtype of the weights; overwritten */
  void *dbias_ih, *dbias_hh;     /* out */
} rnnk_args;

enum { RNNK_ACCUMULATE_DX = 1 /* dx += instead of dx = : the second direction of a layer */ };

typedef struct rnnk_plan rnnk_plan;

/* kernel: a name from rnnk_kernel_name to force one, or NULL: RNNKERN_KERNEL if set, else the smallest estimate. */
RNNK_API rnnk_status rnnk_plan_create(const rnnk_problem* problem, const char* kernel, rnnk_plan** plan);
RNNK_API void rnnk_plan_destroy(rnnk_plan* plan);
RNNK_API const char* rnnk_plan_kernel(const rnnk_plan* plan);
RNNK_API rnnk_status rnnk_plan_sizes(const rnnk_plan* plan, int64_t seq_len, int64_t batch, rnnk_sizes* sizes);
/* Estimated microseconds of a forward (backward != 0: of a backward) call; what decides whether a lock is worth releasing. */
RNNK_API double rnnk_plan_estimate(const rnnk_plan* plan, int64_t seq_len, int64_t batch, int32_t backward);

/* What a pack will be used for. Half of the work, for half of the use; the size is the same. */
typedef enum rnnk_pack { RNNK_PACK_FORWARD = 0, RNNK_PACK_BOTH = 1, RNNK_PACK_BACKWARD = 2 } rnnk_pack;
/* packed: rnnk_sizes.packed bytes, 64-byte aligned. backward: a value of rnnk_pack. */
RNNK_API rnnk_status rnnk_pack_weights(const rnnk_plan* plan, const rnnk_weights* weights, int32_t backward, void* packed,
                                       size_t packed_size);
RNNK_API rnnk_status rnnk_forward(const rnnk_plan* plan, const rnnk_args* args);
RNNK_API rnnk_status rnnk_backward(const rnnk_plan* plan, const rnnk_args* args);
/* Two rnnk_forward calls that need nothing of each other, such as the directions of a layer: the same results, and where it is
 * faster, at the same time. They must not share outputs, reserves or workspaces. */
RNNK_API rnnk_status rnnk_forward_both(const rnnk_plan* one, const rnnk_args* one_args, const rnnk_plan* other,
                                       const rnnk_args* other_args);
/* rnnk_forward of a stack of layers, the x of each being the y of the one below: the same results, and where it is faster, as a
 * wavefront (each layer some steps behind the one below it, at the same time). That needs h_n, and c_n where there is one in
 * float32 (float64), of every layer, no lengths, no reserve and no RNNK_REVERSE; other stacks go layer by layer. They must not
 * share workspaces. */
RNNK_API rnnk_status rnnk_forward_stack(const rnnk_plan* const* plans, const rnnk_args* const* args, int32_t layers);

/* out = keep ? in / (1 - p) : 0 with the counter-based mask of ARCHITECTURE.md: Philox4x32-10, key seed,
 * counter (call, stream, t, row * H + unit). in, out: [T, B, H], may be the same; its gradient is the same call on dy.
 * lengths as in rnnk_args: steps past a row's length are written as zero. */
typedef struct rnnk_dropout_args {
  uint32_t struct_size;
  uint32_t call;   /* number of the training call */
  uint32_t stream; /* layer * directions + direction */
  double p;        /* in [0, 1] */
  uint64_t seed;
  int64_t seq_len, batch, hidden_size;
  const int64_t* lengths;
  rnnk_tensor in, out;
} rnnk_dropout_args;
RNNK_API rnnk_status rnnk_dropout(const rnnk_dropout_args* args);

/* Cells: gates G, states (1: h, 2: h and c). Negative for an unknown cell. rnnk_cell_name(i) is NULL past the last. */
RNNK_API const char* rnnk_cell_name(int32_t cell);
RNNK_API int32_t rnnk_cell_gates(int32_t cell);
RNNK_API int32_t rnnk_cell_states(int32_t cell);

/* The compiled kernels, in list order; NULL past the last. rnnk_kernel_unavailable says why this machine cannot run it, or
 * is an empty string. */
RNNK_API const char* rnnk_kernel_name(int32_t index);
RNNK_API const char* rnnk_kernel_unavailable(int32_t index);

/* What kernel `index` says of a problem at this size. */
typedef struct rnnk_verdict {
  uint32_t struct_size;
  int32_t declined;  /* 1: reason says why, with the numbers */
  double forward_us; /* estimates; 0 when declined */
  double backward_us;
  char reason[240];
} rnnk_verdict;
RNNK_API rnnk_status rnnk_explain(const rnnk_problem* problem, int64_t seq_len, int64_t batch, int32_t index,
                                  rnnk_verdict* verdict);

/* Threads of the library's own team, the caller's included. Default: RNNKERN_NUM_THREADS, else the CPUs this process may
 * use. Waits for a running kernel to finish. */
RNNK_API rnnk_status rnnk_set_num_threads(int32_t threads);
RNNK_API int32_t rnnk_get_num_threads(void);
/* A host that has threads of its own lends them, so that two pools do not fight for the cores: `parallel` calls fn(data) on
 * `threads` threads (fewer will do), the caller among them, and returns when all calls have returned (GOMP_parallel is one: flags
 * is 0). It is always asked for this number, and rnnk_get_num_threads is never more. index: the number of the calling thread in
 * there, 0 for the caller; NULL when there is none. parallel NULL: the library's own threads again, as after a fork in the child:
 * do not lend threads to a process that was forked after they were used. Results have the same bits. */
typedef void (*rnnk_parallel)(void (*fn)(void* data), void* data, unsigned threads, unsigned flags);
typedef int (*rnnk_thread_index)(void);
RNNK_API rnnk_status rnnk_set_pool(rnnk_parallel parallel, rnnk_thread_index index, int32_t threads);
RNNK_API int32_t rnnk_pool_is_lent(void);

RNNK_API const char* rnnk_version(void);      /* "0.1.0" */
RNNK_API const char* rnnk_cpu_features(void); /* "avx2 fma avx512f ..." */
RNNK_API const char* rnnk_last_error(void);   /* of this thread; valid until its next failing call */

#ifdef __cplusplus
}
#endif
#endif
