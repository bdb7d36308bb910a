/* Every kernel against cpu_scalar, by the C ABI alone: runs wherever the library does, under an emulator and sanitizers too.
 *
 *     selftest [KERNEL...]        default: every kernel this machine can run
 *
 * The judge of a case of one layer is cpu_scalar in float64 on the same data (values that bfloat16 can hold). Cells without
 * transcendental functions get small integers and must be exact. A case of several layers or both directions must have the bits
 * of the same network composed by hand, of plans of one layer and one direction each and of rnnk_dropout. Each run also checks
 * that outputs do not depend on threads, on the reserve being kept, on recomputation, on a concurrent caller or on the size of the
 * workspace, and that nothing is written outside the outputs and the workspace or into the reserve.
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
enum { Y, H_N, C_N, DX, DH_0, DC_0, DW_IH, DW_HH, DB_IH, DB_HH, DW_HR, DPARAMS, DH, OUTPUTS };
static const char* const output_names[OUTPUTS] = {"y",          "h_n",        "c_n",        "dx",       "dh_0",
                                                  "dc_0",       "dweight_ih", "dweight_hh", "dbias_ih", "dbias_hh",
                                                  "dweight_hr", "dparams",    "dh"};

/* Flags of a shape, in addition to the problem flag RNNK_PROBLEM_NO_BIAS. */
enum { NO_BIAS = RNNK_PROBLEM_NO_BIAS, LENGTHS = 1 << 16, REVERSE = 1 << 17, BOTH = 1 << 18 };
typedef struct shape {
  int64_t T, B, I, H;
  uint32_t flags;
} shape;

/* Hidden and input sizes below, at and past the vectors of 2, 4, 8 and 16 lanes; batches around the tiles of 6 and 12 rows. */
static const shape shapes[] = {
    {1, 1, 1, 1, 0},
    {2, 1, 2, 2, 0},
    {3, 2, 1, 3, LENGTHS},
    {2, 2, 3, 4, REVERSE},
    {5, 5, 3, 5, LENGTHS | REVERSE},
    {3, 6, 1, 7, NO_BIAS},
    {7, 3, 5, 8, LENGTHS},
    {5, 7, 4, 9, LENGTHS | REVERSE},
    {3, 1, 16, 15, 0},
    {2, 7, 9, 16, NO_BIAS | REVERSE},
    {3, 2, 4, 17, LENGTHS},
    {3, 9, 31, 32, 0},
    {4, 13, 17, 33, LENGTHS | NO_BIAS},
    {70, 3, 4, 9, LENGTHS | REVERSE},   /* several blocks of time */
    {2, 70, 17, 65, LENGTHS},           /* several tiles each way */
    {12, 24, 33, 64, 0},                /* large enough to be split over threads: by rows */
    {19, 130, 7, 9, LENGTHS | REVERSE}, /* several segments of recomputation */
    {12, 1, 64, 130, REVERSE},          /* and by units */
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
    {"any", "lstm", RNNK_PROBLEM_PEEPHOLE | RNNK_PROBLEM_COUPLED, 0, 0, 3, 0, 0, 0.3, 0.3},
    {"projection", "lstm", 0, 5, 0, 0, 0, RNNK_SOFTSIGN, 0.2, 0.2},
    {"norm", "lstm", RNNK_PROBLEM_LAYER_NORM, 0, 0, 10, 0, 0, 0, 0},
    {"norm, projection", "lstm", RNNK_PROBLEM_LAYER_NORM | RNNK_PROBLEM_PEEPHOLE, 4, 0, 13, 0, 0, 0, 0.2},
    {"heads", "lstm", 0, 0, 3, 0, 0, 0, 0, 0.2},
    {"any", "gru", 0, 0, 3, 0, 0, RNNK_SOFTPLUS, 0.3, 0.2},
    {"reset before", "gru", RNNK_PROBLEM_RESET_BEFORE, 0, 3, 0, 0, 0, 0, 0.3},
    {"norm", "gru", RNNK_PROBLEM_LAYER_NORM, 0, 0, 6, 0, 0, 0.2, 0},
    {"any", "rnn_tanh", 0, 0, 3, 0, 0, RNNK_SCALED_TANH, 0.2, 0.2},
    {"norm", "rnn_tanh", RNNK_PROBLEM_LAYER_NORM, 0, 0, 2, 0, RNNK_ELU, 0, 0},
    {"independent", "rnn_tanh", RNNK_PROBLEM_INDEPENDENT, 0, 0, 2, 0, 0, 0.2, 0.2},
};
static const shape option_shapes[] = {
    {5, 7, 4, 9, LENGTHS | REVERSE}, {23, 3, 5, 33, LENGTHS}, {3, 37, 3, 18, NO_BIAS},
    {12, 1, 40, 132, REVERSE},       {0, 2, 3, 6, 0},
};

