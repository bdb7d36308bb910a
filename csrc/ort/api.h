// onnxruntime's functions by their names, its statuses as exceptions, its tensors as views.
#pragma once
#include <array>
#include <new>
#include <string>
#include <utility>

#include "ort/abi.h"

namespace rnnk_ort {

// A sentence and a code for onnxruntime. `guarded` turns it into a status.
struct Refusal {
  int32_t code;
  std::string text;
};
[[noreturn]] inline void refuse(std::string text, int32_t code = kInvalidArgument) { throw Refusal{code, std::move(text)}; }

// A view of a tensor in host memory. Absent: an optional input or output that a node does not have.
struct Tensor {
  bool present = false;
  int32_t element = 0;
  size_t axes = 0;
  std::array<int64_t, 4> shape{};
  void* data = nullptr;
};

class Api {
 public:
  // version: of the C API, at least 17; functions of later versions are null. The tables live as long as onnxruntime's library.
  Api(const void* const* table, uint32_t version);

#define RNNK_ORT_API(slot, since, name, result, arguments) result(*name) arguments = nullptr;
#define RNNK_ORT_EP_API(slot, since, name, result, arguments) result(*name) arguments = nullptr;
#include "ort/slots.inc"

  // Throws the sentence of a status that is not null.
  void check(Status* status) const;
  Tensor read(const Value* value) const;
  // Output `index` of a call, or an absent tensor where the node has none of it. shape: of `axes` entries.
  Tensor output(KernelContext* context, size_t index, const int64_t* shape, size_t axes) const;

  // The status of what `body` does: null, or the sentence that it throws.
  template <class Body>
  Status* guarded(const Body& body) const {
    try {
      body();
      return nullptr;
    } catch (const Refusal& why) {
      return CreateStatus(why.code, ("rnnkern: " + why.text).c_str());
    } catch (const std::bad_alloc&) {
      return CreateStatus(kFail, "rnnkern: out of memory");
    }
  }
};

// The functions of one onnxruntime. They are kept as long as the process lives, since its sessions may outlast its registrations.
// Null: it has no API of version `least`.
const Api* api_for(const ApiBase& base, uint32_t least);
// For that case: a status that says which version is expected, or null where that onnxruntime cannot even make one.
Status* too_old(const ApiBase& base, const char* expected);

}  // namespace rnnk_ort
