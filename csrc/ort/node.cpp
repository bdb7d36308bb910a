#include "ort/node.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstring>
#include <initializer_list>

namespace rnnk_ort {
namespace {

// ONNX's activations: `parameters` of alpha and beta are read, with these defaults. Affine and ScaledTanh have no default.
// ThresholdedRelu has 1 in ONNX and 0 in onnxruntime, so that neither is taken.
struct Function {
  const char* name;
  rnnk_activation_kind kind;
  size_t parameters;
  bool has_default;
  float alpha, beta;
};
constexpr Function kFunctions[] = {
    {"relu", RNNK_RELU, 0, true, 0, 0},
    {"tanh", RNNK_TANH, 0, true, 0, 0},
    {"sigmoid", RNNK_SIGMOID, 0, true, 0, 0},
    {"softsign", RNNK_SOFTSIGN, 0, true, 0, 0},
    {"softplus", RNNK_SOFTPLUS, 0, true, 0, 0},
    {"leakyrelu", RNNK_LEAKY_RELU, 1, true, 0.01f, 0},
    {"thresholdedrelu", RNNK_THRESHOLDED_RELU, 1, false, 0, 0},
    {"elu", RNNK_ELU, 1, true, 1, 0},
    {"hardsigmoid", RNNK_HARD_SIGMOID, 2, true, 0.2f, 0.5f},
    {"affine", RNNK_AFFINE, 2, false, 0, 0},
    {"scaledtanh", RNNK_SCALED_TANH, 2, false, 0, 0},
};

const Function& function_of(std::string name) {
  const std::string given = name;
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
  for (const Function& known : kFunctions) {
    if (name == known.name) return known;
  }
  refuse("activations: expected ONNX's functions, got '" + given + "'", kNotImplemented);
}

// Values of activation_alpha and activation_beta are consumed in the order of the functions that take one.
class Values {
 public:
  Values(std::vector<float> values, const char* name) : values_(std::move(values)), name_(name) {}
  double next(const Function& function, float otherwise) {
    if (used_ < values_.size()) return values_[used_++];
    if (!function.has_default) refuse(std::string(name_) + ": expected a value for " + function.name + ", got none");
    return otherwise;
  }
  void end() const {
    if (used_ < values_.size()) {
      refuse(std::string(name_) + ": expected at most " + std::to_string(used_) + " values, got " +
             std::to_string(values_.size()));
    }
  }

