/* rnnkern's C ABI: fused recurrent kernels, forward and back-propagation through time.
 *
 * A *problem* says what: one layer in one direction. A *plan* is a problem bound to a kernel: it knows sizes and
 * packed layouts and owns neither weights nor buffers. The caller allocates everything (64-byte aligned where it says so).
 * Sequence length, batch and row lengths come with each call.
 *
 * On a GPU (problem.device = RNNK_CUDA) every pointer to an array, `lengths`, `mask` and `reset` included, is to memory of that
 * device, and every function that takes `cuda_stream` only puts work on that stream: it waits for nothing and allocates nothing,
 * so it may be captured in a CUDA graph (after the first call of that shape on the device, which prepares products over time). What a kernel finds wrong with device memory (a length outside [0, T]) it clamps, and
 * the next call on that device, or rnnk_device_check(), reports it.
 *
 *     rnnk_plan_create -> rnnk_plan_sizes -> rnnk_pack_weights -> rnnk_forward -> rnnk_backward -> rnnk_plan_destroy
 *
 * Shapes stand in brackets: T seq_len, B batch, I input_size, H hidden_size, P entries of h (H without a projection),
 * G gates (RNN 1, GRU 3, LSTM and sLSTM 4),
 * C entries of the states behind h: H for c of LSTM, 3*H for c n m of sLSTM, which stand side by side in a row. Of its states
 * n is at least 0, and where it is 0 nothing is stored: c is to be 0 there too, and m counts for nothing. sLSTM has no clip,
 * activations, RNNK_LAYER_NORM or zoneout[1].
 * Gate order is PyTorch's: LSTM i f g o, GRU r z n; sLSTM i f z o. Strides are in elements. Every function that can fail returns an
 * rnnk_status; rnnk_last_error() has the sentence. Nothing prints, aborts or exits. All functions are thread-safe; a plan
 * is immutable and may be used by many threads at once.
 *
 * Compatibility: structs begin with struct_size (set it to sizeof); fields and enum values are only ever appended, and what a
 * caller's older struct lacks counts as zero.
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
  RNNK_NO_BIAS = 1,   /* problem flag: b_ih and b_hh are absent (zero) */
  RNNK_REVERSE = 2,   /* problem flag: walk each row from its last valid step to step 0 */
  RNNK_RECOMPUTE = 4, /* problem flag: the reserve keeps the states of some steps alone and grows with sqrt(T); rnnk_backward
                        runs the forward again, with the same results to the bit (on a GPU, whose segments are of 4096 rows and more,
                        but for what cuBLASLt makes of another number of rows). It does not read y then. */
  /* Options of the step, as problem flags (ARCHITECTURE.md, "Options"): */
  RNNK_PEEPHOLE = 8,      /* LSTM: i, f see c', o the new c */
  RNNK_COUPLED = 16,      /* LSTM: f = 1 - i; the rows of f stand in the weights and are not used */
  RNNK_RESET_BEFORE = 32, /* GRU: the reset gate before the product (arXiv 1406.1078v3) */
  RNNK_LAYER_NORM = 64,   /* gx and gh are normalised over a row before their biases, and the c of an LSTM's output */
  RNNK_INDEPENDENT = 128, /* Elman: h = f(gx + u * h' + b_hh) with a vector u (IndRNN, arXiv 1803.04831) */
  RNNK_MASKED = 256,      /* rnnk_args.mask and .reset may be given */
  RNNK_TF32 =
      512 /* RNNK_CUDA, float32: products may round their operands to 10 bits of mantissa; states and sums are float32 */
};

/* ONNX's activations (onnx/defs/rnn): alpha and beta are read where the formula has them. */
typedef enum rnnk_activation_kind {
  RNNK_OF_CELL = 0, /* the cell's own */
  RNNK_RELU = 1,    /* max(x, 0) */
  RNNK_TANH = 2,
  RNNK_SIGMOID = 3,
  RNNK_AFFINE = 4,           /* alpha x + beta */
  RNNK_LEAKY_RELU = 5,       /* x < 0 ? alpha x : x */
  RNNK_THRESHOLDED_RELU = 6, /* x > alpha ? x : 0 */
  RNNK_SCALED_TANH = 7,      /* alpha tanh(beta x) */
  RNNK_HARD_SIGMOID = 8,     /* min(max(alpha x + beta, 0), 1) */
  RNNK_ELU = 9,              /* x < 0 ? alpha (exp(x) - 1) : x */
  RNNK_SOFTSIGN = 10,        /* x / (1 + |x|) */
  RNNK_SOFTPLUS = 11         /* log(1 + exp(x)) */
} rnnk_activation_kind;
typedef struct rnnk_activation {
  int32_t kind; /* rnnk_activation_kind */
  double alpha, beta;
} rnnk_activation;

