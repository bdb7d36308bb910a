// Hammers the thread team (csrc/core/team.h): every task of every phase runs once, phases in order, whatever the number of
// threads, callers and resizes. The bookkeeping is plain memory on purpose: under -fsanitize=thread a missing barrier or a
// task done twice is a reported race, not only a wrong count.
#include "core/team.h"

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <thread>
#include <vector>

using namespace rnnk;

namespace {

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "FAILED: %s\n", what);
  std::_Exit(1);
}
void expect(bool ok, const char* what) {
  if (!ok) fail(what);
}

// done[phase * tasks + task] counts runs. A task reads what every task of the phase before wrote.
struct Ledger {
  int tasks;
  int64_t phases;
  std::vector<int> done;

  Ledger(int tasks, int64_t phases) : tasks(tasks), phases(phases), done(static_cast<size_t>(tasks * phases)) {}

  static void task(const void* job, int64_t phase, int task, int tasks) {
    auto& self = *static_cast<Ledger*>(const_cast<void*>(job));
    if (tasks != self.tasks || task < 0 || task >= tasks || phase < 0 || phase >= self.phases) fail("a task out of range");
    for (int i = 0; phase > 0 && i < tasks; ++i) {
      if (self.done[static_cast<size_t>((phase - 1) * tasks + i)] != 1) fail("a phase began before the one before it ended");
    }
    ++self.done[static_cast<size_t>(phase * tasks + task)];
  }
  void run() {
    team_run(tasks, phases, task, this);
    for (const int n : done) expect(n == 1, "a task did not run exactly once");
  }
};

void pause(int microseconds) { std::this_thread::sleep_for(std::chrono::microseconds(microseconds)); }

void shapes_of_jobs() {
  for (const int threads : {1, 2, 3, 8}) {
    expect(team_resize(threads) && team_size() == threads, "team_resize");
    for (const int tasks : {1, 2, 3, 7, 8, 40, 256, 300}) {  // more tasks than threads, and than a team can have
      for (const int64_t phases : {0, 1, 2, 33}) Ledger(tasks, phases).run();
    }
  }
}

// Jobs that follow at once, within the time workers spin, and after they have parked.
void many_jobs() {
  team_resize(3);
  for (int i = 0; i < 20000; ++i) {
    Ledger(1 + i % 5, 1 + i % 4).run();
    if (i % 100 == 0) pause(i % 300 ? 90 : 400);
  }
}

void several_callers(bool resizing) {
  team_resize(3);
  std::vector<std::thread> callers;
  for (int c = 0; c < 3; ++c) {
    callers.emplace_back([c] {
      for (int i = 0; i < 4000; ++i) {
        Ledger(1 + (i + c) % 6, 1 + i % 7).run();
        if (i % 50 == c) pause(150);
      }
    });
  }
  for (int i = 0; resizing && i < 300; ++i) {
    expect(team_resize(1 + i % 5), "team_resize beside running jobs");
    pause(200);
  }
  for (auto& caller : callers) caller.join();
}

// A host's pool: new threads each time, some of them late, numbered or not; never more than the team's size.
std::atomic<int> g_most{0};
thread_local int t_number = 0;
int number() { return t_number; }

void host(void (*fn)(void*), void* data, unsigned threads, unsigned) {
  g_most = std::max(g_most.load(), static_cast<int>(threads));
  std::vector<std::thread> others;
  for (unsigned i = 1; i < threads; ++i) {
    others.emplace_back([=] {
      t_number = static_cast<int>(i);
      if (i % 2 == 0) pause(50);
      fn(data);
    });
  }
  fn(data);
  for (auto& other : others) other.join();
}

std::atomic<int> g_granted{4};
int granted() { return g_granted; }

void borrowed_threads() {
  team_resize(3);
  for (const bool numbered : {false, true}) {
    expect(team_borrow(host, numbered ? number : nullptr, granted) && team_size() == 3, "team_borrow");
    for (int i = 0; i < 300; ++i) Ledger(1 + i % 8, 1 + i % 7).run();
    expect(team_resize(4) && team_size() == 4, "team_resize of borrowed threads");
    Ledger(9, 5).run();
    expect(team_resize(7) && team_size() == 4, "team_resize beyond what is lent");
    Ledger(2, 5).run();
    g_granted = 2;
    expect(team_size() == 2, "a host that grants less");
    Ledger(9, 5).run();
    g_granted = 4;
    expect(g_most == 4, "another number of threads was asked for than was lent");
    g_most = 0;
    std::thread caller([] {
      for (int i = 0; i < 300; ++i) Ledger(1 + i % 5, 3).run();
    });
    for (int i = 0; i < 100; ++i) {
      expect(team_borrow(i % 2 ? nullptr : host, nullptr, granted), "team_borrow beside running jobs");
      Ledger(4, 3).run();
    }
    caller.join();
    g_most = 0;
    team_resize(3);
  }
  expect(team_borrow(nullptr, nullptr, nullptr), "team_borrow of nothing");
  g_most = 0;
  Ledger(3, 10).run();
  expect(g_most == 0, "threads given back were used");
}

