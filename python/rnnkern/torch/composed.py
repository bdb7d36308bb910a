"""The cells as compositions of torch's own operations: what runs where a transform has no fused kernel.

Steps are those of ``steps.py``, structure that of csrc/network (layers, directions, lengths, marks, dropout with the
same masks), for any tensor torch can transform: second derivatives, forward mode, ``vmap`` inside of it. Tens of times
slower than a kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import _core
from .._engine.spec import Marks
from ..options import Options as StepOptions
from ..options import layer_shapes
from .checks import take_lengths
from .kernels import Around, Options, cell_dtype, unwrapped
from .options import options_of, random_of
from .random import draw
from .steps import CELLS, Params, State, stepper

NOTHING = Around()
_Run = Callable[..., tuple[Tensor, ...]]
_Grads = Sequence[Tensor | None]


def layer(
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    params: Sequence[Tensor],
    options: Options,
    around: Around = NOTHING,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """x [T, B, I], h_0 [L*D, B, P], c_0 [L*D, B, C] or None -> y [T, B, D*P], h_n, c_n as the states (or None).

    around: of tensors, with masks as a pair.
    """
    lengths, masks, marks = around
    step_options, own_names, outputs, hidden, cells = _layout(params, options)
    random = random_of(options.cell, hidden, options.step)
    states, directions = 2 if cells else 1, 2 if options.bidirectional else 1
    each = len(own_names)
    seq_len, batch = x.shape[:2]
    alive, live = _present(lengths, marks, seq_len, batch)
    if live is not None:
        x = torch.where(live, x, 0)  # what is not read may not even meet a zero gradient
    zeros = x.new_zeros((batch, outputs)), x.new_zeros((batch, cells), dtype=_cell_dtype(x, options, c_0))
    last: list[State] = []
    for index in range(options.num_layers):
        outcome = []
        for direction in range(directions):
            at = index * directions + direction
            back = direction == 1 or options.reverse
            own: Params = dict(zip(own_names, params[at * each : (at + 1) * each], strict=True))
            drawn = None
            if masks is not None and random:
                drawn = draw(step_options, masks, at, (seq_len, batch, outputs, hidden), x)
            gx, step = stepper(options.cell, step_options if options.step else None, own, x, drawn)
            borders = None if marks.reset is None else _borders(marks.reset, alive, back)
            state: State = tuple(z if s is None else s[at] for s, z in zip((h_0, c_0)[:states], zeros, strict=False))
            steps: list[Any] = [None] * seq_len
            each_gx = gx.unbind(0)  # gx[t] would make a gradient of all steps for each of them
            for t in reversed(range(seq_len)) if back else range(seq_len):
                if borders is not None:
                    state = tuple(torch.where(borders[t], 0, s) for s in state)
                new = step(each_gx[t], state, t)
                if new[0].dtype is not x.dtype:  # a c that is wider than h
                    new = (new[0].to(x.dtype), *new[1:])
                if live is None:
                    state, steps[t] = new, new[0]
                else:
                    state = tuple(torch.where(live[t], n, s) for n, s in zip(new, state, strict=True))
                    steps[t] = torch.where(live[t], new[0], 0)
            outcome.append(torch.stack(steps) if steps else gx.new_zeros((0, batch, outputs)))
            last.append(state)
        x = torch.cat(outcome, -1) if directions == 2 else outcome[0]
        if masks is not None and options.dropout > 0 and index < options.num_layers - 1:
            x = x * _mask(x, index, outputs, directions, options.dropout, masks)
    h_n, *c_n = (torch.stack([state[k] for state in last]) for k in range(states))
    return x, h_n, c_n[0] if c_n else None


def _layout(params: Sequence[Tensor], options: Options) -> tuple[StepOptions, list[str], int, int, int]:
    """The step's options, the names of one layer's parameters in one direction, P, H and C (``Spec.cell_units``)."""
    cell = CELLS[options.cell]
    hidden = params[0].shape[0] // cell.gates
    chosen = options_of(options.cell, hidden, options.step)
    each = len(params) // (options.num_layers * (2 if options.bidirectional else 1))
    names = list(layer_shapes(chosen, cell.gates, cell.states, 1, hidden, True))
    if len(names) != each:
        names = [name for name in names if not name.startswith("bias")]
    return chosen, names, chosen.proj_size or hidden, hidden, (cell.states - 1) * hidden


def names_of(params: Sequence[Tensor], options: Options) -> list[str]:
    """The names of the parameters of one layer in one direction, in their order."""
    return _layout(params, options)[1]


def _cell_dtype(x: Tensor, options: Options, c_0: Tensor | None) -> torch.dtype:
    return cell_dtype(CELLS[options.cell].states, x.dtype, c_0)


def _present(lengths: Tensor | None, marks: Marks, seq_len: int, batch: int) -> tuple[Tensor | None, Tensor | None]:
    """bool [T, B, 1]: which steps are before their row's end, and which of them are taken; None: all."""
    alive = None
    if lengths is not None:
        if not torch.compiler.is_compiling():
            plain = unwrapped(lengths)
            # Mapped ones cannot be looked at, and a GPU's would be waited for; the comparison clamps them.
            if not torch._C._functorch.is_functorch_wrapped_tensor(plain) and plain.is_cpu:
                take_lengths(plain, batch, seq_len)
        alive = torch.arange(seq_len, device=lengths.device)[:, None, None] < lengths[None, :, None]
    if marks.mask is None:
        return alive, alive
    mask = marks.mask.unsqueeze(-1)
    return alive, mask if alive is None else alive & mask


