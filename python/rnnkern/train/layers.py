"""Linear and Embedding with the interface of rnnkern's recurrent layers: forward and backward with a tape, update.

Parameter names, shapes and initial distributions are torch.nn's; float32 and float64. Products are NumPy's, so they run
on whatever BLAS NumPy was built with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from ..nn.tape import Gradients
from ..structure.per_step import PerStep
from . import _check


@dataclass(frozen=True, eq=False)
class Tape:
    """The data that ``backward`` needs: the layer, its parameters at the time of ``forward``, and a copy of the input.

    Because it is a copy, a later change of x cannot make a gradient wrong.
    """

    layer: Layer
    params: Mapping[str, np.ndarray]
    x: np.ndarray


class Layer(PerStep):
    """Base of Linear and Embedding. Updates replace parameters and never write in place: a forward sees one state."""

    def __init__(self, params: dict[str, np.ndarray]) -> None:
        for value in params.values():
            value.setflags(write=False)
        self._params = params

    @property
    def params(self) -> Mapping[str, np.ndarray]:
        """The current values by name, as read-only arrays. A later ``update`` does not change this mapping."""
        return MappingProxyType(self._params)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return copies of the parameters by name; the names are those of PyTorch."""
        return {name: value.copy() for name, value in self._params.items()}

    def load_state_dict(self, state_dict: Mapping[str, np.ndarray]) -> None:
        """Replace all parameters. Raises ValueError for a wrong name or shape, and TypeError for a wrong dtype."""
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict: expected a mapping of names to arrays, got {type(state_dict).__name__}")
        missing = [name for name in self._params if name not in state_dict]
        if missing:
            raise ValueError(f"state_dict: expected {list(self._params)}, {missing} missing")
        self._replace("state_dict", state_dict)

    def update(self, params: Mapping[str, np.ndarray]) -> None:
        """Replace some parameters by copies, all or none. The errors are those of ``load_state_dict``."""
        if not isinstance(params, Mapping):
            raise TypeError(f"params: expected a mapping of names to arrays, got {type(params).__name__}")
        self._replace("params", params)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for value in self._params.values():
            value.setflags(write=False)  # copied arrays are writable

    def _replace(self, argument: str, values: Mapping[str, np.ndarray]) -> None:
        fresh = dict(self._params)
        for name, value in values.items():
            if name not in self._params:
                raise ValueError(f"{argument}: expected names from {list(self._params)}, got {name!r}")
            old = self._params[name]
            value = _check.shaped(f"{argument}[{name!r}]", value, old.shape, old.dtype)
            fresh[name] = np.array(value, order="C", copy=True)
            fresh[name].setflags(write=False)
        self._params = fresh

    def _own(self, tape: Any) -> Tape:
        """The tape, if it is this layer's and its parameters are still the ones it was made with."""
        if not isinstance(tape, Tape):
            raise TypeError(f"tape: expected the tape of a forward call, got {type(tape).__name__}")
        if tape.layer is not self:
            raise ValueError(f"tape: expected one of this {type(self).__name__}, got one of another layer")
        if tape.params is not self._params:
            raise ValueError("tape: the parameters were updated since this tape's forward call")
        return tape


