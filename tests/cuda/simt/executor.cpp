// The scheduler of the host SIMT executor.
#include "simt/executor.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <utility>

#include "core/problem.h"
#include "simt/delayed.h"
#include "simt/history.h"
#include "simt/races.h"
#include "simt/shared.h"

namespace rnnk {
namespace simt {

Fiber* current = nullptr;
Random chance;

namespace {

std::mutex one_launch;

// The blocks that run together; the arrays stay for the next ones.
std::vector<Fiber> fibers;
std::vector<Warp> warps;
std::vector<Block> blocks;
std::vector<Cluster> clusters;
std::vector<Grid> grids;   // that run at the same time
std::vector<Warp*> queue;  // those with a fiber that can run

int64_t live;              // fibers
uint64_t polls, patience;  // since something happened; when that is too many
uint64_t time;
bool ended;  // the fiber that ran last
Fiber* on_host = nullptr;
std::string failure;

void* host;  // its stack pointer while a fiber runs
void* host_shadow;
const void* host_low;
size_t host_size;

uint64_t seed, launches, trace;
bool seeded;

void to_host(bool for_good) {
  Fiber& own = *current;
  leaving(for_good ? nullptr : &own.shadow, static_cast<const char*>(host_low), host_size);
  rnnk_simt_switch(&own.at, host);
  arrived(own.shadow, nullptr, nullptr);
}

void entry() {
  arrived(nullptr, &host_low, &host_size);
  const Grid& grid = *current->block->grid;
  grid.body(grid.params);
  --current->block->live;
  --live;
  leave(*current);
  progress();
  ended = true;
  to_host(true);
}

void end(Fiber& fiber) {
  free_stack(std::exchange(fiber.stack, Stack{}));
  Block& block = *fiber.block;
  if (block.live > 0) return;
  check_arrivals(block);
  check_shared(block, block.grid->shared);
  if (block.cluster->size > 1) close_shared(static_cast<int>(&block - blocks.data()));
}

void run_fiber(Fiber& fiber) {
  trace = (trace ^ static_cast<uint64_t>(&fiber - fibers.data())) * 0x100000001b3u;
  if (!fiber.stack.low) {
    fiber.stack = take_stack();
    fiber.at = fiber.stack.prepared(entry);
  }
  current = &fiber;
  ended = false;
  leaving(&host_shadow, fiber.stack.low, Stack::kSize);
  rnnk_simt_switch(&host, fiber.at);
  arrived(host_shadow, nullptr, nullptr);
  current = nullptr;
  if (ended && failure.empty()) end(fiber);
}

// A drawn warp, its lanes in a drawn order, several times over by chance, so that warps get far ahead of each other.
void turn() {
  const uint32_t drawn = chance.below(static_cast<uint32_t>(queue.size()));
  Warp& warp = *queue[drawn];
  uint64_t bits;
  do {
    let_some_arrive();
    time += polls > patience / 2 ? 1000000000 : 100;
    bits = chance.next();
    uint32_t lanes = warp.ready;
    if (bits % 8 == 0 && (lanes & (bits >> 32))) lanes &= static_cast<uint32_t>(bits >> 32);
    const uint32_t factor = (bits >> 8 & 31) | 1, offset = bits >> 16 & 31, flip = bits >> 24 & 31;
    for (uint32_t i = 0; i < 32; ++i) {
      const uint32_t lane = ((i * factor + offset) & 31) ^ flip;
      if (lanes >> lane & 1) run_fiber(warp.lanes[lane]);
      if (!failure.empty()) return;
    }
  } while (warp.ready && (bits & 64));
  if (warp.ready) return;
  warp.queued = false;
  queue[drawn] = queue.back();
  queue.pop_back();
}

void report_deadlock() {
  std::string text;
  int64_t over = 0;
  for (int op = 0; op <= static_cast<int>(Op::poll); ++op) {
    int64_t count = 0;
    const Fiber* first = nullptr;
    for (const Block& block : blocks) {
      for (int i = 0; i < block.threads; ++i) {
        const Fiber& fiber = block.fibers[i];
        if (!(fiber.warp->live & fiber.bit())) {
          over += op == 0;
        } else if (static_cast<int>(fiber.waits) == op && count++ == 0) {
          first = &fiber;
        }
      }
    }
    if (!first) continue;
    char part[160];
    std::snprintf(part, sizeof part, "%lld at %s (first: block (%lld, %lld), thread %d), ", static_cast<long long>(count),
                  name_of(first->waits), static_cast<long long>(first->block->x), static_cast<long long>(first->block->y),
                  first->thread);
    text += part;
  }
  report("deadlock: threads wait for ever: %s%lld have ended", text.c_str(), static_cast<long long>(over));
}

// Blocks of a grid that run together, from block `first` of it on.
struct Part {
  const Grid* grid;
  int64_t first;
  int count;
};
int warps_of(const Grid& grid) { return (grid.threads + 31) / 32; }

// Where the next block that begins has its place.
struct Places {
  int block = 0, cluster = 0;
  size_t warp = 0, fiber = 0;
};

// Makes the next block of those that run together the grid's block `number`.
void begin_block(const Grid& grid, int64_t number, uint32_t id, Places& places) {
  const int i = places.block++, count = warps_of(grid);
  Block& block = blocks[i];
  block.grid = &grid;
  block.x = number % grid.x;
  block.y = number / grid.x;
  block.number = i;
  block.id = id;
  block.rank = static_cast<int>(number % grid.cluster);
  Cluster& cluster = clusters[block.rank == 0 ? places.cluster++ : places.cluster - 1];
  block.cluster = &cluster;
  block.warps = &warps[std::exchange(places.warp, places.warp + count)];
  block.fibers = &fibers[std::exchange(places.fiber, places.fiber + grid.threads)];
  block.threads = block.live = grid.threads;
  block.arrived = 0;
  block.shared = open_shared(i, grid.shared);
  block.stores.clear();
  block.view.clear();
  block.time = 0;
  if (block.rank == 0) cluster = {&block, grid.cluster, grid.cluster * grid.threads, 0, 0};
  for (int w = 0; w < count; ++w) {
    Warp& warp = block.warps[w];
    const int lanes = grid.threads < 32 * w + 32 ? grid.threads - 32 * w : 32;
    warp.block = &block;
    warp.lanes = block.fibers + 32 * w;
    warp.live = static_cast<uint32_t>((uint64_t{1} << lanes) - 1);
    warp.ready = warp.arrived = 0;
    warp.queued = false;
    warp.stores.clear();
    warp.view.clear();
    warp.time = 0;
    wake(warp, warp.live);
    for (int lane = 0; lane < lanes; ++lane) {
      Fiber& fiber = warp.lanes[lane];
      fiber.block = &block;
      fiber.warp = &warp;
      fiber.thread = 32 * w + lane;
      fiber.waits = Op::none;
      fiber.arrived = false;
      fiber.loads = 0;
      fiber.groups = 0;
      fiber.copies.clear();
      fiber.stores.clear();
      fiber.view.clear();
      fiber.last = 0;
    }
  }
}

// Or the host runs in the place of the one thread.
void run_together(const std::vector<Part>& parts, const std::function<void()>* host_runs = nullptr) {
  size_t all = 0, all_warps = 0, all_fibers = 0, all_clusters = 0;
  for (const Part& part : parts) {
    all += part.count;
    all_warps += static_cast<size_t>(part.count) * warps_of(*part.grid);
    all_fibers += static_cast<size_t>(part.count) * part.grid->threads;
    all_clusters += part.count / part.grid->cluster;
  }
  reserve_shared(static_cast<int>(all));
  blocks.resize(all);
  clusters.resize(all_clusters);
  if (fibers.size() < all_fibers) fibers.resize(all_fibers);
  if (warps.size() < all_warps) warps.resize(all_warps);
  uint32_t id = begin_views(static_cast<int>(all));
  Places places;
  for (const Part& part : parts) {
    if (part.grid->line) begin_line(*part.grid->line, id, id + static_cast<uint32_t>(part.count));
    for (int i = 0; i < part.count; ++i) begin_block(*part.grid, part.first + i, id++, places);
  }
  if (host_runs) {
    on_host = &fibers[0];
    (*host_runs)();
    on_host = nullptr;
    return;
  }
  live = static_cast<int64_t>(all_fibers);
  patience = 50000 + 1000 * static_cast<uint64_t>(live);
  polls = 0;
  while (live > 0 && failure.empty()) {
    if (queue.empty() || polls > patience) {
      report_deadlock();
    } else {
      turn();
    }
  }
}

void run_all() {
  const CatchFaults catching;
  begin_delays();
  begin_history();
  begin_order(grids[0].line);
  begin_races();
  if (grids[0].together) {
    std::vector<Part> parts;
    for (const Grid& grid : grids) parts.push_back({&grid, 0, static_cast<int>(grid.x * grid.y)});
    return run_together(parts);
  }
  const Grid& grid = grids[0];
  const int64_t all = grid.x * grid.y, count = grid.cluster;
  std::vector<int64_t> order(all / count);
  for (size_t i = 0; i < order.size(); ++i) {
    const uint32_t with = chance.below(static_cast<uint32_t>(i + 1));
    order[i] = order[with];
    order[with] = static_cast<int64_t>(i) * count;
  }
  for (int64_t first : order) {
    if (failure.empty()) run_together({{&grid, first, static_cast<int>(count)}});
  }
}

Random draw() {
  if (!seeded) {
    const char* text = std::getenv("RNNKERN_SIMT_SEED");
    seed = text ? std::strtoull(text, nullptr, 10) : 0;
    seeded = true;
  }
  Random order{seed * 0xd1342543de82ef95u + ++launches};
  order.next();
  return order;
}

// What a launch leaves, however it ends.
struct Tidy {
  ~Tidy() {
    queue.clear();
    for (Fiber& fiber : fibers) {
      if (fiber.stack.low) free_stack(std::exchange(fiber.stack, Stack{}));
    }
    drop_delays();
    drop_history();
    drop_views();
  }
};

}  // namespace

void suspend(Op op) {
  Fiber& own = *current;
  own.waits = op;
  own.warp->ready &= ~own.bit();
  to_host(false);
  own.waits = Op::none;
}

void yield(Op op) {
  Fiber& own = *current;
  own.waits = op;
  own.loads = 0;
  ++polls;
  to_host(false);
  own.waits = Op::none;
}

void wake(Warp& warp, uint32_t lanes) {
  warp.ready |= lanes;
  if (warp.queued || !lanes) return;
  warp.queued = true;
  queue.push_back(&warp);
}

Fiber* host_fiber() { return on_host; }
void progress() { polls = 0; }
uint64_t nanoseconds() { return time; }

void report(const char* format, ...) {
  if (!failure.empty()) return;
  char start[200] = "", text[600];
  if (current) {
    std::snprintf(start, sizeof start, ", block (%lld, %lld), thread %d", static_cast<long long>(current->block->x),
                  static_cast<long long>(current->block->y), current->thread);
  }
  va_list list;
  va_start(list, format);
  std::vsnprintf(text, sizeof text, format, list);
  va_end(list);
  std::string names;
  for (const Grid& grid : grids) {
    if (!current || current->block->grid == &grid) names += (names.empty() ? "" : " and ") + std::string(grid.name);
  }
  failure = "kernel " + names + start + ": " + text;
  if (current) to_host(true);
}

Random next_order() {
  const std::lock_guard<std::mutex> lock(one_launch);
  return draw();
}

const Block* block_at(int number) { return static_cast<size_t>(number) < blocks.size() ? &blocks[number] : nullptr; }
const Block* block_with(uint32_t id) {
  return blocks.empty() || id < blocks[0].id ? nullptr : block_at(static_cast<int>(id - blocks[0].id));
}

uint64_t fork_time() {
  const std::lock_guard<std::mutex> lock(one_launch);
  return begin_fork();
}

void run(const std::vector<Grid>& given) {
  const std::lock_guard<std::mutex> lock(one_launch);
  grids = given;
  chance = draw();
  failure.clear();
  const Tidy tidy;
  run_all();
  if (failure.empty()) return finish_delays();
  throw Failure{RNNK_RUNTIME_ERROR, failure + " (order of threads: seed " + std::to_string(seed) + ", launch " +
                                        std::to_string(launches) + ")" + places_of_race()};
}

void run_on_host(Line* line, const char* name, const std::function<void()>& work) {
  const std::lock_guard<std::mutex> lock(one_launch);
  failure.clear();
  grids.assign(1, Grid{1, 1, 0, 1, 1, false, name, nullptr, nullptr, line});
  begin_order(line);
  begin_races();
  const Tidy tidy;
  run_together({{&grids[0], 0, 1}}, &work);
  if (!failure.empty()) throw Failure{RNNK_RUNTIME_ERROR, failure + places_of_race()};
}

}  // namespace simt
}  // namespace rnnk

extern "C" void rnnk_simt_seed(uint64_t given) {
  using namespace rnnk::simt;
  const std::lock_guard<std::mutex> lock(one_launch);
  seed = given;
  seeded = true;
  launches = trace = 0;
}

extern "C" uint64_t rnnk_simt_trace(void) { return rnnk::simt::trace; }