def _borders(reset: Tensor, alive: Tensor | None, back: bool) -> Tensor:
    """bool [T, B, 1]: before which steps of the walk the state is zeroed. A mark in a row's padding is none of it."""
    marked = reset.unsqueeze(-1) if alive is None else reset.unsqueeze(-1) & alive
    return torch.cat([marked[1:], torch.zeros_like(marked[:1])]) if back else marked


def _mask(x: Tensor, index: int, width: int, directions: int, dropout: float, masks: tuple[int, int]) -> Tensor:
    """What the scheduler multiplies the output of a layer by."""
    mask = np.ones((x.shape[0], x.shape[1], directions * width))  # no tensor: torch.func would wrap it
    for direction in range(directions):
        half = mask[..., direction * width : (direction + 1) * width]
        _core.dropout(half, half, dropout, (*masks, index * directions + direction))
    return torch.from_numpy(mask).to(x.dtype).to(x.device)


def pullback(
    grads: _Grads,
    primals: _Grads,
    options: Options,
    around: Around,
    needs: Sequence[bool] | None = None,
) -> list[Tensor | None]:
    """BPTT composed: gradients of (x, h_0, c_0, *params), which are ``primals``, None for what is not there.

    grads: of (y, h_n, c_n), None for zeros. needs: as of ``gradients``.
    """
    run, values, cotangents, given = _problem(grads, primals, options, around)
    if needs is None:
        back: Any = torch.func.vjp(run, *values)[1]
        found: _Grads = back(cotangents)
    else:
        further = torch.is_grad_enabled()
        with torch.enable_grad():
            points = [_apart(value, further, needs[i]) for i, value in zip(given, values, strict=True)]
            found = _grad(run(*points), points, [needs[i] for i in given], cotangents, further)
    answer: list[Tensor | None] = [None] * len(primals)
    for i, grad in zip(given, found, strict=True):
        answer[i] = grad
    return answer


def gradients(
    grads: _Grads,
    primals: _Grads,
    options: Options,
    around: Around,
    seeds: _Grads,
    needs: Sequence[bool] | None = None,
) -> list[Tensor | None]:
    """The derivative of ``pullback``: gradients of sum(seed * gradient) for (*grads, *primals).

    seeds: of the gradients of the primals, None for zeros. It is itself differentiable, to any order. needs: where
    nothing but autograd looks on, which of the answers are wanted; then autograd alone differentiates, which takes less
    than levels of torch.func. None: all of them, by levels.
    """
    run, values, cotangents, given = _problem(grads, primals, options, around)
    own = [seeds[i] for i in given]
    if needs is None:
        of_cotangents, of_values = _by_levels(run, values, cotangents, own)
    else:
        wanted = [*(needs[k] for k in range(len(cotangents))), *(needs[len(grads) + i] for i in given)]
        of_cotangents, of_values = _by_autograd(run, values, cotangents, own, wanted)
    answer: list[Tensor | None] = [None] * (len(grads) + len(primals))
    for k, grad in enumerate(of_cotangents):
        answer[k] = grad if grads[k] is not None else None
    for i, grad in zip(given, of_values, strict=True):
        answer[len(grads) + i] = grad
    return answer


