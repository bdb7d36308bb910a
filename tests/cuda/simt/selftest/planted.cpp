// Kernels with a fault planted in them that shows as a wrong number in some order of the threads or of the stores' arrival.
// `fault` false is the same kernel without it, which must be right in every order: so it is the fault that was found.
#include "cases.h"

namespace selftest {
namespace {

int64_t index() { return gpu::block_x() * gpu::threads() + gpu::thread(); }

template <bool fault>
RNNK_GLOBAL void turned(Given p) {
  const int n = gpu::threads(), t = gpu::thread();
  shared_as<int>()[n - 1 - t] = n - t;
  if (!fault) gpu::sync_block();
  p.out[t] = static_cast<uint32_t>(shared_as<int>()[t]);
}
void missing_block_barrier() { expect_found(turned<false>, turned<true>, kOneBlock); }

// The second write must wait for the readers of the first.
template <bool fault>
RNNK_GLOBAL void overwritten(Given p) {
  const int n = gpu::threads(), t = gpu::thread();
  shared_as<int>()[n - 1 - t] = n - t;
  gpu::sync_block();
  p.out[t] = static_cast<uint32_t>(shared_as<int>()[t]);
  if (!fault) gpu::sync_block();
  shared_as<int>()[n - 1 - t] = 0;
}
void missing_second_barrier() { expect_found(overwritten<false>, overwritten<true>, kOneBlock); }

// From a lane to the next one, and back: an order that goes through the lanes one way hides one of the two.
template <bool fault>
RNNK_GLOBAL void passed_on(Given p) {
  const int t = gpu::thread(), from = p.number == 0 ? t - 1 : t + 1, to = 2 * t - from;
  if (from < 0 || from > 31) shared_as<int>()[t] = t + 1;
  if (to >= 0 && to < 32) shared_as<int>()[to] = to + 1;
  if (!fault) gpu::sync_warp();
  p.out[t] = static_cast<uint32_t>(shared_as<int>()[t]);
}
void missing_warp_barrier() {
  expect_found(passed_on<false>, passed_on<true>, kOneWarp, 0);
  expect_found(passed_on<false>, passed_on<true>, kOneWarp, 1);
}

template <bool fault>
RNNK_GLOBAL void fetched(Given p) {
  const int t = gpu::thread();
  for (int i = 0; i < 4; ++i) p.data[4 * t + i] = static_cast<uint32_t>(t + 1);
  gpu::copy_async(gpu::shared() + 16 * t, p.data + 4 * t);
  gpu::copy_commit();
  gpu::copy_wait<fault ? 1 : 0>();
  p.out[t] = shared_as<uint32_t>()[4 * t];
}
void missing_copy_wait() { expect_found(fetched<false>, fetched<true>, kOneWarp); }

// Every block hands its numbers to the next; `fault`: the flag is no release.
template <bool fault>
RNNK_GLOBAL void handed(Given p) {
  const int64_t blocks = gpu::blocks_x(), block = gpu::block_x(), next = (block + 1) % blocks;
  const int n = gpu::threads(), t = gpu::thread();
  gpu::publish(p.data + next * n + t, static_cast<uint32_t>(next * n + t + 1));
  gpu::sync_block();
  if (t == 0) {
    if (fault) gpu::store_relaxed(p.flags + next, 1u);
    else gpu::store_release(p.flags + next, 1u);
  }
  while (gpu::load_acquire(p.flags + block) == 0) gpu::poll_pause();
  p.out[index()] = p.data[index()];
}
void missing_release() { expect_found(handed<false>, handed<true>, kAtOnce); }

// All blocks meet at a counter; `fault`: one adds to it too soon, too.
template <bool fault>
RNNK_GLOBAL void met(Given p) {
  const int64_t blocks = gpu::blocks_x(), block = gpu::block_x(), next = (block + 1) % blocks;
  const int n = gpu::threads(), t = gpu::thread();
  if (fault && block == 0 && t == 0) gpu::add_release(p.flags, 1);
  gpu::publish(p.data + next * n + t, static_cast<uint32_t>(next * n + t + 1));
  gpu::sync_block();
  if (t == 0) gpu::add_release(p.flags, 1);
  while (gpu::load_acquire(p.flags) < static_cast<uint32_t>(blocks)) gpu::poll_pause();
  p.out[index()] = p.data[index()];
}
void counted_too_soon() { expect_found(met<false>, met<true>, kAtOnce); }

// `fault`: the release is another thread's, and nothing orders the stores before it.
template <bool fault>
RNNK_GLOBAL void handed_unordered(Given p) {
  const int64_t blocks = gpu::blocks_x(), block = gpu::block_x(), next = (block + 1) % blocks;
  const int n = gpu::threads(), t = gpu::thread();
  if (fault) gpu::sync_block();
  gpu::publish(p.data + next * n + t, static_cast<uint32_t>(next * n + t + 1));
  if (!fault) gpu::sync_block();
  if (t == 0) gpu::store_release(p.flags + next, 1u);
  while (gpu::load_acquire(p.flags + block) == 0) gpu::poll_pause();
  p.out[index()] = p.data[index()];
}
void release_before_barrier() { expect_found(handed_unordered<false>, handed_unordered<true>, kAtOnce); }

// `fault`: the lanes have met before the release, but not at a barrier.
template <bool fault>
RNNK_GLOBAL void handed_by_warp(Given p) {
  const int64_t blocks = gpu::blocks_x(), block = gpu::block_x(), next = (block + 1) % blocks;
  gpu::publish(p.data + next * 32 + gpu::lane(), static_cast<uint32_t>(next * 32 + gpu::lane() + 1));
  if (fault) gpu::shuffle_xor(1.f, 1);
  else gpu::sync_warp();
  if (gpu::lane() == 0) gpu::store_release(p.flags + next, 1u);
  while (gpu::load_acquire(p.flags + block) == 0) gpu::poll_pause();
  p.out[index()] = p.data[index()];
}
void shuffle_before_release() { expect_found(handed_by_warp<false>, handed_by_warp<true>, {4, 1, 32, 0, nullptr, 1, true}); }

// `fault` 1: the flag is read without an acquire; 2: another warp has acquired it, and no barrier has followed.
template <int fault>
RNNK_GLOBAL void acquired(Given p) {
  const int64_t blocks = gpu::blocks_x(), block = gpu::block_x(), next = (block + 1) % blocks;
  const int n = gpu::threads(), t = gpu::thread();
  gpu::publish(p.data + next * n + t, static_cast<uint32_t>(next * n + t + 1));
  gpu::sync_block();
  if (t == 0) gpu::store_release(p.flags + next, 1u);
  const bool acquires = fault == 0 || (fault == 2 && t < 32);
  while ((acquires ? gpu::load_acquire(p.flags + block) : gpu::load_relaxed(p.flags + block)) == 0) gpu::poll_pause();
  p.out[index()] = gpu::load_relaxed(p.data + index());
}
void missing_acquire() { expect_found(acquired<0>, acquired<1>, kAtOnce); }
void acquired_by_another_warp() { expect_found(acquired<0>, acquired<2>, kAtOnce); }

// The acquire of one lane counts for all behind a barrier of the warp; `fault`: they only meet.
template <bool fault>
RNNK_GLOBAL void acquired_for_warp(Given p) {
  const int64_t blocks = gpu::blocks_x(), block = gpu::block_x(), next = (block + 1) % blocks;
  gpu::publish(p.data + next * 32 + gpu::lane(), static_cast<uint32_t>(next * 32 + gpu::lane() + 1));
  gpu::sync_warp();
  if (gpu::lane() == 0) {
    gpu::store_release(p.flags + next, 1u);
    while (gpu::load_acquire(p.flags + block) == 0) gpu::poll_pause();
  }
  if (fault) gpu::shuffle_xor(1.f, 1);
  else gpu::sync_warp();
  p.out[index()] = gpu::load_relaxed(p.data + index());
}
void shuffle_after_acquire() {
  expect_found(acquired_for_warp<false>, acquired_for_warp<true>, {4, 1, 32, 0, nullptr, 1, true});
}

// Sixteen bytes polled for themselves; `fault`: one word of them is taken for all.
template <bool fault>
RNNK_GLOBAL void half_seen(Given p) {
  const uint32_t own = static_cast<uint32_t>(index());
  auto* quads = reinterpret_cast<gpu::Quad*>(p.data);
  const int64_t all = gpu::blocks_x() * gpu::threads();
  const auto value = static_cast<uint32_t>((index() + gpu::threads()) % all + 1);
  gpu::store_relaxed(quads + value - 1, gpu::Quad{{value, value, value, value}});
  gpu::Quad got;
  do {
    gpu::poll_pause();
    got = gpu::load_relaxed(quads + own);
  } while (got.word[0] + 1 < 2 || (!fault && (got.word[1] + 1 < 2 || got.word[2] + 1 < 2 || got.word[3] + 1 < 2)));
  p.out[own] = got.word[1] == got.word[2] && got.word[2] == got.word[3] ? got.word[3] : 0;
}
void half_of_the_data() { expect_found(half_seen<false>, half_seen<true>, kAtOnce, 0, false); }

// Into the peer's shared memory, and published; `fault`: no cluster barrier before both are read.
template <bool fault>
RNNK_GLOBAL void into_peer(Given p) {
  const int peer = 1 - gpu::cluster_rank();
  const auto value = static_cast<uint32_t>(peer * gpu::threads() + gpu::thread() + 1);
  gpu::map_shared(shared_as<uint32_t>(), peer)[gpu::thread()] = value;
  gpu::publish(p.data + value - 1, value);
  for (int i = 0; i < 2; ++i) {
    if (fault && i == 0) continue;
    if (i == 1) p.out[index()] = shared_as<uint32_t>()[gpu::thread()] & p.data[index()];
    gpu::cluster_arrive_release();
    gpu::cluster_wait_acquire();
  }
}
void missing_cluster_barrier() { expect_found(into_peer<false>, into_peer<true>, kPair); }

void blocks_not_at_once() {  // an exchange between blocks that the launch does not run together
  gpu::Launch how = kAtOnce;
  how.cooperative = false;
  expect_in(said(handed<false>, how), {"deadlock", "poll_pause"});
}

// One stream adds to what another has written; `fault`: nothing orders the two.
RNNK_GLOBAL void writes(Given p) { p.data[gpu::thread()] = static_cast<uint32_t>(gpu::thread()); }
RNNK_GLOBAL void adds(Given p) { p.out[gpu::thread()] = p.data[gpu::thread()] + 1; }
template <bool fault>
bool passed_between_streams() {
  std::vector<uint32_t> data(32, 7), out(32, 0);
  const Given given{data.data(), nullptr, out.data(), 0};
  void* const* const sides = gpu::fork_streams(0, nullptr, 2);
  gpu::Launch how = kOneWarp;
  how.stream = sides[0];
  gpu::launch(writes, how, given, "planted");
  if (!fault) gpu::order_streams(0, sides[0], sides[1]);
  how.stream = sides[1];
  gpu::launch(adds, how, given, "planted");
  expect(out[31] == 0, "nothing is done before the streams are joined");
  gpu::join_streams(0, nullptr, 2);
  for (uint32_t i = 0; i < 32; ++i) {
    if (out[i] != i + 1) return false;
  }
  return true;
}
void missing_order_of_streams() {
  expect(wrong(passed_between_streams<false>) == 0, "streams in order are right");
  expect(raced(passed_between_streams<true>) == kSeeds, "a race is reported in every order");
  const NumbersAlone alone;
  expect(wrong(passed_between_streams<true>) > 0, "the fault shows in some order");
}

// Two launches on two streams, whose blocks hand each other numbers; `fault`: in the same memory. One after the other they are right.
RNNK_GLOBAL void gathers(Given p) {
  const auto blocks = static_cast<uint32_t>(gpu::blocks_x());
  if (gpu::thread() == 0) {
    gpu::publish(p.data + gpu::block_x(), static_cast<uint32_t>(p.number + gpu::block_x()));
    gpu::add_release(p.flags, 1);
  }
  while (gpu::load_acquire(p.flags) < blocks) gpu::poll_pause();
  p.out[index()] = gpu::load_relaxed(p.data + (gpu::block_x() + 1) % blocks);
}
template <bool fault>
bool launched_beside() {
  std::vector<uint32_t> data(8), flags(64), out(2 * 128);
  void* const* const sides = gpu::fork_streams(0, nullptr, 2);
  for (int i = 0; i < 2; ++i) {
    gpu::Launch how{4, 1, 32, 0, sides[i], 1, true};
    gpu::launch(gathers, how, Given{data.data() + (fault ? 0 : 4 * i), flags.data() + 32 * i, out.data() + 128 * i, 10 * i},
                "planted");
  }
  gpu::join_streams(0, nullptr, 2);
  for (uint32_t i = 0; i < 256; ++i) {
    if (out[i] != i / 128 * 10 + (i / 32 + 1) % 4) return false;
  }
  return true;
}
void launches_that_share_memory() {
  expect(wrong(launched_beside<false>) == 0, "each in its own memory they are right");
  expect(raced(launched_beside<true>) == kSeeds, "a race is reported in every order");
  const NumbersAlone alone;
  expect(wrong(launched_beside<true>) > 0, "they run at the same time");
}

// A number from block to block through the peer's shared memory, one buffer for all steps; `fault`: sent before the one before is read.
template <bool fault>
RNNK_GLOBAL void posts(Given p) {
  auto* barrier = shared_as<uint64_t>();
  auto* box = shared_as<uint32_t>(128);
  const int peer = 1 - gpu::cluster_rank(), t = gpu::thread();
  if (t == 0) gpu::mbarrier_init(barrier, 1);
  gpu::cluster_arrive_release();
  gpu::cluster_wait_acquire();
  uint32_t sum = 0;
  for (uint32_t step = 0; step < 2; ++step) {
    if (t == 0) gpu::mbarrier_expect(barrier, 64 * 4);
    if (step > 0 && !fault) {
      gpu::cluster_arrive_release();
      gpu::cluster_wait_acquire();
    }
    gpu::store_async(gpu::map_shared(box + t, peer), static_cast<uint32_t>(index()), gpu::map_shared(barrier, peer));
    while (!gpu::mbarrier_try_wait(barrier, step)) {
    }
    sum += box[t];
  }
  gpu::cluster_arrive_release();
  gpu::cluster_wait_acquire();
  p.out[index()] = sum == 2 * static_cast<uint32_t>(peer * 64 + t) ? static_cast<uint32_t>(index() + 1) : 0;
}
void sent_before_read() {
  expect(wrong([] { return counts(posts<false>, kPair); }) == 0, "the kernel without the fault is right in every order");
  expect(raced([] { counts(posts<true>, kPair); }) > 0, "a race is reported");
}

void streams_misused() {
  expect_in(failure([] { gpu::order_streams(0, nullptr, nullptr); }), {"order() outside of fork() and join()"});
  expect_in(failure([] { gpu::join_streams(0, nullptr, 1); }), {"join() of others than fork()'s"});
  void* const* const sides = gpu::fork_streams(0, nullptr, 1);
  expect_in(failure([] { gpu::fork_streams(0, nullptr, 1); }), {"fork() before join()"});
  int other = 0;
  expect_in(failure([&] { gpu::clear(&other, sizeof other, &other); }), {"work on a stream that was not forked"});
  gpu::order_streams(0, sides[0], nullptr);
  gpu::join_streams(0, nullptr, 1);
  expect_in(failure([&] { gpu::fork_streams(0, sides[0], 1); }), {"fork() of a stream beside itself"});
  expect(passed_between_streams<false>(), "nothing of it is left");
}

// Nothing of a launch that failed is left.
RNNK_GLOBAL void stuck(Given) {
  if (gpu::thread() != 7) gpu::sync_block();
}
RNNK_GLOBAL void stores_outside(Given p) {
  gpu::publish(p.data + gpu::lane(), 1u);
  gpu::sync_warp();
  gpu::shared()[512] = 1;
}
RNNK_GLOBAL void outside(Given) { gpu::shared()[512] = 1; }
void after_a_failure() {
  for (int i = 0; i < 3; ++i) {
    said(stuck, kOneBlock);
    said(outside, kOneWarp);
    std::vector<uint32_t> words(32);
    failure([&] { gpu::launch(stores_outside, kOneWarp, Given{words.data(), nullptr, nullptr, 0}, "planted"); });
    words.assign(32, 0);
    said(handed<false>, {4, 1, 64, 0, nullptr});
    expect(counts(turned<false>, kOneBlock) && counts(handed<false>, kAtOnce), "the next launch is right");
    expect(words == std::vector<uint32_t>(32, 0), "no store of it arrives any more");
  }
}
void order_repeats() {
  const auto trace = [](uint64_t seed) {
    rnnk_simt_seed(seed);
    counts(handed<false>, kAtOnce);
    counts(turned<false>, kOneBlock);
    return rnnk_simt_trace();
  };
  expect(trace(3) == trace(3), "a seed's order is always the same");
  expect(trace(3) != trace(4), "another seed's is not");
}

}  // namespace

const std::vector<Case>& planted() {
  static const std::vector<Case> cases{
      CASE(missing_block_barrier),      CASE(missing_second_barrier),   CASE(missing_warp_barrier),
      CASE(missing_copy_wait),          CASE(missing_release),          CASE(release_before_barrier),
      CASE(shuffle_before_release),     CASE(missing_acquire),          CASE(acquired_by_another_warp),
      CASE(shuffle_after_acquire),      CASE(half_of_the_data),         CASE(missing_cluster_barrier),
      CASE(blocks_not_at_once),         CASE(after_a_failure),          CASE(order_repeats),
      CASE(counted_too_soon),           CASE(missing_order_of_streams), CASE(streams_misused),
      CASE(launches_that_share_memory), CASE(sent_before_read)};
  return cases;
}

}  // namespace selftest
