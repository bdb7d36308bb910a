// Operators RNN, GRU and LSTM in the domain "rnnkern", for an onnxruntime without plugin execution providers (1.17 and later).
//
// They have the attributes, inputs and outputs of ONNX's, except that `activations` is one string with spaces between the names.
// rnnkern.onnx.replace writes them in place of ONNX's.
#include <list>
#include <map>
#include <memory>
#include <mutex>

#include "ort/exports.h"
#include "ort/layer.h"

namespace rnnk_ort {

std::string name_of(const Api& api, const KernelInfo* info) {
  return text_of(api, [&](char* to, size_t* size) { return api.KernelInfo_GetNodeName(info, to, size); });
}

std::array<bool, kInputs> inputs_of(const Api& api, const KernelInfo* info) {
  size_t count = 0;
  api.check(api.KernelInfo_GetInputCount(info, &count));
  std::array<bool, kInputs> given{};
  for (size_t i = 0; i < count && i < kInputs; ++i) {
    given[i] = !text_of(api, [&](char* to, size_t* size) { return api.KernelInfo_GetInputName(info, i, to, size); }).empty();
  }
  return given;
}

namespace {

// One operator for each name and type: onnxruntime joins those of a name.
struct Operator : CustomOp {
  const Api* api;
  const char* name;
  Element element;
};
const Operator& op_of(const CustomOp* op) { return *static_cast<const Operator*>(op); }
bool is_lstm(const CustomOp* op) { return op_of(op).name == kOperators[2]; }

struct Kernel {
  const Api& api;
  Layer layer;
};

Status* create(const CustomOp* self, const void* const*, const KernelInfo* info, void** made) {
  const Operator& op = op_of(self);
  const Api& api = *op.api;
  return api.guarded([&] {
    const auto given = inputs_of(api, info);
    auto kernel = std::unique_ptr<Kernel>(
        new Kernel{api, {api, read_node(op.name, name_of(api, info), KernelAttributes(api, info, true)), given, 0, false}});
    for (const size_t input : {kW, kR, kB, kP}) {
      int is_constant = 0;
      const Value* value = nullptr;
      if (given[input]) api.check(api.KernelInfoGetConstantInput_tensor(info, input, &is_constant, &value));
      if (is_constant) kernel->layer.hold(input, api.read(value));
    }
    *made = kernel.release();
  });
}

Status* compute(void* self, KernelContext* context) {
  auto& kernel = *static_cast<Kernel*>(self);
  return kernel.api.guarded([&] { kernel.layer.run(context); });
}

Operator make_operator(const Api& api, const char* name, Element element) {
  Operator op{};
  op.api = &api, op.name = name, op.element = element;
  op.version = kCustomOpVersion;
  op.GetName = [](const CustomOp* self) { return op_of(self).name; };
  op.GetExecutionProviderType = [](const CustomOp*) -> const char* { return nullptr; };
  op.GetInputType = [](const CustomOp* self, size_t i) { return i == kLengths ? int32_t{kInt32} : op_of(self).element; };
  op.GetInputTypeCount = [](const CustomOp* self) -> size_t { return is_lstm(self) ? 8 : 6; };
  op.GetOutputType = [](const CustomOp* self, size_t) -> int32_t { return op_of(self).element; };
  op.GetOutputTypeCount = [](const CustomOp* self) -> size_t { return is_lstm(self) ? 3 : 2; };
  op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  op.GetInputCharacteristic = [](const CustomOp*, size_t i) { return i > kR ? 1 : 0; };
  op.GetOutputCharacteristic = [](const CustomOp*, size_t) { return 1; };
  op.GetInputMemoryType = [](const CustomOp*, size_t) { return 0; };
  op.CreateKernelV2 = create;
  op.KernelComputeV2 = compute;
  return op;
}

// The domain of one onnxruntime. Session options refer to it for as long as they live.
CustomOpDomain* domain_for(const Api& api) {
  static std::mutex mutex;
  static auto& known = *new std::map<const Api*, CustomOpDomain*>;
  static auto& operators = *new std::list<Operator>;
  const std::lock_guard<std::mutex> hold(mutex);
  CustomOpDomain*& domain = known[&api];
  if (domain) return domain;
  CustomOpDomain* made = nullptr;
  api.check(api.CreateCustomOpDomain("rnnkern", &made));
  for (const char* name : kOperators) {
    for (const Element element : {kFloat, kDouble, kFloat16, kBFloat16}) {
      operators.push_back(make_operator(api, name, element));
      api.check(api.CustomOpDomain_Add(made, &operators.back()));
    }
  }
  return domain = made;
}

}  // namespace
}  // namespace rnnk_ort

using namespace rnnk_ort;

Status* RegisterCustomOps(SessionOptions* options, const ApiBase* base) {
  const Api* const api = api_for(*base, kCustomOpVersion);
  if (!api) return too_old(*base, "1.17");
  return api->guarded([&] { api->check(api->AddCustomOpDomain(options, domain_for(*api))); });
}
