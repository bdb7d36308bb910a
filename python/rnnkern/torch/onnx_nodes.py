"""A layer in torch's ONNX exporters: one node of ONNX's LSTM, GRU or RNN for each layer.

Both exporters run the module's own Python. Torch's operations arrange the weights as ONNX has them; what the exporters
cannot know is the node itself. The exporter of torch.export takes it by ``torch.onnx.ops``, the one of TorchScript by a
Function that says what stands for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._engine.spec import Inputs, Spec
from ..onnx import attributes
from ..weights import permutation
from . import kernels
from .kernels import Around, Options, spec_for


def layer(
    x: Tensor, h_0: Tensor | None, c_0: Tensor | None, params: Sequence[Tensor], options: Options, around: Around
) -> tuple[Tensor, Tensor, Tensor | None]:
    """``autograd.recurrence`` as nodes. NotImplementedError for what ONNX cannot say, by name."""
    spec = spec_for(options, x, params)
    refuse(spec, around)
    D, each = spec.directions, len(spec.own_names)
    lengths = None if around.lengths is None else around.lengths.to(torch.int32)
    finals: list[list[Tensor]] = [[], []]
    for index in range(options.num_layers):
        rows = slice(index * D, (index + 1) * D)
        own = params[rows.start * each : rows.stop * each]
        states = [None if state is None else state[rows] for state in (h_0, c_0)]
        node = _Node(options._replace(num_layers=1, batch_first=False, dropout=0.0), x, own)
        y, *ends = node(x, states, lengths)
        x = y.permute(0, 2, 1, 3).reshape(y.shape[0], y.shape[2], D * spec.outputs)
        for parts, end in zip(finals, ends, strict=False):
            parts.append(end)
    h_n, c_n = (None if not parts else torch.cat(parts) if len(parts) > 1 else parts[0] for parts in finals)
    assert h_n is not None
    return x, h_n, c_n


def refuse(spec: Spec, around: Around) -> None:
    """NotImplementedError for what ONNX cannot say, by name."""
    what = "torch.onnx.export: ONNX has no operator for"
    if spec.cell not in attributes.OPS:
        raise NotImplementedError(f"{what} the cell {spec.cell}")
    if around.masks is not None:
        raise NotImplementedError(f"{what} the random masks of training; call eval() before the export")
    if any(mark is not None for mark in around.marks):
        raise NotImplementedError(f"{what} mask and reset")
    if spec.dtype == "bfloat16":
        raise NotImplementedError(f"{what} bfloat16 in most opsets; export the module in float32, without autocast")
    attributes.refuse(spec.options, "torch.onnx.export")


class _Node:
    """One layer: its inputs as ONNX has them, and its attributes."""

    def __init__(self, options: Options, x: Tensor, params: Sequence[Tensor]) -> None:
        self.spec, self.params = spec_for(options, x, params), list(params)
        self.op, self.hidden_size, self.states = attributes.OPS[options.cell], self.spec.hidden_size, self.spec.states
        direction = "bidirectional" if options.bidirectional else "reverse" if options.reverse else "forward"
        self.attributes = attributes.of_node(options.cell, self.spec.options, self.hidden_size, direction)

    def __call__(self, x: Tensor, states: Sequence[Tensor | None], lengths: Tensor | None) -> Sequence[Tensor]:
        """-> Y [T, D, B, H], Y_h and of LSTM Y_c [D, B, H]."""
        each, D = self.spec.own_names, self.spec.directions
        own = [dict(zip(each, self.params[d * len(each) : (d + 1) * len(each)], strict=True)) for d in range(D)]

        def stacked(make: Callable[[dict[str, Tensor]], Tensor]) -> Tensor:
            return torch.stack([make(params) for params in own])

        inputs: list[Tensor | None] = [
            x,
            stacked(lambda params: self._gates(params["weight_ih"])),
            stacked(lambda params: self._gates(params["weight_hh"])),
            stacked(self._biases) if "bias_ih" in each else None,
        ]
        inputs += [lengths, *states[: self.states]]
        if "peephole" in each:  # rows i f o; of ONNX i o f, end to end
            inputs.append(stacked(lambda p: p["peephole"][[0, 2, 1]].reshape(-1)))
        while inputs[-1] is None:
            inputs.pop()
        if torch.compiler.is_compiling():
            T, B, H = x.shape[0], x.shape[1], self.hidden_size
            shapes = [[T, D, B, H], *[[D, B, H]] * self.states]
            dtypes = [x.dtype] * len(shapes)
            return torch.onnx.ops.symbolic_multi_out(self.op, inputs, self.attributes, dtypes=dtypes, shapes=shapes)
        return _Traced.apply(self, (x, *states), lengths, *inputs)  # type: ignore[no-any-return,no-untyped-call]

    def _biases(self, params: dict[str, Tensor]) -> Tensor:
        return torch.cat([self._gates(params["bias_ih"]), self._gates(params["bias_hh"])])

    def _gates(self, rows: Tensor) -> Tensor:
        """Gate blocks in ONNX's order."""
        if self.op == "RNN":
            return rows
        order = torch.tensor(permutation(self.op.lower(), "torch", "onnx"), device=rows.device)
        rest = (-1,) * (rows.dim() - 1)  # sizes that are no constants would become nodes of the model
        blocks = rows.reshape(len(order), self.hidden_size, *rest).index_select(0, order)
        return blocks.reshape(len(order) * self.hidden_size, *rest)


class _Traced(torch.autograd.Function):
    """The node for the exporter of TorchScript. Its values are those of the layer."""

    @staticmethod
    def forward(ctx: Any, node: _Node, given: Any, lengths: Any, *inputs: Any) -> Any:
        x, h_0, c_0 = given
        D, rows = node.spec.directions, x.shape[1]
        outputs = [x.new_empty((x.shape[0], D, rows, node.hidden_size))]
        outputs += [x.new_empty((D, rows, node.hidden_size)) for _ in range(node.states)]
        state = torch._C._get_tracing_state()  # type: ignore[attr-defined]
        torch._C._set_tracing_state(None)  # type: ignore[attr-defined]  # what follows is no part of the model
        try:
            given_lengths = None if lengths is None else lengths.to("cpu", torch.int64).numpy()
            y, *ends, _ = kernels.forward(node.spec, False, Inputs(x, h_0, c_0, given_lengths), node.params, False)
            outputs[0].copy_(y.view(*y.shape[:2], D, node.hidden_size).permute(0, 2, 1, 3))
            for output, end in zip(outputs[1:], ends, strict=False):
                output.copy_(end)
        finally:
            torch._C._set_tracing_state(state)  # type: ignore[attr-defined]
        return tuple(outputs)

    @staticmethod
    def symbolic(g: Any, node: _Node, given: Any, lengths: Any, *inputs: Any) -> Any:
        def or_nothing(value: Any) -> Any:
            if value is not None:
                return value
            nothing = g.op("prim::Constant")
            nothing.setType(torch._C.OptionalType.ofTensor())
            return nothing

        kinds = {int: "i", float: "f", str: "s"}
        named = {
            f"{name}_{kinds[type(value[0] if isinstance(value, list) else value)]}": value
            for name, value in node.attributes.items()
        }
        return g.op(node.op, *map(or_nothing, inputs), outputs=1 + node.states, **named)
