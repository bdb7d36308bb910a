"""Adam and SGD for layers, cells and structures: for everything with ``params`` and ``update``.

    opt = Adam({"rnn": lstm, "out": linear}, lr=2e-3)      # or Adam(lstm)
    opt.step({"rnn": g.params, "out": h.params})           # or opt.step(g.params); calls layer.update

The updates are those of torch.optim. A step processes each parameter in pieces that stay in the cache, because a dozen
passes of NumPy over megabytes would cost as much as the work of a small layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import _check

PIECE = 16384  # elements: five float64 arrays of one piece are 640 KiB, inside a 1 MiB L2; float32 inside 512 KiB


def _key(layer: str, name: str, buffer: str) -> str:
    return ".".join(part for part in (layer, name, buffer) if part)


class _Slot:
    """The state of one parameter: the number of its steps and its buffers, in float32 or float64.

    A parameter of a half type has a float32 master copy, because bfloat16 and float16 would round a small step away.
    """

    def __init__(self, param: np.ndarray, buffers: tuple[str, ...]) -> None:
        self.dtype = np.dtype(np.float32) if param.dtype.itemsize == 2 else param.dtype
        self.step = 0
        self.buffers = {name: np.zeros(param.shape, self.dtype) for name in buffers}
        self.master = param.astype(self.dtype) if param.dtype != self.dtype else None

    def value(self, param: np.ndarray) -> np.ndarray:
        """The parameter to step from: the master copy, unless the layer was given other values since."""
        if self.master is None:
            return param
        if not np.array_equal(self.master.astype(param.dtype), param, equal_nan=False):
            self.master = param.astype(self.dtype)
        return self.master


class Optimizer:
    """Base of Adam and SGD: names, checks and state. Assign ``lr`` to change the learning rate between steps."""

    _buffers: tuple[str, ...] = ()

    def __init__(self, layers: Any, lr: float, weight_decay: float) -> None:
        self._single = not isinstance(layers, Mapping)
        self._layers: dict[str, Any] = {"": layers} if self._single else dict(layers)
        if not self._layers:
            raise ValueError("layers: expected a layer or a mapping of names to layers, got an empty mapping")
        for name, layer in self._layers.items():
            where = "layers" if self._single else f"layers[{name!r}]"
            if not isinstance(getattr(layer, "params", None), Mapping) or not callable(getattr(layer, "update", None)):
                raise TypeError(f"{where}: expected a layer with params and update, got {type(layer).__name__}")
        self.lr = lr
        self.weight_decay = _check.number("weight_decay", weight_decay, 0.0)
        self._slots = self._fresh()

    @property
    def lr(self) -> float:
        """Learning rate, at least 0."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = _check.number("lr", value, 0.0)

    def step(self, grads: Mapping[str, Any]) -> None:
        """Take one step.

        grads: gradients by the name of the layer and then of the parameter; for a single layer, by the name of the
            parameter. Shapes and dtypes are those of the parameters.

        A parameter without a gradient keeps its value and its state. Raises ValueError or TypeError for an unknown
        name, a wrong shape or a wrong dtype, before any change.
        """
        if not isinstance(grads, Mapping):
            raise TypeError(f"grads: expected a mapping, got {type(grads).__name__}")
        work = self._checked({"": grads} if self._single else grads)
        with np.errstate(all="ignore"):  # NaN and infinity pass through without a word
            for layer, gradients in work.items():
                params = self._layers[layer].params
                self._layers[layer].update({n: self._stepped(layer, n, params[n], g) for n, g in gradients.items()})

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return copies of the state as one flat dict, which ``rk.save`` writes.

        The names are "<layer>.<parameter>.<buffer>", or "<parameter>.<buffer>" for a single layer. A parameter that
        took a step has its buffers, ``step`` (int64) and, for half types, ``master`` (float32).
        """
        state: dict[str, np.ndarray] = {}
        for (layer, name), slot in self._slots.items():
            if slot.step:
                state |= {_key(layer, name, buffer): value.copy() for buffer, value in slot.buffers.items()}
                state[_key(layer, name, "step")] = np.array(slot.step, np.int64)
                if slot.master is not None:
                    state[_key(layer, name, "master")] = slot.master.copy()
        return state

    def load_state_dict(self, state_dict: Mapping[str, np.ndarray]) -> None:
        """Replace the whole state by a result of ``state_dict``. A parameter without an entry starts anew."""
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict: expected a mapping of names to arrays, got {type(state_dict).__name__}")
        fresh, left = self._fresh(), dict(state_dict)
        for (layer, name), slot in fresh.items():
            if _key(layer, name, "step") not in left:
                continue
            wanted = [*slot.buffers, *(["master"] if slot.master is not None else [])]
            for buffer in wanted:
                key = _key(layer, name, buffer)
                if key not in left:
                    raise ValueError(f"state_dict: expected {key!r}, which is missing")
                shape = self._layers[layer].params[name].shape
                value = _check.shaped(f"state_dict[{key!r}]", left.pop(key), shape, slot.dtype).copy()
                if buffer == "master":
                    slot.master = value
                else:
                    slot.buffers[buffer] = value
            key = _key(layer, name, "step")
            step = _check.integers(f"state_dict[{key!r}]", np.asarray(left.pop(key)), ())
            _check.within(f"state_dict[{key!r}]", step, 1, 2**62)
            slot.step = int(step)
        if left:
            raise ValueError(f"state_dict: expected buffers of this optimiser's parameters, got {sorted(left)}")
        self._slots = fresh

    def _fresh(self) -> dict[tuple[str, str], _Slot]:
        return {
            (layer, name): _Slot(param, self._buffers)
            for layer, it in self._layers.items()
            for name, param in it.params.items()
        }

    def _checked(self, grads: Mapping[str, Any]) -> dict[str, dict[str, np.ndarray]]:
        work: dict[str, dict[str, np.ndarray]] = {}
        for layer, gradients in grads.items():
            if layer not in self._layers:
                raise ValueError(f"grads: expected names from {list(self._layers)}, got {layer!r}")
            where = "grads" if self._single else f"grads[{layer!r}]"
            if not isinstance(gradients, Mapping):
                raise TypeError(f"{where}: expected a mapping of names to arrays, got {type(gradients).__name__}")
            params = self._layers[layer].params
            unknown = [name for name in gradients if name not in params]
            if unknown:
                raise ValueError(f"{where}: expected names from {list(params)}, got {unknown[0]!r}")
            work[layer] = {
                name: _check.shaped(f"{where}[{name!r}]", g, params[name].shape, params[name].dtype)
                for name, g in gradients.items()
            }
        return work

    def _stepped(self, layer: str, name: str, param: np.ndarray, grad: np.ndarray) -> np.ndarray:
        """The new value of one parameter, in the parameter's dtype."""
        slot = self._slots[layer, name]
        slot.step += 1
        old = np.ascontiguousarray(slot.value(param)).reshape(-1)
        new = np.empty_like(old)
        flat = np.ascontiguousarray(grad).reshape(-1)
        buffers = [slot.buffers[b].reshape(-1) for b in self._buffers]
        for start in range(0, old.size, PIECE):
            piece = slice(start, start + PIECE)
            p, g = old[piece], flat[piece].astype(slot.dtype)  # a copy: the caller's gradient is never written to
            self._piece(slot.step, p, g, new[piece], *(b[piece] for b in buffers))
        new = new.reshape(param.shape)
        if slot.master is None:
            return new
        slot.master = new
        return new.astype(param.dtype)

    def _piece(self, step: int, p: np.ndarray, g: np.ndarray, new: np.ndarray, *buffers: np.ndarray) -> None:
        raise NotImplementedError(f"{type(self).__name__} defines no step")


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, arXiv 1412.6980, algorithm 1), as torch.optim.Adam.

        m = beta1 m + (1 - beta1) g          v = beta2 v + (1 - beta2) g^2
        p = p - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)

    weight_decay: its product with the parameter is added to the gradient (L2).
    decoupled_weight_decay: True multiplies the parameter by 1 - lr * weight_decay instead (AdamW: Loshchilov and Hutter
        2019, arXiv 1711.05101, algorithm 2).
    """

    _buffers = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        layers: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        decoupled_weight_decay: bool = False,
    ) -> None:
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise TypeError(f"betas: expected a pair of numbers, got {betas!r}")
        self.betas = (_check.number("betas[0]", betas[0], 0.0, 1.0), _check.number("betas[1]", betas[1], 0.0, 1.0))
        self.eps = _check.number("eps", eps, 0.0)
        self.decoupled_weight_decay = bool(decoupled_weight_decay)
        super().__init__(layers, lr, weight_decay)

    def _piece(self, step: int, p: np.ndarray, g: np.ndarray, new: np.ndarray, *buffers: np.ndarray) -> None:
        m, v = buffers
        beta1, beta2 = self.betas
        shrink = 1.0
        if self.decoupled_weight_decay:
            shrink = 1.0 - self.lr * self.weight_decay
        elif self.weight_decay:
            g += np.multiply(p, self.weight_decay, out=new)
        m *= beta1
        m += np.multiply(g, 1.0 - beta1, out=new)
        v *= beta2
        np.multiply(g, g, out=new)
        new *= 1.0 - beta2
        v += new
        np.sqrt(v, out=new)
        new /= (1.0 - beta2**step) ** 0.5
        new += self.eps
        np.divide(m, new, out=new)
        new *= self.lr / (1.0 - beta1**step)
        np.subtract(p * shrink if shrink != 1.0 else p, new, out=new)


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, as torch.optim.SGD with dampening 0.

        g = g + weight_decay p          b = momentum b + g (b = g in the first step)
        p = p - lr b                    (nesterov: p - lr (g + momentum b); Sutskever et al. 2013)

    Without momentum there is no b.
    """

    def __init__(
        self,
        layers: Any,
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        *,
        nesterov: bool = False,
    ) -> None:
        self.momentum = _check.number("momentum", momentum, 0.0)
        self.nesterov = bool(nesterov)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov: expected a momentum above 0, got momentum 0")
        self._buffers = ("momentum_buffer",) if self.momentum else ()
        super().__init__(layers, lr, weight_decay)

    def _piece(self, step: int, p: np.ndarray, g: np.ndarray, new: np.ndarray, *buffers: np.ndarray) -> None:
        if self.weight_decay:
            g += np.multiply(p, self.weight_decay, out=new)
        if buffers:
            (b,) = buffers
            b *= self.momentum  # zero before the first step
            b += g
            if self.nesterov:
                g += np.multiply(b, self.momentum, out=new)
            else:
                g = b
        np.multiply(g, self.lr, out=new)
        np.subtract(p, new, out=new)
