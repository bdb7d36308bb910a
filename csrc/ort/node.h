// The meaning of a node RNN, GRU or LSTM in the words of rnnkern.h.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "ort/attributes.h"
#include "rnnkern/rnnkern.h"

namespace rnnk_ort {

constexpr const char* kOperators[] = {"RNN", "GRU", "LSTM"};

// Positions of a node's inputs and outputs.
enum Input : size_t { kX, kW, kR, kB, kLengths, kInitialH, kInitialC, kP, kInputs };
enum Output : size_t { kY, kFinalH, kFinalC, kOutputs };

struct Recurrent {
  rnnk_problem problem{};  // without dtype and sizes, which the arrays have
  int64_t gates = 1, directions = 1;
  int64_t hidden_size = 0;    // 0: the node does not say it, R does
  bool batch_first = false;   // layout 1: [B, T, I], [B, D, H] and [B, T, D, H]
  std::vector<size_t> order;  // the position in ONNX's order of each gate of rnnkern's
  std::string label;          // for errors: "LSTM node 'name'"
  bool operator==(const Recurrent& other) const;
  size_t inputs() const { return gates == 4 ? 8 : 6; }
  size_t outputs() const { return gates == 4 ? 3 : 2; }
};

// Throws a Refusal that names the attribute: a value out of range, an activation that is not one of ONNX's eleven, a parameter
// that has no default. It is stricter than onnxruntime where that reads an attribute otherwise than ONNX specifies it: the provider
// leaves such a node to onnxruntime.
Recurrent read_node(const std::string& op, const std::string& name, const Attributes& attributes);

// "LSTM node 'name'", or "LSTM node" where it has no name.
std::string label_of(const std::string& op, const std::string& name);

}  // namespace rnnk_ort
