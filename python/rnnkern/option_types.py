"""The keywords of constructors as types, for type checkers alone: nothing imports this file when a program runs.

The table of options.py is the truth; a test holds these names against it.
"""

from __future__ import annotations

from typing import Any, TypedDict


class _Step(TypedDict, total=False):
    zoneout: float | tuple[float, float]
    heads: int


class _Gated(_Step, total=False):
    clip: float | None
    activations: Any
    layer_norm: bool


class SlstmCellOptions(_Step, total=False):
    pass


class RnnCellOptions(_Gated, total=False):
    independent: bool


class GruCellOptions(_Gated, total=False):
    reset_after: bool


class _Lstm(_Gated, total=False):
    peephole: bool
    coupled: bool


class LstmCellOptions(_Lstm, total=False):
    proj_size: int  # of an LSTM layer it is an argument, as in torch.nn


class _Layer(TypedDict, total=False):
    recurrent_dropout: float


class SlstmOptions(SlstmCellOptions, _Layer, total=False):
    pass


class RnnOptions(RnnCellOptions, _Layer, total=False):
    pass


class GruOptions(GruCellOptions, _Layer, total=False):
    pass


class LstmOptions(_Lstm, _Layer, total=False):
    pass


class Placement(TypedDict, total=False):
    """What layers and cells on plain arrays take beside the options."""

    device: Any
    dtype: Any
    seed: int | None
    allow_tf32: bool
    weights: str | None


class LayerKeywords(Placement, total=False):
    recompute: bool
    reverse: bool


class SlstmKeywords(SlstmOptions, LayerKeywords, total=False):
    pass


class RnnKeywords(RnnOptions, LayerKeywords, total=False):
    pass


class GruKeywords(GruOptions, LayerKeywords, total=False):
    pass


class LstmKeywords(LstmOptions, LayerKeywords, total=False):
    pass


class SlstmCellKeywords(SlstmCellOptions, Placement, total=False):
    pass


class RnnCellKeywords(RnnCellOptions, Placement, total=False):
    pass


class GruCellKeywords(GruCellOptions, Placement, total=False):
    pass


class LstmCellKeywords(LstmCellOptions, Placement, total=False):
    pass
