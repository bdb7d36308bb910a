// Where fibers wait for each other: a block's barrier, a cluster's, and the operations of a warp.
#include <utility>

#include "simt/delayed.h"
#include "simt/executor.h"

namespace rnnk {
namespace simt {

const char* name_of(Op op) {
  static const char* const names[] = {
      "the start", "sync_block", "sync_warp", "shuffle_xor of floats", "shuffle_xor of doubles", "ldmatrix_x4",
      "mma_bf16",  "mma_f16",    "mma_tf32",  "cluster_wait_acquire",  "mbarrier_try_wait",      "poll_pause"};
  return names[static_cast<int>(op)];
}

namespace {

// All live lanes have come.
void complete(Warp& warp) {
  warp.complete(warp);
  wake(warp, std::exchange(warp.arrived, 0));
  progress();
}

// The cluster's barrier, when all live threads have arrived.
void pass(Cluster& cluster) {
  progress();
  if (cluster.arrived < cluster.live) return;
  cluster.arrived = 0;
  ++cluster.phase;
  join_views(cluster);
  for (int i = 0; i < cluster.size; ++i) {
    const Block& block = cluster.blocks[i];
    for (int thread = 0; thread < block.threads; ++thread) {
      const Fiber& fiber = block.fibers[thread];
      if (fiber.waits == Op::cluster_wait) wake(*fiber.warp, fiber.bit());
    }
  }
}

}  // namespace

void leave(Fiber& fiber) {
  Warp& warp = *fiber.warp;
  warp.live &= ~fiber.bit();
  warp.ready &= ~fiber.bit();
  if (warp.arrived && warp.arrived == warp.live) complete(warp);
  Cluster& cluster = *fiber.block->cluster;
  --cluster.live;
  if (fiber.arrived) --cluster.arrived;
  if (cluster.arrived > 0) pass(cluster);
}

void sync_block() {
  Block& block = *current->block;
  progress();
  if (++block.arrived < block.threads) return suspend(Op::sync_block);
  block.arrived = 0;
  hand_to_block(block);
  join_views(block);
  for (int i = 0; i < (block.threads + 31) / 32; ++i) wake(block.warps[i], block.warps[i].live);
}

void cluster_arrive() {
  Fiber& own = *current;
  if (own.arrived) report("cluster_arrive_release twice without cluster_wait_acquire");
  Cluster& cluster = *own.block->cluster;
  release(own);
  own.arrived = true;
  own.phase = cluster.phase;
  ++cluster.arrived;
  pass(cluster);
}

void cluster_wait() {
  Fiber& own = *current;
  if (!own.arrived) report("cluster_wait_acquire without cluster_arrive_release");
  own.arrived = false;
  if (own.block->cluster->phase == own.phase) suspend(Op::cluster_wait);
}

void meet(Op op, void* deposit, void (*act)(Warp&), bool whole) {
  Fiber& own = *current;
  Warp& warp = *own.warp;
  progress();
  if (whole && warp.live != 0xffffffffu)
    report("%s needs 32 lanes, the warp's live ones are 0x%08x", name_of(op), warp.live);
  if (warp.arrived && warp.op != op) {
    report("lanes meet at different operations: lane %u at %s, lanes 0x%08x at %s", own.lane(), name_of(op), warp.arrived,
           name_of(warp.op));
  }
  warp.op = op;
  warp.complete = act;
  own.deposit = deposit;
  warp.arrived |= own.bit();
  if (warp.arrived != warp.live) return suspend(op);
  complete(warp);
}

}  // namespace simt
}  // namespace rnnk
