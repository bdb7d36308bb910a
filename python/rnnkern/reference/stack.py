"""Layers and directions as torch.nn stacks them, with dropout between layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .arrays import Array, Params, wide
from .layer import Saved, layer, layer_backward
from .masks import dropout_kept, thin
from .options import Options


def suffix(index_of_layer: int, direction: int) -> str:
    """PyTorch's suffix of a parameter's name: ``_l0``, ``_l0_reverse``, ``_l1``, ..."""
    return f"_l{index_of_layer}" + ("_reverse" if direction else "")


@dataclass(frozen=True)
class StackSaved:
    """The tapes of every layer and direction, and what dropout kept of each layer's output (None: all)."""

    tapes: list[list[Saved]]  # [L][D]
    kept: list[Array | None]  # [L] of bool [T, B, D*P]
    dropout: float


def stack(
    cell: str,
    params: Params,
    x: Array,
    h_0: Array | None = None,
    c_0: Array | None = None,
    lengths: Sequence[int] | Array | None = None,
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    seed: int = 0,
    call: int = 0,
    reverse: bool = False,
    options: Options = Options(),  # noqa: B008 -- it is immutable
    mask: Array | None = None,
    reset: Array | None = None,
    train: bool = True,
    first_step: int = 0,
) -> tuple[Array, Array, Array | None, StackSaved]:
    """L layers of D directions, as torch.nn stacks them: each sees both directions of the one below, concatenated.

    params has PyTorch's names (``weight_ih_l0``, ``weight_hh_l0_reverse``, ...). h_0 [L*D, B, P], c_0 [L*D, B, H].
    Dropout thins the output of each layer but the last by the mask of ``dropout_kept``, each direction by its own.
    reverse: the one direction walks from the last step to the first; its parameters and its masks are direction 0's.
    mask, bool [T, B], is every layer's. reset, bool [T, B]: nothing passes the border between step t - 1 and step t,
    whichever way the walk goes; a mark in a row's padding is not read.
    train=False: no random mask, as ``layer`` without ``random``. Returns y [T, B, D*P], h_n [L*D, B, P], c_n
    [L*D, B, H] or None, and the tape.
    """
    if reverse and bidirectional:
        raise ValueError("reverse: expected False with bidirectional=True, got True")
    directions = 2 if bidirectional else 1
    tapes: list[list[Saved]] = []
    kept: list[Array | None] = []
    finals: list[tuple[Array, Array | None]] = []
    for k in range(num_layers):
        runs = []
        for d in range(directions):
            j, end, back = k * directions + d, suffix(k, d), reverse or d == 1
            own = {name.removesuffix(end): value for name, value in params.items() if name.endswith(end)}
            start = (None if h_0 is None else h_0[j], None if c_0 is None else c_0[j])
            marks = turned(reset, lengths) if back else reset
            random = (seed, call, j, first_step) if train else None
            runs.append(
                layer(cell, own, x, *start, lengths, back, options=options, mask=mask, reset=marks, random=random)
            )
        tapes.append([run[3] for run in runs])
        finals += [(run[1], run[2]) for run in runs]
        x = np.concatenate([run[0] for run in runs], axis=2)
        if dropout and train and k + 1 < num_layers:
            shape, streams = runs[0][0].shape, range(k * directions, (k + 1) * directions)
            masks = [dropout_kept(shape, dropout, seed, call, j, first_step) for j in streams]
            kept.append(np.concatenate(masks, axis=2))
        else:
            kept.append(None)
        x = thin(x, kept[k], dropout)
    c_n = None if finals[0][1] is None else np.stack([c for _, c in finals if c is not None])
    return x, np.stack([h for h, _ in finals]), c_n, StackSaved(tapes, kept, dropout)


def turned(reset: Array | None, lengths: Sequence[int] | Array | None) -> Array | None:
    """The borders of ``stack``'s reset as ``layer`` is to be told of them when it walks in reverse.

    The border between t - 1 and t is crossed before step t - 1 is taken. That of a row's end with its padding is none.
    """
    if reset is None:
        return None
    reset = np.array(reset)
    if lengths is not None:
        reset &= np.arange(len(reset))[:, None] < np.asarray(lengths)
    return np.concatenate([reset[1:], np.zeros_like(reset[:1])])


def stack_backward(
    saved: StackSaved, dy: Array | None, dh_n: Array | None = None, dc_n: Array | None = None
) -> dict[str, Array]:
    """Gradients of ``stack``: ``x``, ``h_0`` [L*D, B, P], ``c_0`` if the cell has one, parameters by name."""
    directions = len(saved.tapes[0])
    out: dict[str, Array] = {}
    starts: dict[int, dict[str, Array]] = {}
    for k in reversed(range(len(saved.tapes))):
        dy = None if dy is None else thin(wide(dy), saved.kept[k], saved.dropout)
        parts = [None] * directions if dy is None else np.split(dy, directions, axis=2)
        dx: Array | None = None
        for d, tape in enumerate(saved.tapes[k]):
            j = k * directions + d
            state = (None if dh_n is None else dh_n[j], None if dc_n is None else dc_n[j])
            grads = layer_backward(tape, parts[d], *state)
            dx = grads["x"] if dx is None else dx + grads["x"]
            starts[j] = grads
            out |= {name + suffix(k, d): grads[name] for name in tape.names}
        dy = dx
    assert dy is not None
    states = [name for name in ("h_0", "c_0") if name in starts[0]]
    return {"x": dy} | {name: np.stack([starts[j][name] for j in sorted(starts)]) for name in states} | out
