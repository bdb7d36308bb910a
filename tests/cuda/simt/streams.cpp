#include "simt/streams.h"

#include <atomic>
#include <map>
#include <utility>
#include <vector>

#include "core/device.h"
#include "simt/executor.h"

namespace rnnk {
namespace simt {
namespace {

struct Item {
  std::function<void()> work;  // or none: until `count` items of `other` are done
  void* other;
  size_t count;
};
struct Stream {
  std::vector<Item> items;
  size_t done = 0;
};

thread_local std::map<void*, Stream> streams;
thread_local bool open = false;
std::atomic<int> forked{0};

void expect(bool holds, const char* what) {
  if (!holds) fail(RNNK_RUNTIME_ERROR, "streams of the executor: %s", what);
}

bool can_go_on(const Stream& s) {
  if (s.done == s.items.size()) return false;
  const Item& next = s.items[s.done];
  return next.work || streams[next.other].done >= next.count;
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
    do {
      const Item& next = s.items[s.done];
      if (next.work) next.work();
      ++s.done;
    } while (can_go_on(s) && chance.below(16) > 0);
  }
  for (const auto& [key, s] : streams) expect(s.done == s.items.size(), "they wait for each other");
}

}  // namespace

void on_stream(void* stream, std::function<void()> work) {
  if (!open) return work();
  const auto found = streams.find(stream);
  expect(found != streams.end(), "work on a stream that was not forked");
  found->second.items.push_back({std::move(work), nullptr, 0});
}

void order(void* first, void* then) {
  expect(open, "order() outside of fork() and join()");
  expect(streams.count(first) == 1 && streams.count(then) == 1, "order() of a stream that was not forked");
  streams[then].items.push_back({{}, first, streams[first].items.size()});
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
  streams.try_emplace(stream);
  for (int i = 0; i < count; ++i) streams.try_emplace(sides.of[i]);
  open = true;
  forked += count;
  return sides.of;
}

void join(void*, int count) {
  expect(open && static_cast<int>(streams.size()) == count + 1, "join() of others than fork()'s");
  struct Close {
    ~Close() {
      streams.clear();
      open = false;
    }
  } const close;
  drain();
}

int forks() { return forked; }

}  // namespace simt
}  // namespace rnnk