class Linear(Layer):
    """y = x W^T + b, on the last axis (torch.nn.Linear; same names, shapes and initial range +-1/sqrt(in_features)).

    Parameters: ``weight`` [out_features, in_features], ``bias`` [out_features] unless ``bias=False``.
    ``seed``: anything numpy.random.default_rng takes. TypeError / ValueError name a wrong argument.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, dtype: Any = "float32", seed: Any = None
    ) -> None:
        self.in_features = self.input_size = _check.size("in_features", in_features)
        self.out_features = self.output_size = _check.size("out_features", out_features)
        self.dtype = _check.float_dtype("dtype", dtype)
        rng = np.random.default_rng(seed)
        bound = 1.0 / math.sqrt(self.in_features)
        shapes = {"weight": (self.out_features, self.in_features)} | ({"bias": (self.out_features,)} if bias else {})
        super().__init__({name: rng.uniform(-bound, bound, s).astype(self.dtype) for name, s in shapes.items()})

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """x [..., in_features] -> y [..., out_features]. ValueError for a shape, TypeError for a dtype."""
        return self._apply(self.check_input(x), self._params)

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, Tape]:
        """Return what a call returns, and the tape for ``backward``."""
        tape = Tape(self, self._params, np.array(self.check_input(x), order="C", copy=True))
        return self._apply(tape.x, tape.params), tape

    def backward(self, tape: Tape, dy: np.ndarray, *, need_x: bool = True) -> Gradients:
        """dy [..., out_features] -> dx = dy W, dW = sum over rows of dy^T x, db = sum over rows of dy.

        A second call with the same tape gives the same bits. Raises ValueError for a tape of another layer, for a tape
        from before an update, and for a wrong shape.
        """
        tape = self._own(tape)
        dy = _check.shaped("dy", dy, (*tape.x.shape[:-1], self.out_features), self.dtype)
        rows = dy.reshape(-1, self.out_features)
        with np.errstate(all="ignore"):  # NaN and infinity pass through without a word
            params = {"weight": rows.T @ tape.x.reshape(-1, self.in_features)}
            if "bias" in tape.params:
                params["bias"] = rows.sum(axis=0, dtype=self.dtype)
            x = (rows @ tape.params["weight"]).reshape(tape.x.shape) if need_x else None
        return Gradients(x, None, params)

    def __repr__(self) -> str:
        bias = "bias" in self._params
        return f"Linear({self.in_features}, {self.out_features}, bias={bias}, dtype={self.dtype.name!r})"

    def check_input(self, x: Any) -> np.ndarray:
        x = _check.array("x", x)
        if x.ndim == 0:
            raise ValueError(f"x: expected shape [..., {self.in_features}], got []")
        return _check.shaped("x", x, (*x.shape[:-1], self.in_features), self.dtype)

    def _apply(self, x: np.ndarray, params: Mapping[str, np.ndarray]) -> np.ndarray:
        with np.errstate(all="ignore"):
            y = x.reshape(-1, self.in_features) @ params["weight"].T  # one product whatever the rank of x
            if "bias" in params:
                y += params["bias"]
        return y.reshape(*x.shape[:-1], self.out_features)


class Embedding(Layer):
    """y = weight[x] (torch.nn.Embedding; same name, shape and initial distribution N(0, 1)).

    Parameter: ``weight`` [num_embeddings, embedding_dim]. ``seed``: anything numpy.random.default_rng takes.
    """

    codes = True

    def __init__(self, num_embeddings: int, embedding_dim: int, *, dtype: Any = "float32", seed: Any = None) -> None:
        self.num_embeddings = self.input_size = _check.size("num_embeddings", num_embeddings)
        self.embedding_dim = self.output_size = _check.size("embedding_dim", embedding_dim)
        self.dtype = _check.float_dtype("dtype", dtype)
        weight = np.random.default_rng(seed).standard_normal((self.num_embeddings, self.embedding_dim))
        super().__init__({"weight": weight.astype(self.dtype)})

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """x [...] of integers in [0, num_embeddings) -> y [..., embedding_dim]. TypeError, ValueError otherwise."""
        return self._params["weight"][self.check_input(x)]

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, Tape]:
        """Return what a call returns, and the tape for ``backward``."""
        tape = Tape(self, self._params, np.array(self.check_input(x), order="C", copy=True))
        return tape.params["weight"][tape.x], tape

    def backward(self, tape: Tape, dy: np.ndarray, *, need_x: bool = True) -> Gradients:
        """dy [..., embedding_dim] -> dweight[v] = sum of dy over the places where x was v, in the order of x.

        ``grads.x`` is always None, because integers have no gradient.
        """
        tape = self._own(tape)
        dy = _check.shaped("dy", dy, (*tape.x.shape, self.embedding_dim), self.dtype)
        weight = np.zeros_like(tape.params["weight"])
        codes = tape.x.reshape(-1)  # sorted, to sum each run of equal codes at once: np.add.at is many times slower
        if codes.size:
            order = np.argsort(codes, kind="stable")  # stable: the order of summation, hence the bits, are fixed
            codes = codes[order]
            starts = np.flatnonzero(np.concatenate(([True], codes[1:] != codes[:-1])))
            with np.errstate(all="ignore"):
                weight[codes[starts]] = np.add.reduceat(dy.reshape(-1, self.embedding_dim)[order], starts, axis=0)
        return Gradients(None, None, {"weight": weight})

    def __repr__(self) -> str:
        return f"Embedding({self.num_embeddings}, {self.embedding_dim}, dtype={self.dtype.name!r})"

    def check_input(self, x: Any) -> np.ndarray:
        x = _check.integers("x", x)
        _check.within("x", x, 0, self.num_embeddings - 1)
        return x
