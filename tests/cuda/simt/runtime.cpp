// The twin of the host side in cuda/runtime.h: one device, whose memory is the host's.
#include "cuda/runtime.h"

#include <algorithm>
#include <cstring>

#include "simt/races.h"
#include "simt/shared.h"
#include "simt/streams.h"

namespace rnnk {
namespace gpu {

namespace {
constexpr int kMultiprocessors = 132;
constexpr int64_t kShared = 233472;  // of a multiprocessor, 1024 of a block not its own
uint64_t fault = 0;
int multiprocessors = kMultiprocessors;
int most_clusters = -1;  // at the same time; negative: as many as there is room for
int patterns = 0;

void refuse(bool refused, const char* name, const char* what, int64_t got) {
  if (refused) fail(RNNK_RUNTIME_ERROR, "kernel %s: %s, got %lld", name, what, static_cast<long long>(got));
}
}  // namespace

int device_count(const char** why) {
  *why = "";
  return 1;
}

const Facts& facts(int index) {
  static Facts only{"host SIMT executor", 90, kMultiprocessors, simt::kMostShared, int64_t{64} << 30, true};
  only.multiprocessors = multiprocessors;
  if (index != 0) fail(RNNK_INVALID_VALUE, "device_index: the executor is 0, got %d", index);
  return only;
}

OnDevice::OnDevice(int index) : before_(nullptr) { facts(index); }
OnDevice::~OnDevice() = default;

void fill(void* to, int byte, size_t bytes, void* stream) {
  simt::on_stream(stream, "fill", [=] {
    simt::accesses(to, bytes, simt::kWrites, nullptr);
    std::memset(to, byte, bytes);
  });
  patterns += byte != 0;
}
void copy(void* to, const void* from, size_t bytes, void* stream) {
  simt::on_stream(stream, "copy", [=] {
    simt::accesses(from, bytes, simt::kReads, nullptr);
    simt::accesses(to, bytes, simt::kWrites, nullptr);
    std::memcpy(to, from, bytes);
  });
}

uint64_t* fault_word(int index) {
  facts(index);
  return &fault;
}
uint64_t* fault_word_on_device(int index) { return fault_word(index); }

void* const* fork_streams(int index, void* stream, int count) {
  facts(index);
  return simt::fork(stream, count);
}
void order_streams(int, void* first, void* then) { simt::order(first, then); }
void join_streams(int, void* stream, int count) { simt::join(stream, count); }

int64_t clusters_at_once(const void*, const Launch& how) {
  const int room = multiprocessors / how.cluster;
  return most_clusters < 0 ? room : std::min(room, most_clusters);
}

void launch_checked(const Launch& how, simt::Grid grid, std::shared_ptr<const void> params) {
  const char* name = grid.name;
  refuse(how.threads < 1 || how.threads > 1024, name, "expected 1 to 1024 threads", how.threads);
  refuse(how.grid_x > 0x7fffffff, name, "expected at most 2147483647 blocks in x", how.grid_x);
  refuse(how.grid_y > 65535, name, "expected at most 65535 blocks in y", how.grid_y);
  refuse(how.shared < 0 || how.shared > simt::kMostShared, name, "expected at most 232448 bytes of shared memory",
         how.shared);
  refuse(how.cluster < 1 || how.cluster > 16, name, "expected clusters of 1 to 16 blocks", how.cluster);
  refuse(how.grid_x % how.cluster != 0, name, "expected blocks in x that are whole clusters", how.grid_x);
  double share = 1;
  if (how.cooperative) {
    // Registers are not known here: cooperative kernels take them all (255 a thread), so a multiprocessor has one block.
    const int64_t each = how.shared + 1024 <= kShared ? 1 : 0;
    const int64_t blocks = how.grid_x * how.grid_y;
    refuse(blocks > multiprocessors * each, name, "a cooperative launch of more blocks than run at once", blocks);
    share = static_cast<double>(blocks) / multiprocessors;
    if (how.cluster > 1) {
      const auto at_once = std::max<int64_t>(1, clusters_at_once(nullptr, how));
      share = std::max(share, static_cast<double>(blocks / how.cluster) / static_cast<double>(at_once));
    }
  }
  grid.x = how.grid_x;
  grid.y = how.grid_y;
  grid.shared = how.shared;
  grid.threads = how.threads;
  grid.cluster = how.cluster;
  grid.together = how.cooperative;
  simt::on_stream(how.stream, grid, std::move(params), share);
}

}  // namespace gpu
}  // namespace rnnk

// For tests: how often memory was filled with something else than zeros.
extern "C" __attribute__((visibility("default"))) int rnnk_simt_patterns() { return rnnk::gpu::patterns; }
// For tests: how many streams were forked.
extern "C" __attribute__((visibility("default"))) int rnnk_simt_forks() { return rnnk::simt::forks(); }
// For tests: strategies split rows by how many there are.
extern "C" __attribute__((visibility("default"))) void rnnk_simt_multiprocessors(int count) {
  rnnk::gpu::multiprocessors = count > 0 ? count : rnnk::gpu::kMultiprocessors;
}
// For tests: GPUs differ in how many clusters they run at the same time, and some have no room for any.
extern "C" __attribute__((visibility("default"))) void rnnk_simt_clusters(int most) { rnnk::gpu::most_clusters = most; }
