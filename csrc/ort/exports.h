// The functions by which onnxruntime enters, with its names. And what the provider and the custom operators share.
#pragma once
#include "ort/node.h"

#if defined(_WIN32)
#  define RNNK_ORT_EXPORT extern "C" __declspec(dllexport)
#else
#  define RNNK_ORT_EXPORT extern "C" __attribute__((visibility("default")))
#endif

RNNK_ORT_EXPORT rnnk_ort::Status* CreateEpFactories(const char* registered_name, const rnnk_ort::ApiBase* base,
                                                    const rnnk_ort::Logger* logger, rnnk_ort::EpFactory** factories,
                                                    size_t most, size_t* count);
RNNK_ORT_EXPORT rnnk_ort::Status* ReleaseEpFactory(rnnk_ort::EpFactory* factory);
RNNK_ORT_EXPORT rnnk_ort::Status* RegisterCustomOps(rnnk_ort::SessionOptions* options, const rnnk_ort::ApiBase* base);

namespace rnnk_ort {

// Why nodes were left to onnxruntime on this thread since the last call.
std::vector<std::string> take_left_nodes();

// A kernel's node: its name, and for each input whether it is there.
std::string name_of(const Api& api, const KernelInfo* info);
std::array<bool, kInputs> inputs_of(const Api& api, const KernelInfo* info);

}  // namespace rnnk_ort
