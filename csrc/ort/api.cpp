#include "ort/api.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>

namespace rnnk_ort {
namespace {

// The newest version among the slots.
constexpr uint32_t kNewest = 25;

template <class Fn>
void take(Fn*& to, const void* const* table, size_t slot) {
  to = reinterpret_cast<Fn*>(const_cast<void*>(table[slot]));
}

// The newest version that csrc/ort knows and this onnxruntime has, which prints a line when it is asked for one that it has not.
uint32_t api_version(const ApiBase& base) {
  const char* minor = base.GetVersionString();  // "1.24.1"
  while (*minor && *minor != '.') ++minor;
  return *minor ? std::min<uint32_t>(static_cast<uint32_t>(std::strtoul(minor + 1, nullptr, 10)), kNewest) : 0;
}

}  // namespace

const Api* api_for(const ApiBase& base, uint32_t least) {
  const uint32_t version = api_version(base);
  const void* const* const table = version < least ? nullptr : base.GetApi(version);
  if (!table) return nullptr;
  static std::mutex mutex;
  static auto& known = *new std::map<const void*, std::unique_ptr<const Api>>;
  const std::lock_guard<std::mutex> hold(mutex);
  auto& api = known[table];
  if (!api) api = std::make_unique<const Api>(table, version);
  return api.get();
}

Status* too_old(const ApiBase& base, const char* expected) {
  const void* const* const table = base.GetApi(1);
  if (!table) return nullptr;
  return Api(table, 1).CreateStatus(
      kNotImplemented,
      ("rnnkern: expected onnxruntime " + std::string(expected) + " or later, got " + base.GetVersionString()).c_str());
}

Api::Api(const void* const* table, uint32_t version) {
#define RNNK_ORT_API(slot, since, name, result, arguments) \
  if (version >= since) take(name, table, slot);
#include "ort/slots.inc"
  if (version < kProviderVersion) return;
  const void* const* const ep_table = GetEpApi();
#define RNNK_ORT_EP_API(slot, since, name, result, arguments) take(name, ep_table, slot);
#include "ort/slots.inc"
}

void Api::check(Status* status) const {
  if (!status) return;
  const std::string text = GetErrorMessage(status);
  ReleaseStatus(status);
  refuse(text, kFail);
}

Tensor Api::read(const Value* value) const {
  Tensor tensor;
  if (!value) return tensor;
  tensor.present = true;
  TensorInfo* info = nullptr;
  check(GetTensorTypeAndShape(value, &info));
  const Status* failed = GetTensorElementType(info, &tensor.element);
  if (!failed) failed = GetDimensionsCount(info, &tensor.axes);
  if (!failed) failed = GetDimensions(info, tensor.shape.data(), std::min(tensor.axes, tensor.shape.size()));
  ReleaseTensorTypeAndShapeInfo(info);
  check(const_cast<Status*>(failed));
  check(GetTensorMutableData(const_cast<Value*>(value), &tensor.data));
  return tensor;
}

Tensor Api::output(KernelContext* context, size_t index, const int64_t* shape, size_t axes) const {
  Value* value = nullptr;
  check(KernelContext_GetOutput(context, index, shape, axes, &value));
  Tensor tensor;
  if (!value) return tensor;
  tensor.present = true;
  check(GetTensorMutableData(value, &tensor.data));
  return tensor;
}

}  // namespace rnnk_ort
