/* rnnkern's C ABI: fused recurrent networks, forward and back-propagation through time.
 *
 * A *problem* describes a network: a cell with its options, layers, directions, dropout between layers, sizes, dtype, device.
 * A *plan* is a problem bound to one kernel for each layer. It knows sizes and packed layouts, and owns neither weights nor
 * buffers. The caller allocates everything (64-byte aligned where it says so). Sequence length, batch and row lengths come with
 * each call.
 *
 *     rnnk_plan_create -> rnnk_plan_sizes -> rnnk_pack_weights -> rnnk_forward -> rnnk_backward -> rnnk_plan_destroy
 *
 * Shapes stand in brackets: T seq_len, B batch, I input_size, H hidden_size, P entries of h (H without a projection), L num_layers,
 * D directions, G gates (RNN 1, GRU 3, LSTM and sLSTM 4), C entries of the states after h: H for c of LSTM, 3*H for c n m of sLSTM,
 * side by side in a row. sLSTM requires n >= 0; where n == 0, c must be 0 and m is ignored. sLSTM has no clip, activations,
 * RNNK_PROBLEM_LAYER_NORM or zoneout[1]. Arrays with L*D entries are indexed by layer * D + direction, as in PyTorch.
 * Gate order is PyTorch's: LSTM i f g o, GRU r z n; sLSTM i f z o. Strides are in elements.
 *
 * On a GPU (problem.device = RNNK_CUDA) every pointer to an array, `lengths`, `mask` and `reset` included, is to memory of that
 * device, and every function that takes `cuda_stream` only puts work on that stream: it waits for nothing and allocates nothing,
 * so it may be captured in a CUDA graph (after the first call of that shape on the device, which prepares products over time). A
 * kernel clamps a length outside [0, T], and the next call on that device, or rnnk_device_check(), reports it.
 *
 * Every function that can fail returns an rnnk_status; rnnk_last_error() has the sentence. Nothing prints, aborts or exits. All
 * functions are thread-safe; a plan is immutable and may be used by many threads at once.
 *
 * Compatibility: every struct that is passed by a pointer begins with struct_size (set it to sizeof). Fields and enum values are only
 * ever appended. What a caller's older struct lacks counts as zero, and no more than its size is written. An array of structs is
 * walked by the struct_size of its first element. rnnk_tensor and rnnk_activation never change; their reserved fields must be zero.
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
  RNNK_FLOAT16 = 3,  /* storage only: computed in float32 */
  RNNK_INT32 = 4,    /* lengths only, as the next one */
  RNNK_INT64 = 5,
  RNNK_UINT8 = 6 /* mask and reset only, bool included */
} rnnk_dtype;

typedef enum rnnk_device { RNNK_CPU = 0, RNNK_CUDA = 1 } rnnk_device;

/* RNNK_CELL_lstm, RNNK_CELL_gru, ... one per line of cells.inc */
typedef enum rnnk_cell {
#define RNNK_CELL(value, name, type) RNNK_CELL_##name = value,
#include "rnnkern/cells.inc"
#undef RNNK_CELL
  RNNK_CELL_FORCE_INT = 0x7fffffff
} rnnk_cell;

