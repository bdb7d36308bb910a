// A network bound to kernels: what rnnk_plan is. Layers above the first are alike, so four descriptions are enough for all.
#pragma once
#include "core/kernel.h"

namespace rnnk {

// One layer in one direction.
struct Layer {
  Problem plain, masked;  // masked: the instance for calls with a mask or resets
  const Kernel* kernel = nullptr;
  int64_t packed_bytes = 0;  // rounded up to a line
};

// What a call is known by before its arrays.
struct Extent {
  int64_t seq_len, batch;
  bool masked, keeps, drops;  // with a mask or resets; with a reserve; with dropout between layers
};

struct Network {
  Layer layers[2][2];  // [the first, any other][direction]
  int64_t num_layers = 1, directions = 1;
  double dropout = 0;
  uint64_t layout = 0;  // of its packs
  int64_t packed_bytes = 0;

  explicit Network(const rnnk_problem& checked, const char* kernel);

  const Layer& layer(int64_t l, int64_t direction) const { return layers[l > 0][direction]; }
  const Problem& problem(int64_t l, int64_t direction, bool masked) const {
    const Layer& x = layer(l, direction);
    return masked ? x.masked : x.plain;
  }
  const Problem& first() const { return layers[0][0].plain; }
  bool on_cpu() const { return first().device == RNNK_CPU; }
  bool any_reverse() const { return directions == 2 || first().reverse; }
  int64_t count() const { return num_layers * directions; }
  int64_t outputs() const { return first().output_size; }  // P
  int64_t cell_units() const { return (cell_info(first().cell)->states - 1) * first().hidden_size; }
  // Where a layer's own bytes are in a pack, after its header.
  int64_t packed_at(int64_t l, int64_t direction) const;
};

// Sizes of a call; workspaces without the least are those with which the schedule is free.
struct NetworkSizes {
  int64_t reserve, forward, forward_least, backward, backward_least;
};
NetworkSizes network_sizes(const Network&, int64_t seq_len, int64_t batch);
rnnk_reserve_bound reserve_bound(const Network&);

// The arguments are checked (network/check.h), and `packed` is what follows a pack's header.
void network_forward(const Network&, const rnnk_args&);
void network_backward(const Network&, const rnnk_args&);

inline Extent extent_of(const Network& n, const rnnk_args& a, bool keeps) {
  return {a.seq_len, a.batch, a.mask.data || a.reset.data, keeps,
          n.num_layers > 1 && n.dropout > 0 && (a.flags & RNNK_CALL_TRAIN) != 0};
}

}  // namespace rnnk
