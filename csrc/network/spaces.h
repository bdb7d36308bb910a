// Where everything lies in a call's reserve and workspace. A null base only measures.
#pragma once
#include "core/carver.h"
#include "network/network.h"
#include "network/schedule.h"

namespace rnnk {

// [own reserve of each layer and direction][outputs of the layers below the last][the same after dropout, where there is some].
class ReserveSpace {
 public:
  ReserveSpace(const Network& n, const Extent& e, void* base);
  void* own(int64_t layer, int64_t direction) const { return base_ + own_at(layer, direction); }
  rnnk_tensor output(int64_t layer) const { return steps(outputs_ + layer * output_bytes_); }
  // What the layer above `layer` reads.
  rnnk_tensor input_above(int64_t layer) const { return steps(inputs_ + layer * output_bytes_); }
  int64_t bytes() const { return bytes_; }

 private:
  int64_t own_at(int64_t layer, int64_t direction) const;
  rnnk_tensor steps(int64_t at) const;

  const Network& network_;
  int64_t batch_;
  char* base_;
  int64_t own_[2][2] = {};  // bytes of each layer's own, as Network::layers
  int64_t output_bytes_ = 0, outputs_ = 0, inputs_ = 0, bytes_ = 0;
};

// Lengths as contiguous int64; on a CPU also sorted, on a GPU also marks as contiguous bytes and the resets of a reverse walk.
struct RowSpace {
  int64_t* lengths;
  int32_t* order = nullptr;
  int64_t* sorted_lengths = nullptr;
  uint8_t *mask = nullptr, *reset = nullptr, *reverse_resets = nullptr;
  RowSpace(Carver& c, const Network& n, const Extent& e) : lengths(c.take<int64_t>(e.batch)) {
    if (n.on_cpu()) {
      order = c.take<int32_t>(e.batch), sorted_lengths = c.take<int64_t>(e.batch);
    } else if (e.masked) {
      const int64_t steps = e.seq_len * e.batch;
      mask = c.take<uint8_t>(steps), reset = c.take<uint8_t>(steps);
      reverse_resets = c.take<uint8_t>(n.any_reverse() ? steps : 0);
    }
  }
};

// What layers hand to each other, upwards (outputs) or downwards (gradients): buffers [steps, B, D*P], layer l's being number
// l % buffers, so that every layer finds its input in another one than its output.
class BetweenSpace {
 public:
  BetweenSpace(Carver& c, const Network& n, int64_t steps, int64_t batch, int64_t buffers);
  rnnk_tensor of(int64_t layer) const;

 private:
  char* base_;
  int64_t bytes_, count_, batch_, width_;
  int dtype_;
};

// The workspace of a forward call.
struct ForwardSpace {
  RowSpace rows;
  BetweenSpace between;
  // CPU, several blocks: for each layer its states between two blocks, and its rows' lengths in a block.
  char* states = nullptr;
  int64_t* lengths = nullptr;
  char* kernels;  // one, or one for each layer of a wave at once, kernel_bytes each
  int64_t kernel_bytes, state_bytes, bytes;

  ForwardSpace(const Network& n, const Extent& e, Wave wave, void* base);
  void* kernel(int64_t i) const { return kernels + i * kernel_bytes; }

 private:
  ForwardSpace(Carver c, const Network& n, const Extent& e, Wave wave);
};

// The workspace of a backward call.
struct BackwardSpace {
  RowSpace rows;
  BetweenSpace between;
  char* kernels;
  int64_t kernel_bytes, bytes;

  BackwardSpace(const Network& n, const Extent& e, int64_t lowest, Wave wave, void* base);
  void* kernel(int64_t i) const { return kernels + i * kernel_bytes; }

 private:
  BackwardSpace(Carver c, const Network& n, const Extent& e, int64_t lowest, Wave wave);
};

int64_t forward_bytes(const Network& n, const Extent& e, int64_t lowest, Wave wave);
int64_t backward_bytes(const Network& n, const Extent& e, int64_t lowest, Wave wave);

}  // namespace rnnk