/* Flags of rnnk_problem. */
enum {
  RNNK_PROBLEM_NO_BIAS = 1, /* b_ih and b_hh are absent (zero) */
  /* The reserve keeps the states of some steps only and grows with sqrt(T); rnnk_backward runs the forward again. The results have
   * the same bits (on a GPU, whose segments have 4096 rows and more, except for the order in which cuBLASLt adds up another number
   * of rows). */
  RNNK_PROBLEM_RECOMPUTE = 2,
  RNNK_PROBLEM_TF32 = 4, /* RNNK_CUDA, float32: products may round their operands to 10 bits of mantissa */
  /* Options of the step (ARCHITECTURE.md, "Options"): */
  RNNK_PROBLEM_PEEPHOLE = 8,      /* LSTM: i and f see c', o sees the new c */
  RNNK_PROBLEM_COUPLED = 16,      /* LSTM: f = 1 - i; the weights have rows for f, which are not used */
  RNNK_PROBLEM_RESET_BEFORE = 32, /* GRU: the reset gate before the product (arXiv 1406.1078v3) */
  RNNK_PROBLEM_LAYER_NORM = 64, /* gx and gh are normalised over a row before their biases, and the c of an LSTM's output */
  RNNK_PROBLEM_INDEPENDENT = 128, /* Elman: h = f(gx + u * h' + b_hh) with a vector u (IndRNN, arXiv 1803.04831) */
  /* RNNK_CPU, float32 and float16, inference: a pack keeps weights as bytes, a row of them q * scale with q in [-127, 127] and scale =
   * max |w| / 127; what they multiply (x and h of a row and a step) is rounded in the same way, with a scale of its own. Sums are exact
   * integers. Weights must be finite. A row of x or h with NaN or infinity gives NaN. */
  RNNK_PROBLEM_INT8 = 256,
  /* RNNK_CPU: the x of a call is the input product of the first layer, gx = W_ih x + b_ih with its gates in the order of weight_ih, and
   * dx is its gradient; input_size is D*G*H, and the first layer has no weight_ih and bias_ih. Not with RNNK_PROBLEM_LAYER_NORM. */
  RNNK_PROBLEM_GIVEN_GX = 512,
  /* RNNK_CPU, float32 and float16, inference: a pack keeps the weights of products in bfloat16, rounded half to even, which are widened
   * where they are multiplied. So the results have the bits of the same problem with rounded weights. Not with RNNK_PROBLEM_INT8. */
  RNNK_PROBLEM_BF16_WEIGHTS = 1024
};

/* reverse: a single direction that walks each row from its last valid step to step 0. */
typedef enum rnnk_direction { RNNK_FORWARD_ONLY = 0, RNNK_REVERSE_ONLY = 1, RNNK_BOTH_DIRECTIONS = 2 } rnnk_direction;

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
  int32_t reserved;
  double alpha, beta;
} rnnk_activation;

typedef struct rnnk_problem {
  uint32_t struct_size;
  int32_t cell;         /* rnnk_cell */
  int32_t dtype;        /* rnnk_dtype of x, y, h and the weights */
  int32_t device;       /* rnnk_device */
  int32_t device_index; /* 0 for the CPU, CUDA's number of a GPU */
  uint32_t flags;       /* RNNK_PROBLEM_... */
  int64_t input_size;   /* I >= 1; D*G*H with RNNK_PROBLEM_GIVEN_GX */
  int64_t hidden_size;  /* H >= 1 */
  int64_t num_layers;   /* L; 0 counts as 1 */
  int32_t direction;    /* rnnk_direction of every layer */
  int32_t reserved;
  double dropout; /* in [0, 1]: with RNNK_CALL_TRAIN, on the output of every layer but the last (rnnk_dropout's masks) */
  /* Options of the step; 0 is neutral for each. */
  int64_t proj_size;              /* P: h = W_hr (o * h(c)) has P entries; LSTM only. 0: no projection */
  int64_t heads;                  /* weight_hh is block-diagonal, with so many blocks: [G*H, H/heads] */
  double clip;                    /* > 0: the inputs of gates and candidate are bounded to [-clip, clip] */
  rnnk_activation activations[3]; /* LSTM: of i f o, of g, of c in the output; GRU: of r z, of n; Elman: one */
  double zoneout[2]; /* in [0, 1]: h, and c, keep their old value: at random with RNNK_CALL_TRAIN, else this share of it */
  double recurrent_dropout; /* in [0, 1]: with RNNK_CALL_TRAIN one mask a row on what the recurrent product multiplies */
  /* Hint: a typical call, by which the kernels are chosen. 0: T = 32, B = 16. A hint may change the kernel, and so the bits. */
  int64_t typical_seq_len, typical_batch;
  /* RNNK_BOTH_DIRECTIONS: those of the reverse direction, as ONNX has them; RNNK_OF_CELL: the function in `activations`. */
  rnnk_activation activations_reverse[3];
} rnnk_problem;

/* Bytes the caller provides. A workspace of any size from the least on works, with the same bits: a larger one, up to the one
 * without _least, lets layers and directions run at the same time, on as many threads as the team has when the sizes are asked for. */
