"""csrc/ort/slots.inc against onnxruntime's headers and the installed library."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

SLOTS = Path(__file__).parents[2] / "csrc" / "ort" / "slots.inc"
DECLARED = {
    name: (table, int(slot), int(since))
    for table, slot, since, name in re.findall(
        r"^RNNK_ORT_(API|EP_API)\((\d+), (\d+), (\w+),", SLOTS.read_text(encoding="utf-8"), re.M
    )
}
# Positions in onnxruntime's headers, whose order never changes (microsoft/onnxruntime, onnxruntime_c_api.h and
# onnxruntime_ep_c_api.h of API version 29); with some functions beside those that are used.
API = {
    "CreateStatus": 0, "GetErrorCode": 1, "GetErrorMessage": 2, "SessionOptionsAppendExecutionProvider_V2": 304,
    "CreateCustomOpDomain": 26, "CustomOpDomain_Add": 27, "AddCustomOpDomain": 28, "RegisterCustomOpsLibrary": 29,
    "GetTensorMutableData": 51, "CreateTensorTypeAndShapeInfo": 57,
    "SetTensorElementType": 58, "SetDimensions": 59, "GetTensorElementType": 60, "GetDimensionsCount": 61,
    "GetDimensions": 62, "GetTensorTypeAndShape": 65, "AllocatorFree": 76, "GetAllocatorWithDefaultOptions": 78,
    "KernelInfoGetAttribute_float": 85, "KernelInfoGetAttribute_int64": 86, "KernelInfoGetAttribute_string": 87,
    "KernelContext_GetInputCount": 88, "KernelContext_GetOutputCount": 89, "KernelContext_GetInput": 90,
    "KernelContext_GetOutput": 91, "ReleaseEnv": 92, "ReleaseStatus": 93, "ReleaseTensorTypeAndShapeInfo": 99,
    "ReleaseSessionOptions": 100, "ReleaseCustomOpDomain": 101, "KernelInfoGetAttributeArray_float": 162,
    "KernelInfo_GetInputCount": 230, "KernelInfo_GetOutputCount": 231, "KernelInfo_GetInputName": 232,
    "KernelInfo_GetOutputName": 233, "HasSessionConfigEntry": 237,
    "GetSessionConfigEntry": 238, "KernelInfo_GetNodeName": 244, "Logger_LogMessage": 247,
    "KernelInfoGetConstantInput_tensor": 249, "ReadOpAttr": 272, "KernelContext_ParallelFor": 274,
    "GetValueInfoName": 289, "HardwareDevice_Type": 307, "GetEpApi": 317, "Graph_GetNumNodes": 344,
    "Graph_GetNodes": 345, "Node_GetName": 349, "Node_GetOperatorType": 350, "Node_GetNumOutputs": 355,
    "Node_GetOutputs": 356, "Node_GetAttributeByName": 361, "OpAttr_GetType": 363,
    "KernelInfoGetAttributeArray_string": 417,
}  # fmt: skip
EP_API = {
    "CreateEpDevice": 0, "EpGraphSupportInfo_AddNodesToFuse": 2, "EpGraphSupportInfo_AddSingleNode": 3,
    "CreateKernelRegistry": 18, "ReleaseKernelRegistry": 19, "KernelRegistry_AddKernel": 20,
    "CreateKernelDefBuilder": 21, "ReleaseKernelDefBuilder": 22, "KernelDefBuilder_SetOperatorType": 23,
    "KernelDefBuilder_SetDomain": 24, "KernelDefBuilder_SetSinceVersion": 25,
    "KernelDefBuilder_SetExecutionProvider": 26, "KernelDefBuilder_AddTypeConstraint": 29,
    "KernelDefBuilder_Build": 32, "ReleaseKernelDef": 33, "GetTensorDataType": 40,
    "EpGraphSupportInfo_LookUpKernel": 41,
}  # fmt: skip


def test_the_slots_are_the_headers() -> None:
    assert len(DECLARED) > 50
    for name, (table, slot, _) in DECLARED.items():
        assert (API if table == "API" else EP_API)[name] == slot, name


# The installed library ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table() -> ctypes.Array[ctypes.c_void_p]:
    """OrtApi of version 24. The function that hands it out is exported by the library or by Python's module."""
    folder = Path(onnxruntime.__file__).parent / "capi"
    for path in (*folder.glob("libonnxruntime.so.*"), *folder.glob("onnxruntime_pybind11_state*")):
        library = ctypes.CDLL(str(path))
        if hasattr(library, "OrtGetApiBase"):
            library.OrtGetApiBase.restype = ctypes.POINTER(ctypes.c_void_p * 2)
            get_api = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)(library.OrtGetApiBase().contents[0])
            return (ctypes.c_void_p * 318).from_address(get_api(24))
    pytest.skip("this onnxruntime does not export OrtGetApiBase")


