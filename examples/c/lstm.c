/* Trains a two-layer bidirectional LSTM by gradient descent, through the C ABI alone.
 *
 * The task: x is a sequence of random signs. At every step, the first half of y (of the forward direction) must be half of the x
 * before, and the other half must be half of the x after. The loss is the squared error, summed over y and averaged over steps.
 */
#include <stdio.h>
#include <stdlib.h>

#include "rnnkern/rnnkern.h"

/* The sizes as rnnkern.h names them, and the number of all parameters. */
enum { T = 12, B = 16, I = 1, H = 8, L = 2, D = 2, G = 4, COUNT = D * G * H * (I + (L - 1) * D * H + L * (H + 2)) };
enum { STEPS = 201 };
static float x[T][B][I], y[T][B][D * H], dy[T][B][D * H], parameters[COUNT], gradients[COUNT], loss[STEPS];

static void check(rnnk_status status, const char* call) {
  if (status == RNNK_OK) return;
  fprintf(stderr, "%s: status %d: %s\n", call, (int)status, rnnk_last_error());
  exit(EXIT_FAILURE);
}
#define CHECK(call) check((call), #call)

static void* allocate(size_t bytes) { /* aligned_alloc needs a multiple of the alignment */
  void* p = aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (!p) exit(EXIT_FAILURE);
  return p;
}
static rnnk_tensor tensor(void* data, int64_t stride0, int64_t stride1, int64_t stride2) {
  return (rnnk_tensor){.data = data, .stride = {stride0, stride1, stride2}, .dtype = RNNK_FLOAT32};
}
static void divide(float* at, rnnk_weights* weights) { /* COUNT numbers into one struct for each direction of each layer */
  for (int i = 0; i < L * D; ++i) {
    const int inputs = i < D ? I : D * H;
    weights[i] = (rnnk_weights){.struct_size = sizeof *weights};
    weights[i].weight_ih = tensor(at, inputs, 1, 0), at += G * H * inputs;
    weights[i].weight_hh = tensor(at, H, 1, 0), at += G * H * H;
    weights[i].bias_ih = tensor(at, 1, 0, 0), at += G * H;
    weights[i].bias_hh = tensor(at, 1, 0, 0), at += G * H;
  }
}

int main(void) {
  rnnk_problem problem = {.struct_size = sizeof problem, .cell = RNNK_CELL_lstm, .dtype = RNNK_FLOAT32, .input_size = I};
  problem.hidden_size = H, problem.num_layers = L, problem.direction = RNNK_BOTH_DIRECTIONS;
  rnnk_plan* plan;
  rnnk_sizes sizes = {.struct_size = sizeof sizes};
  CHECK(rnnk_plan_create(&problem, NULL, &plan));
  CHECK(rnnk_plan_sizes(plan, T, B, &sizes));
  rnnk_weights weights[L * D], dweights[L * D];
  divide(parameters, weights), divide(gradients, dweights);
  rnnk_args args = {.struct_size = sizeof args, .seq_len = T, .batch = B, .dweights = dweights};
  args.x = tensor(x, B * I, I, 1), args.y = tensor(y, B * D * H, D * H, 1), args.dy = tensor(dy, B * D * H, D * H, 1);
  void* const packed = allocate(sizes.packed);
  args.packed = packed, args.packed_size = sizes.packed;
  args.reserve = allocate(sizes.reserve), args.reserve_size = sizes.reserve;
  const size_t forward = sizes.workspace_forward, backward = sizes.workspace_backward;
  args.workspace_size = forward > backward ? forward : backward; /* one for both calls */
  args.workspace = allocate(args.workspace_size);

  for (int i = 0; i < COUNT; ++i) parameters[i] = 0.7f * (2 * (float)rand() / (float)RAND_MAX - 1);
  for (int i = 0; i < T * B * I; ++i) (&x[0][0][0])[i] = rand() % 2 ? 1 : -1;
  for (int step = 0; step < STEPS; ++step) {
    CHECK(
        rnnk_pack_weights(plan, weights, RNNK_PACK_BOTH, packed, sizes.packed, NULL)); /* after each change of the weights */
    CHECK(rnnk_forward(plan, &args));
    for (int i = 0; i < T * B * D * H; ++i) {
      const int t = i / (B * D * H), b = i / (D * H) % B, u = i % (D * H), from = u < H ? t - 1 : t + 1;
      const float error = y[t][b][u] - (from < 0 || from == T ? 0 : 0.5f * x[from][b][0]);
      dy[t][b][u] = 2 * error / (T * B); /* the gradient of the loss */
      loss[step] += error * error / (T * B);
    }
    CHECK(rnnk_backward(plan, &args));
    for (int i = 0; i < COUNT; ++i) parameters[i] -= 0.6f * gradients[i];
    if (step % 25 == 0) printf("step %3d: loss %.4f\n", step, loss[step]);
  }
  rnnk_plan_destroy(plan);
  free(packed), free(args.reserve), free(args.workspace);
  return loss[STEPS - 1] < loss[0] / 4 ? EXIT_SUCCESS : EXIT_FAILURE;
}