// Pools of single calls, from several callers at the same time and beside jobs of the team: fewer threads than promised, the same
// thread several times, late ones; and a limit on the team's own.
void pools_of_calls() {
  team_resize(3);
  struct Host {
    int threads;  // that it really uses
    std::atomic<int> most{0};
    static void parallel(void* context, void (*fn)(void*), void* data, int32_t threads) {
      auto& self = *static_cast<Host*>(context);
      self.most = std::max(self.most.load(), static_cast<int>(threads));
      std::vector<std::thread> others;
      for (int i = 1; i < std::min(self.threads, threads); ++i) {
        others.emplace_back([=] {
          if (i % 2 == 0) pause(50);
          fn(data);
        });
      }
      fn(data);
      for (int i = self.threads; i < threads; ++i) fn(data);
      for (auto& other : others) other.join();
    }
  };
  std::vector<std::thread> callers;
  for (int c = 0; c < 3; ++c) {
    callers.emplace_back([c] {
      Host its{1 + c};
      const Pool pool{4, Host::parallel, &its};
      for (int i = 0; i < 200; ++i) {
        const PoolScope scope(i % 3 == 2 ? nullptr : &pool);
        expect(team_size() == (i % 3 == 2 ? 3 : 4), "the size of a call's pool");
        Ledger(1 + i % 6, 1 + i % 7).run();
      }
      expect(its.most == 4, "a pool was not asked for its threads");
    });
  }
  for (auto& caller : callers) caller.join();
  const Pool idle{4, [](void*, void (*)(void*), void*, int32_t) {}, nullptr};
  {
    const PoolScope scope(&idle);
    Ledger(5, 7).run();  // by the caller alone
  }
  const Pool nested{3,
                    [](void*, void (*fn)(void*), void* data, int32_t) {
                      Ledger(4, 3).run();  // a host that has its waiting threads do other work
                      fn(data);
                    },
                    nullptr};
  {
    const PoolScope scope(&nested);
    Ledger(5, 7).run();
  }
  const Pool two{2}, many{200};
  {
    const PoolScope scope(&two);
    expect(team_size() == 2, "a call's limit");
    const PoolScope inner(&many);
    expect(team_size() == 3, "a limit above the team's size");
    Ledger(3, 10).run();
  }
  expect(team_size() == 3, "a scope that ended");
}

// By arithmetic, because fegetround() may look at another unit than the one that computes.
bool rounds_up() {
  volatile float one = 1, little = 1e-20f;
  return one + little > 1;
}

// Kernels compute in round-to-nearest with subnormals flushed, and leave the caller's mode as it was.
void floating_point_mode() {
  team_resize(3);
  const int before = std::fegetround();
  std::fesetround(FE_UPWARD);
  for (const int tasks : {1, 6}) {
    team_run(
        tasks, 3,
        [](const void*, int64_t, int, int) {
          if (rounds_up()) fail("a task ran in the caller's rounding mode");
          volatile float least = std::numeric_limits<float>::min();
          if (least * 0.5f != 0) fail("a subnormal was not flushed");
        },
        nullptr);
    expect(rounds_up(), "the caller's rounding mode was not restored");
  }
  std::fesetround(before);
}

void sorting() {
  const int64_t lengths[] = {2, 5, 0, 5, 3};
  const int32_t expected[] = {1, 3, 4, 0, 2};
  int32_t order[5];
  int64_t sorted[5];
  sort_rows(lengths, 5, order, sorted);
  for (int i = 0; i < 5; ++i) expect(order[i] == expected[i] && sorted[i] == lengths[expected[i]], "sort_rows");
}

}  // namespace

int main() {
  shapes_of_jobs();
  many_jobs();
  several_callers(false);
  several_callers(true);
  borrowed_threads();
  pools_of_calls();
  floating_point_mode();
  sorting();
  std::printf("team: ok\n");
}
