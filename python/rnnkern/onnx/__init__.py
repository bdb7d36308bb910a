"""An ONNX backend for the operators RNN, GRU and LSTM, and layers from and to ONNX.

    import onnx, rnnkern.onnx as ro

    model = onnx.load("model.onnx")
    y, y_h, y_c = ro.run_model(model, [x])                     # or prepared = ro.prepare(model); prepared.run([x])
    layer = ro.from_onnx(model)                                # an rnnkern.RNN, GRU or LSTM with the model's weights
    onnx.save(ro.to_onnx(layer), "model.onnx")                 # T and B stay symbols

``prepare``, ``run_model``, ``run_node``, ``supports_device`` and ``is_compatible`` are the functions of
onnx.backend.base. The backend runs the three operators in every opset version with all attributes and inputs, and the
operators around them that move data and compute shapes (``glue.py`` lists them). Any other operator raises
NotImplementedError with its name.

* ``nodes.py`` translates the attributes and weights of a node to arguments of rnnkern's layers.
* ``activations.py`` has the eleven activations and the order in which they take alpha and beta.
* ``glue.py`` has the operators around the recurrent nodes, in NumPy.
* ``backend.py`` runs graphs and has the interface of a backend.
* ``importer.py`` and ``exporter.py`` have ``from_onnx`` and ``to_onnx``.

``docs/onnx.md`` compares each attribute with the specification and with onnxruntime.
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
