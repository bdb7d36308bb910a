/* One LSTM layer, forward and back through time, by the C ABI alone; checks its own gradients by finite differences.
 *
 * The steps any program takes: describe the problem, make a plan, ask it for sizes, allocate, pack the weights (again
 * after each change of them), run forward, run backward.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rnnkern/rnnkern.h"

enum { T = 6, B = 2, I = 3, H = 5, G = 4 };

static void check(rnnk_status status, const char* call) {
  if (status == RNNK_OK) return;
  fprintf(stderr, "%s: status %d: %s\n", call, (int)status, rnnk_last_error());
  exit(EXIT_FAILURE);
}
#define CHECK(call) check((call), #call)

/* packed, reserve and workspace stand on 64-byte boundaries; aligned_alloc wants a multiple of that. */
static void* allocate(size_t bytes) {
  void* p = aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
  if (!p) {
    fprintf(stderr, "out of memory\n");
    exit(EXIT_FAILURE);
  }
  return p;
}

/* A view of a dense array [d0, d1, d2]; for a state [d0, d1] the third size is 1 and its stride is not read. */
static rnnk_tensor dense(double* data, int64_t d1, int64_t d2) {
  rnnk_tensor t;
  memset(&t, 0, sizeof t);
  t.data = data;
  t.stride[0] = d1 * d2;
  t.stride[1] = d2;
  t.stride[2] = 1;
  t.dtype = RNNK_FLOAT64;
  return t;
}

/* Everything the layer reads and writes. Row 1 of the batch ends after four steps. */
static double x[T * B * I], w_ih[G * H * I], w_hh[G * H * H], b_ih[G * H], b_hh[G * H];
static double y[T * B * H], h_n[B * H], c_n[B * H];
static double dy[T * B * H], dx[T * B * I], dw_ih[G * H * I], dw_hh[G * H * H], db_ih[G * H], db_hh[G * H];
static const int64_t lengths[B] = {T, 4};

static rnnk_plan* plan;
static rnnk_sizes sizes;
static rnnk_args args;
static void* packed;

static double uniform(void) { return 2.0 * rand() / RAND_MAX - 1.0; }

static void fill(double* values, size_t count, double scale) {
  for (size_t i = 0; i < count; ++i) values[i] = scale * uniform();
}

static void prepare(void) {
  rnnk_problem problem;
  memset(&problem, 0, sizeof problem);
  problem.struct_size = sizeof problem;
  problem.cell = RNNK_CELL_lstm;
  problem.dtype = RNNK_FLOAT64;
  problem.device = RNNK_CPU;
  problem.input_size = I;
  problem.hidden_size = H;
  CHECK(rnnk_plan_create(&problem, NULL, &plan));

  memset(&sizes, 0, sizeof sizes);
  sizes.struct_size = sizeof sizes;
  CHECK(rnnk_plan_sizes(plan, T, B, &sizes));
  packed = allocate(sizes.packed);

  memset(&args, 0, sizeof args);
  args.struct_size = sizeof args;
  args.seq_len = T;
  args.batch = B;
  args.lengths = lengths;
  args.packed = packed;
  args.x = dense(x, B, I);
  args.y = dense(y, B, H);
  args.h_n = dense(h_n, H, 1);
  args.c_n = dense(c_n, H, 1);
  args.reserve = allocate(sizes.reserve);
  args.reserve_size = sizes.reserve;
  /* One scratch for both directions. */
  args.workspace_size =
      sizes.workspace_forward > sizes.workspace_backward ? sizes.workspace_forward : sizes.workspace_backward;
  args.workspace = allocate(args.workspace_size);
  args.dy = dense(dy, B, H);
  args.dx = dense(dx, B, I);
  args.dweight_ih = dw_ih;
  args.dweight_hh = dw_hh;
  args.dbias_ih = db_ih;
  args.dbias_hh = db_hh;
}

/* The loss is sum(dy * y), so that dy is its gradient with respect to y. */
static double loss(void) {
  rnnk_weights weights;
  double sum = 0;
  memset(&weights, 0, sizeof weights);
  weights.struct_size = sizeof weights;
  weights.weight_ih = w_ih;
  weights.weight_hh = w_hh;
  weights.bias_ih = b_ih;
  weights.bias_hh = b_hh;
  CHECK(rnnk_pack_weights(plan, &weights, 1, packed, sizes.packed));
  CHECK(rnnk_forward(plan, &args));
  for (int i = 0; i < T * B * H; ++i) sum += dy[i] * y[i];
  return sum;
}

/* Largest difference between a gradient and central differences of the loss, relative to the largest entry. */
static double gradient_error(const char* name, double* values, const double* gradient, int count) {
  const double step = 6.1e-6; /* the cube root of the dtype's epsilon balances truncation and rounding */
  double worst = 0, largest = 0;
  for (int i = 0; i < count; ++i) {
    const double before = values[i];
    values[i] = before + step;
    const double up = loss();
    values[i] = before - step;
    const double down = loss();
    values[i] = before;
    worst = fmax(worst, fabs((up - down) / (2 * step) - gradient[i]));
    largest = fmax(largest, fabs(gradient[i]));
  }
  printf("  %-10s %3d entries, largest %.4f, relative error %.1e\n", name, count, largest, worst / largest);
  return worst / largest;
}

int main(void) {
  /* step^2, the truncation of a central difference, with room for the loss's third derivative and its rounding. */
  const double allowed = 1e-8;
  double worst;

  srand(7);
  fill(x, T * B * I, 1.0);
  fill(dy, T * B * H, 1.0);
  fill(w_ih, G * H * I, 0.5);
  fill(w_hh, G * H * H, 0.5);
  fill(b_ih, G * H, 0.5);
  fill(b_hh, G * H, 0.5);
  prepare();
  printf("rnnkern %s on %s: LSTM, T = %d, B = %d, I = %d, H = %d\n", rnnk_version(), rnnk_plan_kernel(plan), T, B, I, H);

  printf("loss %.6f\n", loss());
  for (int i = 4 * B + 1; i < T * B; i += B) {
    for (int u = 0; u < H; ++u) {
      if (y[i * H + u] != 0) {
        fprintf(stderr, "y is not zero past the end of row 1\n");
        return EXIT_FAILURE;
      }
    }
  }

  CHECK(rnnk_backward(plan, &args));
  worst = gradient_error("x", x, dx, T * B * I);
  worst = fmax(worst, gradient_error("weight_ih", w_ih, dw_ih, G * H * I));
  worst = fmax(worst, gradient_error("weight_hh", w_hh, dw_hh, G * H * H));
  worst = fmax(worst, gradient_error("bias_ih", b_ih, db_ih, G * H));
  worst = fmax(worst, gradient_error("bias_hh", b_hh, db_hh, G * H));

  rnnk_plan_destroy(plan);
  free(packed);
  free(args.reserve);
  free(args.workspace);
  if (!(worst <= allowed)) {
    fprintf(stderr, "a gradient is wrong: relative error %.1e, allowed %.1e\n", worst, allowed);
    return EXIT_FAILURE;
  }
  printf("every gradient agrees with finite differences\n");
  return EXIT_SUCCESS;
}
