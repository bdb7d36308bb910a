#include "simt/views.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <unordered_map>

#include "simt/executor.h"

namespace rnnk {
namespace simt {

namespace {

// What a word had before a store.
struct Old {
  uint64_t time;  // of that store
  int by;         // whose it was
  unsigned char bytes[4];
};
constexpr size_t kMostOld = 4;  // of a word

std::unordered_map<uintptr_t, std::vector<Old>> history;  // the oldest first
std::unordered_map<uintptr_t, View> released;             // by flag
uint64_t clock;                                           // of stores
uint64_t attention;  // a mask: an old value may be read when the drawn bits under it are zero

void join(View& to, const View& from) {
  if (to.size() < from.size()) to.resize(from.size());
  for (size_t i = 0; i < from.size(); ++i) to[i] = std::max(to[i], from[i]);
}
void move(View& from, View& to) {
  if (from.empty()) return;
  join(to, from);
  from.clear();
}
uint64_t at(const View& view, int block) {
  const auto index = static_cast<size_t>(block);
  return index < view.size() ? view[index] : 0;
}
void see(View& view, int block, uint64_t time) {
  const auto index = static_cast<size_t>(block);
  if (view.size() <= index) view.resize(index + 1);
  view[index] = std::max(view[index], time);
}

uint64_t seen(const Fiber& own, int block) {
  if (block == own.block->number) return std::numeric_limits<uint64_t>::max();
  return std::max({at(own.view, block), at(own.warp->view, block), at(own.block->view, block)});
}

}  // namespace

void replace_word(uintptr_t word, const Block& by) {
  std::vector<Old>& old = history[word];
  if (old.size() == kMostOld) old.erase(old.begin());
  Old before{++clock, by.number, {}};
  std::memcpy(before.bytes, reinterpret_cast<const void*>(word), 4);
  old.push_back(before);
}

bool read_old_word(uintptr_t word, unsigned char (&bytes)[4]) {
  const auto found = history.find(word);
  if (found == history.end() || (chance.next() & attention)) return false;
  const std::vector<Old>& old = found->second;
  size_t first = old.size();
  while (first > 0 && seen(*current, old[first - 1].by) < old[first - 1].time) --first;
  const size_t which = first + chance.below(static_cast<uint32_t>(old.size() - first + 1));
  if (which == old.size()) return false;  // a polling loop comes to an end
  std::memcpy(bytes, old[which].bytes, 4);
  return true;
}

void release_view(const uint32_t* flag, const Fiber& by, bool adds) {
  View& at_flag = released[reinterpret_cast<uintptr_t>(flag)];
  if (!adds) at_flag.clear();  // else who acquires the sum has every addend's
  join(at_flag, by.view);
  join(at_flag, by.warp->view);
  join(at_flag, by.block->view);
  see(at_flag, by.block->number, clock);
}

void acquire_view(const uint32_t* flag, Fiber& to) {
  const auto found = released.find(reinterpret_cast<uintptr_t>(flag));
  if (found != released.end()) join(to.view, found->second);
}

void join_views(Warp& warp, uint32_t lanes) {
  for (int lane = 0; lane < 32; ++lane) {
    if (lanes >> lane & 1) move(warp.lanes[lane].view, warp.view);
  }
}

void join_views(Block& block) {
  for (int i = 0; i < block.threads; ++i) move(block.fibers[i].view, block.view);
  for (int i = 0; i < (block.threads + 31) / 32; ++i) move(block.warps[i].view, block.view);
}

void join_views(Cluster& cluster) {
  View all;
  for (int i = 0; i < cluster.size; ++i) {
    Block& block = cluster.blocks[i];
    join_views(block);
    join(all, block.view);
    see(all, block.number, clock);
  }
  for (int i = 0; i < cluster.size; ++i) join(cluster.blocks[i].view, all);
}

void begin_views() {
  static const uint64_t masks[] = {0, 1, 7, ~uint64_t{0}};
  attention = masks[chance.below(4)];
}

void drop_views() {
  history.clear();
  released.clear();
}

}  // namespace simt
}  // namespace rnnk
