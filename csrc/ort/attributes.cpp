#include "ort/attributes.h"

#include <cstring>
#include <sstream>

namespace rnnk_ort {
namespace {

std::vector<std::string> split(const char* begin, const char* end, char between) {
  std::vector<std::string> parts;
  std::istringstream all(std::string(begin, end));
  for (std::string part; std::getline(all, part, between);) {
    if (!part.empty()) parts.push_back(part);
  }
  return parts;
}

}  // namespace

// --- of a graph's node ----------------------------------------------------------------------------------------------------------

std::vector<char> NodeAttributes::read(const char* name, AttributeType type) const {
  const OpAttr* attribute = nullptr;
  // A missing attribute is an error in some versions, and a null pointer in others.
  if (Status* const missing = api_.Node_GetAttributeByName(node_, name, &attribute)) {
    api_.ReleaseStatus(missing);
    return {};
  }
  if (!attribute) return {};
  int32_t found = 0;
  api_.check(api_.OpAttr_GetType(attribute, &found));
  if (found != type) refuse(std::string(name) + ": the attribute has another type than the operator's");
  // With too small a buffer this is an error that says how much is needed.
  size_t size = 0;
  if (Status* const small = api_.ReadOpAttr(attribute, type, nullptr, 0, &size)) api_.ReleaseStatus(small);
  std::vector<char> bytes(size);
  if (size > 0) api_.check(api_.ReadOpAttr(attribute, type, bytes.data(), bytes.size(), &size));
  return bytes;
}

std::optional<int64_t> NodeAttributes::integer(const char* name) const {
  const std::vector<char> bytes = read(name, kInteger);
  int64_t value = 0;
  if (bytes.size() != sizeof value) return {};
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}
std::optional<float> NodeAttributes::number(const char* name) const {
  const std::vector<char> bytes = read(name, kNumber);
  float value = 0;
  if (bytes.size() != sizeof value) return {};
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}
std::optional<std::string> NodeAttributes::text(const char* name) const {
  const std::vector<char> bytes = read(name, kText);
  if (bytes.empty()) return {};
  return std::string(bytes.data(), strnlen(bytes.data(), bytes.size()));
}
std::vector<float> NodeAttributes::numbers(const char* name) const {
  const std::vector<char> bytes = read(name, kNumbers);
  std::vector<float> values(bytes.size() / sizeof(float));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}
std::vector<std::string> NodeAttributes::texts(const char* name) const {
  const std::vector<char> bytes = read(name, kTexts);  // a zero after each
  return split(bytes.data(), bytes.data() + bytes.size(), '\0');
}

// --- of a kernel ----------------------------------------------------------------------------------------------------------------

// onnxruntime does not tell a missing attribute from one of another type.
bool KernelAttributes::found(Status* status) const {
  if (status) api_.ReleaseStatus(status);
  return status == nullptr;
}

std::optional<int64_t> KernelAttributes::integer(const char* name) const {
  int64_t value = 0;
  if (!found(api_.KernelInfoGetAttribute_int64(info_, name, &value))) return {};
  return value;
}
std::optional<float> KernelAttributes::number(const char* name) const {
  float value = 0;
  if (!found(api_.KernelInfoGetAttribute_float(info_, name, &value))) return {};
  return value;
}
std::optional<std::string> KernelAttributes::text(const char* name) const {
  size_t size = 0;
  if (!found(api_.KernelInfoGetAttribute_string(info_, name, nullptr, &size))) return {};
  return text_of(api_, [&](char* to, size_t* room) { return api_.KernelInfoGetAttribute_string(info_, name, to, room); });
}
std::vector<float> KernelAttributes::numbers(const char* name) const {
  size_t count = 0;
  if (!found(api_.KernelInfoGetAttributeArray_float(info_, name, nullptr, &count))) return {};
  std::vector<float> values(count);
  if (count > 0) api_.check(api_.KernelInfoGetAttributeArray_float(info_, name, values.data(), &count));
  return values;
}
std::vector<std::string> KernelAttributes::texts(const char* name) const {
  if (joined_) {
    const std::string all = text(name).value_or("");
    return split(all.data(), all.data() + all.size(), ' ');
  }
  if (!api_.KernelInfoGetAttributeArray_string) return {};
  Allocator* allocator = nullptr;
  api_.check(api_.GetAllocatorWithDefaultOptions(&allocator));
  char** given = nullptr;
  size_t count = 0;
  if (!found(api_.KernelInfoGetAttributeArray_string(info_, name, allocator, &given, &count))) return {};
  std::vector<std::string> values(given, given + count);
  for (size_t i = 0; i < count; ++i) found(api_.AllocatorFree(allocator, given[i]));
  if (given) found(api_.AllocatorFree(allocator, given));
  return values;
}

}  // namespace rnnk_ort
