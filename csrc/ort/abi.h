// The part of onnxruntime's C interface that csrc/ort uses: structs that begin with the version of their author and only grow
// (microsoft/onnxruntime, include/onnxruntime/core/session). onnxruntime reads no member that is newer than the version a struct
// states, so the later members are not declared.
#pragma once
#include <cstddef>
#include <cstdint>

namespace rnnk_ort {

struct Allocator;
struct CustomOpDomain;
struct DataType;
struct EpDevice;
struct Graph;
struct HardwareDevice;
struct KernelContext;
struct KernelDef;
struct KernelDefBuilder;
struct KernelInfo;
struct KernelRegistry;
struct KeyValuePairs;
struct Logger;
struct Node;
struct OpAttr;
struct SessionOptions;
struct Status;
struct SupportInfo;
struct TensorInfo;
struct Value;
struct ValueInfo;
#if defined(_WIN32)
using PathChar = wchar_t;
#else
using PathChar = char;
#endif

enum ErrorCode : int32_t { kFail = 1, kInvalidArgument = 2, kNotImplemented = 9 };
enum Element : int32_t { kFloat = 1, kInt32 = 6, kFloat16 = 10, kDouble = 11, kBFloat16 = 16 };
enum AttributeType : int32_t { kInteger = 1, kNumber = 3, kNumbers = 4, kText = 5, kTexts = 6 };
constexpr int32_t kCpuDevice = 0;
constexpr int32_t kWarning = 2;  // of a log

struct ApiBase {
  const void* const* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

// The structs from here on are ours: onnxruntime calls what they hold. `version` is the API version that they were written for.
constexpr uint32_t kProviderVersion = 24;
constexpr uint32_t kCustomOpVersion = 17;

struct KernelImpl {
  uint32_t version, flags;
  Status* (*Compute)(KernelImpl*, KernelContext*);
  void (*Release)(KernelImpl*);
  Status* (*PrePackWeight)(KernelImpl*, const Value*, int input, Allocator*, void* cache, bool* is_packed);
  Status* (*SetSharedPrePackedWeight)(KernelImpl*, const void* const*, const size_t*, size_t, int input);
};
using CreateKernel = Status*(void* state, const KernelInfo*, KernelImpl**);

struct Ep {
  uint32_t version;
  const char* (*GetName)(const Ep*);
  Status* (*GetCapability)(Ep*, const Graph*, SupportInfo*);
  void* unused[10];  // Compile to GetCompiledModelCompatibilityInfo: for providers that compile subgraphs or own memory
  Status* (*GetKernelRegistry)(Ep*, const KernelRegistry**);
  Status* (*IsConcurrentRunSupported)(Ep*, bool*);
};

struct EpFactory {
  uint32_t version;
  const char* (*GetName)(const EpFactory*);
  const char* (*GetVendor)(const EpFactory*);
  Status* (*GetSupportedDevices)(EpFactory*, const HardwareDevice* const*, size_t, EpDevice**, size_t most, size_t* count);
  Status* (*CreateEp)(EpFactory*, const HardwareDevice* const*, const KeyValuePairs* const*, size_t, const SessionOptions*,
                      const Logger*, Ep**);
  void (*ReleaseEp)(EpFactory*, Ep*);
  uint32_t (*GetVendorId)(const EpFactory*);
  const char* (*GetVersion)(const EpFactory*);
  void* ValidateCompiledModelCompatibilityInfo;
  Status* (*CreateAllocator)(EpFactory*, const void* memory_info, const KeyValuePairs*, Allocator**);
  void (*ReleaseAllocator)(EpFactory*, Allocator*);
  Status* (*CreateDataTransfer)(EpFactory*, void**);
  bool (*IsStreamAware)(const EpFactory*);
  void* unused[5];  // CreateSyncStreamForDevice to GetCustomOpDomains
};

struct CustomOp {
  uint32_t version;
  void* CreateKernel;
  const char* (*GetName)(const CustomOp*);
  const char* (*GetExecutionProviderType)(const CustomOp*);
  int32_t (*GetInputType)(const CustomOp*, size_t index);
  size_t (*GetInputTypeCount)(const CustomOp*);
  int32_t (*GetOutputType)(const CustomOp*, size_t index);
  size_t (*GetOutputTypeCount)(const CustomOp*);
  void* KernelCompute;
  void (*KernelDestroy)(void* kernel);
  int32_t (*GetInputCharacteristic)(const CustomOp*, size_t index);  // 1: optional
  int32_t (*GetOutputCharacteristic)(const CustomOp*, size_t index);
  int32_t (*GetInputMemoryType)(const CustomOp*, size_t index);
  void* variadic[4];
  Status* (*CreateKernelV2)(const CustomOp*, const void* const* api, const KernelInfo*, void** kernel);
  Status* (*KernelComputeV2)(void* kernel, KernelContext*);
  void* InferOutputShapeFn;
  int (*GetStartVersion)(const CustomOp*);
  int (*GetEndVersion)(const CustomOp*);
  void* in_place[4];  // GetMayInplace to ReleaseAliasMap
};

}  // namespace rnnk_ort
