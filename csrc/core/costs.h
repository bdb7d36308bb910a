// The constants of every choice that the library makes: when layers, directions and steps run, on how many threads, with which
// kernel. None of them changes a bit. Times are microseconds. Kernels of a GPU have models of their own (cuda/).
//
// "Measured": on two cores of a Zen 4 VM, bench/NOTES.md has the runs. "Guess": no machine has said yet.
#pragma once
#include <cstdint>

namespace rnnk {
namespace costs {

// The call by which a plan chooses kernels where the problem has no hint.
constexpr int64_t kTypicalSteps = 32, kTypicalBatch = 16;

// Estimates are good to tens of percent, and a small error can make concurrent execution several times slower: one core then reads
// weights from further away than two that share a direction (GRU, H = 512, B = 1: 0.54 of the speed, measured). So running at the
// same time must promise this factor.
constexpr double kConcurrencyMargin = 1.2;

// CPU: directions of a layer at the same time.
constexpr double kWakeUs = 4;                      // to wake a worker and to meet it again; measured
constexpr double kAddUs = 1e-3;                    // to add an element of a second dx, on one thread; measured
constexpr int64_t kMostSecondDx = 8 << 20;         // bytes: where concurrency pays, a second dx is smaller
constexpr int64_t kMostSecondDxOnGpu = 128 << 20;  // bytes; guess

// Layers as a wavefront, in blocks of steps.
constexpr double kPhaseUs = 1;           // CPU: for all threads to meet; measured
constexpr int64_t kLeastSteps = 8;       // of a block: in shorter ones the cost of a call besides its steps shows; measured
constexpr int64_t kMostAtOnce = 256;     // layers: a team has at most so many threads
constexpr double kGpuCallUs = 20;        // of the host, to hand one kernel call to a GPU; guess
constexpr double kGpuForkUs = 30;        // events and waits of a second stream, on the host and on the GPU; guess
constexpr int64_t kMostOnGpu = 1 << 30;  // bytes: outputs, or gradients, and workspaces of all layers at the same time

// CPU inference: bytes of what one layer hands to the next at a time, so that the workspace does not grow with T. Half of a shared
// cache of these years or less.
constexpr int64_t kMostBetweenLayers = 4 << 20;

// Recomputation: memory is steps * (about 5 vectors a row) + T / steps * (2 vectors a row), which is least at steps = sqrt(0.4 T).
constexpr double kSegment = 0.4;

// CPU: rows of a single step that reads weights where they are. With more of them, splitting rows between threads pays, and each
// thread would transpose all weights. Measured.
constexpr int64_t kMostRowsUnpacked = 64;
// The same in BPTT, whose products then read a row of weights once for a few rows.
constexpr int64_t kMostRowsUnpackedBackward = 8;
// Rows of a chunk whose dW is written as so many outer products.
constexpr int64_t kMostOuterProducts = 8;

// Work below which a second thread costs more than it saves (some 20 us).
constexpr int64_t kSmallDropout = 20000;        // elements
constexpr int64_t kSmallPack = 1 << 16;         // weights
constexpr int64_t kSmallElementwise = 1 << 16;  // elements

// A model of a core of a CPU, good to tens of percent; only ratios matter. Cycles at 3 GHz. Bytes a cycle.
struct Core {
  static constexpr double cycles_per_us = 3000, task_us = 4;
  static constexpr double near_rate = 40, far_rate = 10;  // read within the second-level cache, and beyond it
  static constexpr double gather_rate = 3;                // read where another core wrote them; published, bench/model.py
  // The team's barrier is one counter, whose cache line passes from each core to the next: for two measured, the rest published.
  static constexpr double barrier_us = 0.46, barrier_task_us = 0.07;
};

}  // namespace costs
}  // namespace rnnk
