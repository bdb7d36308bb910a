// The structs of DLPack 1.x that the binding reads and writes (https://dmlc.github.io/dlpack, "C API"); the layout is the
// standard's, the text is ours. Version 0.x capsules carry ManagedTensor, 1.x ones ManagedTensorVersioned.
#pragma once
#include <cstdint>

namespace dlpack {

enum DeviceType : int32_t { kCPU = 1, kCUDA = 2, kCUDAHost = 3, kCUDAManaged = 13 };
enum TypeCode : uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4, kBool = 6 };
constexpr uint64_t kReadOnly = 1;

struct Device {
  int32_t type, id;
};
struct DataType {
  uint8_t code, bits;
  uint16_t lanes;
};
struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;  // elements; null: C-contiguous
  uint64_t byte_offset;
};
struct ManagedTensor {
  Tensor tensor;
  void* context;
  void (*deleter)(ManagedTensor*);
};
struct Version {
  uint32_t major, minor;
};
struct ManagedTensorVersioned {
  Version version;
  void* context;
  void (*deleter)(ManagedTensorVersioned*);
  uint64_t flags;
  Tensor tensor;
};

// A type's attribute __dlpack_c_exchange_api__ (1.3) holds it: what the Python methods do, without Python. The members
// that nobody calls here are opaque.
struct ExchangeApi {
  Version version;
  ExchangeApi* previous;
  void *allocate, *managed_from_object, *managed_to_object;
  int (*tensor_from_object)(void* object, Tensor* out);  // borrowed from the object; null: not there
  void* current_work_stream;
};

}  // namespace dlpack
