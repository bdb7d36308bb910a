#include "core/team.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/os.h"

namespace rnnk {
namespace {

constexpr int kMaxThreads = 256;
// A worker spins this long for the next job before it parks: the calls of one training step follow each other within it, and
// it is short enough not to be felt by other programs.
constexpr auto kSpin = std::chrono::microseconds(100);
// A waiting thread takes the tasks of workers that have not joined the job at once, those of workers that have only after
// this many polls: looking costs the owner a cache miss, and in the usual case everybody arrives within a microsecond.
constexpr int kPollsBeforeStealing = 512;

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

// Round to nearest, flush subnormals, all exceptions masked; restores the thread's own mode.
class FloatMode {
 public:
#if defined(__x86_64__)
  FloatMode() : saved_(_mm_getcsr()) { _mm_setcsr(0x1f80 | 0x8040); }
  ~FloatMode() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  FloatMode() {
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(saved_));
    __asm__ __volatile__("msr fpcr, %0" : : "r"(uint64_t{1} << 24));
  }
  ~FloatMode() { __asm__ __volatile__("msr fpcr, %0" : : "r"(saved_)); }

 private:
  uint64_t saved_;
#else
#error "rnnkern: no floating-point mode control for this architecture yet"
#endif
  FloatMode(const FloatMode&) = delete;
};

// Whether this thread is in a task of the team: a job of its own is then for it alone.
thread_local bool t_in_task = false;
// Whether it is in try_run.
thread_local bool t_in_job = false;
struct InJob {
  InJob() { t_in_job = true; }
  ~InJob() { t_in_job = false; }
};

// The threads that the call of this thread brought, or null.
thread_local const Pool* t_pool = nullptr;

// The host's threads, where it lent them (team_borrow).
std::atomic<ParallelFn> g_parallel{nullptr};
std::atomic<IndexFn> g_index{nullptr};
std::atomic<CountFn> g_count{nullptr};

// How many threads the host grants this thread; `otherwise`: where it says nothing of that.
int granted(int otherwise) {
  const CountFn count = g_count.load(std::memory_order_acquire);
  return count ? std::clamp(count(), 1, kMaxThreads) : otherwise;
}

struct Job {
  TaskFn fn = nullptr;
  const void* data = nullptr;
  int tasks = 0;
  int64_t first = 0, end = 0;  // phases, in the team's own never-repeating numbers
};

class Team {
 public:
  // Born with the caller alone, because two threads may each make one and one of them is thrown away.
  int size() const { return static_cast<int>(size_.load(std::memory_order_relaxed)); }

  // Brings the team to the size last asked for, which may have changed while this waited; false: it came out smaller.
  bool resize(const std::atomic<int>& wanted) {
    std::lock_guard<std::mutex> busy(busy_);
    const int threads = wanted.load(std::memory_order_relaxed);
    stop();
    start(threads);
    return size() == threads;
  }

  // pool: of the call, or null.
  bool try_run(int tasks, int64_t phases, TaskFn fn, const void* data, const Pool* pool) {
    const bool brought = pool && pool->parallel;
    const int threads = brought ? pool->threads : granted(size());
    if (threads == 1) return false;
    if (t_in_job) return false;  // a host's threads may do other calls of the library while they wait
    std::unique_lock<std::mutex> busy(busy_, std::try_to_lock);
    if (!busy.owns_lock()) return false;
    const InJob in_job;
    const int64_t first = phase_.load(std::memory_order_relaxed);
    for (int i = 0; i < tasks; ++i) claimed_[i].phase.store(first, std::memory_order_relaxed);
    done_.store(0, std::memory_order_relaxed);
    const Job job{fn, data, tasks, first, first + phases};
    const auto join = [](void* p) { static_cast<Borrowed*>(p)->join(); };
    if (brought) {
      Borrowed entry{this, job, nullptr};
      pool->parallel(pool->context, join, &entry, threads);
      work(job, 0);  // a host that called nothing, or gave up, leaves it to the caller
      return true;
    }
    if (const ParallelFn parallel = g_parallel.load(std::memory_order_acquire)) {
      Borrowed entry{this, job, g_index.load(std::memory_order_acquire)};
      // All that are granted: libgomp ends threads that a region has no use for, and makes them anew for the next.
      parallel(join, &entry, static_cast<unsigned>(threads), 0);
      work(job, 0);
      return true;
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = job;
      posted_.store(first + 1, std::memory_order_release);
    }
    if (parked_.load(std::memory_order_seq_cst) > 0) wake_.notify_all();
    work(job, 0);
    return true;
  }

