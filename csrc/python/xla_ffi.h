// The part of XLA's foreign function interface that xla.cpp uses: plain C structs, which begin with their size and only grow
// (openxla/xla, xla/ffi/api/c_api.h). tests/jax compares the offsets with the header of the installed jaxlib.
#pragma once
#include <cstddef>
#include <cstdint>

namespace rnnk_py::xla {

struct Extension {
  size_t struct_size;
  int32_t type;  // 1: the runtime asks for a handler's metadata
  Extension* next;
};
constexpr int32_t kMetadata = 1;

struct ApiVersion {
  size_t struct_size;
  Extension* extensions;
  int32_t major_version, minor_version;
};
struct Metadata {
  size_t struct_size;
  ApiVersion api_version;
  uint32_t traits;
};
struct MetadataExtension {
  Extension base;
  Metadata* metadata;
};

enum class ErrorCode : int32_t { invalid_argument = 3, resource_exhausted = 8, unimplemented = 12, internal = 13 };
struct Error;
struct ErrorCreateArgs {
  size_t struct_size;
  Extension* extensions;
  const char* message;
  ErrorCode code;
};

struct Api {
  size_t struct_size;
  Extension* extensions;
  ApiVersion api_version;
  const void* internal_api;
  Error* (*error_create)(ErrorCreateArgs*);
};

enum class DataType : int32_t { pred = 1, u8 = 6, i32 = 4, i64 = 5, u32 = 8, f16 = 10, f32 = 11, f64 = 12, bf16 = 16 };
struct Buffer {
  size_t struct_size;
  Extension* extensions;
  DataType dtype;
  void* data;
  int64_t rank;
  int64_t* dims;
};
struct ByteSpan {
  const char* data;
  size_t size;
};

// Arguments and results: `size` pointers to what `types` says; all are buffers.
struct Buffers {
  size_t struct_size;
  Extension* extensions;
  int64_t size;
  int32_t* types;
  void** items;
};
constexpr int32_t kString = 4;  // of Attributes::types
struct Attributes {
  size_t struct_size;
  Extension* extensions;
  int64_t size;
  int32_t* types;
  ByteSpan** names;
  void** items;
};

struct CallFrame {
  size_t struct_size;
  Extension* extensions;
  const Api* api;
  void* context;
  int32_t stage;
  Buffers arguments, results;
  Attributes attributes;
};

}  // namespace rnnk_py::xla
