"""A layer's state as users have it, one array or a tuple of several, and as kernels have it: h, and the rest in one.

The rest is c [L*D, B, H] of an LSTM, and of an sLSTM c, n and m side by side, [L*D, B, 3*H].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._arrays.devices import Caller
from .._arrays.host import Array, Dtypes
from .._engine.spec import Spec
from .parameters import Module

State = Any  # h [L*D, B, P], or (h, c) with c [L*D, B, H] for LSTM, or (h, c, n, m) with the same of n and m for sLSTM

NAMES = ("h", "c", "n", "m")
_COUNT = {2: "two", 4: "four"}


def widths(spec: Spec) -> tuple[tuple[int, str], ...]:
    """Entries a row of each state of a layer in one direction, and the letter of that number."""
    of_h = (spec.outputs, "P" if spec.options.proj_size else "H")
    return (of_h, *[(spec.hidden_size, "H")] * (spec.states - 1))


def split_state(name: str, state: State, module: Module, gradient: bool = False) -> list[tuple[Any, str, Dtypes]]:
    """(array, its name in errors, its dtypes) for h and whatever else the cell has, of a state or of its gradient.

    Half types: c, n, m and every gradient may be float32 besides.
    """
    narrow = module._wide if gradient else module._narrow
    several = isinstance(state, (tuple, list))
    count = module.spec.states
    if count == 1:
        if several:
            raise TypeError(f"{name}: expected one array h, got a {type(state).__name__} of {len(state)}")
        return [(state, name, narrow)]
    all_names = ", ".join(NAMES[:count])
    if not several or len(state) != count:
        got = f"{len(state)} of them" if several else type(state).__name__
        raise TypeError(f"{name}: expected a tuple of {_COUNT[count]} arrays ({all_names}), got {got}")
    for letter, part in zip(NAMES, state, strict=False):
        if part is None and not gradient:
            raise TypeError(f"{name}: expected {_COUNT[count]} arrays ({all_names}), got None for {letter}")
    dtypes = (narrow, *[module._wide] * (count - 1))
    labels = [f"{name}[{i}] ({letter})" for i, letter in enumerate(NAMES[:count])]
    return list(zip(state, labels, dtypes, strict=True))


def joined(spec: Spec, parts: Sequence[Array | None], caller: Caller) -> Array | None:
    """What stands behind h [..., H] each (None: zeros), as kernels take it: one array, None for zeros."""
    given = [part for part in parts if part is not None]
    if not given or len(parts) == 1:
        return given[0] if given else None
    H, shape = spec.hidden_size, given[0].shape
    whole = caller.memory.empty((*shape[:-1], len(parts) * H), spec.state_dtype)  # float32 holds the half types exactly
    for i, part in enumerate(parts):
        caller.assign(whole[..., i * H : (i + 1) * H], 0 if part is None else part)
    return whole


def apart(spec: Spec, h: Array, rest: Array | None, caller: Caller) -> State:
    """``joined``'s way back: the state as the user gets it, in new arrays."""
    if rest is None:
        return caller.give(h)
    if spec.states == 2:
        return caller.give(h), caller.give(rest)
    H = spec.hidden_size
    own = [caller.copy(rest[..., i * H : (i + 1) * H]) for i in range(spec.states - 1)]
    return tuple(caller.give(each) for each in (h, *own))
