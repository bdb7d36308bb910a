"""An ONNX backend for the operators RNN, GRU and LSTM, and layers from and to ONNX.

    import onnx, rnnkern.onnx as ro

    model = onnx.load("model.onnx")
    y, y_h, y_c = ro.run_model(model, [x])                     # or prepared = ro.prepare(model); prepared.run([x])
    layer = ro.from_onnx(model)                                # an rnnkern.RNN, GRU or LSTM with the model's weights
    onnx.save(ro.to_onnx(layer), "model.onnx")                 # T and B stay symbols

``prepare``, ``run_model``, ``run_node``, ``supports_device`` and ``is_compatible`` are those of onnx.backend.base.
The three operators are taken in every opset version with all attributes and inputs; around them the operators that
move data and count shapes (``glue.py`` lists them). Anything else is refused by name with NotImplementedError, never
ignored.

* ``nodes.py``: what a node's attributes and weights mean, as arguments of rnnkern's layers. No computing.
* ``activations.py``: the eleven functions and in which order they consume alpha and beta.
* ``glue.py``: the operators around them, in NumPy.
* ``backend.py``: graphs, and the backend's interface.
* ``importer.py``, ``exporter.py``: ``from_onnx``, ``to_onnx``.

``docs/onnx.md`` compares attribute by attribute with the specification and with onnxruntime.
"""

try:
    import onnx as _onnx  # noqa: F401  (this package's own name is rnnkern.onnx: the import is absolute)
except ImportError as error:
    raise ImportError("rnnkern.onnx needs ONNX 1.19 or later; install it with: pip install onnx") from error

from .backend import Backend, Prepared, is_compatible, prepare, run_model, run_node, supports_device
from .exporter import to_onnx
from .importer import from_onnx

__all__ = [
    "Backend",
    "Prepared",
    "from_onnx",
    "is_compatible",
    "prepare",
    "run_model",
    "run_node",
    "supports_device",
    "to_onnx",
]
