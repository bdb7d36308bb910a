#include "simt/history.h"

#include <cstring>
#include <unordered_map>
#include <vector>

#include "simt/executor.h"

namespace rnnk {
namespace simt {

namespace {

// What a word had before a store.
struct Old {
  Access store;
  unsigned char bytes[4];
};
constexpr size_t kMostOld = 4;  // of a word

std::unordered_map<uintptr_t, std::vector<Old>> history;  // the oldest first
uint64_t attention;  // a mask: an old value may be read when the drawn bits under it are zero

}  // namespace

void replace_word(uintptr_t word, const Access& store) {
  std::vector<Old>& old = history[word];
  if (old.size() == kMostOld) old.erase(old.begin());
  Old before{store, {}};
  std::memcpy(before.bytes, reinterpret_cast<const void*>(word), 4);
  old.push_back(before);
}

bool read_old_word(uintptr_t word, unsigned char (&bytes)[4]) {
  const auto found = history.find(word);
  if (found == history.end() || (chance.next() & attention)) return false;
  const std::vector<Old>& old = found->second;
  size_t first = old.size();
  while (first > 0 && !ordered(old[first - 1].store, *current, false)) --first;
  const size_t which = first + chance.below(static_cast<uint32_t>(old.size() - first + 1));
  if (which == old.size()) return false;  // a polling loop comes to an end
  std::memcpy(bytes, old[which].bytes, 4);
  return true;
}

void begin_history() {
  static const uint64_t masks[] = {0, 1, 7, ~uint64_t{0}};
  attention = masks[chance.below(4)];
}

void drop_history() { history.clear(); }

}  // namespace simt
}  // namespace rnnk