typedef struct rnnk_sizes {
  uint32_t struct_size;
  size_t packed;  /* packed weights; depends on the problem alone */
  size_t reserve; /* what a training forward keeps for BPTT; grows with T*B */
  size_t
      workspace_forward; /* CPU, one direction, L <= 256, no dropout: bounded in T. Else up to two [T, B, D*P] (GPU: L - 1) more */
  size_t workspace_forward_least;
  size_t workspace_backward; /* L > 1: up to two [T, B, D*P] (on a GPU L - 1) in addition to what is bounded in T */
  size_t workspace_backward_least;
} rnnk_sizes;

/* rnnk_sizes.reserve is at most constant + per_row * T*B + s(T) * (border_row * B + border), s(T) = ceil(1.6 sqrt(T)), for every T and
 * B: a compiler that knows T and B as symbols can write it down. */
typedef struct rnnk_reserve_bound {
  uint32_t struct_size;
  int64_t constant;
  int64_t per_row;         /* without dropout between layers */
  int64_t per_row_dropped; /* with it: RNNK_CALL_TRAIN and problem.dropout > 0 */
  int64_t border_row, border;
} rnnk_reserve_bound;

/* A strided view. data == NULL means absent. Inputs are never written to. */
typedef struct rnnk_tensor {
  void* data;
  int64_t stride[3]; /* elements; a tensor with fewer axes uses the first ones */
  int32_t dtype; /* rnnk_dtype; c and every gradient of a state may be float32 where the problem's dtype is a half type */
  int32_t reserved;
} rnnk_tensor;

/* The parameters of one layer in one direction in PyTorch's layout, or their gradients: contiguous, in the problem's dtype. */
typedef struct rnnk_weights {
  uint32_t struct_size;
  /* weight_ih [G*H, input size of the layer]: I, and D*P above the first. It and bias_ih are absent in the first layer of a problem with
   * RNNK_PROBLEM_GIVEN_GX. */
  rnnk_tensor weight_ih;
  rnnk_tensor weight_hh; /* [G*H, P], with heads [G*H, H/heads] */
  rnnk_tensor bias_ih;   /* [G*H], absent with RNNK_PROBLEM_NO_BIAS */
  rnnk_tensor bias_hh;   /* [G*H], absent with RNNK_PROBLEM_NO_BIAS */
  rnnk_tensor weight_hr; /* [P, H] with a projection */
  /* [K, H], K = rnnk_plan_param_rows: peepholes of i f o (3); u and b_hh of RNNK_PROBLEM_INDEPENDENT (2, b_hh zero without bias;
   * weight_hh and bias_hh are absent then); with RNNK_PROBLEM_LAYER_NORM the factors of gx (G) and gh (G), and of LSTM's c its
   * factor and shift (2). Absent where K is 0. */
  rnnk_tensor params;
} rnnk_weights;

/* Flag of rnnk_args. */
enum {
  RNNK_CALL_TRAIN =
      1 /* dropout, zoneout and recurrent dropout draw their masks; the same in rnnk_backward as in rnnk_forward */
};

/* Threads of a host for one call, so that two pools do not fight for the cores. Results have the same bits whatever the threads. */
typedef struct rnnk_pool {
  uint32_t struct_size;
  int32_t threads; /* 1 to 256: the most that the call may use, the caller's included */
  /* Calls fn(data) on up to `threads` threads, the caller's among them, and returns when all calls have returned; fewer calls will do,
   * and so will several on one thread. NULL: the library's own team, or the threads that rnnk_set_pool lent it. */
  void (*parallel)(void* context, void (*fn)(void* data), void* data, int32_t threads);
  void* context;
} rnnk_pool;

/* The tensors of one call. Absent h_0, c_0, dy, dh_n, dc_n count as zero; absent outputs and gradients are not computed, and
 * rnnk_backward does not visit layers below the lowest one that a wanted gradient needs. */
