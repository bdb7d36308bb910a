#include "ort/layer.h"

#include <algorithm>
#include <cstring>

namespace rnnk_ort {
namespace {

constexpr size_t kWeights[] = {kW, kR, kB, kP};

int32_t dtype_of(int32_t element) {
  switch (element) {
    case kFloat: return RNNK_FLOAT32;
    case kDouble: return RNNK_FLOAT64;
    case kFloat16: return RNNK_FLOAT16;
    case kBFloat16: return RNNK_BFLOAT16;
    default: return -1;
  }
}
size_t bytes_of(int32_t element) { return element == kDouble ? 8 : element == kFloat || element == kInt32 ? 4 : 2; }

std::string said(const int64_t* shape, size_t axes) {
  std::string text = "[";
  for (size_t i = 0; i < axes; ++i) text += (i ? ", " : "") + (shape[i] < 0 ? "any" : std::to_string(shape[i]));
  return text + "]";
}
constexpr int64_t kAny = -1;

size_t whole_lines(size_t bytes) { return (bytes + 63) / 64 * 64; }

rnnk_tensor view(void* data, int32_t dtype, std::array<int64_t, 3> strides) {
  rnnk_tensor tensor{};
  tensor.data = data;
  tensor.dtype = dtype;
  std::copy(strides.begin(), strides.end(), tensor.stride);
  return tensor;
}

// The threads of onnxruntime's own pool, for one call.
struct HostPool {
  const Api& api;
  const KernelContext* context;
};
struct Share {
  void (*fn)(void*);
  void* data;
};
void on_host(void* context, void (*fn)(void*), void* data, int32_t threads) {
  const auto& host = *static_cast<const HostPool*>(context);
  Share share{fn, data};
  const auto call = [](void* each, size_t) { static_cast<Share*>(each)->fn(static_cast<Share*>(each)->data); };
  const auto count = static_cast<size_t>(threads);
  if (Status* const failed = host.api.KernelContext_ParallelFor(host.context, call, count, count, &share)) {
    host.api.ReleaseStatus(failed);
    fn(data);  // onnxruntime has run nothing, and one thread completes the call with the same bits
  }
}

}  // namespace

struct Layer::Ready {
  rnnk_problem problem{};
  std::unique_ptr<rnnk_plan, decltype(&rnnk_plan_destroy)> plan{nullptr, rnnk_plan_destroy};
  int32_t element = 0;
  rnnk_py::Buffer pack;