 private:
  struct Claim {
    alignas(64) std::atomic<int64_t> phase{0};  // the task is free in phase p when this is p; claiming makes it p + 1
    alignas(64) std::atomic<int64_t> job{-1};   // first phase of the job that the thread of this index last joined
  };

  // What the host's threads run, the caller among them. It may send fewer than there are tasks: then some do several.
  struct Borrowed {
    Team* team;
    const Job& job;
    IndexFn index;
    std::atomic<int> arrived{0};
    void join() {
      const int order = arrived.fetch_add(1, std::memory_order_relaxed);
      team->work(job, index ? index() : order);
    }
  };

  // With fewer threads than asked for when the system has no more to give.
  void start(int threads) {
    stopping_ = false;
    if (g_parallel.load(std::memory_order_acquire)) {
      size_.store(threads, std::memory_order_relaxed);
      return;
    }
    if (threads > 1) stay_loaded();
    workers_.reserve(static_cast<size_t>(threads));
    try {
      for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { serve(i); });
    } catch (const std::system_error&) {
    }
    size_.store(static_cast<int64_t>(workers_.size()) + 1, std::memory_order_relaxed);
  }

  void stop() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
    workers_.clear();
  }

  // One thread's part of a job. Leaves when the job is over, also when it was overtaken by later jobs in its sleep: claims
  // compare with never-repeating phase numbers, so a stale one fails.
  void work(const Job& job, int index) {
    if (index >= job.tasks) return;
    claimed_[index].job.store(job.first, std::memory_order_relaxed);
    for (int64_t p = phase_.load(std::memory_order_acquire); p < job.end; p = phase_.load(std::memory_order_acquire)) {
      try_task(job, p, index);
      for (int polls = 1; phase_.load(std::memory_order_acquire) == p; ++polls) {
        const bool impatient = polls % kPollsBeforeStealing == 0;
        for (int i = 0; i < job.tasks; ++i) {
          if (impatient || claimed_[i].job.load(std::memory_order_relaxed) != job.first) try_task(job, p, i);
        }
        if (impatient) std::this_thread::yield();
        relax();
      }
    }
  }

  void try_task(const Job& job, int64_t p, int task) {
    int64_t expected = p;
    auto& claim = claimed_[task].phase;
    if (claim.load(std::memory_order_relaxed) != p ||
        !claim.compare_exchange_strong(expected, p + 1, std::memory_order_acq_rel)) {
      return;
    }
    {
      FloatMode mode;
      t_in_task = true;
      job.fn(job.data, p - job.first, task, job.tasks);
      t_in_task = false;
    }
    if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == job.tasks) {
      done_.store(0, std::memory_order_relaxed);
      phase_.store(p + 1, std::memory_order_release);
    }
  }

  void serve(int index) {
    int64_t seen = 0;
    for (;;) {
      const auto until = std::chrono::steady_clock::now() + kSpin;
      while (posted_.load(std::memory_order_acquire) == seen && std::chrono::steady_clock::now() < until) {
        for (int i = 0; i < 32; ++i) relax();
      }
      Job job;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        parked_.fetch_add(1, std::memory_order_seq_cst);
        wake_.wait(lock, [&] { return stopping_ || posted_.load(std::memory_order_relaxed) != seen; });
        parked_.fetch_sub(1, std::memory_order_relaxed);
        if (stopping_) return;
        seen = posted_.load(std::memory_order_relaxed);
        job = job_;
      }
      work(job, index);
    }
  }

  std::mutex busy_;   // held for the length of a job
  std::mutex mutex_;  // protects job_ and stopping_
  std::condition_variable wake_;
  bool stopping_ = false;
  Job job_;
  std::atomic<int64_t> size_{1};
  alignas(64) std::atomic<int64_t> posted_{0};  // 1 + first phase of the newest job
  std::atomic<int> parked_{0};
  alignas(64) std::atomic<int64_t> phase_{0};
  alignas(64) std::atomic<int> done_{0};
  Claim claimed_[kMaxThreads];
  std::vector<std::thread> workers_;
};