/* What is computed: one layer, one direction. */
typedef struct rnnk_problem {
  uint32_t struct_size;
  int32_t cell;         /* rnnk_cell */
  int32_t dtype;        /* rnnk_dtype of x, y, h and the weights */
  int32_t device;       /* rnnk_device */
  int32_t device_index; /* 0 for the CPU, CUDA's number of a GPU */
  uint32_t flags;       /* RNNK_NO_BIAS | RNNK_REVERSE | ... above */
  int64_t input_size;   /* I >= 1 */
  int64_t hidden_size;  /* H >= 1 */
  /* Options of the step; 0 is neutral for each. */
  int64_t proj_size;              /* P: h = W_hr (o * h(c)) has P entries; LSTM alone. 0: h has H, and P = H below */
  int64_t heads;                  /* weight_hh is block-diagonal, of so many blocks: [G*H, H/heads] */
  double clip;                    /* > 0: the inputs of gates and candidate are bounded to [-clip, clip] */
  rnnk_activation activations[3]; /* LSTM: of i f o, of g, of c in the output; GRU: of r z, of n; Elman: one */
  double zoneout[2];        /* in [0, 1]: h, and c, keep their old value: at random with RNNK_TRAIN, else this share of it */
  double recurrent_dropout; /* in [0, 1]: with RNNK_TRAIN one mask a row on what the recurrent product multiplies */
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
  const void* weight_hh; /* [G*H, P], with heads [G*H, H/heads] */
  const void* bias_ih;   /* [G*H], NULL with RNNK_NO_BIAS */
  const void* bias_hh;   /* [G*H], NULL with RNNK_NO_BIAS */
  const void* weight_hr; /* [P, H] with a projection */
  /* [K, H], K = rnnk_plan_param_rows: peepholes of i f o (3); u and b_hh of RNNK_INDEPENDENT (2, b_hh zero without bias; weight_hh
   * and bias_hh are NULL then); with RNNK_LAYER_NORM the factors of gx (G) and gh (G), and of LSTM's c its factor and
   * shift (2). NULL where K is 0. */
  const void* params;
  void* cuda_stream; /* cudaStream_t of RNNK_CUDA; NULL: the default stream */
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
  rnnk_tensor h_0, c_0;   /* [B, P], [B, C]; c_0 only where the cell has a cell state */
  rnnk_tensor y;          /* [T, B, P]; written by forward (zero past each row's length), read by backward */
  rnnk_tensor h_n, c_n;   /* [B, P], [B, C] out */
  void* reserve;          /* forward: NULL for inference; backward: as forward left it, not written; 64-byte aligned */
  size_t reserve_size;
  void* workspace; /* scratch, contents irrelevant; 64-byte aligned */
  size_t workspace_size;
  /* rnnk_backward only */
  rnnk_tensor dy;                /* [T, B, P] */
  rnnk_tensor dh_n, dc_n;        /* [B, P], [B, C] */
  rnnk_tensor dx;                /* [T, B, I] out; zero past each row's length */
  rnnk_tensor dh_0, dc_0;        /* [B, P], [B, C] out */
  void *dweight_ih, *dweight_hh; /* out, contiguous, shapes and dtype of the weights; overwritten */
  void *dbias_ih, *dbias_hh;     /* out */
  /* Options */
  void *dweight_hr, *dparams; /* out of rnnk_backward: of weight_hr and params */
  const uint8_t* mask;   /* [T, B] contiguous, with RNNK_MASKED: 0 holds the state in that step; y is 0, x is not read */
  const uint8_t* reset;  /* [T, B] contiguous, with RNNK_MASKED: not 0: the state is zero before that step */
  rnnk_tensor dh;        /* [T, B, P] out of rnnk_backward: the gradient of each step's h, through all that follows; not
                                 written past a row's length */
  double clip_dh;        /* > 0: rnnk_backward bounds that gradient to [-clip_dh, clip_dh] at every step */
  uint64_t seed;         /* of random masks, with RNNK_TRAIN: Philox4x32-10, key seed, counter (call, stream, */
  uint32_t call, stream; /* first_step + t, row * units + unit); word 1: zoneout of h, 2: of c; 3, at step 0: recurrent */
  int64_t first_step;    /* dropout */
  void* cuda_stream;     /* cudaStream_t of RNNK_CUDA; NULL: the default stream */
} rnnk_args;

