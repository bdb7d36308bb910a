/* Every kernel against cpu_scalar, by the C ABI alone: runs wherever the library does, under an emulator and sanitizers too.
 *
 *     selftest [KERNEL...]        default: every kernel this machine can run
 *
 * The judge of a case is cpu_scalar in float64 on the same data (values that bfloat16 can hold). Cells without transcendental
 * functions get small integers and must be exact. Each run also checks that outputs do not depend on threads, on the
 * reserve being kept, on recomputation or on a concurrent caller, and that nothing is written outside the outputs or into
 * the reserve.
 * The sequences' padding, and steps that are masked out, hold NaN throughout; scratch and outputs begin as NaN.
 */
#include <float.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rnnkern/rnnkern.h"

#if defined(_WIN32) /* whose C library has no aligned_alloc */
#include <malloc.h>
#define aligned_alloc(alignment, size) _aligned_malloc(size, alignment)
#define malloc(size) _aligned_malloc(size, 16)
#define free _aligned_free
#endif

enum { W_IH, W_HH, B_IH, B_HH, W_HR, PARAMS, X, H_0, C_0, DY, DH_N, DC_N, INPUTS };
enum { Y, H_N, C_N, DX, DH_0, DC_0, DW_IH, DW_HH, DB_IH, DB_HH, DW_HR, DPARAMS, OUTPUTS };
static const char* const output_names[OUTPUTS] = {
    "y", "h_n", "c_n", "dx", "dh_0", "dc_0", "dweight_ih", "dweight_hh", "dbias_ih", "dbias_hh", "dweight_hr", "dparams"};

enum { LENGTHS = 64 }; /* beside the problem flags RNNK_NO_BIAS and RNNK_REVERSE */
typedef struct shape {
  int64_t T, B, I, H;
  uint32_t flags;
} shape;

/* Hidden and input sizes below, at and past the vectors of 2, 4, 8 and 16 lanes; batches around the tiles of 6 and 12 rows. */
static const shape shapes[] = {
    {1, 1, 1, 1, 0},
    {2, 1, 2, 2, 0},
    {3, 2, 1, 3, LENGTHS},
    {2, 2, 3, 4, RNNK_REVERSE},
    {5, 5, 3, 5, LENGTHS | RNNK_REVERSE},
    {3, 6, 1, 7, RNNK_NO_BIAS},
    {7, 3, 5, 8, LENGTHS},
    {5, 7, 4, 9, LENGTHS | RNNK_REVERSE},
    {3, 1, 16, 15, 0},
    {2, 7, 9, 16, RNNK_NO_BIAS | RNNK_REVERSE},
    {3, 2, 4, 17, LENGTHS},
    {3, 9, 31, 32, 0},
    {4, 13, 17, 33, LENGTHS | RNNK_NO_BIAS},
    {70, 3, 4, 9, LENGTHS | RNNK_REVERSE},   /* several blocks of time */
    {2, 70, 17, 65, LENGTHS},                /* several tiles each way */
    {12, 24, 33, 64, 0},                     /* large enough to be split over threads: by rows */
    {19, 130, 7, 9, LENGTHS | RNNK_REVERSE}, /* several segments of recomputation */
    {12, 1, 64, 130, RNNK_REVERSE},          /* and by units */
    {0, 2, 3, 4, 0},
    {3, 0, 3, 4, 0},
};