/* Networks of several layers or both directions. */
typedef struct network {
  shape s;
  int64_t L;
  double dropout;
} network;
static const network networks[] = {
    {{5, 7, 4, 9, LENGTHS | BOTH}, 2, 0.3},
    {{23, 3, 5, 17, LENGTHS | BOTH}, 3, 0},
    {{33, 3, 4, 9, LENGTHS | REVERSE}, 3, 0},
    {{40, 1, 4, 36, 0}, 3, 0},                 /* several blocks of a wavefront: layers at the same time */
    {{80, 2, 4, 34, LENGTHS | REVERSE}, 3, 0}, /* the same */
    {{20, 2, 3, 17, 0}, 2, 0.5},
    {{20, 1, 6, 48, BOTH}, 2, 0}, /* directions at the same time */
    {{19, 130, 3, 5, LENGTHS | BOTH}, 2, 0.2},
    {{3, 1, 16, 15, NO_BIAS | BOTH}, 1, 0},
    {{0, 2, 3, 4, BOTH}, 2, 0.3},
};
static const network option_networks[] = {
    {{9, 5, 4, 18, LENGTHS | BOTH}, 2, 0.3},
    {{40, 1, 4, 36, REVERSE}, 3, 0}, /* a wavefront */
};
enum { MOST = 6 }; /* layers times directions */

