// One call of a kernel: one layer in one direction, over the steps of its tensors. network/ makes it from the caller's arguments,
// which capi.cpp has checked; kernels only read it.
//
// This header is part of files compiled for different instruction sets: everything here is data.
#pragma once
#include <cstdint>

#include "rnnkern/rnnkern.h"

namespace rnnk {

// The parameters of one layer in one direction, as rnnk_weights has them; null where there are none.
struct Parameters {
  const void *weight_ih = nullptr, *weight_hh = nullptr, *bias_ih = nullptr, *bias_hh = nullptr;
  const void *weight_hr = nullptr, *params = nullptr;  // [P, H], [rows, H]
  void* cuda_stream = nullptr;
};

// Bytes [T, B]; null: absent. GPU: contiguous.
struct Marks {
  const uint8_t* data = nullptr;
  int64_t step = 0, row = 0;  // strides
};

// A copy of marks; lengths: contiguous [B], or null.
struct MarksCopy {
  Marks from;
  const int64_t* lengths;
  int64_t seq_len, batch, shift;
};

struct LayerCall {
  int64_t seq_len = 0, batch = 0;
  // [B] in the caller's order; null: all rows are full. GPU: of these steps. CPU: of the whole sequence, read outside kernels only.
  const int64_t* lengths = nullptr;
  // CPU: rows sorted by length, longest first. null without lengths.
  const int32_t* order = nullptr;           // [B] sorted row -> the caller's row
  const int64_t* sorted_lengths = nullptr;  // [B]
  // CPU: the sequence that these steps are a part of, for resets of a reverse walk, which lie between a step and the next one.
  const int64_t* whole_lengths = nullptr;  // [B] sorted; null: all rows have whole_steps
  int64_t whole_steps = 0, steps_before = 0;

  void* packed = nullptr;  // the kernel's own bytes
  // CPU: the weights of a call that brings them; the kernel packs each panel when it needs it, and packed is room for that.
  bool unpacked = false;
  Parameters weights;
  rnnk_tensor x{}, h_0{}, c_0{}, y{};  // [T, B, I], [B, P], [B, C], [T, B, P]
  rnnk_tensor h_n{}, c_n{};
  void* reserve = nullptr;  // null: inference
  void* workspace = nullptr;

  // backward
  rnnk_tensor dy{}, dh_n{}, dc_n{}, dx{}, dh_0{}, dc_0{}, dh{};
  void *dweight_ih = nullptr, *dweight_hh = nullptr, *dbias_ih = nullptr, *dbias_hh = nullptr;
  void *dweight_hr = nullptr, *dparams = nullptr;
  double clip_dh = 0;
  bool add_to_dx = false;  // dx += instead of dx =
  // Sums for parameter gradients over several calls. CPU: with neither, the targets are sums in the type of computation, which are
  // added to. GPU: the sums stay in the workspace from the call that starts them to the one that stores them.
  bool start_sums = true, store_sums = true;

  Marks mask, reset;
  bool train = false;  // random masks are drawn, with the counters of rnnk_args
  uint64_t seed = 0;
  uint32_t call = 0, stream = 0;
  int64_t first_step = 0;

  // GPU: only steps [first, last) of the walk are done. The calls of all parts in the walk's order (BPTT: against it), which share a
  // workspace that nothing else writes to, are together the whole call.
  int64_t first = 0, last = 0;
  void* cuda_stream = nullptr;
};

}  // namespace rnnk