/* Options of a cell; a case with some has masks with holes and resets besides, and draws its random masks. */
typedef struct option_set {
  const char *name, *cell;
  uint32_t flags;
  int64_t P, heads, param_rows;
  double clip;
  int32_t activation; /* the first */
  double zoneout, recurrent_dropout;
} option_set;
static const option_set options[] = {
    {"any", "lstm", RNNK_PEEPHOLE | RNNK_COUPLED, 0, 0, 3, 0, 0, 0.3, 0.3},
    {"projection", "lstm", 0, 5, 0, 0, 0, RNNK_SOFTSIGN, 0.2, 0.2},
    {"norm", "lstm", RNNK_LAYER_NORM, 0, 0, 10, 0, 0, 0, 0},
    {"norm, projection", "lstm", RNNK_LAYER_NORM | RNNK_PEEPHOLE, 4, 0, 13, 0, 0, 0, 0.2},
    {"heads", "lstm", 0, 0, 3, 0, 0, 0, 0, 0.2},
    {"any", "gru", 0, 0, 3, 0, 0, RNNK_SOFTPLUS, 0.3, 0.2},
    {"reset before", "gru", RNNK_RESET_BEFORE, 0, 3, 0, 0, 0, 0, 0.3},
    {"norm", "gru", RNNK_LAYER_NORM, 0, 0, 6, 0, 0, 0.2, 0},
    {"any", "rnn_tanh", 0, 0, 3, 0, 0, RNNK_SCALED_TANH, 0.2, 0.2},
    {"norm", "rnn_tanh", RNNK_LAYER_NORM, 0, 0, 2, 0, RNNK_ELU, 0, 0},
    {"independent", "rnn_tanh", RNNK_INDEPENDENT, 0, 0, 2, 0, 0, 0.2, 0.2},
};
static const shape option_shapes[] = {
    {5, 7, 4, 9, LENGTHS | RNNK_REVERSE}, {23, 3, 5, 33, LENGTHS}, {3, 37, 3, 18, RNNK_NO_BIAS},
    {12, 1, 40, 132, RNNK_REVERSE},       {0, 2, 3, 6, 0},
};

typedef struct test_case {
  shape s;
  const option_set* o; /* NULL: none */
  const uint8_t *mask, *reset;
  int32_t cell;
  int exact;
  const double* inputs[INPUTS]; /* NULL: absent */
  const int64_t* lengths;
} test_case;

static int failures;

static void* allocate(size_t bytes) {
  void* p = aligned_alloc(64, bytes ? (bytes + 63) / 64 * 64 : 64);
  if (!p) {
    fprintf(stderr, "out of memory\n");
    exit(2);
  }
  return p;
}

static void need(rnnk_status status, const char* what) {
  if (status == RNNK_OK) return;
  fprintf(stderr, "%s: status %d: %s\n", what, (int)status, rnnk_last_error());
  exit(2);
}

/* Entries of the states behind h. */
static int64_t cells_of(const test_case* c) { return (rnnk_cell_states(c->cell) - 1) * c->s.H; }
static int64_t outputs_of(const test_case* c) { return c->o && c->o->P ? c->o->P : c->s.H; }

static int64_t input_count(const test_case* c, int which) {
  const shape* s = &c->s;
  const int64_t gates = rnnk_cell_gates(c->cell), P = outputs_of(c), heads = c->o && c->o->heads ? c->o->heads : 1;
  switch (which) {
    case W_IH: return gates * s->H * s->I;
    case W_HH: return gates * s->H * (P / heads);
    case B_IH:
    case B_HH: return gates * s->H;
    case W_HR: return P * s->H;
    case PARAMS: return c->o ? c->o->param_rows * s->H : 0;
    case X: return s->T * s->B * s->I;
    case DY: return s->T * s->B * P;
    case H_0:
    case DH_N: return s->B * P;
    default: return s->B * cells_of(c);
  }
}

static int has_input(const test_case* c, int which) {
  const int independent = c->o && (c->o->flags & RNNK_INDEPENDENT);
  switch (which) {
    case W_HH: return !independent;
    case B_IH: return !(c->s.flags & RNNK_NO_BIAS);
    case B_HH: return !(c->s.flags & RNNK_NO_BIAS) && !independent;
    case W_HR: return c->o && c->o->P;
    case PARAMS: return c->o && c->o->param_rows;
    case C_0:
    case DC_N: return rnnk_cell_states(c->cell) > 1;
    default: return 1;
  }
}