def _by_levels(
    run: _Run, values: tuple[Tensor, ...], cotangents: tuple[Tensor, ...], seeds: _Grads
) -> tuple[_Grads, _Grads]:
    """Gradients of sum(seed * gradient of value) for the cotangents and the values."""

    def pull(cotangents: tuple[Tensor, ...], values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        back: Any = torch.func.vjp(run, *values)[1]
        return back(cotangents)  # type: ignore[no-any-return]

    back: Any = torch.func.vjp(pull, cotangents, values)[1]
    zeros = (torch.zeros_like(v) if s is None else s for v, s in zip(values, seeds, strict=True))
    return back(tuple(zeros))  # type: ignore[no-any-return]


def _by_autograd(
    run: _Run, values: tuple[Tensor, ...], cotangents: tuple[Tensor, ...], seeds: _Grads, wanted: Sequence[bool]
) -> tuple[_Grads, _Grads]:
    """The same for those that are wanted, (*cotangents, *values); None for the others."""
    further = torch.is_grad_enabled()
    count = len(cotangents)
    seeded = [seed is not None for seed in seeds]
    with torch.enable_grad():
        points = [_apart(v, further, w or s) for v, w, s in zip(values, wanted[count:], seeded, strict=True)]
        first = [_apart(c, further, True) for c in cotangents]  # or their gradients would depend on nothing
        gradients = _grad(run(*points), points, seeded, first, True)
        second = _grad(gradients, [*first, *points], wanted, seeds, further)
    return second[:count], second[count:]


def _grad(outputs: _Grads, inputs: Sequence[Tensor], wanted: Sequence[bool], seeds: _Grads, further: bool) -> _Grads:
    """``torch.autograd.grad`` of those outputs that are there and depend on anything, for the wanted inputs."""
    pairs = [(o, s) for o, s in zip(outputs, seeds, strict=True) if o is not None and o.requires_grad and s is not None]
    ours = [tensor for tensor, want in zip(inputs, wanted, strict=True) if want]
    found: Sequence[Tensor | None] = [None] * len(ours)
    if pairs and ours:
        some, own = zip(*pairs, strict=True)
        found = torch.autograd.grad(some, ours, own, create_graph=further, allow_unused=True)
    left = iter(torch.zeros_like(o) if f is None else f for o, f in zip(ours, found, strict=True))
    return [next(left) if want else None for want in wanted]


def _apart(tensor: Tensor, further: bool, differentiable: bool) -> Tensor:
    """A tensor to differentiate for alone: cotangents may come from the values, and partial derivatives are wanted.

    further: a graph of what is computed with it is asked for, too.
    """
    if further and tensor.requires_grad:
        return tensor.view_as(tensor)
    return tensor.detach().requires_grad_(differentiable)


def _problem(
    grads: _Grads,
    primals: _Grads,
    options: Options,
    around: Around,
) -> tuple[_Run, tuple[Tensor, ...], tuple[Tensor, ...], list[int]]:
    """The layer as a function of the primals that are there, these, cotangents for its answers, the primals' places."""
    given = [i for i, primal in enumerate(primals) if primal is not None]

    def run(*values: Tensor) -> tuple[Tensor, ...]:
        full: list[Any] = [None] * len(primals)
        for i, value in zip(given, values, strict=True):
            full[i] = value
        x, h_0, c_0, *params = full
        return tuple(a for a in layer(x, h_0, c_0, params, options, around) if a is not None)

    values = tuple(primal for primal in primals if primal is not None)
    x: Any = primals[0]
    params: Any = primals[3:]
    _, _, outputs, _, cells = _layout(params, options)
    directions = 2 if options.bidirectional else 1
    rows = (options.num_layers * directions, x.shape[1])
    all_shapes = ((x.shape[0], x.shape[1], directions * outputs), (*rows, outputs), (*rows, cells))
    shapes = all_shapes[: 3 if cells else 2]
    dtypes = (x.dtype, x.dtype, _cell_dtype(x, options, primals[2]))
    cotangents = tuple(
        x.new_zeros(shape, dtype=dtype) if grad is None else grad
        for shape, dtype, grad in zip(shapes, dtypes, grads, strict=False)
    )
    return run, values, cotangents, given