int default_threads() {
  if (const char* text = std::getenv("RNNKERN_NUM_THREADS")) {
    const int n = std::atoi(text);
    if (n >= 1) return std::min(n, kMaxThreads);
  }
  return std::min(usable_cpus(), kMaxThreads);
}

// The team is never destroyed: a worker may still be parked at exit. A forked child has none of the parent's threads and
// perhaps locked mutexes, so it gets a new team at first use; the parent's is left behind untouched.
std::atomic<Team*> g_team{nullptr};
std::atomic<int> g_threads{0};  // wanted; 0: nobody has asked yet

// A child of fork() has no workers: it starts its own team. Registered when the library is loaded, because a fork may come
// while another thread is in team() for the first time.
const bool g_registered = [] {
  around_fork(nullptr, nullptr, [] {
    g_parallel.store(nullptr,
                     std::memory_order_release);  // nor are the host's threads there (libgomp waits for them for ever)
    g_team.store(nullptr, std::memory_order_release);
  });
  return true;
}();

Team& team() {
  (void)g_registered;
  Team* current = g_team.load(std::memory_order_acquire);
  if (current) return *current;
  int unset = 0;
  g_threads.compare_exchange_strong(unset, default_threads(), std::memory_order_relaxed);
  auto fresh = std::make_unique<Team>();
  Team* expected = nullptr;
  if (g_team.compare_exchange_strong(expected, fresh.get(), std::memory_order_acq_rel)) {
    current = fresh.release();
    current->resize(g_threads);
    return *current;
  }
  return *expected;
}

// The claims of jobs on a pool are this thread's own, so that calls with different pools do not wait for each other.
Team& team_of_call() {
  if (!t_pool || !t_pool->parallel) return team();
  thread_local const std::unique_ptr<Team> own = std::make_unique<Team>();
  return *own;
}

}  // namespace

PoolScope::PoolScope(const Pool* pool) : before_(t_pool) { t_pool = pool; }
PoolScope::~PoolScope() { t_pool = before_; }

void team_run(int tasks, int64_t phases, TaskFn fn, const void* job) {
  if (phases <= 0) return;
  if (tasks > 1 && tasks <= kMaxThreads && !t_in_task && team_of_call().try_run(tasks, phases, fn, job, t_pool)) return;
  FloatMode mode;
  for (int64_t phase = 0; phase < phases; ++phase) {
    for (int task = 0; task < tasks; ++task) fn(job, phase, task, tasks);
  }
}

int team_size() {
  if (t_in_task) return 1;
  if (t_pool && t_pool->parallel) return t_pool->threads;
  const int size = team().size(), most = std::min(size, granted(size));
  return t_pool ? std::min(most, t_pool->threads) : most;
}

bool team_resize(int threads) {
  g_threads.store(threads, std::memory_order_relaxed);
  return team().resize(g_threads);
}

bool team_borrow(ParallelFn parallel, IndexFn index, CountFn count) {
  Team& current = team();  // before: a team that is made afterwards would start no threads, nor stop any
  g_count.store(count, std::memory_order_release);
  g_index.store(index, std::memory_order_release);
  g_parallel.store(parallel, std::memory_order_release);
  return current.resize(g_threads);
}

bool team_borrows() { return g_parallel.load(std::memory_order_acquire) != nullptr; }

void sort_rows(const int64_t* lengths, int64_t batch, int32_t* order, int64_t* sorted_lengths) {
  for (int64_t i = 0; i < batch; ++i) order[i] = static_cast<int32_t>(i);
  std::sort(order, order + batch,
            [lengths](int32_t a, int32_t b) { return lengths[a] != lengths[b] ? lengths[a] > lengths[b] : a < b; });
  for (int64_t i = 0; i < batch; ++i) sorted_lengths[i] = lengths[order[i]];
}

}  // namespace rnnk