typedef struct rnnk_args {
  uint32_t struct_size;
  uint32_t flags;      /* RNNK_CALL_TRAIN */
  int64_t seq_len;     /* T >= 0 */
  int64_t batch;       /* B >= 0 */
  rnnk_tensor lengths; /* [B] of RNNK_INT32 or RNNK_INT64, each in [0, T], in any order; absent: T everywhere */
  rnnk_tensor mask;    /* [T, B] of RNNK_UINT8: 0 holds the state in that step; y is 0, x is not read */
  rnnk_tensor reset;   /* [T, B] of RNNK_UINT8: not 0 cuts between steps t - 1 and t: nothing passes, in either direction */
  void* packed;        /* from rnnk_pack_weights, and not written; or scratch of that size, with weights; 64-byte aligned */
  size_t packed_size;
  rnnk_tensor x;        /* [T, B, I] */
  rnnk_tensor h_0, c_0; /* [L*D, B, P], [L*D, B, C]; c_0 only where the cell has a cell state */
  rnnk_tensor y;        /* [T, B, D*P]; written by forward (zero past each row's length), read by backward */
  rnnk_tensor h_n, c_n; /* [L*D, B, P], [L*D, B, C] out */
  void* reserve;        /* forward: NULL for inference; backward: as forward left it, not written; 64-byte aligned */
  size_t reserve_size;
  void* workspace; /* scratch, contents irrelevant; 64-byte aligned */
  size_t workspace_size;
  void* cuda_stream; /* cudaStream_t of RNNK_CUDA; NULL: the default stream */
  /* Random masks, with RNNK_CALL_TRAIN: Philox4x32-10, key seed, counter (call, stream + layer * D + direction, first_step + t,
   * row * units + unit); word 0: dropout between layers, 1: zoneout of h, 2: of c; 3, at step 0: recurrent dropout. */
  uint64_t seed;
  uint32_t call, stream;
  int64_t first_step;
  /* rnnk_backward only */
  rnnk_tensor dy;               /* [T, B, D*P] */
  rnnk_tensor dh_n, dc_n;       /* [L*D, B, P], [L*D, B, C] */
  rnnk_tensor dx;               /* [T, B, I] out; zero past each row's length */
  rnnk_tensor dh_0, dc_0;       /* [L*D, B, P], [L*D, B, C] out */
  const rnnk_weights* dweights; /* [L*D] out, or NULL: gradients of parameters, overwritten */
  const rnnk_tensor* dh; /* [L] out, or NULL: [T, B, D*P] each, the gradient of each step's h through all that follows; not
                                   written past a row's length */
  double clip_dh;        /* > 0: rnnk_backward bounds that gradient to [-clip_dh, clip_dh] at every step */
  /* [L*D] to read in place of a pack, or NULL. A CPU reads the weights of a single step of few rows where they are; other calls pack
   * them first. Either way packed holds no pack afterwards that a call may be given. */
  const rnnk_weights* weights;
  const rnnk_pool* pool; /* CPU: the threads of this call, or NULL: those of the library's team */
} rnnk_args;

typedef struct rnnk_plan rnnk_plan;

/* kernel: a name from rnnk_kernel_name to force one, or NULL: RNNKERN_KERNEL if set, else for each layer the smallest estimate of a
 * forward and a backward call. */
RNNK_API rnnk_status rnnk_plan_create(const rnnk_problem* problem, const char* kernel, rnnk_plan** plan);
RNNK_API void rnnk_plan_destroy(rnnk_plan* plan);
/* The kernel of layer `layer`; NULL where there is no such layer. */
RNNK_API const char* rnnk_plan_kernel(const rnnk_plan* plan, int64_t layer);
/* K of rnnk_weights.params [K, H]; 0 when there are none. */
RNNK_API int64_t rnnk_plan_param_rows(const rnnk_plan* plan);
/* Plans with the same number read each other's packs; 0 for NULL. The number is a hash of the kernels, device, cell, number of layers and
 * of directions, sizes, heads, dtype, bias, options that have parameters, and RNNK_PROBLEM_TF32. With RNNK_PROBLEM_TF32 it also covers whether
 * each direction has options, because a kernel may pack those layers in float32. Plans with the same number may differ in which direction
 * a single one is, in recompute, dropout, hints and the other options. */