enum {
  RNNK_ACCUMULATE_DX = 1, /* dx += instead of dx = : the second direction of a layer */
  RNNK_TRAIN = 2          /* zoneout and recurrent dropout draw their masks; the same in rnnk_backward as in rnnk_forward */
};

typedef struct rnnk_plan rnnk_plan;

/* kernel: a name from rnnk_kernel_name to force one, or NULL: RNNKERN_KERNEL if set, else the smallest estimate. */
RNNK_API rnnk_status rnnk_plan_create(const rnnk_problem* problem, const char* kernel, rnnk_plan** plan);
RNNK_API void rnnk_plan_destroy(rnnk_plan* plan);
RNNK_API const char* rnnk_plan_kernel(const rnnk_plan* plan);
/* K of rnnk_weights.params [K, H]; 0 when there are none. */
RNNK_API int64_t rnnk_plan_param_rows(const rnnk_plan* plan);
/* Plans with the same number read each other's packs: same kernel, device, cell, sizes, dtype and options that have parameters;
 * RNNK_REVERSE, RNNK_RECOMPUTE, RNNK_MASKED and the other options may differ. 0 for NULL. */
RNNK_API uint64_t rnnk_plan_pack_layout(const rnnk_plan* plan);
RNNK_API rnnk_status rnnk_plan_sizes(const rnnk_plan* plan, int64_t seq_len, int64_t batch, rnnk_sizes* sizes);
/* Estimated microseconds of a forward (backward != 0: of a backward) call; what decides whether a lock is worth releasing. */
RNNK_API double rnnk_plan_estimate(const rnnk_plan* plan, int64_t seq_len, int64_t batch, int32_t backward);

/* The calls that will read a pack. A pack for one of them takes half of the work; the size is the same.
 *
 * On the CPU a pack begins with a header, and a call refuses bytes that are no pack, a pack of a plan with another
 * rnnk_plan_pack_layout, and a pack without the half that the call needs. Packing the other half into the same bytes completes it.
 * On a GPU a pack has no header: the caller compares layouts. */
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
/* Two rnnk_backward calls, one after the other: the same results, and where it is faster, at the same time. They may share dx,
 * which the second then adds to (RNNK_ACCUMULATE_DX); they must not share other outputs, reserves or workspaces. Two calls that
 * share dx need room for a second one to run at the same time: give other_args.workspace rnnk_backward_both_workspace bytes. That
 * is rnnk_sizes.workspace_backward, which is always enough, or at most 8 MiB more (on a GPU 128 MiB). */
RNNK_API rnnk_status rnnk_backward_both(const rnnk_plan* one, const rnnk_args* one_args, const rnnk_plan* other,
                                        const rnnk_args* other_args);
RNNK_API rnnk_status rnnk_backward_both_workspace(const rnnk_plan* one, const rnnk_plan* other, int64_t seq_len,
                                                  int64_t batch, size_t* bytes);
/* rnnk_forward of a stack of layers, the x of each being the y of the one below: the same results, and where it is faster, as a
 * wavefront (each layer some steps behind the one below it, at the same time). On a CPU that needs h_n, and c_n where there is
 * one in float32 (float64), of every layer, no lengths, no reserve and no RNNK_REVERSE; on a GPU, where each layer is on a stream
 * that follows cuda_stream and that it follows in turn, all layers walking the same way, and not RNNK_RECOMPUTE in training.
 * Other stacks go layer by layer. They must not share workspaces. A GPU's wavefront forms products over time of fewer rows at a
 * time, which cuBLASLt may add up in another order. */
