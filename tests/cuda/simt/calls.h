// What the twins of cuda/'s headers need of the executor: where a fiber waits, and what a launch is.
#pragma once
#include <cstdint>

namespace rnnk {
namespace simt {

struct Line;

// What a fiber can wait at.
enum class Op : uint8_t {
  none,
  sync_block,
  sync_warp,
  shuffle_float,
  shuffle_double,
  ldmatrix,
  mma_bf16,
  mma_f16,
  mma_tf32,
  cluster_wait,
  mbarrier,
  poll
};
// What a launch is, for the fibers.
struct Grid {
  int64_t x, y, shared;
  int threads, cluster;
  bool together;  // all blocks at once
  const char* name;
  void (*body)(const void* params);
  const void* params;
  Line* line;  // what it comes after, if not everything: views.h
};

// The running fiber lets others run and stays ready.
void yield(Op op);
// Rounds of the scheduler, as nanoseconds. While nothing but polling happens they leap, so that a kernel that bounds its waits
// by time gives up by itself, before the executor calls it a deadlock.
uint64_t nanoseconds();

void sync_block();
void cluster_arrive();
void cluster_wait();

}  // namespace simt
}  // namespace rnnk
