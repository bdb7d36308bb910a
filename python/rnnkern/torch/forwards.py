"""``forward`` of the modules: what eager calls enter, and what ``torch.jit.script`` compiles.

TorchScript compiles what follows ``is_scripting()``, which calls the operator ``rnnkern::layer``. It takes tensors
only: no PackedSequence, no list of lengths. An archive loads in programs that imported ``rnnkern.torch``; others refuse
it with "Unknown builtin op: rnnkern::layer".

TorchScript reads annotations as objects, and older forms of them, so this file does not import annotations from
``__future__``.
"""

# mypy: disable-error-code="attr-defined, no-any-return, misc"
# ruff: noqa: UP006, UP035, UP045
from typing import Any, Dict, Optional, Tuple

import torch
from torch import Tensor

from ..options import HasOptions


class Scriptable:
    """The call of the operator in TorchScript, and what TorchScript needs to know of the attributes."""

    __annotations__: Dict[str, Any] = {}  # in place of the bases', which are text
    __constants__ = (
        *("num_layers", "dropout", "bidirectional", "batch_first", "recompute", "reverse"),
        *("_cell_name", "_step_text", "_random"),
    )
    __jit_unused_properties__ = (
        *(name for name, value in vars(HasOptions).items() if isinstance(value, property)),
        *("all_weights", "peephole"),
    )

    _cell_name = ""  # of a class with one cell of the kernels

    def _cell(self) -> str:
        """The kernels' name of the cell."""
        return self._cell_name

    def _scripted(
        self,
        input: Tensor,
        h_0: Optional[Tensor],
        c_0: Optional[Tensor],
        lengths: Optional[Tensor] = None,
        mask: Optional[Tensor] = None,
        reset: Optional[Tensor] = None,
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """input as a layer's ``forward`` takes it -> output, h_n, c_n, in its layout."""
        batched = input.dim() == 3
        if not batched and input.dim() != 2:
            raise ValueError(f"rnnkern: Expected input to be 2D or 3D, got {input.dim()}D instead")
        if not batched and lengths is not None:
            raise ValueError("lengths: expected None with unbatched input; pass input[:length]")
        if input.dtype != self._script_weights[0].dtype:
            raise ValueError(
                f"input: expected {self._script_weights[0].dtype} as the weights, got {input.dtype}; a script does not "
                "heed autocast"
            )
        x = input
        if not batched:
            x = input.unsqueeze(1)
            h_0 = None if h_0 is None else h_0.unsqueeze(1)
            c_0 = None if c_0 is None else c_0.unsqueeze(1)
            mask = None if mask is None else mask.unsqueeze(1)
            reset = None if reset is None else reset.unsqueeze(1)
        elif self.batch_first:
            x = input.transpose(0, 1)
            mask = None if mask is None else mask.transpose(0, 1)
            reset = None if reset is None else reset.transpose(0, 1)
        masks: Optional[Tensor] = None
        if self.training and (self._random or (self.dropout > 0.0 and self.num_layers > 1)):
            masks = torch.randint(0, 9223372036854775807, [2], dtype=torch.int64, device="cpu")  # as draw_masks
        y, h_n, c_n = torch.ops.rnnkern.layer(
            x, h_0, c_0, self._script_weights, lengths, masks, self._cell(), self.num_layers, self.bidirectional,
            self.dropout, self.batch_first and batched, self.recompute, self.reverse, self._step_text, mask, reset,
        )  # fmt: skip
        if not batched:
            y, h_n = y.squeeze(1), h_n.squeeze(1)
            c_n = c_n.squeeze(1) if c_n.dim() == 3 else c_n
        elif self.batch_first:
            y = y.transpose(0, 1)
        return y, h_n, c_n


# --- layers -----------------------------------------------------------------


class Layer(Scriptable):
    """The name of a layer's cell."""

    def _cell(self) -> str:
        return self.mode.lower()


class OneState(Layer):
    """Layers whose state is h."""

    def forward(
        self,
        input: Tensor,
        hx: Optional[Tensor] = None,
        lengths: Optional[Tensor] = None,
        mask: Optional[Tensor] = None,
        reset: Optional[Tensor] = None,
    ) -> Tuple[Tensor, Tensor]:
        """Run the layers over a whole sequence. Returns (output, h_n); ``LSTM.forward`` says what the arguments are.

        hx: h_0 [L*D, B, H], without B for unbatched input; zeros by default.
        """
        if not torch.jit.is_scripting():
            return self._forward(input, hx, lengths, mask, reset)
        y, h_n, _ = self._scripted(input, hx, None, lengths, mask, reset)
        return y, h_n


class TwoStates(Layer):
    """Layers whose state is (h, c)."""

    def forward(
        self,
        input: Tensor,
        hx: Optional[Tuple[Tensor, Tensor]] = None,
        lengths: Optional[Tensor] = None,
        mask: Optional[Tensor] = None,
        reset: Optional[Tensor] = None,
    ) -> Tuple[Tensor, Tuple[Tensor, Tensor]]:
        """Run the layers over a whole sequence. Returns (output, state).

        input: tensor [T, B, I] ([B, T, I] with batch_first), unbatched [T, I], or a PackedSequence.
        hx: h_0 [L*D, B, P] (LSTM: the tuple (h_0, c_0), c_0 [L*D, B, H]; sLSTM: (h_0, c_0, n_0, m_0)), without B for
            unbatched input; zeros by default.
        lengths: number of valid steps of each row: integers [B] in [0, T], in any order; for batched tensors only. The
            contents of padding do not matter. The output is zero there, and the final state of a row is the one after
            its last valid step (a row of length 0 returns its initial state).
        mask: bool [T, B] ([B, T] with batch_first, [T] unbatched), a tensor or array. Where it is False, the step is
            skipped: the input is not read, the state does not change, and the output is zero.
        reset: bool, with the shape of mask. Where it is True, the state is zero before the step. Nothing passes the
            border to the step before, in either direction.

        The output is [T, B, D*P] in the layout of the input. The state is h_n, for LSTM (h_n, c_n), for sLSTM (h_n,
        c_n, n_n, m_n). A bfloat16 or float16 LSTM takes c_0 in float32, too, and then returns c_n in float32: a
        sequence in pieces has the bits of the whole one if every piece, the first included, gets such a c_0. With c in
        the layer's dtype each piece rounds c once.

        On a GPU all tensors but lengths, mask and reset must be there. These three may be on the host, where they are
        checked, or on the GPU, where nothing waits for them. There rnnkern clamps a length outside [0, T], and raises
        at the next call on that GPU or at ``rnnkern.check``.

        Raises ValueError or RuntimeError as torch.nn does for a wrong rank, size, dtype or device, NotImplementedError
        for a tensor that is not dense or on another device, and TypeError for a value that is no tensor, or a length
        that is no integer.
        """
        if not torch.jit.is_scripting():
            return self._forward(input, hx, lengths, mask, reset)
        h_0: Optional[Tensor] = None
        c_0: Optional[Tensor] = None
        if hx is not None:
            h_0, c_0 = hx
        y, h_n, c_n = self._scripted(input, h_0, c_0, lengths, mask, reset)
        return y, (h_n, c_n)


class FourStates(Layer):
    """Layers whose state is (h, c, n, m)."""

    def forward(
        self,
        input: Tensor,
        hx: Optional[Tuple[Tensor, Tensor, Tensor, Tensor]] = None,
        lengths: Optional[Tensor] = None,
        mask: Optional[Tensor] = None,
        reset: Optional[Tensor] = None,
    ) -> Tuple[Tensor, Tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Run the layers over a whole sequence. Returns (output, state); ``LSTM.forward`` says what the arguments are.

        hx: (h_0, c_0, n_0, m_0), each [L*D, B, H], without B for unbatched input; zeros by default.
        """
        if not torch.jit.is_scripting():
            return self._forward(input, hx, lengths, mask, reset)
        h_0: Optional[Tensor] = None
        others: Optional[Tensor] = None
        if hx is not None:
            h_0, others = hx[0], torch.cat([hx[1], hx[2], hx[3]], -1)
        y, h_n, after = self._scripted(input, h_0, others, lengths, mask, reset)
        c, n, m = after.split(self.hidden_size, -1)
        return y, (h_n, c.contiguous(), n.contiguous(), m.contiguous())


# --- cells: a sequence of one step --------------------------------------------


class OneStateCell(Scriptable):
    """Cells whose state is h."""

    def forward(self, input: Tensor, hx: Optional[Tensor] = None) -> Tensor:
        """Returns h, with the shape of hx.

        input: [B, I] or [I].
        hx: [B, H] or [H]; zeros by default.
        """
        if not torch.jit.is_scripting():
            return self._forward(input, hx)
        _, h, _ = self._scripted(input.unsqueeze(0), None if hx is None else hx.unsqueeze(0), None)
        return h.squeeze(0)


class ElmanCell(OneStateCell):
    """RNNCell, which has two cells of the kernels."""

    def _cell(self) -> str:
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        return "rnn_" + self.nonlinearity


class TwoStatesCell(Scriptable):
    """Cells whose state is (h, c)."""

    def forward(self, input: Tensor, hx: Optional[Tuple[Tensor, Tensor]] = None) -> Tuple[Tensor, Tensor]:
        """Returns (h, c), with the shapes of hx.

        input: [B, I] or [I].
        hx: (h [B, P], c [B, H]), or without B; zeros by default.
        """
        if not torch.jit.is_scripting():
            return self._forward(input, hx)
        h_0: Optional[Tensor] = None
        c_0: Optional[Tensor] = None
        if hx is not None:
            h_0, c_0 = hx[0].unsqueeze(0), hx[1].unsqueeze(0)
        _, h, c = self._scripted(input.unsqueeze(0), h_0, c_0)
        return h.squeeze(0), c.squeeze(0)


class FourStatesCell(Scriptable):
    """Cells whose state is (h, c, n, m)."""

    def forward(
        self, input: Tensor, hx: Optional[Tuple[Tensor, Tensor, Tensor, Tensor]] = None
    ) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns (h, c, n, m), with the shapes of hx.

        input: [B, I] or [I].
        hx: (h, c, n, m), each [B, H], or without B; zeros by default.
        """
        if not torch.jit.is_scripting():
            return self._forward(input, hx)
        h_0: Optional[Tensor] = None
        others: Optional[Tensor] = None
        if hx is not None:
            h_0, others = hx[0].unsqueeze(0), torch.cat([hx[1], hx[2], hx[3]], -1).unsqueeze(0)
        _, h, after = self._scripted(input.unsqueeze(0), h_0, others)
        c, n, m = after.squeeze(0).split(self.hidden_size, -1)
        return h.squeeze(0), c.contiguous(), n.contiguous(), m.contiguous()
