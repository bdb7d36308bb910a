// A plugin execution provider of onnxruntime 1.24 and later: it takes the nodes RNN, GRU and LSTM of any graph and its subgraphs.
//
// onnxruntime calls CreateEpFactories when the library is registered, CreateEp for each session, GetCapability for each graph, and
// for each node that was taken CreateKernel, PrePackWeight for its constant inputs, and Compute.
#include <cstring>
#include <map>
#include <memory>
#include <utility>

#include "ort/exports.h"
#include "ort/layer.h"

namespace rnnk_ort {
namespace {

constexpr const char* kProvider = "RnnkernExecutionProvider";

struct Factory : EpFactory {
  const Api& api;
  explicit Factory(const Api& given) : EpFactory{}, api(given) {}
};

struct Provider : Ep {
  Factory& factory;
  const Logger* logger;
  int32_t threads = 0;  // 0: as many as the library's team has
  bool int8 = false;    // packs keep weights as bytes
  KernelRegistry* registry = nullptr;
  // What CreateKernel gets of an operator.
  struct Operator {
    const Provider* provider;
    const char* name;
  };
  std::array<Operator, 3> operators{};
  // onnxruntime 1.24 hands no lists of strings to kernels, so that they find `activations` here, by the names of their outputs.
  std::map<std::string, Recurrent> taken;