/* The input that has the shape of an output. */
static const int twin[OUTPUTS] = {DY, H_0, C_0, X, H_0, C_0, W_IH, W_HH, B_IH, B_HH, W_HR, PARAMS};
static int64_t output_count(const test_case* c, int which) { return input_count(c, twin[which]); }

/* --- data ----------------------------------------------------------------------------------------------------------------- */

static uint64_t random_state;
static uint32_t random_bits(void) { /* a 64-bit linear congruential generator (D. Knuth's MMIX), upper half */
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(random_state >> 32);
}
static double from_bf16(uint16_t half) {
  const uint32_t bits = (uint32_t)half << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
static uint16_t to_bf16(double x) { /* of a value that it can hold, or NaN */
  const float value = (float)x;
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return (uint16_t)(bits >> 16);
}
static double uniform(double scale) { return from_bf16(to_bf16(scale * (random_bits() / 2147483648.0 - 1))); }
static double sparse(void) { return (double)(random_bits() % 4 == 0) - (double)(random_bits() % 4 == 0); }

/* Weights of exact cases have one +-1 in a row, those of W_hh in distinct columns: nothing grows faster than T. */
static void fill(double* v, const test_case* c, int which, int64_t count) {
  const int64_t row = which == W_IH ? c->s.I : which == W_HH ? c->s.H : 0;
  for (int64_t i = 0; i < count; ++i) {
    if (!c->exact) v[i] = which == PARAMS ? 0.5 + uniform(0.5) : uniform(which <= W_HR ? 1 / sqrt((double)c->s.H) : 1.5);
    else if (!row) v[i] = sparse();
    else v[i] = i % row == (which == W_HH ? (i / row * 7 + 3) % row : 5 * i / row % row) ? (i / row % 3 ? 1 : -1) : 0;
  }
  if (cells_of(c) > c->s.H && (which == C_0 || which == DC_N)) {
    /* sLSTM's n is a sum of exponentials. Its m is a maximum, on whose other side a kernel may stand: what a loss of c n m
     * would have as gradient differs there, that of h does not. */
    for (int64_t i = 0; i < count; ++i) {
      if (which == DC_N) v[i] = 0;
      else if (i / c->s.H % 3 == 1) v[i] = fabs(v[i]) + 0.5;
    }
  }
  if (which == X || which == DY) {
    const int64_t width = which == X ? c->s.I : outputs_of(c);
    for (int64_t t = 0; t < c->s.T; ++t) {
      for (int64_t b = 0; b < c->s.B; ++b) {
        const int hidden = (c->lengths && t >= c->lengths[b]) || (c->mask && !c->mask[t * c->s.B + b]);
        for (int64_t i = 0; hidden && i < width; ++i) v[(t * c->s.B + b) * width + i] = NAN;
      }
    }
  }
}

static test_case make_case(const shape* s, const option_set* o, int32_t cell, uint64_t seed) {
  test_case c;
  const char* name = rnnk_cell_name(cell);
  memset(&c, 0, sizeof c);
  c.s = *s;
  c.o = o;
  c.cell = cell;
  c.exact = !strcmp(name, "linear") || !strcmp(name, "rnn_relu");
  random_state = seed;
  if (s->flags & LENGTHS) {
    int64_t* lengths = allocate((size_t)s->B * sizeof *lengths);
    for (int64_t b = 0; b < s->B; ++b) lengths[b] = b == 0 ? s->T : b == 1 ? 0 : random_bits() % (uint32_t)(s->T + 1);
    c.lengths = lengths;
  }
  if (o) {
    const int64_t steps = s->T * s->B;
    uint8_t *mask = allocate((size_t)steps), *reset = allocate((size_t)steps);
    for (int64_t i = 0; i < steps; ++i) mask[i] = random_bits() % 5 > 0, reset[i] = random_bits() % 5 == 0;
    c.mask = mask;
    c.reset = reset;
  }
  for (int i = 0; i < INPUTS; ++i) {
    const int64_t count = input_count(&c, i);
    double* v;
    if (!has_input(&c, i)) continue;
    v = allocate((size_t)count * sizeof *v);
    fill(v, &c, i, count);
    c.inputs[i] = v;
  }
  return c;
}

static void free_case(test_case* c) {
  for (int i = 0; i < INPUTS; ++i) free((void*)c->inputs[i]);
  free((void*)c->lengths);
  free((void*)c->mask);
  free((void*)c->reset);
}

/* --- one run -------------------------------------------------------------------------------------------------------------- */

/* Under AddressSanitizer a buffer ends where it ends; elsewhere a pattern follows it. */
#if defined(__SANITIZE_ADDRESS__)
enum { GUARD = 0 };
#else
enum { GUARD = 64 };
#endif

typedef struct run {
  const test_case* c;
  const char* kernel;
  int dtype;
  uint32_t flags; /* RNNK_RECOMPUTE */
  unsigned char* outputs[OUTPUTS];
  size_t bytes[OUTPUTS];
} run;

static size_t item(int dtype) { return dtype == RNNK_FLOAT64 ? 8 : dtype == RNNK_FLOAT32 ? 4 : 2; }
static const char* dtype_name(int dtype) { return dtype == RNNK_FLOAT64 ? "f64" : dtype == RNNK_FLOAT32 ? "f32" : "bf16"; }

static void complain(const run* r, const char* what, const char* detail) {
  const shape* s = &r->c->s;
  printf("FAILED %s %s %s %s t%lldb%lldi%lldh%lld flags %u: %s %s\n", r->kernel, rnnk_cell_name(r->c->cell),
         r->c->o ? r->c->o->name : "", dtype_name(r->dtype), (long long)s->T, (long long)s->B, (long long)s->I,
         (long long)s->H, (unsigned)s->flags, what, detail);
  ++failures;
}

static rnnk_tensor view(void* data, int64_t width, int64_t batch, int dtype, int dims) {
  rnnk_tensor t;
  memset(&t, 0, sizeof t);
  t.data = data;
  t.dtype = dtype;
  t.stride[0] = dims == 3 ? batch * width : width;
  t.stride[1] = dims == 3 ? width : 1;
  t.stride[2] = 1;
  return t;
}

/* Forward for inference, forward for training, backward; outputs are left in r->outputs. */
static void execute(run* r) {
  const test_case* c = r->c;
  const shape* s = &c->s;
  const int64_t B = s->B, H = s->H, P = outputs_of(c), C = cells_of(c);
  const int dtype = r->dtype;
  void* in[INPUTS];
  rnnk_problem problem;
  rnnk_plan* plan;
  rnnk_sizes sizes;
  rnnk_weights weights;
  rnnk_args a;

  memset(&problem, 0, sizeof problem);
  problem.struct_size = sizeof problem;
  problem.cell = c->cell;
  problem.dtype = dtype;
  problem.flags = (s->flags & (RNNK_NO_BIAS | RNNK_REVERSE)) | r->flags;
  problem.input_size = s->I;
  problem.hidden_size = H;
  if (c->o) {
    problem.flags |= c->o->flags | RNNK_MASKED;
    problem.proj_size = c->o->P;
    problem.heads = c->o->heads;
    problem.clip = c->o->clip;
    problem.activations[0].kind = c->o->activation;
    problem.activations[0].alpha = 0.8;
    problem.activations[0].beta = 0.6;
    problem.zoneout[0] = c->o->zoneout;
    problem.recurrent_dropout = c->o->recurrent_dropout;
  }
  need(rnnk_plan_create(&problem, r->kernel, &plan), "rnnk_plan_create");
  memset(&sizes, 0, sizeof sizes);
  sizes.struct_size = sizeof sizes;
  need(rnnk_plan_sizes(plan, s->T, B, &sizes), "rnnk_plan_sizes");

  for (int i = 0; i < INPUTS; ++i) {
    const int64_t count = input_count(c, i);
    in[i] = c->inputs[i] ? malloc((size_t)count * item(dtype) + 1) : NULL; /* + 1: never an empty block */
    for (int64_t k = 0; in[i] && k < count; ++k) {
      if (dtype == RNNK_FLOAT64) ((double*)in[i])[k] = c->inputs[i][k];
      else if (dtype == RNNK_FLOAT32) ((float*)in[i])[k] = (float)c->inputs[i][k];
      else ((uint16_t*)in[i])[k] = to_bf16(c->inputs[i][k]);
    }
  }
  for (int i = 0; i < OUTPUTS; ++i) {
    const int absent = !c->inputs[twin[i]];
    r->bytes[i] = absent ? 0 : (size_t)output_count(c, i) * item(dtype);
    r->outputs[i] = absent ? NULL : malloc(r->bytes[i] + GUARD + (GUARD == 0 && r->bytes[i] == 0));
    if (!absent) memset(r->outputs[i], 0xff, r->bytes[i] + GUARD);
  }

  memset(&weights, 0, sizeof weights);
  weights.struct_size = sizeof weights;
  weights.weight_ih = in[W_IH];
  weights.weight_hh = in[W_HH];
  weights.bias_ih = in[B_IH];
  weights.bias_hh = in[B_HH];
  weights.weight_hr = in[W_HR];
  weights.params = in[PARAMS];
  void *packed = allocate(sizes.packed), *reserve = allocate(sizes.reserve), *kept = allocate(sizes.reserve);
  void *forward_scratch = allocate(sizes.workspace_forward), *backward_scratch = allocate(sizes.workspace_backward);
  memset(packed, 0xff, sizes.packed);
  memset(reserve, 0xff, sizes.reserve);
  memset(forward_scratch, 0xff, sizes.workspace_forward);
  memset(backward_scratch, 0xff, sizes.workspace_backward);
  need(rnnk_pack_weights(plan, &weights, 1, packed, sizes.packed), "rnnk_pack_weights");

  memset(&a, 0, sizeof a);
  a.struct_size = sizeof a;
  a.seq_len = s->T;
  a.batch = B;
  a.lengths = c->lengths;
  a.mask = c->mask;
  a.reset = c->reset;
  a.flags = c->o ? RNNK_TRAIN : 0;
  a.seed = 12345678901234567u;
  a.call = 3;
  a.packed = packed;
  a.x = view(in[X], s->I, B, dtype, 3);
  a.y = view(r->outputs[Y], P, B, dtype, 3);
  a.h_0 = view(in[H_0], P, B, dtype, 2);
  a.c_0 = view(in[C_0], C, B, dtype, 2);
  a.h_n = view(r->outputs[H_N], P, B, dtype, 2);
  a.c_n = view(r->outputs[C_N], C, B, dtype, 2);
  a.workspace = forward_scratch;
  a.workspace_size = sizes.workspace_forward;
  need(rnnk_forward(plan, &a), "rnnk_forward for inference");
  unsigned char* inferred = malloc(r->bytes[Y] + 1);
  memcpy(inferred, r->outputs[Y], r->bytes[Y]);
  a.reserve = reserve;
  a.reserve_size = sizes.reserve;
  need(rnnk_forward(plan, &a), "rnnk_forward");
  if (memcmp(inferred, r->outputs[Y], r->bytes[Y])) complain(r, "y", "depends on the reserve being kept");
  memcpy(kept, reserve, sizes.reserve);

  a.workspace = backward_scratch;
  a.workspace_size = sizes.workspace_backward;
  a.dy = view(in[DY], P, B, dtype, 3);
  a.dh_n = view(in[DH_N], P, B, dtype, 2);
  a.dc_n = view(in[DC_N], C, B, dtype, 2);
  a.dx = view(r->outputs[DX], s->I, B, dtype, 3);
  a.dh_0 = view(r->outputs[DH_0], P, B, dtype, 2);
  a.dc_0 = view(r->outputs[DC_0], C, B, dtype, 2);
  a.dweight_ih = r->outputs[DW_IH];
  a.dweight_hh = r->outputs[DW_HH];
  a.dbias_ih = r->outputs[DB_IH];
  a.dbias_hh = r->outputs[DB_HH];
  a.dweight_hr = r->outputs[DW_HR];
  a.dparams = r->outputs[DPARAMS];
  need(rnnk_backward(plan, &a), "rnnk_backward");
  if (memcmp(kept, reserve, sizes.reserve)) complain(r, "reserve", "was written by backward");
  for (int i = 0; i < OUTPUTS; ++i) {
    for (int k = 0; r->outputs[i] && k < GUARD; ++k) {
      if (r->outputs[i][r->bytes[i] + (size_t)k] != 0xff) {
        complain(r, output_names[i], "was written past its end");
        break;
      }
    }
  }
  for (int i = 0; i < INPUTS; ++i) free(in[i]);
  free(inferred);
  free(packed);
  free(reserve);
  free(kept);
  free(forward_scratch);
  free(backward_scratch);
  rnnk_plan_destroy(plan);
}

static void free_run(run* r) {
  for (int i = 0; i < OUTPUTS; ++i) free(r->outputs[i]);
}

static double get(const run* r, int output, int64_t i) {
  if (r->dtype == RNNK_FLOAT64) return ((const double*)r->outputs[output])[i];
  if (r->dtype == RNNK_FLOAT32) return ((const float*)r->outputs[output])[i];
  return from_bf16(((const uint16_t*)r->outputs[output])[i]);
}

/* --- the comparison ------------------------------------------------------------------------------------------------------- */

static double worst_ratio; /* of all errors to what was allowed */

/* Errors relative to the largest entry. A pre-activation is a sum of n = I + H + 2 terms, whose rounding grows as sqrt(n), and
 * so do the errors of T steps. 8: the roundings of the pointwise part, whose 1 - f loses up to two bits. */
static void compare(const run* got, const run* judge) {
  const shape* s = &got->c->s;
  const int half =
      got->dtype == RNNK_BFLOAT16; /* sums are made in float32, of operands that may be rounded: sqrt(T) alone */
  const double eps = got->dtype == RNNK_FLOAT64 ? DBL_EPSILON : half ? 0x1p-7 : FLT_EPSILON;
  const double terms = half ? 1 : sqrt((double)(s->I + s->H + 2));
  /* A layer norm passes an error on 1 / std times as large, which is some ten times here. */
  const double magnified = got->c->o && (got->c->o->flags & RNNK_LAYER_NORM) ? 10 : 1;
  const double bound = got->c->exact && !half ? 0 : 8 * eps * terms * magnified * sqrt((double)s->T + 1);
  for (int i = 0; i < OUTPUTS; ++i) {
    double scale = got->c->o ? 1 : DBL_MIN, error = 0; /* 1: the size of terms that cancel where little is left of a mask */
    char detail[120];
    const int64_t count = (int64_t)(got->bytes[i] / item(got->dtype));
    for (int64_t k = 0; k < count; ++k) {
      const double want = get(judge, i, k), off = fabs(get(got, i, k) - want);
      scale = fmax(scale, fabs(want));
      error = off <= error ? error : off; /* NaN stays */
    }
    if (error > 0 && bound > 0) worst_ratio = fmax(worst_ratio, error / (bound * scale));
    if (error <= bound * scale) continue;
    snprintf(detail, sizeof detail, "is off by %.3g, allowed %.3g", error, bound * scale);
    complain(got, output_names[i], detail);
  }
}

static void same_bits(const run* a, const run* b, const char* what) {
  for (int i = 0; i < OUTPUTS; ++i) {
    if (a->bytes[i] && memcmp(a->outputs[i], b->outputs[i], a->bytes[i])) complain(b, output_names[i], what);
  }
}

static void* execute_on_thread(void* r) {
  execute(r);
  return NULL;
}

/* Some kernels are for bfloat16 alone, or take no heads of this size. */
static int takes(const char* kernel, int dtype, const test_case* c) {
  rnnk_problem problem;
  rnnk_plan* plan;
  memset(&problem, 0, sizeof problem);
  problem.struct_size = sizeof problem;
  problem.cell = c->cell;
  problem.dtype = dtype;
  problem.input_size = 1;
  problem.hidden_size = c->s.H;
  problem.heads = c->o ? c->o->heads : 0;
  const rnnk_status status = rnnk_plan_create(&problem, kernel, &plan);
  if (status == RNNK_OK) rnnk_plan_destroy(plan);
  if (status != RNNK_NOT_SUPPORTED) need(status, "rnnk_plan_create");
  return status == RNNK_OK;
}

static void test_kernel(const test_case* c, const char* kernel, const run* judge) {
  for (int dtype = RNNK_FLOAT32; dtype <= RNNK_BFLOAT16; ++dtype) {
    run alone = {c, kernel, dtype, 0, {NULL}, {0}}, team = alone, beside = alone, again = alone;
    pthread_t other;
    if (!takes(kernel, dtype, c)) continue;
    again.flags = RNNK_RECOMPUTE;
    need(rnnk_set_num_threads(1), "rnnk_set_num_threads");
    execute(&alone);
    compare(&alone, judge);
    need(rnnk_set_num_threads(3), "rnnk_set_num_threads");
    if (pthread_create(&other, NULL, execute_on_thread, &beside)) exit(2);
    execute(&team);
    pthread_join(other, NULL);
    execute(&again);
    same_bits(&alone, &team, "depends on the number of threads");
    same_bits(&alone, &beside, "depends on a concurrent caller");
    same_bits(&alone, &again, "depends on recomputation");
    free_run(&alone);
    free_run(&again);
    free_run(&team);
    free_run(&beside);
  }
}

static void judge_and_test(const shape* s, const option_set* o, int32_t cell, uint64_t seed, const char* kernel) {
  test_case c = make_case(s, o, cell, seed);
  run judge = {&c, "cpu_scalar", RNNK_FLOAT64, 0, {NULL}, {0}};
  execute(&judge);
  test_kernel(&c, kernel, &judge);
  free_run(&judge);
  free_case(&c);
}

static int wanted(const char* kernel, int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (!strcmp(argv[i], kernel)) return 1;
  }
  return argc == 1;
}