  // The sizes of the last call, since most calls of a session have one shape.
  rnnk_sizes sizes(const Layer& layer, int64_t seq_len, int64_t batch) const {
    const std::lock_guard<std::mutex> hold(mutex);
    if (last.struct_size == 0 || last_seq_len != seq_len || last_batch != batch) {
      last.struct_size = sizeof last;
      layer.check(rnnk_plan_sizes(plan.get(), seq_len, batch, &last));
      last_seq_len = seq_len, last_batch = batch;
    }
    return last;
  }
  mutable std::mutex mutex;
  mutable rnnk_sizes last{};
  mutable int64_t last_seq_len = -1, last_batch = -1;
};

Layer::Layer(const Api& api, Recurrent node, const std::array<bool, kInputs>& given, int32_t threads, bool int8)
    : api_(api), node_(std::move(node)), given_(given), threads_(threads), int8_(int8) {}
Layer::~Layer() = default;

void Layer::check(rnnk_status status) const {
  if (status == RNNK_OK) return;
  const int32_t code = status == RNNK_INVALID_VALUE || status == RNNK_INVALID_TYPE ? kInvalidArgument
                       : status == RNNK_NOT_SUPPORTED                              ? kNotImplemented
                                                                                   : kFail;
  refuse(node_.label + ": " + rnnk_last_error(), code);
}

// --- weights --------------------------------------------------------------------------------------------------------------------

void Layer::check_shape(const char* name, const Tensor& tensor, std::initializer_list<int64_t> shape,
                        int32_t element) const {
  if (tensor.element != element) {
    fail(std::string(name) + ": expected onnxruntime's element type " + std::to_string(element) + ", got " +
         std::to_string(tensor.element));
  }
  const auto fits = [](int64_t expected, int64_t came) { return expected == kAny || expected == came; };
  if (tensor.axes != shape.size() || !std::equal(shape.begin(), shape.end(), tensor.shape.begin(), fits)) {
    fail(std::string(name) + ": expected shape " + said(shape.begin(), shape.size()) + ", got " +
         said(tensor.shape.data(), std::min(tensor.axes, tensor.shape.size())));
  }
}

// Copies a weight with its gates in rnnkern's order. Whether the weights fit each other is checked when all are there.
void Layer::arrange(size_t input, const Tensor& tensor, Weights& to) const {
  static constexpr const char* kNames[] = {"X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"};
  const bool is_matrix = input == kW || input == kR;
  if (dtype_of(tensor.element) < 0 || tensor.axes != (is_matrix ? 3u : 2u)) {
    fail(std::string(kNames[input]) + ": expected " + (is_matrix ? "three axes" : "two axes") + " of a float type");
  }
  // A block is the rows of one gate in one direction; B has two sets of gates, P holds i o f.
  const std::vector<size_t> order = input == kP ? std::vector<size_t>{0, 2, 1} : node_.order;
  const int64_t sets = tensor.shape[0] * (input == kB ? 2 : 1), blocks = static_cast<int64_t>(order.size());
  const int64_t rows = tensor.shape[1] / (input == kB ? 2 : 1);
  if (rows % blocks != 0) fail(std::string(kNames[input]) + ": expected a multiple of " + std::to_string(blocks) + " gates");
  const size_t block = bytes_of(tensor.element) * static_cast<size_t>(rows / blocks * (is_matrix ? tensor.shape[2] : 1));
  rnnk_py::Buffer& memory = to.memory[input];
  memory.reserve(std::max<size_t>(block * static_cast<size_t>(sets * blocks), 1));
  auto* out = static_cast<char*>(memory.data());
  const auto* in = static_cast<const char*>(tensor.data);
  for (int64_t set = 0; set < sets && block > 0; ++set, in += block * order.size()) {
    for (const size_t from : order) std::memcpy(out, in + from * block, block), out += block;
  }
  to.tensors[input] = tensor;
  to.tensors[input].data = memory.data();
}

void Layer::hold(size_t input, const Tensor& tensor) {
  arrange(input, tensor, held_);
  is_held_[input] = true;
  for (const size_t each : kWeights) {
    if (given_[each] && !is_held_[each]) return;
  }
  auto made = std::const_pointer_cast<Ready>(make(held_));
  rnnk_sizes sizes{};
  sizes.struct_size = sizeof sizes;
  check(rnnk_plan_sizes(made->plan.get(), 1, 1, &sizes));
  made->pack.reserve(sizes.packed);
  const auto views = views_of(held_, made->problem);
  check(rnnk_pack_weights(made->plan.get(), views.data(), RNNK_PACK_FORWARD, made->pack.data(), sizes.packed, nullptr));
  held_ = {};
  packed_ = std::move(made);
}

std::shared_ptr<const Layer::Ready> Layer::make(const Weights& weights) const {
  const Tensor &w = weights.tensors[kW], &r = weights.tensors[kR];
  const int64_t D = node_.directions, G = node_.gates, H = r.shape[2];
  if (node_.hidden_size > 0 && H != node_.hidden_size) {
    fail("R: expected hidden_size = " + std::to_string(node_.hidden_size) + " columns, got " + std::to_string(H));
  }
  check_shape("R", r, {D, G * H, H}, w.element);
  check_shape("W", w, {D, G * H, kAny}, w.element);
  if (given_[kB]) check_shape("B", weights.tensors[kB], {D, 2 * G * H}, w.element);
  if (given_[kP]) check_shape("P", weights.tensors[kP], {D, 3 * H}, w.element);
  auto made = std::make_shared<Ready>();
  made->element = w.element;
  made->problem = node_.problem;
  made->problem.dtype = dtype_of(w.element);
  made->problem.input_size = w.shape[2], made->problem.hidden_size = H;
  if (!given_[kB]) made->problem.flags |= RNNK_PROBLEM_NO_BIAS;
  if (given_[kP]) made->problem.flags |= RNNK_PROBLEM_PEEPHOLE;
  if (int8_) made->problem.flags |= RNNK_PROBLEM_INT8;
  rnnk_plan* plan = nullptr;
  check(rnnk_plan_create(&made->problem, nullptr, &plan));
  made->plan.reset(plan);
  return made;
}

// The plan for weights that a call brings: the last call's, if their sizes are the same.
std::shared_ptr<const Layer::Ready> Layer::ready_for(const Weights& weights) {
  auto made = make(weights);
  const std::lock_guard<std::mutex> hold(mutex_);
  if (!last_ || std::memcmp(&last_->problem, &made->problem, sizeof made->problem) != 0) last_ = std::move(made);
  return last_;
}

std::array<rnnk_weights, 2> Layer::views_of(const Weights& weights, const rnnk_problem& problem) const {
  const int64_t G = node_.gates, H = problem.hidden_size, I = problem.input_size;
  const auto at = [&](size_t input, int64_t offset, int64_t stride) {
    char* const data = static_cast<char*>(weights.tensors[input].data);
    const auto bytes = static_cast<int64_t>(bytes_of(weights.tensors[input].element));
    return view(data ? data + offset * bytes : nullptr, problem.dtype, {stride, 1, 0});
  };
  std::array<rnnk_weights, 2> views{};
  for (int64_t d = 0; d < node_.directions; ++d) {
    rnnk_weights& each = views[static_cast<size_t>(d)];
    each.struct_size = sizeof each;
    each.weight_ih = at(kW, d * G * H * I, I);
    each.weight_hh = at(kR, d * G * H * H, H);
    if (given_[kB]) each.bias_ih = at(kB, d * 2 * G * H, 1), each.bias_hh = at(kB, (d * 2 + 1) * G * H, 1);
    if (given_[kP]) each.params = at(kP, d * 3 * H, H);
  }
  return views;
}

// --- a call ---------------------------------------------------------------------------------------------------------------------

void Layer::run(KernelContext* context) {
  std::array<Tensor, kInputs> in{};
  size_t count = 0;
  api_.check(api_.KernelContext_GetInputCount(context, &count));
  for (size_t i = 0; i < std::min(count, node_.inputs()); ++i) {
    const bool is_weight = std::find(std::begin(kWeights), std::end(kWeights), i) != std::end(kWeights);
    if (!given_[i] || (is_weight && is_held_[i])) continue;
    const Value* value = nullptr;
    api_.check(api_.KernelContext_GetInput(context, i, &value));
    in[i] = api_.read(value);
  }
  if (packed_) return forward(context, in, *packed_, nullptr);
  if (int8_) fail("W, R, B: expected constant weights for int8, got some that a call brings");
  Weights now;
  for (const size_t input : kWeights) {
    if (!given_[input]) continue;
    if (is_held_[input]) now.tensors[input] = held_.tensors[input];
    else arrange(input, in[input], now);
  }
  const auto ready = ready_for(now);
  const auto views = views_of(now, ready->problem);
  forward(context, in, *ready, views.data());
}

void Layer::forward(KernelContext* context, const std::array<Tensor, kInputs>& in, const Ready& ready,
                    const rnnk_weights* weights) const {
  const rnnk_problem& problem = ready.problem;
  const int64_t D = node_.directions, I = problem.input_size, H = problem.hidden_size;
  const bool batch_first = node_.batch_first;
  check_shape("X", in[kX], {kAny, kAny, I}, ready.element);
  const int64_t T = in[kX].shape[batch_first ? 1 : 0], B = in[kX].shape[batch_first ? 0 : 1];

  rnnk_args args{};
  args.struct_size = sizeof args;
  args.seq_len = T, args.batch = B;
  static char nothing;  // x of no steps or no rows
  void* const x = in[kX].data ? in[kX].data : &nothing;
  args.x = view(x, problem.dtype, batch_first ? std::array{I, T * I, int64_t{1}} : std::array{B * I, I, int64_t{1}});
  if (in[kLengths].present) {
    check_shape("sequence_lens", in[kLengths], {B}, kInt32);
    args.lengths = view(in[kLengths].data, RNNK_INT32, {1, 0, 0});
  }
  const std::array state = batch_first ? std::array{B, D, H} : std::array{D, B, H};
  const auto state_view = [&](void* data) {
    return view(data, problem.dtype, batch_first ? std::array{H, D * H, int64_t{1}} : std::array{B * H, H, int64_t{1}});
  };
  for (const auto& [input, name, to] :
       {std::tuple{kInitialH, "initial_h", &args.h_0}, std::tuple{kInitialC, "initial_c", &args.c_0}}) {
    if (!in[input].present) continue;
    check_shape(name, in[input], {state[0], state[1], state[2]}, ready.element);
    *to = state_view(in[input].data);
  }

  size_t outputs = 0;
  api_.check(api_.KernelContext_GetOutputCount(context, &outputs));
  outputs = std::min(outputs, node_.outputs());
  const std::array y_shape = batch_first ? std::array{B, T, D, H} : std::array{T, D, B, H};
  Tensor y;
  if (outputs > kY) y = api_.output(context, kY, y_shape.data(), y_shape.size());
  if (outputs > kFinalH) args.h_n = state_view(api_.output(context, kFinalH, state.data(), state.size()).data);
  if (outputs > kFinalC) args.c_n = state_view(api_.output(context, kFinalC, state.data(), state.size()).data);

  // The kernels need y [T, B, D*H]. Y [T, D, B, H] of two directions is no strided view of it unless B is 1: it is moved afterwards.
  const bool moved = y.data && !batch_first && D == 2 && B > 1;
  const bool is_apart = moved || !y.data;
  const size_t row = static_cast<size_t>(H) * bytes_of(ready.element);
  const rnnk_sizes sizes = ready.sizes(*this, T, B);
  const size_t pack_bytes = weights ? whole_lines(sizes.packed) : 0, work_bytes = whole_lines(sizes.workspace_forward + 1);
  const size_t y_bytes = is_apart ? static_cast<size_t>(T * B * D) * row : 0;
  const rnnk_py::Workspace workspace(pack_bytes + work_bytes + y_bytes + 1);
  auto* const memory = static_cast<char*>(workspace.data());
  args.packed = weights ? memory : ready.pack.data(), args.packed_size = weights ? pack_bytes : ready.pack.size();
  args.weights = weights;
  args.workspace = memory + pack_bytes, args.workspace_size = work_bytes;
  char* const apart = memory + pack_bytes + work_bytes;
  if (is_apart) args.y = view(apart, problem.dtype, {B * D * H, D * H, 1});
  else
    args.y = view(y.data, problem.dtype,
                  batch_first ? std::array{D * H, T * D * H, int64_t{1}} : std::array{D * B * H, H, int64_t{1}});

  HostPool host{api_, context};
  rnnk_pool pool{sizeof(rnnk_pool), std::clamp(threads_ > 0 ? threads_ : rnnk_get_num_threads(), 1, 256), on_host, &host};
  args.pool = &pool;
  check(rnnk_forward(ready.plan.get(), &args));
  if (!moved) return;
  const char* from = apart;
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t b = 0; b < B; ++b) {
      for (int64_t d = 0; d < D; ++d, from += row) {
        std::memcpy(static_cast<char*>(y.data) + static_cast<size_t>((t * D + d) * B + b) * row, from, row);
      }
    }
  }
}

}  // namespace rnnk_ort
