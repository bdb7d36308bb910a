#include "simt/streams.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <map>
#include <utility>
#include <vector>

#include "core/device.h"
#include "simt/views.h"

namespace rnnk {
namespace simt {
namespace {

// Work of the host, a launch, or to wait until `count` items of `other` are done.
struct Item {
  std::function<void()> work;
  std::shared_ptr<const void> params;
  Grid grid;  // its name alone, of work of the host
  double share;
  void* other;
  size_t count;
  Line* line;
};
struct Stream {
  size_t index;
  std::vector<Item> items;
  std::vector<size_t> after;  // by index: how many items of the streams come before its next one
  size_t done = 0;
};

thread_local std::map<void*, Stream> streams;
thread_local std::deque<Line> lines;
thread_local uint64_t forked_at;
thread_local bool open = false;
std::atomic<int> forked{0};

void expect(bool holds, const char* what) {
  if (!holds) fail(RNNK_RUNTIME_ERROR, "streams of the executor: %s", what);
}

bool can_go_on(const Stream& s) {
  if (s.done == s.items.size()) return false;
  const Item& next = s.items[s.done];
  return next.work || next.params || streams[next.other].done >= next.count;
}

Stream& stream_of(void* key) {
  const auto found = streams.find(key);
  expect(found != streams.end(), "work on a stream that was not forked");
  return found->second;
}
void put(Stream& s, Item item) {
  const size_t place = s.items.size();
  lines.push_back({forked_at, s.index, place, s.after});
  item.line = &lines.back();
  if (s.after.size() <= s.index) s.after.resize(s.index + 1);
  s.after[s.index] = place + 1;
  s.items.push_back(std::move(item));
}

bool runs_beside(const Stream& s, double share) {
  const Item& next = s.items[s.done];
  return next.params && next.grid.together && next.share + share <= 1;
}

// The next item of `s`; and, by chance, launches of others that have room beside it.
void do_next(Stream& s, const std::vector<Stream*>& ready, Random& chance) {
  const Item& next = s.items[s.done];
  if (!next.params) {
    if (next.work) run_on_host(next.line, next.grid.name, next.work);
    return void(++s.done);
  }
  std::vector<Stream*> at_once{&s};
  double share = next.share;
  for (Stream* other : ready) {
    if (other == &s || !next.grid.together || !runs_beside(*other, share) || chance.below(4) == 0) continue;
    share += other->items[other->done].share;
    at_once.push_back(other);
  }
  std::vector<Grid> grids;
  for (const Stream* one : at_once) {
    const Item& item = one->items[one->done];
    grids.push_back(item.grid);
    grids.back().params = item.params.get();
    grids.back().line = item.line;
  }
  run(grids);
  for (Stream* one : at_once) ++one->done;
}

// A drawn stream as far as it goes, or not so far, by chance.
void drain() {
  Random chance = next_order();
  for (;;) {
    std::vector<Stream*> ready;
    for (auto& [key, s] : streams) {
      if (can_go_on(s)) ready.push_back(&s);
    }
    if (ready.empty()) break;
    Stream& s = *ready[chance.below(static_cast<uint32_t>(ready.size()))];
    do_next(s, ready, chance);
    while (can_go_on(s) && chance.below(16) > 0) do_next(s, {}, chance);
  }
  for (const auto& [key, s] : streams) expect(s.done == s.items.size(), "they wait for each other");
}

}  // namespace

void on_stream(void* stream, const char* name, std::function<void()> work) {
  if (!open) return work();
  Grid grid{};
  grid.name = name;
  put(stream_of(stream), {std::move(work), nullptr, grid, 1, nullptr, 0, nullptr});
}
void on_stream(void* stream, const Grid& given, std::shared_ptr<const void> params, double share) {
  if (open) return put(stream_of(stream), {{}, std::move(params), given, share, nullptr, 0, nullptr});
  Grid grid = given;
  grid.params = params.get();
  run({grid});
}

void order(void* first, void* then) {
  expect(open, "order() outside of fork() and join()");
  expect(streams.count(first) == 1 && streams.count(then) == 1, "order() of a stream that was not forked");
  Stream &before = streams[first], &after = streams[then];
  put(after, {{}, nullptr, Grid{}, 1, first, before.items.size(), nullptr});
  if (after.after.size() < before.after.size()) after.after.resize(before.after.size());
  for (size_t i = 0; i < before.after.size(); ++i) after.after[i] = std::max(after.after[i], before.after[i]);
}

void* const* fork(void* stream, int count) {
  struct Sides {
    char places[kMostSides];
    void* of[kMostSides];
    Sides() {
      for (int i = 0; i < kMostSides; ++i) of[i] = places + i;
    }
  };
  static Sides sides;
  expect(!open, "fork() before join()");
  expect(count >= 0 && count <= kMostSides, "fork() of too many");
  for (int i = 0; i < count; ++i) expect(sides.of[i] != stream, "fork() of a stream beside itself");
  streams[stream].index = 0;
  for (int i = 0; i < count; ++i) streams[sides.of[i]].index = static_cast<size_t>(i) + 1;
  forked_at = fork_time();
  open = true;
  forked += count;
  return sides.of;
}

void join(void*, int count) {
  expect(open && static_cast<int>(streams.size()) == count + 1, "join() of others than fork()'s");
  struct Close {
    ~Close() {
      streams.clear();
      lines.clear();
      open = false;
    }
  } const close;
  drain();
}

int forks() { return forked; }

}  // namespace simt
}  // namespace rnnk