RNNK_API rnnk_status rnnk_forward_stack(const rnnk_plan* const* plans, const rnnk_args* const* args, int32_t layers);
/* rnnk_backward of a stack of layers, from the last down, the dx of each being the dy of the one below: as above. A CPU goes layer
 * by layer. A GPU's wavefront adds gradients of weights up by its own blocks of steps. */
RNNK_API rnnk_status rnnk_backward_stack(const rnnk_plan* const* plans, const rnnk_args* const* args, int32_t layers);

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
  int32_t device, device_index; /* rnnk_device, where `in`, `out` and `lengths` are */
  void* cuda_stream;
} rnnk_dropout_args;
RNNK_API rnnk_status rnnk_dropout(const rnnk_dropout_args* args);

/* Cells: gates G, states (1: h; 2: h and c; 4: h, c, n and m), activations that rnnk_problem.activations may replace; negative
 * for an unknown cell. rnnk_cell_name(i) is NULL past the last. rnnk_cell_option is the name of an option that the cell takes and
 * not every cell does, NULL past the last: every cell takes zoneout of h, recurrent_dropout and heads. */
RNNK_API const char* rnnk_cell_name(int32_t cell);
RNNK_API int32_t rnnk_cell_gates(int32_t cell);
RNNK_API int32_t rnnk_cell_states(int32_t cell);
RNNK_API int32_t rnnk_cell_activations(int32_t cell);
RNNK_API const char* rnnk_cell_option(int32_t cell, int32_t index);

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

/* GPUs this library can use: 0 where it was built without CUDA, or there is no driver (rnnk_devices_unavailable says which; it
 * is an empty string where there are some). */
RNNK_API int32_t rnnk_device_count(void);
RNNK_API const char* rnnk_devices_unavailable(void);
typedef struct rnnk_device_info {
  uint32_t struct_size;
  int32_t capability; /* 90 for 9.0 */
  int32_t multiprocessors;
  int64_t shared_per_block; /* bytes a block can have */
  int64_t memory;           /* bytes */
  char name[64];
} rnnk_device_info;
RNNK_API rnnk_status rnnk_get_device_info(int32_t device_index, rnnk_device_info* info);
/* Reports, once, what kernels on this device found wrong since the last report. Waits for nothing: what is still to run has not
 * been looked at. */
RNNK_API rnnk_status rnnk_device_check(int32_t device_index);
/* The file of cuBLASLt for products over time, where the loader's path does not lead to one. Before the first call that needs it. */
RNNK_API rnnk_status rnnk_set_cublaslt(const char* path);

/* Threads of the library's own team, the caller's included. Default: RNNKERN_NUM_THREADS, else the CPUs this process may
 * use. Waits for a running kernel to finish. */
RNNK_API rnnk_status rnnk_set_num_threads(int32_t threads);
RNNK_API int32_t rnnk_get_num_threads(void);
/* A host that has threads of its own lends them, so that two pools do not fight for the cores: `parallel` calls fn(data) on
 * `threads` threads (fewer will do), the caller among them, and returns when all calls have returned (GOMP_parallel is one: flags
 * is 0). index: the number of the calling thread in there, 0 for the caller; NULL when there is none. count: how many threads the
 * calling thread may use (omp_get_max_threads is one), asked at each call of the library; neither the team nor
 * rnnk_get_num_threads is ever larger. NULL: as many as rnnk_set_num_threads said. parallel NULL: the library's own threads, as
 * after a fork in the child, where count stays. Do not lend threads to a process that was forked after they were used. Results
 * have the same bits. */
typedef void (*rnnk_parallel)(void (*fn)(void* data), void* data, unsigned threads, unsigned flags);
typedef int (*rnnk_thread_index)(void);
typedef int (*rnnk_thread_count)(void);
RNNK_API rnnk_status rnnk_set_pool(rnnk_parallel parallel, rnnk_thread_index index, rnnk_thread_count count);
RNNK_API int32_t rnnk_pool_is_lent(void);

RNNK_API const char* rnnk_version(void);      /* "0.1.0" */
RNNK_API const char* rnnk_cpu_features(void); /* "avx2 fma avx512f ..." */
RNNK_API const char* rnnk_last_error(void);   /* of this thread; valid until its next failing call */

#ifdef __cplusplus
}
#endif
#endif
