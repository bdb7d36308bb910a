// What the rest of the library asks of GPUs. Builds without CUDA have no_device.cpp behind it, others cuda/device.cpp.
#pragma once
#include "core/call.h"
#include "core/problem.h"

namespace rnnk {

int device_count();
const char* devices_unavailable();  // static; "" where there are some
// Throws Failure naming `what` unless there is a GPU of this number.
void check_device(int index, const char* what);
rnnk_device_info device_info(int index);
// Throws Failure, once, with what kernels on this GPU found wrong since the last time.
void report_faults(int index);
void set_cublaslt(const char* path);
void device_dropout(const rnnk_dropout_args& args);
// dx of `call` plus `more`, [T, B, I] in the type of computation, for every step that is.
void device_add(const Problem& problem, const LayerCall& call, const rnnk_tensor& more);
// How many of the `steps` times from `first` on are before the end of each row of `call`, [B] on the GPU.
void device_window_lengths(const Problem& problem, const LayerCall& call, int64_t first, int64_t steps, int64_t* to);
// Lengths as contiguous int64 [B] on the GPU, clamped to [0, T]; one outside is reported.
void device_lengths(int device_index, const rnnk_args& args, int64_t* to);
// Marks as contiguous bytes [T, B] on the GPU; `shift` 1: the mark of step t + 1 at step t, if the row has both, as a reverse walk
// meets resets.
void device_marks(int device_index, const MarksCopy& copy, uint8_t* to, void* cuda_stream);

constexpr int kMostSides = 7;  // with the stream itself 8, CUDA's default number of hardware queues

// Streams of this thread's, for work beside that of `stream`: they follow what is on `stream` when they are forked, and from the
// joining on `stream` follows what is on them. One fork at a time. In between, what is put on `then` after order_streams() follows
// what was put on `first` before.
void* const* fork_streams(int index, void* stream, int count);
void order_streams(int index, void* first, void* then);
void join_streams(int index, void* stream, int count);

class SideStreams {
 public:
  SideStreams(int index, void* stream, int count)
      : index_(index), count_(count), stream_(stream), sides_(fork_streams(index, stream, count)) {}
  ~SideStreams() {
    if (joined_) return;
    try {
      join();                   // or a capture of the stream could not end
    } catch (const Failure&) {  // after another, which is on its way
    }
  }
  SideStreams(const SideStreams&) = delete;
  SideStreams& operator=(const SideStreams&) = delete;
  void* operator[](int i) const { return sides_[i]; }
  void order(void* first, void* then) const { order_streams(index_, first, then); }
  void join() {
    joined_ = true;
    join_streams(index_, stream_, count_);
  }

 private:
  int index_, count_;
  void* stream_;
  void* const* sides_;
  bool joined_ = false;
};

}  // namespace rnnk
