"""onnxruntime with rnnkern's kernels for the recurrent nodes: ``register`` and ``session``.

The compiled module is both things that onnxruntime loads from a shared library: a plugin execution provider
(onnxruntime 1.24 and later) and a library of custom operators (1.17 and later). The sources are in csrc/ort.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import onnx

from .. import _core
from .quantized import dequantized
from .replacement import replace

NAME = "RnnkernExecutionProvider"
LIBRARY: str = _core.__file__
"""The shared library for ``onnxruntime.SessionOptions.register_custom_ops_library``."""
# Entries of a session's configuration.
TAKEN = "rnnkern.taken"
THREADS, WEIGHTS = (f"ep.rnnkernexecutionprovider.{name}" for name in ("threads", "weights"))
PROVIDERS_FROM = (1, 24)  # onnxruntime's versions
OPERATORS_FROM = (1, 17)


def runtime(least: tuple[int, int], what: str) -> Any:
    """The module onnxruntime. ImportError without it; NotImplementedError if it is older than ``least``."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(f"{what} needs onnxruntime; install it with: pip install onnxruntime") from error
    if not at_least(onnxruntime, least):
        raise NotImplementedError(
            f"{what}: expected onnxruntime {least[0]}.{least[1]} or later, got {onnxruntime.__version__}"
        )
    return onnxruntime


def at_least(onnxruntime: Any, least: tuple[int, int]) -> bool:
    major, minor = onnxruntime.__version__.split(".")[:2]
    return (int(major), int(minor)) >= least


def errors() -> tuple[type[Exception], ...]:
    """onnxruntime's own exceptions, which have no base class. None without onnxruntime."""
    try:
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    except ImportError:
        return ()
    names = (
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
        "NotImplemented",
        "RuntimeException",
        "EPFail",
    )
    return tuple(getattr(state, name) for name in names)


def devices(onnxruntime: Any) -> list[Any]:
    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == NAME]


def register() -> str:
    """Register rnnkern's execution provider with onnxruntime 1.24 or later, once a process. Returns its name.

    ``session`` does it by itself. An own SessionOptions takes the provider like this::

        name = rnnkern.onnx.register()
        devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == name]
        options.add_provider_for_devices(devices, {"threads": "4"})

    threads: at most so many threads of onnxruntime's pool work on a recurrent node; it should be the number of threads
        of the pool (``intra_op_num_threads``). Without it, as many as ``rnnkern.get_num_threads()``.
    weights: "int8" as ``session`` has it.
    """
    onnxruntime = runtime(PROVIDERS_FROM, "register")
    if not devices(onnxruntime):
        onnxruntime.register_execution_provider_library("rnnkern", LIBRARY)
    return NAME


def session(model: Any, options: Any = None, weights: str | None = None) -> Any:
    """Return an onnxruntime.InferenceSession that runs the nodes RNN, GRU and LSTM with rnnkern.

    model: a path, the bytes of a model, or an onnx.ModelProto. It stays as it is: onnxruntime does everything else.
    options: an onnxruntime.SessionOptions, to which rnnkern's execution provider is added; several sessions may have
        the same. None: the default, without onnxruntime's own warnings (it has one for every graph that two providers
        share).
    weights: "int8" packs the constant weights of the nodes RNN, GRU and LSTM as bytes (``rnnkern.LSTM.quantize``). Each
        node must have constant weights of float32 or float16. Nodes that are quantized in the file by onnxruntime
        (DynamicQuantizeLSTM) are packed from their integers. None: the weights as they are, and DynamicQuantizeLSTM
        is onnxruntime's.

    Nodes in the bodies of If, Loop and Scan are taken, too. A node with an attribute that onnxruntime reads otherwise
    than ONNX specifies it (``docs/onnx.md`` lists them) is left to onnxruntime, and a UserWarning says why.

    Constant weights are packed once, when the session is made. Threads are those of onnxruntime's pool
    (``options.intra_op_num_threads``), and the results have the same bits for any number of them.

    onnxruntime 1.17 to 1.23 has no such providers: there the session's model is ``replace``'s, and threads are as many
    as ``rnnkern.get_num_threads()``. Raises ImportError without onnxruntime, NotImplementedError if it is older, and
    for ``weights`` before 1.24.
    """
    if weights not in (None, "int8"):
        raise ValueError(f"weights: expected 'int8' or None, got {weights!r}")
    onnxruntime = runtime(OPERATORS_FROM, "session")
    if weights is not None:
        runtime(PROVIDERS_FROM, f"session with weights={weights!r}")
    if options is None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
    if not at_least(onnxruntime, PROVIDERS_FROM):
        if is_first(options):
            options.register_custom_ops_library(LIBRARY)
        return onnxruntime.InferenceSession(replace(loaded(model)).SerializeToString(), options)
    given = source(model if weights is None else dequantized(loaded(model)))
    register()
    if is_first(options):
        options.add_provider_for_devices(devices(onnxruntime), {})
    options.add_session_config_entry(THREADS, str(options.intra_op_num_threads))  # 0: onnxruntime decides
    options.add_session_config_entry(WEIGHTS, weights or "")
    _core.nodes_left_to_onnxruntime()  # of sessions that others made on this thread
    made = onnxruntime.InferenceSession(given, options, enable_fallback=False)  # never without rnnkern after an error
    for reason in _core.nodes_left_to_onnxruntime():
        warnings.warn(f"session: left to onnxruntime: {reason}", stacklevel=2)
    return made


def is_first(options: Any) -> bool:
    """Whether no call of ``session`` has had these options, which take a provider or a library only once."""
    try:
        options.get_session_config_entry(TAKEN)
        return False
    except RuntimeError:  # onnxruntime's way to say that there is no such entry
        options.add_session_config_entry(TAKEN, "1")
        return True


def loaded(model: Any) -> onnx.ModelProto:
    """A model from a path, bytes or itself."""
    if isinstance(model, onnx.ModelProto):
        return model
    given = source(model)
    return onnx.load_from_string(given) if isinstance(given, bytes) else onnx.load(given)


def source(model: Any) -> Any:
    """A model in a form that onnxruntime takes: a path or bytes."""
    if isinstance(model, (bytes, str)):
        return model
    if isinstance(model, os.PathLike):
        return os.fspath(model)
    if isinstance(model, onnx.ModelProto):
        return model.SerializeToString()
    raise TypeError(f"model: expected a path, bytes or an onnx.ModelProto, got {type(model).__name__}")
