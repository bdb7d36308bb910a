#include "simt/views.h"

#include <algorithm>
#include <unordered_map>

#include "simt/executor.h"

namespace rnnk {
namespace simt {

uint64_t now = 1, start;

namespace {

struct Flag {
  View view;
  Access last;  // by whom it was released
  bool sum;     // of several
};
struct Counter {
  uint32_t who;
  const Block* block;
  View arriving, passed;
};

// A launch, or work of the host, on a forked stream.
struct Begun {
  uint32_t first, end;  // blocks
  uint64_t fork;
  size_t stream, place;
};
std::vector<Begun> begun;  // in the order of their blocks

std::unordered_map<uintptr_t, Flag> released;
std::unordered_map<uintptr_t, Counter> counters;
uint32_t running = 1, next_block = 1;  // ids: of block number 0 of those that run, of the next ones

bool counts(uint32_t of) { return of % kParts >= kCounted && of % kParts < kWarp; }
uint64_t at(const Times& times, uint32_t number) { return number < times.blocks.size() ? times.blocks[number] : 0; }

auto place_of(std::vector<Times::Part>& parts, uint32_t of) {
  return std::lower_bound(parts.begin(), parts.end(), of,
                          [](const Times::Part& part, uint32_t wanted) { return part.of < wanted; });
}
bool has(Times& times, uint32_t number, const Access& a) {
  const auto is_late = [&](uint32_t part) {
    const auto found = place_of(times.parts, number * kParts + part);
    return found != times.parts.end() && found->of == number * kParts + part && found->time >= a.time;
  };
  if (times.empty()) return false;
  if (a.who < kCounted && (at(times, number) >= a.time || is_late(kWarp + a.who / 32))) return true;
  return is_late(a.who);
}

void see(Times& times, uint32_t number, uint64_t time) {
  if (times.blocks.size() <= number) times.blocks.resize(number + 1);
  times.blocks[number] = std::max(times.blocks[number], time);
}
void see_part(Times& times, uint32_t of, uint64_t time) {
  const auto found = place_of(times.parts, of);
  if (found != times.parts.end() && found->of == of) found->time = std::max(found->time, time);
  else times.parts.insert(found, {of, time});
}

void join(Times& to, const Times& from) {
  if (to.blocks.size() < from.blocks.size()) to.blocks.resize(from.blocks.size());
  for (size_t i = 0; i < from.blocks.size(); ++i) to.blocks[i] = std::max(to.blocks[i], from.blocks[i]);
  if (from.parts.empty()) return;
  static std::vector<Times::Part> both;
  both.clear();
  const auto add = [&](Times::Part part) {  // unless it is seen with its whole block
    if (counts(part.of) || at(to, part.of / kParts) < part.time) both.push_back(part);
  };
  auto own = to.parts.begin();
  for (const Times::Part& part : from.parts) {
    for (; own != to.parts.end() && own->of < part.of; ++own) add(*own);
    if (own != to.parts.end() && own->of == part.of) add({part.of, std::max(part.time, own++->time)});
    else add(part);
  }
  for (; own != to.parts.end(); ++own) add(*own);
  to.parts = both;
}
void join(View& to, const View& from) {
  join(to.seen, from.seen);
  join(to.over, from.over);
}
void move(View& from, View& to) {
  if (from.empty()) return;
  join(to, from);
  from.clear();
}

// What comes before the thread's next access, into a view. Begins a time.
void leave_view(View& to, const Fiber& by) {
  const Block& block = *by.block;
  const auto number = static_cast<uint32_t>(block.number);
  join(to, by.view);
  join(to, by.warp->view);
  join(to, block.view);
  see(to.seen, number, block.time);
  const uint32_t first = number * kParts, thread = static_cast<uint32_t>(by.thread);
  if (by.warp->time > block.time) see_part(to.seen, first + kWarp + thread / 32, by.warp->time);
  if (by.last > block.time && by.last > by.warp->time) see_part(to.seen, first + thread, now);
  ++now;
}

// Whether a block that no longer runs, of this launch or of another one, comes before what runs.
bool launched_before(uint32_t block, const Line* line) {
  static size_t last = 0;  // most questions are of the same launch as the one before
  if (!line || block >= line->first) return false;
  if (last >= begun.size() || block < begun[last].first || block >= begun[last].end) {
    const auto after = std::upper_bound(begun.begin(), begun.end(), block,
                                        [](uint32_t wanted, const Begun& other) { return wanted < other.first; });
    if (after == begun.begin()) return true;
    last = static_cast<size_t>(after - begun.begin()) - 1;
  }
  const Begun& other = begun[last];
  if (block >= other.end || other.fork != line->fork) return true;  // of another thread of the host
  return other.stream < line->after.size() && line->after[other.stream] > other.place;
}

}  // namespace

void Times::clear() {
  blocks.clear();
  parts.clear();
}
void View::clear() {
  seen.clear();
  over.clear();
}

bool ordered(const Access& a, Fiber& own, bool writes) {
  if (a.time <= start) return true;
  if (a.block == own.block->id) {
    const auto thread = static_cast<uint32_t>(own.thread);
    if (a.who == thread) return true;
    if (a.who < kCounted && (a.time <= own.block->time || (a.who / 32 == thread / 32 && a.time <= own.warp->time)))
      return true;
  }
  if (a.block < running) return launched_before(a.block, own.block->grid->line);
  for (View* view : {&own.view, &own.warp->view, &own.block->view}) {
    const uint32_t number = a.block - running;
    if (has(view->seen, number, a) || (writes && has(view->over, number, a))) return true;
  }
  return false;
}

void release_view(const uint32_t* flag, Fiber& by, bool adds) {
  Flag& at_flag = released[reinterpret_cast<uintptr_t>(flag)];
  if (!adds) at_flag.view.clear();  // else who acquires the sum has every addend's
  at_flag.sum = adds;
  at_flag.last = {now, by.block->id, static_cast<uint32_t>(by.thread)};
  by.last = now;
  leave_view(at_flag.view, by);
}

void acquire_view(const uint32_t* flag, Fiber& to) {
  const auto found = released.find(reinterpret_cast<uintptr_t>(flag));
  if (found == released.end()) return;
  const Flag& at_flag = found->second;
  if (at_flag.sum || !ordered(at_flag.last, to, false)) join(to.view, at_flag.view);
}

void join_views(Warp& warp, uint32_t lanes) {
  for (int lane = 0; lane < 32; ++lane) {
    if (lanes >> lane & 1) move(warp.lanes[lane].view, warp.view);
  }
  warp.time = now++;
}

void join_views(Block& block) {
  for (int i = 0; i < block.threads; ++i) move(block.fibers[i].view, block.view);
  for (int i = 0; i < (block.threads + 31) / 32; ++i) move(block.warps[i].view, block.view);
  block.time = now++;
}

void join_views(Cluster& cluster) {
  View all;
  for (int i = 0; i < cluster.size; ++i) {
    Block& block = cluster.blocks[i];
    join_views(block);
    join(all, block.view);
    see(all.seen, static_cast<uint32_t>(block.number), block.time);
  }
  for (int i = 0; i < cluster.size; ++i) join(cluster.blocks[i].view, all);
}

uint32_t counter_of(const uint64_t* barrier, const Block& its) {
  const auto [found, is_new] = counters.try_emplace(reinterpret_cast<uintptr_t>(barrier));
  Counter& counter = found->second;
  if (is_new) {
    counter.block = &its;
    counter.who = kCounted;
    for (const auto& [address, other] : counters) counter.who += &other != &counter && other.block == &its;
    if (counter.who >= kWarp) report("more than %u mbarriers of a block", kWarp - kCounted);
  }
  return counter.who;
}
void depend_view(const uint64_t* barrier, const Fiber& by) {
  const Block& block = *by.block;
  const auto number = static_cast<uint32_t>(block.number);
  Times& to = counters[reinterpret_cast<uintptr_t>(barrier)].arriving.over;
  if (at(to, number) == block.time && by.view.empty() && by.warp->view.empty()) return;
  for (const View* view : {&by.view, &static_cast<const View&>(by.warp->view), &block.view}) {
    join(to, view->seen);
    join(to, view->over);
  }
  see(to, number, block.time);
}
void arrive_view(const uint64_t* barrier, Fiber& by) {
  by.last = now;
  leave_view(counters[reinterpret_cast<uintptr_t>(barrier)].arriving, by);
}
void end_phase_view(const uint64_t* barrier) {
  Counter& counter = counters[reinterpret_cast<uintptr_t>(barrier)];
  move(counter.arriving, counter.passed);
  see_part(counter.passed.seen, static_cast<uint32_t>(counter.block->number) * kParts + counter.who, now++);
}
void acquire_phase_view(const uint64_t* barrier, Fiber& to) {
  join(to.view, counters[reinterpret_cast<uintptr_t>(barrier)].passed);
}

uint32_t begin_views(int blocks) {
  drop_views();
  running = next_block;
  next_block += static_cast<uint32_t>(blocks);
  return running;
}
void begin_line(Line& line, uint32_t first, uint32_t end) {
  if (line.first == 0) line.first = first;
  if (!begun.empty() && begun.back().first == line.first) begun.back().end = end;
  else begun.push_back({first, end, line.fork, line.stream, line.place});
}

void begin_order(const Line* line) { start = line ? line->fork : now++; }
uint64_t begin_fork() {
  begun.clear();
  return now++;
}

void drop_views() {
  released.clear();
  counters.clear();
}

}  // namespace simt
}  // namespace rnnk
