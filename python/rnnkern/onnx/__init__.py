"""ONNX: onnxruntime with rnnkern's kernels, layers from and to ONNX, and an ONNX backend for RNN, GRU and LSTM.

    import rnnkern.onnx as ro

    session = ro.session("model.onnx")                         # onnxruntime's, its recurrent nodes run by rnnkern
    found = ro.layers(onnx.load("model.onnx"))                 # its recurrent nodes as trainable layers, by name
    onnx.save(ro.put_back(onnx.load("model.onnx"), found), "trained.onnx")
    layer = ro.from_onnx(onnx.load("model.onnx"))              # an rnnkern.RNN, GRU or LSTM with the model's weights
    onnx.save(ro.to_onnx(layer), "model.onnx")                 # T and B stay symbols

``prepare``, ``run_model``, ``run_node``, ``supports_device`` and ``is_compatible`` are the functions of
onnx.backend.base. The backend runs the three operators in every opset version with all attributes and inputs, and the
operators around them that move data and compute shapes (``glue.py`` lists them). Graphs with any other operator run in
onnxruntime; without it they raise NotImplementedError with the operator's name.

* ``runtime.py`` and ``replacement.py`` make onnxruntime use the kernels (``csrc/ort``).
* ``nodes.py`` translates the attributes and weights of a node to arguments of rnnkern's layers.
* ``activations.py`` has the eleven activations and the order in which they take alpha and beta.
* ``glue.py`` has the operators around the recurrent nodes, in NumPy.
* ``backend.py`` runs graphs and has the interface of a backend, ``signature.py`` their inputs and outputs.
* ``extraction.py`` has ``layers`` and ``put_back``, ``folding.py`` the constants that they find.
* ``importer.py`` and ``exporter.py`` have ``from_onnx`` and ``to_onnx``.

``docs/onnx.md`` compares each attribute with the specification and with onnxruntime.
"""

try:
    import onnx as _onnx  # noqa: F401  (this package's own name is rnnkern.onnx: the import is absolute)
except ImportError as error:
    raise ImportError("rnnkern.onnx needs ONNX 1.19 or later; install it with: pip install onnx") from error

from .backend import Backend, Prepared, is_compatible, prepare, run_model, run_node, supports_device
from .exporter import to_onnx
from .extraction import layers, put_back
from .importer import from_onnx
from .replacement import replace
from .runtime import LIBRARY, register, session

__all__ = [
    "LIBRARY",
    "Backend",
    "Prepared",
    "from_onnx",
    "is_compatible",
    "layers",
    "prepare",
    "put_back",
    "register",
    "replace",
    "run_model",
    "run_node",
    "session",
    "supports_device",
    "to_onnx",
]