def call(
    table: ctypes.Array[ctypes.c_void_p], name: str, *arguments: object, result: object = ctypes.c_void_p
) -> object:
    return ctypes.CFUNCTYPE(result)(table[(API | EP_API)[name]])(*arguments)


def sentence(table: ctypes.Array[ctypes.c_void_p], status: Any) -> str:
    """The text of a status, which is released."""
    text = call(table, "GetErrorMessage", ctypes.c_void_p(status), result=ctypes.c_char_p)
    call(table, "ReleaseStatus", ctypes.c_void_p(status), result=None)
    return text.decode()


def test_functions_stand_where_the_slots_say(table: ctypes.Array[ctypes.c_void_p]) -> None:
    """Functions that need no session; the provider's tests call the others, which take a kernel, a graph or a node."""
    status = call(table, "CreateStatus", 2, b"said")
    assert call(table, "GetErrorCode", ctypes.c_void_p(status), result=ctypes.c_int) == 2
    assert sentence(table, status) == "said"
    domain, allocator = ctypes.c_void_p(), ctypes.c_void_p()
    assert call(table, "CreateCustomOpDomain", b"d", ctypes.byref(domain)) is None and domain.value
    call(table, "ReleaseCustomOpDomain", domain, result=None)
    assert call(table, "GetAllocatorWithDefaultOptions", ctypes.byref(allocator)) is None and allocator.value
    info, kind, count = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_size_t()
    sizes, shape = (ctypes.c_int64 * 3)(), (ctypes.c_int64 * 3)(4, 5, 6)
    assert call(table, "CreateTensorTypeAndShapeInfo", ctypes.byref(info)) is None
    assert call(table, "SetTensorElementType", info, 11) is None
    assert call(table, "SetDimensions", info, shape, ctypes.c_size_t(3)) is None
    assert call(table, "GetTensorElementType", info, ctypes.byref(kind)) is None and kind.value == 11
    assert call(table, "GetDimensionsCount", info, ctypes.byref(count)) is None and count.value == 3
    assert call(table, "GetDimensions", info, sizes, ctypes.c_size_t(3)) is None and list(sizes) == [4, 5, 6]
    call(table, "ReleaseTensorTypeAndShapeInfo", info, result=None)


def test_functions_of_providers_stand_where_the_slots_say(table: ctypes.Array[ctypes.c_void_p]) -> None:
    ep = (ctypes.c_void_p * 42).from_address(call(table, "GetEpApi"))
    registry, builder, definition, dtype = (ctypes.c_void_p() for _ in range(4))
    assert call(ep, "CreateKernelRegistry", ctypes.byref(registry)) is None and registry.value
    assert call(ep, "CreateKernelDefBuilder", ctypes.byref(builder)) is None and builder.value
    assert call(ep, "GetTensorDataType", 1, ctypes.byref(dtype)) is None and dtype.value
    for name, arguments in (
        ("KernelDefBuilder_SetOperatorType", [b"LSTM"]),
        ("KernelDefBuilder_SetDomain", [b""]),
        ("KernelDefBuilder_SetSinceVersion", [7, 22]),
        ("KernelDefBuilder_SetExecutionProvider", [b"P"]),
        ("KernelDefBuilder_AddTypeConstraint", [b"T", ctypes.byref(dtype), ctypes.c_size_t(1)]),
        ("KernelDefBuilder_Build", [ctypes.byref(definition)]),
    ):
        assert call(ep, name, builder, *arguments) is None, name
    texts = {34: b"LSTM", 35: b"", 37: b"P"}  # KernelDef_GetOperatorType, _GetDomain, _GetExecutionProvider
    for slot, text in texts.items():
        assert ctypes.CFUNCTYPE(ctypes.c_char_p)(ep[slot])(definition) == text
    call(ep, "ReleaseKernelDef", definition, result=None)
    call(ep, "ReleaseKernelDefBuilder", builder, result=None)
    call(ep, "ReleaseKernelRegistry", registry, result=None)
