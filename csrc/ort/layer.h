// A recurrent node at work: its weights, its plan and its calls.
#pragma once
#include <initializer_list>
#include <memory>
#include <mutex>

#include "ort/node.h"
#include "python/memory.h"

namespace rnnk_ort {

// The weights W [D, G*H, I], R [D, G*H, H], B [D, 2*G*H] and P [D, 3*H] of a node, with their gates in rnnkern's order.
struct Weights {
  std::array<Tensor, kInputs> tensors;
  std::array<rnnk_py::Buffer, kInputs> memory;  // what a tensor's data point to
};

// May be used by several threads at once, once its weights are held.
class Layer {
 public:
  // given: for each input whether the node has it. threads: at most so many work on a call; 0: as many as the library's team has.
  // int8: constant weights are packed as bytes, and others refused.
  Layer(const Api& api, Recurrent node, const std::array<bool, kInputs>& given, int32_t threads, bool int8);
  ~Layer();

  // Copies a constant input. When it is the last of the node's weights they are packed, and the copies are freed.
  void hold(size_t input, const Tensor& tensor);
  void run(KernelContext* context);

 private:
  struct Ready;  // a plan, and a pack where all weights are constant

  std::shared_ptr<const Ready> ready_for(const Weights& weights);
  std::shared_ptr<const Ready> make(const Weights& weights) const;
  void arrange(size_t input, const Tensor& tensor, Weights& to) const;
  void check_shape(const char* name, const Tensor& tensor, std::initializer_list<int64_t> shape, int32_t element) const;
  std::array<rnnk_weights, 2> views_of(const Weights& weights, const rnnk_problem& problem) const;
  void forward(KernelContext* context, const std::array<Tensor, kInputs>& in, const Ready& ready,
               const rnnk_weights* weights) const;
  [[noreturn]] void fail(const std::string& text) const { refuse(node_.label + ": " + text); }
  void check(rnnk_status status) const;

  const Api& api_;
  Recurrent node_;
  std::array<bool, kInputs> given_;
  int32_t threads_;
  bool int8_;
  Weights held_;  // the constant ones, until all are there and packed
  std::array<bool, kInputs> is_held_{};
  std::shared_ptr<const Ready> packed_;  // once all weights are held
  std::mutex mutex_;
  std::shared_ptr<const Ready> last_;  // behind the mutex: that of the last call whose weights were computed
};

}  // namespace rnnk_ort
