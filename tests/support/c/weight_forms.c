/* Every kernel for weights in int8 or bfloat16 by the C ABI alone: runs under an emulator and sanitizers, too.
 *
 * Rows of integers that hold 127 are rounded to themselves (in int8 their scale is 1, in bfloat16 they have 8 bits), so the linear cell
 * h = W x + b_ih + R h' + b_hh must be exact. The numbers beyond the outputs must stay as they are.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rnnkern/rnnkern.h"

enum { GUARD = 64 };

static uint64_t state = 1;
static int next(void) { /* in [-127, 127] */
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (int)(state >> 33) % 128 * (state >> 62 & 1 ? 1 : -1);
}

static void* room(size_t bytes) {
  void* p = aligned_alloc(64, (bytes + 127) / 64 * 64);
  if (!p) exit(2);
  return p;
}
static float* rows(int64_t count, int64_t columns) {
  float* p = room((size_t)(count * columns) * sizeof *p);
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t k = 0; k < columns; ++k) p[r * columns + k] = (float)next();
    p[r * columns + (r * 7) % columns] = r % 2 ? 127 : -127;
  }
  return p;
}
static rnnk_tensor tensor(const float* data, int64_t s0, int64_t s1, int64_t s2) {
  rnnk_tensor t = {(void*)data, {s0, s1, s2}, RNNK_FLOAT32, 0};
  return t;
}
static void need(rnnk_status status, const char* kernel) {
  if (status == RNNK_OK) return;
  fprintf(stderr, "%s: %s\n", kernel, rnnk_last_error());
  exit(2);
}

/* One step of B rows, I inputs and H units. Returns how many results are wrong. */
static int wrong(const char* kernel, uint32_t form, int64_t B, int64_t I, int64_t H, int threads) {
  rnnk_problem problem = {.struct_size = sizeof problem, .cell = RNNK_CELL_linear, .flags = form};
  problem.input_size = I, problem.hidden_size = H;
  rnnk_plan* plan;
  need(rnnk_set_num_threads(threads), kernel);
  need(rnnk_plan_create(&problem, kernel, &plan), kernel);
  rnnk_sizes sizes = {.struct_size = sizeof sizes};
  need(rnnk_plan_sizes(plan, 1, B, &sizes), kernel);

  float *w = rows(H, I), *r = rows(H, H), *b_ih = rows(1, H), *b_hh = rows(1, H), *x = rows(B, I), *h = rows(B, H);
  float *y = room((size_t)(B * H + GUARD) * sizeof *y), *h_n = room((size_t)(B * H) * sizeof *h_n);
  for (int64_t i = 0; i < B * H + GUARD; ++i) y[i] = -1e9f;
  rnnk_weights weights = {.struct_size = sizeof weights};
  weights.weight_ih = tensor(w, I, 1, 0), weights.weight_hh = tensor(r, H, 1, 0);
  weights.bias_ih = tensor(b_ih, 1, 0, 0), weights.bias_hh = tensor(b_hh, 1, 0, 0);
  rnnk_args args = {.struct_size = sizeof args, .seq_len = 1, .batch = B};
  args.packed = room(sizes.packed), args.packed_size = sizes.packed;
  args.workspace = room(sizes.workspace_forward), args.workspace_size = sizes.workspace_forward;
  args.x = tensor(x, B * I, I, 1), args.h_0 = tensor(h, B * H, H, 1);
  args.y = tensor(y, B * H, H, 1), args.h_n = tensor(h_n, B * H, H, 1);
  need(rnnk_pack_weights(plan, &weights, RNNK_PACK_FORWARD, args.packed, args.packed_size, NULL), kernel);
  need(rnnk_forward(plan, &args), kernel);

  int failures = 0;
  for (int64_t row = 0; row < B; ++row) {
    for (int64_t unit = 0; unit < H; ++unit) {
      double sum = (double)b_ih[unit] + b_hh[unit];
      for (int64_t k = 0; k < I; ++k) sum += (double)w[unit * I + k] * x[row * I + k];
      for (int64_t k = 0; k < H; ++k) sum += (double)r[unit * H + k] * h[row * H + k];
      failures += y[row * H + unit] != (float)sum || h_n[row * H + unit] != (float)sum;
    }
  }
  for (int64_t i = B * H; i < B * H + GUARD; ++i) failures += y[i] != -1e9f;
  void* const all[] = {w, r, b_ih, b_hh, x, h, y, h_n, args.packed, args.workspace};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i) free(all[i]);
  rnnk_plan_destroy(plan);
  return failures;
}

/* The flag of the problems that a kernel is for; 0: weights in their own dtype. */
static uint32_t form_of(int32_t kernel) {
  const char* const weights = rnnk_kernel_weights(kernel);
  if (!strcmp(weights, "int8")) return RNNK_PROBLEM_INT8;
  return strcmp(weights, "bf16") ? 0 : RNNK_PROBLEM_BF16_WEIGHTS;
}

int main(void) {
  /* Below, at and past vectors, tiles, the depth of the matrix unit, and rows that are made into bytes at a time. */
  static const int64_t shapes[][3] = {{1, 1, 1},     {2, 3, 4},   {3, 5, 7},     {4, 15, 16},  {5, 17, 33},
                                      {6, 64, 8},    {7, 63, 65}, {16, 65, 31},  {17, 2, 130}, {31, 33, 40},
                                      {33, 127, 64}, {97, 9, 18}, {250, 40, 20}, {1, 300, 70}};
  int kernels = 0, failures = 0;
  for (int32_t k = 0; rnnk_kernel_name(k); ++k) {
    const char* const kernel = rnnk_kernel_name(k);
    const uint32_t form = form_of(k);
    if (!form) continue;
    if (*rnnk_kernel_unavailable(k)) {
      printf("%s: skipped: %s\n", kernel, rnnk_kernel_unavailable(k));
      continue;
    }
    ++kernels;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; ++i) {
      for (int threads = 1; threads <= 3; threads += 2) {
        const int bad = wrong(kernel, form, shapes[i][0], shapes[i][1], shapes[i][2], threads);
        if (bad)
          fprintf(stderr, "%s: B=%lld I=%lld H=%lld: %d wrong numbers\n", kernel, (long long)shapes[i][0],
                  (long long)shapes[i][1], (long long)shapes[i][2], bad);
        failures += bad > 0;
      }
    }
    printf("%s: %s\n", kernel, failures ? "FAILED" : "ok");
  }
  printf("%d kernels, %d failures\n", kernels, failures);
  return failures || !kernels;
}
