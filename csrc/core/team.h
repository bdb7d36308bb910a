// The thread team: a job is a number of phases, each of `tasks` tasks; a phase begins when the one before it is complete.
//
// Tasks are claimed, not assigned: a worker that has not started, or lost its CPU between tasks, costs speed and never a stall.
// Each thread first claims the task of its own index, so that in phase after phase a thread meets the data it touched before.
// Every task runs in round-to-nearest with subnormals flushed to zero; the thread's own mode is restored after it.
#pragma once
#include <cstdint>

namespace rnnk {

// Plain function pointers and no inline code: this header is included by files compiled for one CPU feature set.
using TaskFn = void (*)(const void* job, int64_t phase, int task, int tasks);

// Runs the job on the caller and up to tasks - 1 workers. When the team is busy with another caller's job, or tasks == 1,
// the caller does everything; the result is the same bits, because a task's work does not depend on who does it.
void team_run(int tasks, int64_t phases, TaskFn fn, const void* job);

// Lends the team a host's threads instead of its own: `parallel` calls fn(data) on up to `threads` of them, the caller among
// them, and returns when all calls have (GOMP_parallel's signature). index: of the calling thread in there, from 0, or null.
// Null parallel: its own again. A forked child is back to its own.
//
// count: how many threads the host grants the calling thread. It is asked at every call, because a host's setting may change
// between calls and differ from thread to thread. The team never uses more, whosever threads they are. Null: no such limit.
using ParallelFn = void (*)(void (*fn)(void*), void* data, unsigned threads, unsigned flags);
using IndexFn = int (*)();
using CountFn = int (*)();
bool team_borrow(ParallelFn parallel, IndexFn index, CountFn count);
bool team_borrows();

// A host's threads for the jobs of one thread, as rnnk_pool has them.
struct Pool {
  int threads = 1;
  void (*parallel)(void* context, void (*fn)(void*), void* data,
                   int32_t threads) = nullptr;  // null: of the team, up to `threads`
  void* context = nullptr;
};
// While it lives, jobs of this thread run on the pool. null: on the team.
class PoolScope {
 public:
  explicit PoolScope(const Pool* pool);
  ~PoolScope();
  PoolScope(const PoolScope&) = delete;

 private:
  const Pool* before_;
};

int team_size();  // for a call of this thread, now; the caller included
// Waits for a running job. False when the system gave fewer threads; the team works with those.
bool team_resize(int threads);

// Sorts rows by length, longest first (equal lengths by index): order[B], sorted_lengths[B]. Allocates nothing.
void sort_rows(const int64_t* lengths, int64_t batch, int32_t* order, int64_t* sorted_lengths);

}  // namespace rnnk
