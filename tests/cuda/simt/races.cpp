#include "simt/races.h"

#include <dlfcn.h>

#include <cstdio>
#include <memory>
#include <unordered_map>

#include "simt/executor.h"
#include "simt/shared.h"

namespace rnnk {
namespace simt {

namespace {

struct Record {
  uint64_t time : 40, mask : 4, log2_element : 3, strong : 1, travels : 1, who : 12;
  uint32_t block, place;
};
static_assert(sizeof(Record) == 16);

struct Cell {                  // of 4 bytes
  Record writes[2], reads[2];  // the last one first
};
constexpr int kPageBits = 12;
struct Page {
  bool is_shared;
  Cell cells[(1 << kPageBits) / 4];
};
constexpr size_t kMostPages = 4096;  // when a launch begins; of 64 KiB each

std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
struct Near {
  uintptr_t number;
  Page* page;
};
constexpr size_t kNear = 1024;
Near near_pages[kNear];
bool watches = true;

uintptr_t base;       // of this library: places are relative to it
const char* library;  // its file
bool found;           // a race, at these places
uint32_t first_place, last_place;

Page& page_of(uintptr_t address) {
  const uintptr_t number = address >> kPageBits;
  Near& near = near_pages[number % kNear];
  if (near.number == number && near.page) return *near.page;
  std::unique_ptr<Page>& page = pages[number];
  if (!page) {
    page = std::make_unique<Page>();
    page->is_shared = is_shared(reinterpret_cast<const void*>(address));
  }
  near = {number, page.get()};
  return *page;
}

Cell& cell_of(Page& page, uintptr_t address) { return page.cells[(address & ((1 << kPageBits) - 1)) / 4]; }

// The bits of a cell's mask that [at, at + size) has.
uint32_t mask_of(uintptr_t at, size_t size, uintptr_t word) {
  const uintptr_t from = at > word ? at - word : 0, to = at + size < word + 4 ? at + size - word : 4;
  return ((1u << to) - 1) & ~((1u << from) - 1);
}

const char* words_of(bool writes, const Record& r) {
  if (r.travels) return "a copy in the background";
  if (r.who >= kCounted) return "store_async";
  if (writes) return r.strong ? "a relaxed or volatile write" : "a write";
  return r.strong ? "a relaxed or volatile read" : "a read";
}

void report_race(uintptr_t word, Fiber& own, const Page& page, const Record& before, bool wrote, const Record& after,
                 bool writes) {
  char where[100], who[100] = "what has ended";
  const char* const at = reinterpret_cast<const char*>(word);
  if (page.is_shared) {
    const Block* owner = owner_of_shared(at);
    std::snprintf(where, sizeof where, "offset %lld of the shared memory of block (%lld, %lld)",
                  static_cast<long long>(owner ? at - owner->shared : -1), static_cast<long long>(owner ? owner->x : -1),
                  static_cast<long long>(owner ? owner->y : -1));
  } else {
    std::snprintf(where, sizeof where, "global memory %p", static_cast<const void*>(at));
  }
  if (const Block* block = block_with(before.block)) {
    if (before.who >= kCounted) {
      std::snprintf(who, sizeof who, "block (%lld, %lld), mbarrier %u", static_cast<long long>(block->x),
                    static_cast<long long>(block->y), static_cast<unsigned>(before.who - kCounted));
    } else {
      std::snprintf(who, sizeof who, "block (%lld, %lld), thread %u", static_cast<long long>(block->x),
                    static_cast<long long>(block->y), static_cast<unsigned>(before.who));
    }
    if (block->grid != own.block->grid) std::snprintf(who + std::char_traits<char>::length(who), 30, " of another launch");
  }
  if (found) return;
  found = true;
  first_place = before.place;
  last_place = after.place;
  const bool sizes = before.strong && after.strong;
  report("%s at %s: %s and, before it, %s of %s%s", sizes ? "accesses of different size" : "a data race", where,
         words_of(writes, after), words_of(wrote, before), who, sizes ? " overlap in part" : ", which nothing orders");
}

// Whether a record and an access of the running fiber, both of these bytes, are a race.
bool clash(const Record& before, Fiber& own, const Record& after, bool writes, const Page& page) {
  if (before.time <= start) return false;
  if (page.is_shared && before.block < own.block->id - static_cast<uint32_t>(own.block->number))
    return false;  // an earlier use
  if (!before.travels && ordered({before.time, before.block, static_cast<uint32_t>(before.who)}, own, writes)) return false;
  if (!before.strong || !after.strong) return true;
  return before.mask != after.mask || before.log2_element != after.log2_element;
}

bool covers(const Record& later, const Record& earlier) { return (earlier.mask & ~later.mask) == 0; }

// `after` becomes the first of two; the other one stays, unless nothing of it is left.
void put_first(Record (&two)[2], const Record& after) {
  const bool is_over = !after.strong || (two[0].block == after.block && two[0].who == after.who);
  if (!covers(after, two[0]) || two[0].travels || !is_over) two[1] = two[0];
  two[0] = after;
}

void access_word(uintptr_t word, Fiber& own, Record after, bool writes) {
  Page& page = page_of(word);
  Cell& cell = cell_of(page, word);
  for (const Record& before : cell.writes) {
    if ((before.mask & after.mask) && clash(before, own, after, writes, page))
      return report_race(word, own, page, before, true, after, writes);
  }
  if (!writes) {
    const Record& last = cell.reads[0];
    const bool same = last.block == after.block && last.who == after.who && last.strong == after.strong;
    if (same && !after.strong) after.mask |= last.mask;  // a race with the earlier one is one with the later one
    else if (!same || last.mask != after.mask || last.log2_element != after.log2_element) cell.reads[1] = last;
    cell.reads[0] = after;
    return;
  }
  for (Record& before : cell.reads) {
    if (!(before.mask & after.mask)) continue;
    if (clash(before, own, after, writes, page)) return report_race(word, own, page, before, false, after, writes);
    if (!after.strong && covers(after, before)) before = Record{};
  }
  put_first(cell.writes, after);
}

Fiber* accessor() { return current ? current : host_fiber(); }

Record record_of(Fiber& own, How how, const void* place) {
  Record record{};
  record.time = now;
  record.log2_element = static_cast<uint64_t>(__builtin_ctz(how.element)) & 7;
  record.strong = how.strong;
  record.who = static_cast<uint64_t>(own.thread) & 0xfff;
  record.block = own.block->id;
  record.place = place ? static_cast<uint32_t>(reinterpret_cast<uintptr_t>(place) - base) : 0;
  return record;
}

void access_all(Fiber& own, uintptr_t at, size_t size, Record record, bool writes) {
  own.last = now;
  for (uintptr_t word = at & ~uintptr_t{3}; word < at + size; word += 4) {
    record.mask = mask_of(at, size, word) & 15;
    access_word(word, own, record, writes);
  }
}

// A place in the program: the line of the source and those that have called it inline, or the offset in this library.
std::string name_of(uint32_t place) {
  if (place == 0) return "the host, on a stream";
  char command[600], line[200];
  // The call is before the address that it returns to.
  std::snprintf(command, sizeof command, "addr2line -sie '%s' 0x%x 2>&1", library, place - 1);
  std::string lines;
  if (FILE* said = popen(command, "r")) {
    for (int i = 0; std::fgets(line, sizeof line, said); ++i) {
      if (i < 4) lines += (i > 0 ? " in " : "") + std::string(line, std::char_traits<char>::length(line) - 1);
    }
    if (pclose(said) == 0 && lines.find('?') == std::string::npos) return lines;
  }
  std::snprintf(line, sizeof line, "0x%x of %s", place, library);
  return line;
}

}  // namespace

void accesses(const void* at, size_t size, How how, const void* place) {
  Fiber* own = accessor();
  if (!own || !watches) return;
  const auto address = reinterpret_cast<uintptr_t>(at);
  if (address - reinterpret_cast<uintptr_t>(own->stack.low) < Stack::kSize) return;
  access_all(*own, address, size, record_of(*own, how, place), how.does == Does::write);
}

void departs(const void* to, size_t size, const void* place) {
  if (!watches) return;
  Record record = record_of(*current, kWrites, place);
  record.travels = 1;
  access_all(*current, reinterpret_cast<uintptr_t>(to), size, record, true);
}

void lands(const void* to, size_t size, const Access& as) {
  if (!watches) return;
  const auto at = reinterpret_cast<uintptr_t>(to);
  for (uintptr_t word = at & ~uintptr_t{3}; word < at + size; word += 4) {
    for (Record& record : cell_of(page_of(word), word).writes) {
      if (!record.travels) continue;
      record.travels = 0;
      record.time = as.time;
      record.block = as.block;
      record.who = as.who & 0xfff;
    }
  }
}

std::string places_of_race() { return found ? "\n  " + name_of(last_place) + "\n  before it: " + name_of(first_place) : ""; }

void begin_races() {
  if (!library) {
    Dl_info info{};
    dladdr(reinterpret_cast<const void*>(&begin_races), &info);
    base = reinterpret_cast<uintptr_t>(info.dli_fbase);
    library = info.dli_fname;
  }
  found = false;
  if (pages.size() > kMostPages) drop_races();
}

void drop_races() {
  pages.clear();
  for (Near& near : near_pages) near = {};
}

}  // namespace simt
}  // namespace rnnk

extern "C" void rnnk_simt_races(int looked_for) { rnnk::simt::watches = looked_for != 0; }