 private:
  std::vector<float> values_;
  const char* name_;
  size_t used_ = 0;
};

void read_activations(Recurrent& node, const Attributes& attributes) {
  std::vector<std::string> names = attributes.texts("activations");
  const size_t each = node.gates == 4 ? 3 : node.gates == 3 ? 2 : 1;
  const auto directions = static_cast<size_t>(node.directions);
  // The schema's default of RNN is a pair, which some exporters write for one direction, too.
  if (node.gates == 1 && directions == 1 && names == std::vector<std::string>{"Tanh", "Tanh"}) names.pop_back();
  if (names.empty()) return;
  if (names.size() != each * directions) {
    refuse("activations: expected " + std::to_string(each) + " for each of " + std::to_string(directions) +
           " directions, got " + std::to_string(names.size()));
  }
  Values alpha(attributes.numbers("activation_alpha"), "activation_alpha");
  Values beta(attributes.numbers("activation_beta"), "activation_beta");
  for (size_t i = 0; i < names.size(); ++i) {
    const Function& function = function_of(names[i]);
    // A pointer: under -fsanitize=undefined, GCC 12 copies an array that a conditional operator chooses.
    rnnk_activation* const chosen = i < each ? node.problem.activations : node.problem.activations_reverse;
    rnnk_activation& to = chosen[i % each];
    to.kind = function.kind;
    if (function.parameters > 0) to.alpha = alpha.next(function, function.alpha);
    if (function.parameters > 1) to.beta = beta.next(function, function.beta);
  }
  alpha.end();
  beta.end();
}

bool same(const rnnk_activation& a, const rnnk_activation& b) {
  return a.kind == b.kind && a.alpha == b.alpha && a.beta == b.beta;
}
bool all_are(const rnnk_activation (&given)[3], std::initializer_list<rnnk_activation_kind> kinds) {
  return std::equal(kinds.begin(), kinds.end(), given,
                    [](auto kind, const auto& activation) { return activation.kind == kind; });
}

// A cell whose functions are its own has no code for options. So functions that a node spells out are dropped where they are those.
void simplify_activations(Recurrent& node) {
  rnnk_problem& problem = node.problem;
  auto &forward = problem.activations, &reverse = problem.activations_reverse;
  if (std::equal(forward, forward + 3, reverse, same)) std::fill(reverse, reverse + 3, rnnk_activation{});
  if (reverse[0].kind != RNNK_OF_CELL) return;
  const bool own = node.gates == 4   ? all_are(forward, {RNNK_SIGMOID, RNNK_TANH, RNNK_TANH})
                   : node.gates == 3 ? all_are(forward, {RNNK_SIGMOID, RNNK_TANH})
                                     : all_are(forward, {RNNK_TANH});
  const bool relu = node.gates == 1 && forward[0].kind == RNNK_RELU;
  if (relu) problem.cell = RNNK_CELL_rnn_relu;
  if (own || relu) std::fill(forward, forward + 3, rnnk_activation{});
}

bool flag(const Attributes& attributes, const char* name) {
  const int64_t value = attributes.integer(name).value_or(0);
  if (value != 0 && value != 1) refuse(std::string(name) + ": expected 0 or 1, got " + std::to_string(value));
  return value == 1;
}

void read_attributes(Recurrent& node, const std::string& op, const Attributes& attributes) {
  rnnk_problem& problem = node.problem;
  problem.struct_size = sizeof problem;
  if (op == "LSTM") problem.cell = RNNK_CELL_lstm, node.gates = 4, node.order = {0, 2, 3, 1};  // i o f c -> i f g o
  else if (op == "GRU") problem.cell = RNNK_CELL_gru, node.gates = 3, node.order = {1, 0, 2};  // z r h -> r z n
  else problem.cell = RNNK_CELL_rnn_tanh, node.order = {0};

  const std::string direction = attributes.text("direction").value_or("forward");
  if (direction == "reverse") problem.direction = RNNK_REVERSE_ONLY;
  else if (direction == "bidirectional") problem.direction = RNNK_BOTH_DIRECTIONS, node.directions = 2;
  else if (direction != "forward") {
    refuse("direction: expected forward, reverse or bidirectional, got '" + direction + "'");
  }
  node.hidden_size = attributes.integer("hidden_size").value_or(0);
  if (node.hidden_size < 0 || (node.hidden_size == 0 && attributes.integer("hidden_size"))) {
    refuse("hidden_size: expected at least 1, got " + std::to_string(node.hidden_size));
  }
  node.batch_first = flag(attributes, "layout");
  if (node.gates == 4 && flag(attributes, "input_forget")) problem.flags |= RNNK_PROBLEM_COUPLED;
  if (node.gates == 3 && !flag(attributes, "linear_before_reset")) problem.flags |= RNNK_PROBLEM_RESET_BEFORE;
  if (const auto clip = attributes.number("clip")) {
    if (!(*clip > 0)) refuse("clip: expected a number above 0, got " + std::to_string(*clip));
    if (!std::isinf(*clip)) problem.clip = *clip;
  }
  read_activations(node, attributes);
  simplify_activations(node);
}

}  // namespace

bool Recurrent::operator==(const Recurrent& other) const {
  return std::memcmp(&problem, &other.problem, sizeof problem) == 0 && hidden_size == other.hidden_size &&
         batch_first == other.batch_first && label == other.label;
}

std::string label_of(const std::string& op, const std::string& name) {
  return name.empty() ? op + " node" : op + " node '" + name + "'";
}

Recurrent read_node(const std::string& op, const std::string& name, const Attributes& attributes) {
  Recurrent node;
  node.label = label_of(op, name);
  try {
    read_attributes(node, op, attributes);
  } catch (const Refusal& why) {
    refuse(node.label + ": " + why.text, why.code);
  }
  return node;
}

}  // namespace rnnk_ort