RNNK_API uint64_t rnnk_plan_pack_layout(const rnnk_plan* plan);
RNNK_API rnnk_status rnnk_plan_sizes(const rnnk_plan* plan, int64_t seq_len, int64_t batch, rnnk_sizes* sizes);
RNNK_API rnnk_status rnnk_plan_reserve_bound(const rnnk_plan* plan, rnnk_reserve_bound* bound);
/* Estimated microseconds of a forward (backward != 0: of a backward) call; a host decides by it whether a lock is worth releasing. */
RNNK_API double rnnk_plan_estimate(const rnnk_plan* plan, int64_t seq_len, int64_t batch, int32_t backward);

/* The calls that will read a pack. Packing for one of them is half of the work; the size is the same.
 *
 * On the CPU a pack begins with a 64-byte header. A call refuses bytes that are no pack, a pack of a plan with another
 * rnnk_plan_pack_layout, and a pack without the half that the call needs. Packing the other half of the same weights into the
 * same bytes completes it; after a change of weights, pack both halves.
 * On a GPU a pack has no header: the caller compares layouts. */
typedef enum rnnk_halves { RNNK_PACK_FORWARD = 1, RNNK_PACK_BACKWARD = 2, RNNK_PACK_BOTH = 3 } rnnk_halves;
/* weights: [L*D]. halves: a value of rnnk_halves. packed: rnnk_sizes.packed bytes, 64-byte aligned. */
RNNK_API rnnk_status rnnk_pack_weights(const rnnk_plan* plan, const rnnk_weights* weights, int32_t halves, void* packed,
                                       size_t packed_size, void* cuda_stream);
RNNK_API rnnk_status rnnk_forward(const rnnk_plan* plan, const rnnk_args* args);
RNNK_API rnnk_status rnnk_backward(const rnnk_plan* plan, const rnnk_args* args);

/* out = keep ? in / (1 - p) : 0 with the counter-based mask of ARCHITECTURE.md: Philox4x32-10, key seed,
 * counter (call, stream, first_step + t, row * H + unit). in, out: [T, B, H], may be the same; its gradient is the same call on dy.
 * lengths as in rnnk_args: steps past a row's length are written as zero. */
typedef struct rnnk_dropout_args {
  uint32_t struct_size;
  uint32_t call;   /* number of the training call */
  uint32_t stream; /* layer * directions + direction */
  double p;        /* in [0, 1] */
  uint64_t seed;
  int64_t seq_len, batch, hidden_size;
  rnnk_tensor lengths; /* as in rnnk_args */
  rnnk_tensor in, out;
  int32_t device, device_index; /* rnnk_device, where `in`, `out` and `lengths` are */
  void* cuda_stream;
  int64_t first_step; /* added to t in the counter: steps of the sequence before these */
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
 * is an empty string. rnnk_kernel_weights is "int8" or "bf16" where it runs the problems with RNNK_PROBLEM_INT8 or
 * RNNK_PROBLEM_BF16_WEIGHTS alone, and else an empty string. */
RNNK_API const char* rnnk_kernel_name(int32_t index);
RNNK_API const char* rnnk_kernel_unavailable(int32_t index);
RNNK_API const char* rnnk_kernel_weights(int32_t index);

/* Whether kernel `index` accepts layer `layer` of a problem, and its estimates at this size for one direction. That is the first
 * direction, or the second if only the second has options. */
typedef struct rnnk_verdict {
  uint32_t struct_size;
  int32_t declined;  /* 1: reason says why, with the numbers */
  double forward_us; /* estimates; 0 when declined */
  double backward_us;
  char reason[240];
  int32_t forward_tasks;    /* CPU: threads that a call would use of those there are; 0 when declined, and for a GPU */
  int32_t forward_by_units; /* 1: they share the units of every step; 0: each has rows of its own */
  int32_t backward_tasks, backward_by_units;
} rnnk_verdict;
RNNK_API rnnk_status rnnk_explain(const rnnk_problem* problem, int64_t layer, int64_t seq_len, int64_t batch, int32_t index,
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
