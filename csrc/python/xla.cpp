// XLA calls the library here: one handler for packing, forward and backward of networks in host memory.
//
// A call brings strings: `problem`, the bytes of its rnnk_problem in hexadecimal digits; `kernel`, a name or nothing; `task`; and
// `names`, which argument and result is what. An array is called by its field of rnnk_args; those of weights by the fields of
// rnnk_weights, in the order of layers and directions, their gradients with a d in front. Handlers run on XLA's threads, without
// Python.
#include "python/xla.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "python/memory.h"
#include "python/xla_ffi.h"
#include "rnnkern/rnnkern.h"

namespace rnnk_py {
namespace {

// A refusal of this file; those of the library are in rnnk_last_error.
struct Refusal {
  xla::ErrorCode code;
  std::string text;
};
[[noreturn]] void refuse(const std::string& text) { throw Refusal{xla::ErrorCode::internal, text}; }

void check(rnnk_status status) {
  if (status == RNNK_OK) return;
  const xla::ErrorCode code = status == RNNK_INVALID_VALUE || status == RNNK_INVALID_TYPE ? xla::ErrorCode::invalid_argument
                              : status == RNNK_NOT_SUPPORTED                              ? xla::ErrorCode::unimplemented
                              : status == RNNK_OUT_OF_MEMORY ? xla::ErrorCode::resource_exhausted
                                                             : xla::ErrorCode::internal;
  throw Refusal{code, rnnk_last_error()};
}

constexpr std::pair<std::string_view, rnnk_tensor rnnk_args::*> kTensors[] = {
    {"x", &rnnk_args::x},
    {"h_0", &rnnk_args::h_0},
    {"c_0", &rnnk_args::c_0},
    {"y", &rnnk_args::y},
    {"h_n", &rnnk_args::h_n},
    {"c_n", &rnnk_args::c_n},
    {"dy", &rnnk_args::dy},
    {"dh_n", &rnnk_args::dh_n},
    {"dc_n", &rnnk_args::dc_n},
    {"dx", &rnnk_args::dx},
    {"dh_0", &rnnk_args::dh_0},
    {"dc_0", &rnnk_args::dc_0},
    {"lengths", &rnnk_args::lengths},
    {"mask", &rnnk_args::mask},
    {"reset", &rnnk_args::reset},
};
constexpr std::pair<std::string_view, rnnk_tensor rnnk_weights::*> kWeights[] = {
    {"weight_ih", &rnnk_weights::weight_ih}, {"weight_hh", &rnnk_weights::weight_hh}, {"bias_ih", &rnnk_weights::bias_ih},
    {"bias_hh", &rnnk_weights::bias_hh},     {"weight_hr", &rnnk_weights::weight_hr}, {"params", &rnnk_weights::params},
};

// Where a buffer goes.
struct Place {
  enum Kind { tensor, weight, gradient, packed, reserve, random } kind;
  rnnk_tensor rnnk_args::* in_args = nullptr;
  rnnk_tensor rnnk_weights::* in_weights = nullptr;
  size_t index = 0;  // layer * directions + direction
};

// The meaning of a call's strings.
struct Meaning {
  std::shared_ptr<rnnk_plan> plan;
  rnnk_problem problem{};
  enum Task { pack, forward, backward } task = forward;
  std::vector<Place> places;  // of the arguments, then of the results
  size_t count = 1;           // layers * directions
};

Place place_of(std::string_view name, std::unordered_map<std::string_view, size_t>& seen) {
  if (name == "packed") return {Place::packed};
  if (name == "reserve") return {Place::reserve};
  if (name == "random") return {Place::random};
  for (const auto& [known, member] : kTensors) {
    if (name == known) return {Place::tensor, member};
  }
  for (const auto& [known, member] : kWeights) {
    if (name == known) return {Place::weight, nullptr, member, seen[known]++};
    if (name.size() == known.size() + 1 && name[0] == 'd' && name.substr(1) == known) {
      return {Place::gradient, nullptr, member, seen[name]++};
    }
  }
  refuse("names: there is no array " + std::string(name));
}

rnnk_problem problem_of(std::string_view digits) {
  rnnk_problem problem{};
  const auto value = [](char digit) { return digit <= '9' ? digit - '0' : digit - 'a' + 10; };
  if (digits.size() != 2 * sizeof problem) refuse("problem: expected that of this version of rnnkern");
  auto* const to = reinterpret_cast<unsigned char*>(&problem);
  for (size_t i = 0; i < sizeof problem; ++i) {
    to[i] = static_cast<unsigned char>(value(digits[2 * i]) << 4 | value(digits[2 * i + 1]));
  }
  return problem;
}

std::string_view attribute(const xla::CallFrame& frame, std::string_view name) {
  const xla::Attributes& all = frame.attributes;
  for (int64_t i = 0; i < all.size; ++i) {
    if (std::string_view(all.names[i]->data, all.names[i]->size) != name || all.types[i] != xla::kString) continue;
    const auto& text = *static_cast<const xla::ByteSpan*>(all.items[i]);
    return {text.data, text.size};
  }
  refuse(std::string(name) + ": expected a string");
}

std::shared_ptr<const Meaning> understood(const xla::CallFrame& frame) {
  const std::string_view said[] = {attribute(frame, "problem"), attribute(frame, "kernel"), attribute(frame, "task"),
                                   attribute(frame, "names")};
  std::string key;
  for (const auto& each : said) key += each, key += '|';
  // Bounded as the plans of Python are: a program has a few networks.
  constexpr size_t kMost = 256;
  static std::mutex mutex;
  static std::unordered_map<std::string, std::shared_ptr<const Meaning>> known;
  {
    const std::lock_guard<std::mutex> hold(mutex);
    if (const auto found = known.find(key); found != known.end()) return found->second;
  }
  auto made = std::make_shared<Meaning>();
  made->problem = problem_of(said[0]);
  const std::string kernel(said[1]);
  rnnk_plan* plan = nullptr;
  check(rnnk_plan_create(&made->problem, kernel.empty() ? nullptr : kernel.c_str(), &plan));
  made->plan = {plan, rnnk_plan_destroy};
  made->task = said[2] == "pack" ? Meaning::pack : said[2] == "backward" ? Meaning::backward : Meaning::forward;
  made->count = static_cast<size_t>(std::max<int64_t>(made->problem.num_layers, 1)) *
                (made->problem.direction == RNNK_BOTH_DIRECTIONS ? 2 : 1);
  std::unordered_map<std::string_view, size_t> seen;
  for (std::string_view rest = said[3]; !rest.empty();) {
    const size_t end = std::min(rest.find(' '), rest.size());
    made->places.push_back(place_of(rest.substr(0, end), seen));
    if (made->places.back().index >= made->count) refuse("names: more weights than layers");
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  const std::lock_guard<std::mutex> hold(mutex);
  if (known.size() >= kMost) known.clear();
  return known.emplace(std::move(key), std::move(made)).first->second;
}

rnnk_tensor view(const xla::Buffer& buffer) {
  rnnk_tensor t{};
  t.data = buffer.data;
  switch (buffer.dtype) {
    case xla::DataType::f32: t.dtype = RNNK_FLOAT32; break;
    case xla::DataType::f64: t.dtype = RNNK_FLOAT64; break;
    case xla::DataType::bf16: t.dtype = RNNK_BFLOAT16; break;
    case xla::DataType::f16: t.dtype = RNNK_FLOAT16; break;
    case xla::DataType::i32: t.dtype = RNNK_INT32; break;
    case xla::DataType::i64: t.dtype = RNNK_INT64; break;
    case xla::DataType::pred: t.dtype = RNNK_UINT8; break;
    default: refuse("an array has a dtype that rnnkern does not know");
  }
  int64_t stride = 1;
  for (int64_t i = std::min<int64_t>(buffer.rank, 3); i-- > 0;) t.stride[i] = stride, stride *= buffer.dims[i];
  return t;
}
size_t bytes_of(const xla::Buffer& buffer) {  // of u8
  size_t n = 1;
  for (int64_t i = 0; i < buffer.rank; ++i) n *= static_cast<size_t>(buffer.dims[i]);
  return n;
}

size_t whole_lines(size_t bytes) { return (bytes + 63) / 64 * 64; }

// Bytes at a multiple of 64, which the library asks for and XLA does not promise: those given, or a copy beside them.
class Aligned {
 public:
  Aligned(void* given, size_t size, bool read, bool write) : given_(given), size_(size), write_(write) {
    if (reinterpret_cast<uintptr_t>(given) % 64 == 0) return;
    copy_.reserve(size);
    if (read) std::memcpy(copy_.data(), given, size);
  }
  ~Aligned() {
    if (copy_.data() && write_) std::memcpy(given_, copy_.data(), size_);
  }
  void* data() const { return copy_.data() ? copy_.data() : given_; }

 private:
  Buffer copy_;
  void* given_;
  size_t size_;
  bool write_;
};

// The last bytes of a reserve say of how many rows it is. A transform may hand a backward the reserve of another call: a sharded
// array that was gathered since, rows of several calls side by side.
struct Stamp {
  static constexpr uint64_t kMagic = 0x65767265736572u;  // "reserve"
  uint64_t magic, rows;
};
void stamp(void* reserve, size_t size, int64_t rows) {
  if (size < sizeof(Stamp)) return;  // no rows
  const Stamp made{Stamp::kMagic, static_cast<uint64_t>(rows)};
  std::memcpy(static_cast<char*>(reserve) + size - sizeof made, &made, sizeof made);
}
bool is_of(const void* reserve, size_t size, int64_t rows) {
  Stamp found{};
  if (size < sizeof found) return false;
  std::memcpy(&found, static_cast<const char*>(reserve) + size - sizeof found, sizeof found);
  return found.magic == Stamp::kMagic && found.rows == static_cast<uint64_t>(rows);
}

// Makes the reserve of these arguments by a forward.
void keep_again(const Meaning& m, rnnk_args a, const rnnk_sizes& sizes, const Buffer& reserve) {
  const Workspace workspace(whole_lines(sizes.packed) + std::max<size_t>(sizes.workspace_forward, 64));
  const int64_t width = (m.problem.proj_size ? m.problem.proj_size : m.problem.hidden_size) *
                        (m.problem.direction == RNNK_BOTH_DIRECTIONS ? 2 : 1);
  const Buffer y(static_cast<size_t>(a.seq_len * a.batch * width) * 8);
  a.y.data = y.data(), a.y.stride[0] = a.batch * width, a.y.stride[1] = width, a.y.stride[2] = 1;
  a.dweights = nullptr;
  for (rnnk_tensor* unused : {&a.dy, &a.dh_n, &a.dc_n, &a.dx, &a.dh_0, &a.dc_0}) *unused = {};
  a.reserve = reserve.data(), a.reserve_size = reserve.size();
  a.packed = workspace.data(), a.packed_size = whole_lines(sizes.packed);
  a.workspace = static_cast<char*>(workspace.data()) + a.packed_size, a.workspace_size = workspace.size() - a.packed_size;
  check(rnnk_forward(m.plan.get(), &a));
}

void run(const xla::CallFrame& frame) {
  const auto meaning = understood(frame);
  const Meaning& m = *meaning;
  const auto arguments = static_cast<size_t>(frame.arguments.size), results = static_cast<size_t>(frame.results.size);
  if (m.places.size() != arguments + results) refuse("names: expected one for each array");
  rnnk_args a{};
  a.struct_size = sizeof a;
  std::vector<rnnk_weights> weights(m.count, {sizeof(rnnk_weights), {}, {}, {}, {}, {}, {}}), gradients = weights;
  bool has_weights = false;
  const xla::Buffer *packed = nullptr, *reserve = nullptr, *x = nullptr;
  for (size_t i = 0; i < m.places.size(); ++i) {
    const Place& place = m.places[i];
    const auto& buffer =
        *static_cast<const xla::Buffer*>(i < arguments ? frame.arguments.items[i] : frame.results.items[i - arguments]);
    switch (place.kind) {
      case Place::tensor:
        a.*place.in_args = view(buffer);
        if (place.in_args == &rnnk_args::x) x = &buffer;
        break;
      case Place::weight: weights[place.index].*place.in_weights = view(buffer), has_weights = true; break;
      case Place::gradient: gradients[place.index].*place.in_weights = view(buffer), a.dweights = gradients.data(); break;
      case Place::packed: packed = &buffer; break;
      case Place::reserve: reserve = &buffer; break;
      case Place::random: {  // seed, low and high, call, stream
        const auto* const words = static_cast<const uint32_t*>(buffer.data);
        a.seed = words[0] | static_cast<uint64_t>(words[1]) << 32, a.call = words[2], a.stream = words[3];
        a.flags = RNNK_CALL_TRAIN;
      }
    }
  }
  if (m.task == Meaning::pack) {
    if (!packed) refuse("names: expected packed");
    const Aligned to(packed->data, bytes_of(*packed), false, true);
    return check(rnnk_pack_weights(m.plan.get(), weights.data(), RNNK_PACK_FORWARD, to.data(), bytes_of(*packed), nullptr));
  }
  if (!x || x->rank != 3) refuse("names: expected x [T, B, I]");
  a.seq_len = x->dims[0], a.batch = x->dims[1];
  rnnk_sizes sizes{};
  sizes.struct_size = sizeof sizes;
  check(rnnk_plan_sizes(m.plan.get(), a.seq_len, a.batch, &sizes));
  const bool backward = m.task == Meaning::backward;
  const bool stale = backward && reserve && !is_of(reserve->data, bytes_of(*reserve), a.batch);
  Buffer again;
  if (stale) {
    if (!has_weights) refuse("reserve: expected that of this call");
    again.reserve(std::max<size_t>(sizes.reserve, 64));
    a.weights = weights.data();
    keep_again(m, a, sizes, again);
  }
  const size_t pack_bytes = has_weights ? whole_lines(sizes.packed) : 0;
  const size_t work_bytes = backward ? sizes.workspace_backward : sizes.workspace_forward;
  const Workspace workspace(pack_bytes + std::max<size_t>(work_bytes, 64));
  const Aligned pack(packed ? packed->data : nullptr, packed ? bytes_of(*packed) : 0, true, false);
  const Aligned kept(reserve ? reserve->data : nullptr, reserve ? bytes_of(*reserve) : 0, backward, !backward);
  if (has_weights) a.packed = workspace.data(), a.packed_size = pack_bytes, a.weights = weights.data();
  else if (packed) a.packed = pack.data(), a.packed_size = bytes_of(*packed);
  if (reserve) a.reserve = kept.data(), a.reserve_size = bytes_of(*reserve);
  if (stale) a.reserve = again.data(), a.reserve_size = again.size();
  a.workspace = static_cast<char*>(workspace.data()) + pack_bytes, a.workspace_size = workspace.size() - pack_bytes;
  check((backward ? rnnk_backward : rnnk_forward)(m.plan.get(), &a));
  if (reserve && !backward) stamp(a.reserve, a.reserve_size, a.batch);
}

xla::Error* fail(const xla::CallFrame& frame, const Refusal& why) {
  xla::ErrorCreateArgs args{sizeof args, nullptr, why.text.c_str(), why.code};
  return frame.api->error_create(&args);
}

// A handler that claims another version of the interface than the runtime has would stop all of XLA's backend, so it says the
// runtime's own: what is used here has been in every version. Runtimes of version 0.1 do not say theirs.
bool answers_metadata(const xla::CallFrame& frame) {
  if (!frame.extensions || frame.extensions->type != xla::kMetadata) return false;
  xla::Metadata& metadata = *reinterpret_cast<xla::MetadataExtension*>(frame.extensions)->metadata;
  metadata.api_version.major_version = frame.api ? frame.api->api_version.major_version : 0;
  metadata.api_version.minor_version = frame.api ? frame.api->api_version.minor_version : 1;
  return true;
}

xla::Error* handle(xla::CallFrame* frame) {
  if (answers_metadata(*frame)) return nullptr;
  try {
    run(*frame);
    return nullptr;
  } catch (const Refusal& why) {
    return fail(*frame, why);
  } catch (const std::bad_alloc&) {
    return fail(*frame, {xla::ErrorCode::resource_exhausted, "rnnkern: out of memory"});
  }
}

}  // namespace

void* xla_handler() { return reinterpret_cast<void*>(&handle); }

}  // namespace rnnk_py