typedef struct test_case {
  shape s;
  int64_t L, D;
  double dropout;
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

/* An input is a block of parts: weights and states have one for each direction of each layer, x and dy are one. */
static int64_t parts(const test_case* c, int which) { return which == X || which == DY ? 1 : c->L * c->D; }

static int64_t part_count(const test_case* c, int which, int64_t index) {
  const shape* s = &c->s;
  const int64_t gates = rnnk_cell_gates(c->cell), P = outputs_of(c), heads = c->o && c->o->heads ? c->o->heads : 1;
  switch (which) {
    case W_IH: return gates * s->H * (index < c->D ? s->I : c->D * P);
    case W_HH: return gates * s->H * (P / heads);
    case B_IH:
    case B_HH: return gates * s->H;
    case W_HR: return P * s->H;
    case PARAMS: return c->o ? c->o->param_rows * s->H : 0;
    case X: return s->T * s->B * s->I;
    case DY: return s->T * s->B * c->D * P;
    case H_0:
    case DH_N: return s->B * P;
    default: return s->B * cells_of(c);
  }
}

/* Elements before a part; before part parts(c, which): all. */
static int64_t part_at(const test_case* c, int which, int64_t index) {
  int64_t at = 0;
  for (int64_t i = 0; i < index; ++i) at += part_count(c, which, i);
  return at;
}
static int64_t input_count(const test_case* c, int which) { return part_at(c, which, parts(c, which)); }

static int has_input(const test_case* c, int which) {
  const int independent = c->o && (c->o->flags & RNNK_PROBLEM_INDEPENDENT);
  switch (which) {
    case W_HH: return !independent;
    case B_IH: return !(c->s.flags & NO_BIAS);
    case B_HH: return !(c->s.flags & NO_BIAS) && !independent;
    case W_HR: return c->o && c->o->P;
    case PARAMS: return c->o && c->o->param_rows;
    case C_0:
    case DC_N: return rnnk_cell_states(c->cell) > 1;
    default: return 1;
  }
}

/* The input that has the shape of an output; of dh, that of one layer. */
static const int twin[OUTPUTS] = {DY, H_0, C_0, X, H_0, C_0, W_IH, W_HH, B_IH, B_HH, W_HR, PARAMS, DY};
static int64_t output_count(const test_case* c, int which) { return input_count(c, twin[which]) * (which == DH ? c->L : 1); }

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
static uint16_t to_bf16(double x) { /* rounded half to even; NaN stays one */
  const float value = (float)x;
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if (value != value) return 0x7fc0;
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
static double uniform(double scale) { return from_bf16(to_bf16(scale * (random_bits() / 2147483648.0 - 1))); }
static double sparse(void) { return (double)(random_bits() % 4 == 0) - (double)(random_bits() % 4 == 0); }

/* Weights of exact cases have one +-1 in a row, those of W_hh in distinct columns: nothing grows faster than T in one layer. */
static void fill(double* v, const test_case* c, int which, int64_t index) {
  const int64_t count = part_count(c, which, index), inputs = index < c->D ? c->s.I : c->D * outputs_of(c);
  const int64_t row = which == W_IH ? inputs : which == W_HH ? c->s.H : 0;
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
    const int64_t width = which == X ? c->s.I : c->D * outputs_of(c);
    for (int64_t t = 0; t < c->s.T; ++t) {
      for (int64_t b = 0; b < c->s.B; ++b) {
        const int hidden = (c->lengths && t >= c->lengths[b]) || (c->mask && !c->mask[t * c->s.B + b]);
        for (int64_t i = 0; hidden && i < width; ++i) v[(t * c->s.B + b) * width + i] = NAN;
      }
    }
  }
}

static test_case make_case(const network* n, const option_set* o, int32_t cell, uint64_t seed) {
  const shape* s = &n->s;
  test_case c;
  const char* name = rnnk_cell_name(cell);
  memset(&c, 0, sizeof c);
  c.s = *s;
  c.L = n->L;
  c.D = s->flags & BOTH ? 2 : 1;
  c.dropout = n->dropout;
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
    double* v;
    if (!has_input(&c, i)) continue;
    v = allocate((size_t)input_count(&c, i) * sizeof *v);
    for (int64_t k = 0; k < parts(&c, i); ++k) fill(v + part_at(&c, i, k), &c, i, k);
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
  uint32_t flags; /* RNNK_PROBLEM_RECOMPUTE */
  int least;      /* of how much workspace: 0 all that is of use, 1 the least, 2 something between */
  unsigned char* outputs[OUTPUTS];
  size_t bytes[OUTPUTS];
} run;

static size_t item(int dtype) { return dtype == RNNK_FLOAT64 ? 8 : dtype == RNNK_FLOAT32 ? 4 : 2; }
static const char* dtype_name(int dtype) { return dtype == RNNK_FLOAT64 ? "f64" : dtype == RNNK_FLOAT32 ? "f32" : "bf16"; }

static void complain(const run* r, const char* what, const char* detail) {
  const shape* s = &r->c->s;
  printf("FAILED %s %s %s %s t%lldb%lldi%lldh%lldl%lld flags 0x%x: %s %s\n", r->kernel, rnnk_cell_name(r->c->cell),
         r->c->o ? r->c->o->name : "", dtype_name(r->dtype), (long long)s->T, (long long)s->B, (long long)s->I,
         (long long)s->H, (long long)r->c->L, (unsigned)s->flags, what, detail);
  ++failures;
}

static double load(const void* data, int dtype, int64_t i) {
  if (dtype == RNNK_FLOAT64) return ((const double*)data)[i];
  if (dtype == RNNK_FLOAT32) return ((const float*)data)[i];
  return from_bf16(((const uint16_t*)data)[i]);
}
static void store(void* data, int dtype, int64_t i, double value) {
  if (dtype == RNNK_FLOAT64) ((double*)data)[i] = value;
  else if (dtype == RNNK_FLOAT32) ((float*)data)[i] = (float)value;
  else ((uint16_t*)data)[i] = to_bf16(value);
}

/* A dense [., rows, columns]. */
static rnnk_tensor view(void* data, int64_t rows, int64_t columns, int dtype) {
  rnnk_tensor t;
  memset(&t, 0, sizeof t);
  t.data = data;
  t.dtype = dtype;
  t.stride[0] = rows * columns;
  t.stride[1] = columns;
  t.stride[2] = 1;
  return t;
}
/* Part i of the first axis alone; what has no data stays absent. */
static rnnk_tensor part(rnnk_tensor t, int64_t i) {
  if (t.data) t.data = (char*)t.data + (size_t)(i * t.stride[0]) * item(t.dtype);
  t.stride[0] = t.stride[1];
  t.stride[1] = t.stride[2];
  return t;
}
/* The `width` columns of direction d of a [., ., D*width]. */
static rnnk_tensor columns(rnnk_tensor t, int64_t d, int64_t width) {
  if (t.data) t.data = (char*)t.data + (size_t)(d * width) * item(t.dtype);
  return t;
}

static rnnk_tensor lengths_of(const test_case* c) { return view((void*)c->lengths, 1, 1, RNNK_INT64); }
static rnnk_tensor marks(const test_case* c, const uint8_t* bytes) { return view((void*)bytes, c->s.B, 1, RNNK_UINT8); }

/* W_IH ... PARAMS, or their gradients, of one direction of one layer. */
static rnnk_weights weights_of(const test_case* c, void* const* blocks, int dtype, int64_t index) {
  const int64_t inputs = index < c->D ? c->s.I : c->D * outputs_of(c);
  const int64_t widths[] = {inputs, outputs_of(c) / (c->o && c->o->heads ? c->o->heads : 1), 1, 1, c->s.H, c->s.H};
  rnnk_weights w;
  rnnk_tensor* const tensors[] = {&w.weight_ih, &w.weight_hh, &w.bias_ih, &w.bias_hh, &w.weight_hr, &w.params};
  memset(&w, 0, sizeof w);
  w.struct_size = sizeof w;
  for (int i = W_IH; i <= PARAMS; ++i) {
    if (!blocks[i]) continue;
    *tensors[i] = part(view((char*)blocks[i] + (size_t)part_at(c, i, index) * item(dtype), 1, widths[i], dtype), 0);
  }
  return w;
}

static rnnk_plan* make_plan(const run* r, int64_t layers, int32_t direction, int64_t input_size) {
  const test_case* c = r->c;
  rnnk_problem problem;
  rnnk_plan* plan;
  memset(&problem, 0, sizeof problem);
  problem.struct_size = sizeof problem;
  problem.cell = c->cell;
  problem.dtype = r->dtype;
  problem.flags = (c->s.flags & NO_BIAS) | r->flags;
  problem.input_size = input_size;
  problem.hidden_size = c->s.H;
  problem.num_layers = layers;
  problem.direction = direction;
  problem.dropout = c->dropout;
  if (c->o) {
    problem.flags |= c->o->flags;
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
  return plan;
}

static rnnk_sizes sizes_of(const rnnk_plan* plan, const test_case* c) {
  rnnk_sizes sizes;
  memset(&sizes, 0, sizeof sizes);
  sizes.struct_size = sizeof sizes;
  need(rnnk_plan_sizes(plan, c->s.T, c->s.B, &sizes), "rnnk_plan_sizes");
  return sizes;
}

static void check_bound(const run* r, const rnnk_plan* plan, size_t reserve) {
  const double T = (double)r->c->s.T, rows = T * (double)r->c->s.B;
  rnnk_reserve_bound b;
  memset(&b, 0, sizeof b);
  b.struct_size = sizeof b;
  need(rnnk_plan_reserve_bound(plan, &b), "rnnk_plan_reserve_bound");
  const double per_row = (double)(r->c->dropout > 0 ? b.per_row_dropped : b.per_row);
  const double borders = ceil(1.6 * sqrt(T)) * ((double)b.border_row * (double)r->c->s.B + (double)b.border);
  if ((double)reserve > (double)b.constant + per_row * rows + borders) complain(r, "reserve", "is larger than its bound");
}

/* Everything but what is a matter of the plan: packed, reserve, workspace. */
static rnnk_args args_of(const run* r, void* const* in) {
  const test_case* c = r->c;
  const int64_t T = c->s.T, B = c->s.B, P = outputs_of(c), C = cells_of(c);
  const int dtype = r->dtype;
  rnnk_args a;
  memset(&a, 0, sizeof a);
  a.struct_size = sizeof a;
  a.flags = c->o || c->dropout > 0 ? RNNK_CALL_TRAIN : 0;
  a.seq_len = T;
  a.batch = B;
  a.lengths = lengths_of(c);
  a.mask = marks(c, c->mask);
  a.reset = marks(c, c->reset);
  a.seed = 12345678901234567u;
  a.call = 3;
  a.stream = 5;
  a.x = view(in[X], B, c->s.I, dtype);
  a.y = view(r->outputs[Y], B, c->D * P, dtype);
  a.h_0 = view(in[H_0], B, P, dtype);
  a.c_0 = view(in[C_0], B, C, dtype);
  a.h_n = view(r->outputs[H_N], B, P, dtype);
  a.c_n = view(r->outputs[C_N], B, C, dtype);
  a.dy = view(in[DY], B, c->D * P, dtype);
  a.dh_n = view(in[DH_N], B, P, dtype);
  a.dc_n = view(in[DC_N], B, C, dtype);
  a.dx = view(r->outputs[DX], B, c->s.I, dtype);
  a.dh_0 = view(r->outputs[DH_0], B, P, dtype);
  a.dc_0 = view(r->outputs[DC_0], B, C, dtype);
  return a;
}

/* dh of a layer. */
static rnnk_tensor gradients_of_h(const run* r, int64_t layer) {
  const int64_t width = r->c->D * outputs_of(r->c), count = r->c->s.T * r->c->s.B * width;
  return view(r->outputs[DH] + (size_t)(layer * count) * item(r->dtype), r->c->s.B, width, r->dtype);
}

static void begin_run(run* r, void** in) {
  const test_case* c = r->c;
  for (int i = 0; i < INPUTS; ++i) {
    const int64_t count = input_count(c, i);
    in[i] = c->inputs[i] ? malloc((size_t)count * item(r->dtype) + 1) : NULL; /* + 1: never an empty block */
    for (int64_t k = 0; in[i] && k < count; ++k) store(in[i], r->dtype, k, c->inputs[i][k]);
  }
  for (int i = 0; i < OUTPUTS; ++i) {
    const int absent = !c->inputs[twin[i]];
    r->bytes[i] = absent ? 0 : (size_t)output_count(c, i) * item(r->dtype);
    r->outputs[i] = absent ? NULL : malloc(r->bytes[i] + GUARD + (GUARD == 0 && r->bytes[i] == 0));
    if (absent) continue;
    memset(r->outputs[i], 0xff, r->bytes[i] + GUARD);
    if (i == DH) memset(r->outputs[i], 0, r->bytes[i]); /* it is not written past a row's length */
  }
}

static void* scratch(size_t bytes) { return memset(allocate(bytes + GUARD), 0xff, bytes + GUARD); }
static void end_scratch(const run* r, unsigned char* bytes, size_t size, const char* name) {
  for (int k = 0; k < GUARD; ++k) {
    if (bytes[size + (size_t)k] == 0xff) continue;
    complain(r, name, "was written past its end");
    break;
  }
  free(bytes);
}
static void end_run(const run* r, void** in) {
  for (int i = 0; i < OUTPUTS; ++i) {
    for (int k = 0; r->outputs[i] && k < GUARD; ++k) {
      if (r->outputs[i][r->bytes[i] + (size_t)k] != 0xff) {
        complain(r, output_names[i], "was written past its end");
        break;
      }
    }
  }
  for (int i = 0; i < INPUTS; ++i) free(in[i]);
}

static size_t room(const run* r, size_t least, size_t all) {
  if (all < least) complain(r, "workspace", "is smaller than the least");
  return r->least == 0 ? all : r->least == 1 ? least : least + (all - least) / 2;
}

/* Forward for inference, forward for training, backward; outputs are left in r->outputs. */
static void execute(run* r) {
  const test_case* c = r->c;
  void* in[INPUTS];
  rnnk_weights weights[MOST], gradients[MOST];
  rnnk_tensor dh[MOST];
  unsigned char* inferred[C_N + 1];
  rnnk_plan* plan = make_plan(r, c->L,
                              c->D == 2              ? RNNK_BOTH_DIRECTIONS
                              : c->s.flags & REVERSE ? RNNK_REVERSE_ONLY
                                                     : RNNK_FORWARD_ONLY,
                              c->s.I);
  const rnnk_sizes sizes = sizes_of(plan, c);
  const size_t forward_bytes = room(r, sizes.workspace_forward_least, sizes.workspace_forward);
  const size_t backward_bytes = room(r, sizes.workspace_backward_least, sizes.workspace_backward);
  check_bound(r, plan, sizes.reserve);
  begin_run(r, in);
  for (int64_t i = 0; i < c->L * c->D; ++i) {
    weights[i] = weights_of(c, in + W_IH, r->dtype, i);
    gradients[i] = weights_of(c, (void* const*)(r->outputs + DW_IH), r->dtype, i);
  }
  for (int64_t l = 0; l < c->L; ++l) dh[l] = gradients_of_h(r, l);
  void *packed = scratch(sizes.packed), *reserve = scratch(sizes.reserve), *kept = allocate(sizes.reserve);
  void *forward_scratch = scratch(forward_bytes), *backward_scratch = scratch(backward_bytes);
  need(rnnk_pack_weights(plan, weights, RNNK_PACK_BOTH, packed, sizes.packed, NULL), "rnnk_pack_weights");

  rnnk_args a = args_of(r, in);
  a.packed = packed;
  a.packed_size = sizes.packed;
  a.workspace = forward_scratch;
  a.workspace_size = forward_bytes;
  need(rnnk_forward(plan, &a), "rnnk_forward for inference");
  for (int i = Y; i <= C_N; ++i) {
    inferred[i] = malloc(r->bytes[i] + 1);
    if (r->bytes[i]) memcpy(inferred[i], r->outputs[i], r->bytes[i]);
  }
  a.reserve = reserve;
  a.reserve_size = sizes.reserve;
  need(rnnk_forward(plan, &a), "rnnk_forward");
  for (int i = Y; i <= C_N; ++i) {
    if (r->bytes[i] && memcmp(inferred[i], r->outputs[i], r->bytes[i])) {
      complain(r, output_names[i], "depends on the reserve being kept");
    }
    free(inferred[i]);
  }
  memcpy(kept, reserve, sizes.reserve);

  a.workspace = backward_scratch;
  a.workspace_size = backward_bytes;
  a.dweights = gradients;
  a.dh = dh;
  need(rnnk_backward(plan, &a), "rnnk_backward");
  if (memcmp(kept, reserve, sizes.reserve)) complain(r, "reserve", "was written by backward");
  end_run(r, in);
  end_scratch(r, packed, sizes.packed, "packed");
  end_scratch(r, reserve, sizes.reserve, "reserve");
  end_scratch(r, forward_scratch, forward_bytes, "workspace of forward");
  end_scratch(r, backward_scratch, backward_bytes, "workspace of backward");
  free(kept);
  rnnk_plan_destroy(plan);
}

/* Dropout between layers, of both directions. */
static void drop(const run* r, const rnnk_args* a, int64_t layer, rnnk_tensor from, rnnk_tensor to) {
  const test_case* c = r->c;
  const int64_t P = outputs_of(c);
  rnnk_dropout_args d;
  memset(&d, 0, sizeof d);
  d.struct_size = sizeof d;
  d.p = c->dropout;
  d.seed = a->seed;
  d.call = a->call;
  d.seq_len = c->s.T;
  d.batch = c->s.B;
  d.hidden_size = P;
  d.lengths = lengths_of(c);
  for (int64_t i = 0; i < c->D; ++i) {
    d.stream = a->stream + (uint32_t)(layer * c->D + i);
    d.in = columns(from, i, P);
    d.out = columns(to, i, P);
    need(rnnk_dropout(&d), "rnnk_dropout");
  }
}

/* The same results as execute()'s, from plans of one layer and one direction each. */
static void compose(run* r) {
  const test_case* c = r->c;
  const int64_t T = c->s.T, B = c->s.B, D = c->D, P = outputs_of(c), count = T * B * D * P;
  const size_t wide = (size_t)count * item(r->dtype);
  void *in[INPUTS], *packed[MOST], *reserve[MOST], *outputs[MOST], *dropped[MOST];
  rnnk_plan* plans[MOST];
  rnnk_args calls[MOST];
  begin_run(r, in);
  const rnnk_args whole = args_of(r, in);
  rnnk_tensor x = whole.x;
  for (int64_t l = 0; l < c->L; ++l) {
    outputs[l] = scratch(wide);
    dropped[l] = scratch(wide);
    const rnnk_tensor y = l + 1 == c->L ? whole.y : view(outputs[l], B, D * P, r->dtype);
    for (int64_t d = 0; d < D; ++d) {
      const int64_t i = l * D + d;
      const int reverse = D == 2 ? d == 1 : (c->s.flags & REVERSE) != 0;
      const rnnk_weights w = weights_of(c, in + W_IH, r->dtype, i);
      rnnk_args* a = &calls[i];
      plans[i] = make_plan(r, 1, reverse ? RNNK_REVERSE_ONLY : RNNK_FORWARD_ONLY, l ? D * P : c->s.I);
      const rnnk_sizes sizes = sizes_of(plans[i], c);
      packed[i] = scratch(sizes.packed);
      reserve[i] = scratch(sizes.reserve);
      need(rnnk_pack_weights(plans[i], &w, RNNK_PACK_BOTH, packed[i], sizes.packed, NULL), "rnnk_pack_weights");
      *a = whole;
      a->packed = packed[i];
      a->packed_size = sizes.packed;
      a->reserve = reserve[i];
      a->reserve_size = sizes.reserve;
      a->stream = whole.stream + (uint32_t)i;
      a->x = x;
      a->y = columns(y, d, P);
      /* A view [1, B, .] begins where its part does. */
      a->h_0.data = part(whole.h_0, i).data;
      a->c_0.data = part(whole.c_0, i).data;
      a->h_n.data = part(whole.h_n, i).data;
      a->c_n.data = part(whole.c_n, i).data;
      a->workspace_size = sizes.workspace_forward;
      a->workspace = scratch(a->workspace_size);
      need(rnnk_forward(plans[i], a), "rnnk_forward by hand");
      end_scratch(r, a->workspace, a->workspace_size, "workspace of forward");
      a->workspace_size = sizes.workspace_backward;
    }
    x = y;
    if (l + 1 < c->L && c->dropout > 0) {
      x = view(dropped[l], B, D * P, r->dtype);
      drop(r, &whole, l, y, x);
    }
  }
  rnnk_tensor dy = whole.dy;
  for (int64_t l = c->L - 1; l >= 0; --l) {
    const int64_t width = l ? D * P : c->s.I;
    const rnnk_tensor dx = l ? view(scratch((size_t)(T * B * width) * item(r->dtype)), B, width, r->dtype) : whole.dx;
    void* const second = scratch((size_t)(T * B * width) * item(r->dtype));
    for (int64_t d = 0; d < D; ++d) {
      const int64_t i = l * D + d;
      const rnnk_weights w = weights_of(c, (void* const*)(r->outputs + DW_IH), r->dtype, i);
      const rnnk_tensor dh = columns(gradients_of_h(r, l), d, P);
      rnnk_args* a = &calls[i];
      a->dy = columns(dy, d, P);
      a->dx = d ? view(second, B, width, r->dtype) : dx;
      a->dh_n.data = part(whole.dh_n, i).data;
      a->dc_n.data = part(whole.dc_n, i).data;
      a->dh_0.data = part(whole.dh_0, i).data;
      a->dc_0.data = part(whole.dc_0, i).data;
      a->dweights = &w;
      a->dh = &dh;
      a->workspace = scratch(a->workspace_size);
      need(rnnk_backward(plans[i], a), "rnnk_backward by hand");
      end_scratch(r, a->workspace, a->workspace_size, "workspace of backward");
      free(packed[i]);
      free(reserve[i]);
      rnnk_plan_destroy(plans[i]);
    }
    /* In double: the sum of two floats is rounded to the same float as float arithmetic rounds it. */
    for (int64_t k = 0; D == 2 && k < T * B * width; ++k) {
      store(dx.data, r->dtype, k, load(dx.data, r->dtype, k) + load(second, r->dtype, k));
    }
    free(second);
    if (l + 1 < c->L) free(dy.data);
    if (l && c->dropout > 0) drop(r, &whole, l - 1, dx, dx);
    dy = dx;
  }
  for (int64_t l = 0; l < c->L; ++l) {
    free(outputs[l]);
    free(dropped[l]);
  }
  end_run(r, in);
}

static void free_run(run* r) {
  for (int i = 0; i < OUTPUTS; ++i) free(r->outputs[i]);
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
  const double magnified = got->c->o && (got->c->o->flags & RNNK_PROBLEM_LAYER_NORM) ? 10 : 1;
  const double bound = got->c->exact && !half ? 0 : 8 * eps * terms * magnified * sqrt((double)s->T + 1);
  for (int i = 0; i < OUTPUTS; ++i) {
    double scale = got->c->o ? 1 : DBL_MIN, error = 0; /* 1: the size of terms that cancel where little is left of a mask */
    char detail[120];
    const int64_t count = (int64_t)(got->bytes[i] / item(got->dtype));
    for (int64_t k = 0; k < count; ++k) {
      const double want = load(judge->outputs[i], judge->dtype, k), off = fabs(load(got->outputs[i], got->dtype, k) - want);
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
    run alone = {c, kernel, dtype, 0, 0, {NULL}, {0}}, team = alone, beside = alone, again = alone;
    pthread_t other;
    if (!takes(kernel, dtype, c)) continue;
    again.flags = RNNK_PROBLEM_RECOMPUTE;
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
  const network layer = {*s, 1, 0};
  test_case c = make_case(&layer, o, cell, seed);
  run judge = {&c, "cpu_scalar", RNNK_FLOAT64, 0, 0, {NULL}, {0}};
  execute(&judge);
  test_kernel(&c, kernel, &judge);
  free_run(&judge);
  free_case(&c);
}

static void test_network(const network* n, const option_set* o, int32_t cell, uint64_t seed, const char* kernel) {
  static const struct {
    int threads, least;
    uint32_t flags;
    const char* what;
  } ways[] = {
      {3, 0, 0, "depends on the number of threads"},
      {3, 1, 0, "depends on the workspace being the least"},
      {3, 2, 0, "depends on the size of the workspace"},
      {3, 0, RNNK_PROBLEM_RECOMPUTE, "depends on recomputation"},
      {1, 1, RNNK_PROBLEM_RECOMPUTE, "depends on recomputation in the least workspace"},
  };
  test_case c = make_case(n, o, cell, seed);
  for (int dtype = RNNK_FLOAT32; dtype <= RNNK_BFLOAT16; ++dtype) {
    run by_hand = {&c, kernel, dtype, 0, 0, {NULL}, {0}}, alone = by_hand;
    if (!takes(kernel, dtype, &c)) continue;
    need(rnnk_set_num_threads(1), "rnnk_set_num_threads");
    compose(&by_hand);
    execute(&alone);
    /* A network adds the second direction's dx before it is rounded to bfloat16. */
    if (dtype == RNNK_BFLOAT16 && c.D == 2) compare(&alone, &by_hand);
    else same_bits(&by_hand, &alone, "is not that of layers composed by hand");
    for (size_t i = 0; i < sizeof ways / sizeof *ways; ++i) {
      run again = {&c, kernel, dtype, ways[i].flags, ways[i].least, {NULL}, {0}};
      need(rnnk_set_num_threads(ways[i].threads), "rnnk_set_num_threads");
      execute(&again);
      same_bits(&alone, &again, ways[i].what);
      free_run(&again);
    }
    free_run(&by_hand);
    free_run(&alone);
  }
  free_case(&c);
}

static int wanted(int32_t index, int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (!strcmp(argv[i], rnnk_kernel_name(index))) return 1;
  }
  return argc == 1 && !*rnnk_kernel_weights(index); /* weight_forms.c tests the others */
}

int main(int argc, char** argv) {
  int kernels = 0, cases = 0;
  for (int32_t k = 0; rnnk_kernel_name(k); ++k) {
    const char *kernel = rnnk_kernel_name(k), *reason = rnnk_kernel_unavailable(k);
    const int failed_before = failures;
    if (!wanted(k, argc, argv)) continue;
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
      for (size_t i = 0; i < sizeof networks / sizeof *networks; ++i, ++cases) {
        test_network(&networks[i], NULL, cell, 2000 + 1000 * (uint64_t)cell + i, kernel);
      }
      for (size_t k = 0; k < sizeof options / sizeof *options; ++k) {
        if (strcmp(options[k].cell, rnnk_cell_name(cell))) continue;
        for (size_t i = 0; i < sizeof option_shapes / sizeof *option_shapes; ++i, ++cases) {
          judge_and_test(&option_shapes[i], &options[k], cell, 100 * (uint64_t)k + i, kernel);
        }
        for (size_t i = 0; i < sizeof option_networks / sizeof *option_networks; ++i, ++cases) {
          test_network(&option_networks[i], &options[k], cell, 100 * (uint64_t)k + 50 + i, kernel);
        }
      }
    }
    printf("%s: %s; largest error %.2f of what is allowed\n", kernel, failures == failed_before ? "ok" : "FAILED",
           worst_ratio);
  }
  printf("%d kernels, %d cases, %d failures\n", kernels, cases, failures);
  return failures || !kernels;
}