  Provider(Factory& made_by, const Logger* log) : Ep{}, factory(made_by), logger(log) {}
  ~Provider() {
    if (registry) factory.api.ReleaseKernelRegistry(registry);
  }
};
const Api& api_of(const Ep* ep) { return static_cast<const Provider*>(ep)->factory.api; }

// --- kernels --------------------------------------------------------------------------------------------------------------------

struct Kernel : KernelImpl {
  const Api& api;
  Layer layer;
  Kernel(const Provider& provider, Recurrent node, const std::array<bool, kInputs>& inputs)
      : KernelImpl{}, api(provider.factory.api), layer(api, std::move(node), inputs, provider.threads, provider.int8) {}
};

Status* compute(KernelImpl* self, KernelContext* context) {
  auto& kernel = *static_cast<Kernel*>(self);
  return kernel.api.guarded([&] { kernel.layer.run(context); });
}

Status* prepack(KernelImpl* self, const Value* value, int input, Allocator*, void*, bool* is_packed) {
  auto& kernel = *static_cast<Kernel*>(self);
  *is_packed = input == kW || input == kR || input == kB || input == kP;
  if (!*is_packed) return nullptr;
  return kernel.api.guarded([&] { kernel.layer.hold(static_cast<size_t>(input), kernel.api.read(value)); });
}

void release(KernelImpl* self) { delete static_cast<Kernel*>(self); }

const Recurrent& find_taken(const Provider& provider, const KernelInfo* info) {
  const Api& api = provider.factory.api;
  size_t count = 0;
  api.check(api.KernelInfo_GetOutputCount(info, &count));
  std::string key;
  for (size_t i = 0; i < count; ++i) {
    key += text_of(api, [&](char* to, size_t* size) { return api.KernelInfo_GetOutputName(info, i, to, size); }) + '\n';
  }
  const auto found = provider.taken.find(key);
  if (found == provider.taken.end()) refuse("onnxruntime has renamed the outputs of a node that rnnkern took");
  return found->second;
}

Status* create_kernel(void* state, const KernelInfo* info, KernelImpl** made) {
  const auto& op = *static_cast<const Provider::Operator*>(state);
  const Api& api = op.provider->factory.api;
  return api.guarded([&] {
    const Recurrent node = api.KernelInfoGetAttributeArray_string
                               ? read_node(op.name, name_of(api, info), KernelAttributes(api, info, false))
                               : find_taken(*op.provider, info);
    auto kernel = std::make_unique<Kernel>(*op.provider, node, inputs_of(api, info));
    kernel->version = kProviderVersion;
    kernel->Compute = compute;
    kernel->Release = release;
    kernel->PrePackWeight = prepack;
    *made = kernel.release();
  });
}

void add_kernel(Provider& provider, Provider::Operator& op) {
  const Api& api = provider.factory.api;
  const auto type = [&](Element element) {
    const DataType* found = nullptr;
    api.check(api.GetTensorDataType(element, &found));
    return found;
  };
  const DataType* const floats[] = {type(kFloat), type(kDouble), type(kFloat16), type(kBFloat16)};
  const DataType* const integers[] = {type(kInt32)};
  KernelDefBuilder* raw = nullptr;
  api.check(api.CreateKernelDefBuilder(&raw));
  const std::unique_ptr<KernelDefBuilder, void (*)(KernelDefBuilder*)> builder(raw, api.ReleaseKernelDefBuilder);
  api.check(api.KernelDefBuilder_SetOperatorType(raw, op.name));
  api.check(api.KernelDefBuilder_SetDomain(raw, ""));
  api.check(api.KernelDefBuilder_SetSinceVersion(raw, 1, 22));
  api.check(api.KernelDefBuilder_SetExecutionProvider(raw, kProvider));
  api.check(api.KernelDefBuilder_AddTypeConstraint(raw, "T", floats, std::size(floats)));
  api.check(api.KernelDefBuilder_AddTypeConstraint(raw, "T1", integers, std::size(integers)));
  KernelDef* built = nullptr;
  api.check(api.KernelDefBuilder_Build(raw, &built));
  const std::unique_ptr<KernelDef, void (*)(KernelDef*)> definition(built, api.ReleaseKernelDef);
  api.check(api.KernelRegistry_AddKernel(provider.registry, built, create_kernel, &op));
}

// --- which nodes ----------------------------------------------------------------------------------------------------------------

// Throws what makes the provider leave this node to onnxruntime.
void consider(Provider& provider, const Node* node) {
  const Api& api = provider.factory.api;
  const char *op = nullptr, *name = nullptr;
  api.check(api.Node_GetOperatorType(node, &op));
  api.check(api.Node_GetName(node, &name));
  const Recurrent read = read_node(op, name, NodeAttributes(api, node));
  if (api.KernelInfoGetAttributeArray_string) return;
  size_t count = 0;
  api.check(api.Node_GetNumOutputs(node, &count));
  std::vector<const ValueInfo*> outputs(count);
  api.check(api.Node_GetOutputs(node, outputs.data(), count));
  std::string key;
  for (const ValueInfo* output : outputs) {
    const char* text = "";
    if (output) api.check(api.GetValueInfoName(output, &text));
    key += std::string(text) + '\n';
  }
  const auto [known, is_new] = provider.taken.emplace(key, read);
  if (!is_new && !(known->second == read)) {
    refuse(read.label + ": onnxruntime 1.24 cannot tell it from a node of another subgraph with the same outputs");
  }
}

std::vector<std::string>& left_nodes() {
  static thread_local std::vector<std::string> reasons;
  return reasons;
}

// Onnxruntime's log has the reason for programs without Python.
void leave(const Provider& provider, const Refusal& why) {
  constexpr size_t kMost = 100;
  if (left_nodes().size() < kMost) left_nodes().push_back(why.text);
  const Api& api = provider.factory.api;
  const PathChar file[] = {'r', 'n', 'n', 'k', 'e', 'r', 'n', 0};
  api.check(
      api.Logger_LogMessage(provider.logger, kWarning, ("left to onnxruntime: " + why.text).c_str(), file, 0, "rnnkern"));
}

Status* get_capability(Ep* self, const Graph* graph, SupportInfo* support) {
  const Api& api = api_of(self);
  return api.guarded([&] {
    size_t count = 0;
    api.check(api.Graph_GetNumNodes(graph, &count));
    std::vector<const Node*> nodes(count);
    api.check(api.Graph_GetNodes(graph, nodes.data(), count));
    for (const Node* node : nodes) {
      const KernelDef* definition = nullptr;
      api.check(api.EpGraphSupportInfo_LookUpKernel(support, node, &definition));
      if (!definition) continue;
      try {
        consider(*static_cast<Provider*>(self), node);
      } catch (const Refusal& why) {
        leave(*static_cast<const Provider*>(self), why);
        continue;
      }
      api.check(api.EpGraphSupportInfo_AddSingleNode(support, node));
    }
  });
}

Status* get_kernel_registry(Ep* self, const KernelRegistry** registry) {
  *registry = static_cast<const Provider*>(self)->registry;
  return nullptr;
}

// --- the factory ----------------------------------------------------------------------------------------------------------------

// An option of add_provider_for_devices, which onnxruntime keeps among the session's entries; "" where there is none.
std::string option_of(const Api& api, const SessionOptions* options, const char* name) {
  const std::string key = std::string("ep.rnnkernexecutionprovider.") + name;
  int found = 0;
  api.check(api.HasSessionConfigEntry(options, key.c_str(), &found));
  if (!found) return "";
  return text_of(api, [&](char* to, size_t* size) { return api.GetSessionConfigEntry(options, key.c_str(), to, size); });
}

int32_t threads_of(const std::string& text) {
  if (text.empty()) return 0;
  const int64_t value = text.size() > 3 || text.find_first_not_of("0123456789") != std::string::npos ? -1 : std::stoll(text);
  if (value < 0 || value > 256) refuse("threads: expected 0 to 256, got '" + text + "'");
  return static_cast<int32_t>(value);
}

Status* create_ep(EpFactory* self, const HardwareDevice* const*, const KeyValuePairs* const*, size_t,
                  const SessionOptions* options, const Logger* logger, Ep** made) {
  auto& factory = *static_cast<Factory*>(self);
  const Api& api = factory.api;
  return api.guarded([&] {
    auto provider = std::make_unique<Provider>(factory, logger);
    provider->version = kProviderVersion;
    provider->GetName = [](const Ep*) { return kProvider; };
    provider->GetCapability = get_capability;
    provider->GetKernelRegistry = get_kernel_registry;
    provider->threads = threads_of(option_of(api, options, "threads"));
    const std::string weights = option_of(api, options, "weights");
    if (!weights.empty() && weights != "int8") refuse("weights: expected 'int8' or none, got '" + weights + "'");
    provider->int8 = !weights.empty();
    api.check(api.CreateKernelRegistry(&provider->registry));
    for (size_t i = 0; i < provider->operators.size(); ++i) {
      provider->operators[i] = {provider.get(), kOperators[i]};
      add_kernel(*provider, provider->operators[i]);
    }
    *made = provider.release();
  });
}

Status* get_devices(EpFactory* self, const HardwareDevice* const* devices, size_t count, EpDevice** made, size_t most,
                    size_t* number) {
  const Api& api = static_cast<Factory*>(self)->api;
  *number = 0;
  return api.guarded([&] {
    for (size_t i = 0; i < count && *number < most; ++i) {
      if (api.HardwareDevice_Type(devices[i]) != kCpuDevice) continue;
      api.check(api.CreateEpDevice(self, devices[i], nullptr, nullptr, &made[*number]));
      ++*number;
    }
  });
}

std::unique_ptr<Factory> make_factory(const Api& api) {
  auto factory = std::make_unique<Factory>(api);
  factory->version = kProviderVersion;
  factory->GetName = [](const EpFactory*) { return kProvider; };
  factory->GetVendor = [](const EpFactory*) { return "rnnkern"; };
  factory->GetVendorId = [](const EpFactory*) { return uint32_t{0}; };
  factory->GetVersion = [](const EpFactory*) { return rnnk_version(); };
  factory->GetSupportedDevices = get_devices;
  factory->CreateEp = create_ep;
  factory->ReleaseEp = [](EpFactory*, Ep* ep) { delete static_cast<Provider*>(ep); };
  // Arrays lie in host memory, for which onnxruntime's own allocator serves.
  factory->CreateAllocator = [](EpFactory*, const void*, const KeyValuePairs*, Allocator** made) -> Status* {
    *made = nullptr;
    return nullptr;
  };
  factory->ReleaseAllocator = [](EpFactory*, Allocator*) {};
  factory->CreateDataTransfer = [](EpFactory*, void** made) -> Status* {
    *made = nullptr;
    return nullptr;
  };
  factory->IsStreamAware = [](const EpFactory*) { return false; };
  return factory;
}

}  // namespace

std::vector<std::string> take_left_nodes() { return std::exchange(left_nodes(), {}); }

}  // namespace rnnk_ort

using namespace rnnk_ort;

Status* CreateEpFactories(const char*, const ApiBase* base, const Logger*, EpFactory** factories, size_t most,
                          size_t* count) {
  *count = 0;
  const Api* const api = api_for(*base, kProviderVersion);
  if (!api) return too_old(*base, "1.24");
  return api->guarded([&] {
    if (most < 1) refuse("expected room for one factory");
    factories[0] = make_factory(*api).release();
    *count = 1;
  });
}

Status* ReleaseEpFactory(EpFactory* factory) {
  delete static_cast<Factory*>(factory);
  return nullptr;
}
