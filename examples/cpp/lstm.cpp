// Trains a two-layer bidirectional LSTM by gradient descent, through rnnkern.hpp.
//
// The task: x is a sequence of random signs. At every step, the first half of y (of the forward direction) must be half of the x
// before, and the other half must be half of the x after. The loss is the squared error, summed over y and averaged over steps.
#include <cstdint>
#include <cstdio>
#include <exception>
#include <random>
#include <vector>

#include "rnnkern/rnnkern.hpp"

namespace {

constexpr std::int64_t T = 12, B = 16, I = 1, H = 8, D = 2;

struct Task {
  std::vector<float> x = std::vector<float>(T * B * I), y = std::vector<float>(T * B * D * H), dy = y;

  // The loss, and in dy its gradient.
  float loss() {
    float sum = 0;
    for (std::int64_t t = 0; t < T; ++t) {
      for (std::int64_t b = 0; b < B; ++b) {
        for (std::int64_t u = 0; u < D * H; ++u) {
          const std::int64_t from = u < H ? t - 1 : t + 1, i = (t * B + b) * D * H + u;
          const float error = y[i] - (from < 0 || from == T ? 0 : 0.5f * x[from * B + b]);
          dy[i] = 2 * error / (T * B);
          sum += error * error / (T * B);
        }
      }
    }
    return sum;
  }
};

bool train() {
  auto problem = rnnkern::make<rnnk_problem>();
  problem.cell = RNNK_CELL_lstm, problem.dtype = RNNK_FLOAT32, problem.direction = RNNK_BOTH_DIRECTIONS;
  problem.input_size = I, problem.hidden_size = H, problem.num_layers = 2;
  const rnnkern::plan plan(problem);
  const rnnkern::memory memory(plan, T, B);

  Task task;
  std::mt19937 random(1);
  for (float& v : task.x) v = random() % 2 ? 1 : -1;
  std::vector<float> parameters(plan.parameters()), gradients(plan.parameters());
  for (float& v : parameters) v = std::uniform_real_distribution<float>(-0.7f, 0.7f)(random);
  const auto weights = plan.divide(parameters), dweights = plan.divide(gradients);

  auto args = rnnkern::make<rnnk_args>();
  memory.attach(args);
  args.seq_len = T, args.batch = B, args.dweights = dweights.data();
  args.x = rnnkern::view(task.x, {T, B, I});
  args.y = rnnkern::view(task.y, {T, B, D * H}), args.dy = rnnkern::view(task.dy, {T, B, D * H});
  float first = 0, last = 0;
  for (int step = 0; step <= 200; ++step) {
    plan.pack(weights, memory.packed);  // again after each change of the parameters
    plan.forward(args);
    last = task.loss();
    plan.backward(args);
    for (std::size_t i = 0; i < parameters.size(); ++i) parameters[i] -= 0.6f * gradients[i];
    if (step == 0) first = last;
    if (step % 25 == 0) std::printf("step %3d: loss %.4f\n", step, last);
  }
  return last < first / 4;
}

}  // namespace

int main() try { return train() ? 0 : 1; } catch (const std::exception& failure) {
  std::fprintf(stderr, "%s\n", failure.what());
  return 1;
}
