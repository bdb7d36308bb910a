// The attributes of a node, read from a graph while onnxruntime divides it, or from a kernel's information.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "ort/api.h"

namespace rnnk_ort {

// Absent attributes are empty; so are absent lists, which mean the same as empty ones.
class Attributes {
 public:
  virtual ~Attributes() = default;
  virtual std::optional<int64_t> integer(const char* name) const = 0;
  virtual std::optional<float> number(const char* name) const = 0;
  virtual std::optional<std::string> text(const char* name) const = 0;
  virtual std::vector<float> numbers(const char* name) const = 0;
  virtual std::vector<std::string> texts(const char* name) const = 0;
};

class NodeAttributes final : public Attributes {
 public:
  NodeAttributes(const Api& api, const Node* node) : api_(api), node_(node) {}
  std::optional<int64_t> integer(const char* name) const override;
  std::optional<float> number(const char* name) const override;
  std::optional<std::string> text(const char* name) const override;
  std::vector<float> numbers(const char* name) const override;
  std::vector<std::string> texts(const char* name) const override;

 private:
  std::vector<char> read(const char* name, AttributeType type) const;

  const Api& api_;
  const Node* node_;
};

// joined: lists of strings are one string with spaces between them, as rnnkern's custom operators have them, since a kernel can
// read a list only from API version 25 on. Otherwise `texts` is empty before that version.
class KernelAttributes final : public Attributes {
 public:
  KernelAttributes(const Api& api, const KernelInfo* info, bool joined) : api_(api), info_(info), joined_(joined) {}
  std::optional<int64_t> integer(const char* name) const override;
  std::optional<float> number(const char* name) const override;
  std::optional<std::string> text(const char* name) const override;
  std::vector<float> numbers(const char* name) const override;
  std::vector<std::string> texts(const char* name) const override;

 private:
  bool found(Status* status) const;

  const Api& api_;
  const KernelInfo* info_;
  bool joined_;
};

// A string that `read(buffer, size)` writes, a final zero included; with a null buffer it only sets the size.
template <class Read>
std::string text_of(const Api& api, const Read& read) {
  size_t size = 0;
  api.check(read(nullptr, &size));
  std::string text(size, '\0');
  if (size > 0) api.check(read(text.data(), &size));
  text.resize(size > 0 ? size - 1 : 0);
  return text;
}

}  // namespace rnnk_ort