int main(int argc, char** argv) {
  int kernels = 0, cases = 0;
  for (int32_t k = 0; rnnk_kernel_name(k); ++k) {
    const char *kernel = rnnk_kernel_name(k), *reason = rnnk_kernel_unavailable(k);
    const int failed_before = failures;
    if (!wanted(kernel, argc, argv)) continue;
    if (*reason) {
      printf("%s: skipped: %s\n", kernel, reason);
      continue;
    }
    ++kernels;
    worst_ratio = 0;
    for (int32_t cell = 0; rnnk_cell_name(cell); ++cell) {
      for (size_t i = 0; i < sizeof shapes / sizeof *shapes; ++i, ++cases) {
        judge_and_test(&shapes[i], NULL, cell, 1000 * (uint64_t)cell + i, kernel);
      }
      for (size_t k = 0; k < sizeof options / sizeof *options; ++k) {
        for (size_t i = 0;
             !strcmp(options[k].cell, rnnk_cell_name(cell)) && i < sizeof option_shapes / sizeof *option_shapes; ++i) {
          judge_and_test(&option_shapes[i], &options[k], cell, 100 * (uint64_t)k + i, kernel);
          ++cases;
        }
      }
    }
    printf("%s: %s; largest error %.2f of what is allowed\n", kernel, failures == failed_before ? "ok" : "FAILED",
           worst_ratio);
  }
  printf("%d kernels, %d cases, %d failures\n", kernels, cases, failures);
  return failures || !kernels;
}
