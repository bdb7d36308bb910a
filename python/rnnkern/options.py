"""The options of a cell's step, each declared once: a field of ``Options``.

``option`` says for a field which cells take it, how a keyword's value becomes the field's (option_values.py), and its
sentence in the documentation. Constructors of layers, cells and torch modules take options as ``**keywords``:
``takes_options`` makes their signatures and docstrings from the table, and option_types.py has the types for type
checkers. The native library says which options no kernel combines (core/options.cpp).

Sources: peephole, F. Gers and J. Schmidhuber, 2000; coupled, K. Greff et al., 2015; clip and activations, ONNX's RNN
operators (onnx/defs/rnn); reset_after=False, K. Cho et al., arXiv 1406.1078v3; proj_size, H. Sak et al., 2014;
layer_norm, J. Ba et al., arXiv 1607.06450; zoneout, D. Krueger et al., arXiv 1606.01305; recurrent_dropout, Y. Gal and
Z. Ghahramani, arXiv 1512.05287; independent, S. Li et al., arXiv 1803.04831.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, TypeVar

from . import option_values as values

_Class = TypeVar("_Class", bound=type)


def option(
    neutral: Any,
    cells: str,
    parse: Callable[[str, Any, str], Any],
    annotation: str,
    *,
    said: str,
    default: Any = ...,
    shown: Callable[[Any], Any] = lambda value: value,
    single_step: bool = True,
) -> Any:
    """A field of ``Options``.

    neutral: its value where the step is the plain cell's. cells: those that take it. annotation, default: of the
    constructors' keyword; the default is ``neutral`` unless given. said: its sentence. shown: the field's value -> the
    keyword's. single_step: whether RNNCell, GRUCell, LSTMCell and sLSTMCell take it, too.
    """
    about = {"cells": cells.split(), "parse": parse, "annotation": annotation, "said": said, "shown": shown}
    about |= {"default": neutral if default is ... else default, "single_step": single_step}
    return field(default=neutral, metadata=about)


@dataclass(frozen=True)
class Options:
    """What a step does beside the plain cell's equations; every default is neutral."""

    # fmt: off
    proj_size: int = option(
        0, "lstm", values.size, "int",
        said="size P of a projection h = W_hr (o * tanh(c)): weight_hr [P, H], weight_hh [4*H, P].",
    )
    peephole: bool = option(
        False, "lstm", values.flag, "bool",
        said="i and f also read c', and o reads the new c: peephole [3, H], rows i f o.",
    )
    coupled: bool = option(
        False, "lstm", values.flag, "bool",
        said="f = 1 - i. The weights keep the rows of f, which are not used.",
    )
    clip: float = option(
        0.0, "rnn gru lstm", values.clip, "float | None", default=None, shown=values.shown_clip,
        said="bound of the inputs of the gates and of the candidate: [-clip, clip], as in onnxruntime. c is not "
        "clipped.",
    )
    activations: tuple[tuple[str, float, float], ...] = option(
        (), "rnn gru lstm", values.activations, "Any", default=None, shown=values.shown_activations,
        said="of ONNX's eleven activations, each by name or as (name, alpha, beta). RNN takes one, GRU a sequence of "
        "two (for r and z, for n), LSTM of three (for i, f and o, for g, for the output).",
    )
    reset_after: bool = option(
        True, "gru", values.flag, "bool",
        said="False puts the reset gate before the product (arXiv 1406.1078v3, the default of ONNX): n = tanh(gx_n + "
        "W_hn (r * h') + b_hn).",
    )
    layer_norm: bool = option(
        False, "rnn gru lstm", values.flag, "bool",
        said="normalise W_ih x and W_hh h' over each row before adding the biases: gamma_ih, gamma_hh [G*H]. LSTM also "
        "normalises c in its output: gamma_c, beta_c [H].",
    )
    zoneout: tuple[float, float] = option(
        (0.0, 0.0), "rnn gru lstm slstm", values.zoneout, "float | tuple[float, float]",
        default=0.0, shown=values.shown_zoneout,
        said="probability that an element of h keeps its old value; LSTM also takes a pair, for h and c. Inference uses"
        " the expected value.",
    )
    recurrent_dropout: float = option(
        0.0, "rnn gru lstm slstm", values.probability, "float", single_step=False,
        said="in training, dropout on the input of W_hh, with one mask per row for the whole sequence.",
    )
    heads: int = option(
        1, "rnn gru lstm slstm", values.size, "int",
        said="number of blocks of a block-diagonal W_hh: weight_hh [G*H, H/heads].",
    )
    independent: bool = option(
        False, "rnn", values.flag, "bool",
        said="use a diagonal W_hh (IndRNN): weight_hh [H].",
    )
    # fmt: on

    @property
    def random(self) -> bool:
        """Whether training draws masks for them."""
        return self.zoneout != (0.0, 0.0) or self.recurrent_dropout > 0

    def native(self) -> dict[str, Any]:
        """The keywords of ``_core.Plan``; none where all is neutral."""
        given = {name: getattr(self, name) for name in self.said()}
        if given.pop("reset_after", True) is False:
            given["reset_before"] = True
        if "activations" in given:
            given["activations"] = [(values.ACTIVATIONS[name][0], a, b) for name, a, b in self.activations]
        return given

    def said(self) -> dict[str, Any]:
        """Name -> value of what is not neutral, for ``repr`` and errors."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    def shown(self) -> dict[str, Any]:
        """The same, in the values that constructors take."""
        return {name: TABLE[name].metadata["shown"](value) for name, value in self.said().items()}


NEUTRAL = Options()
TABLE: dict[str, Field[Any]] = {f.name: f for f in fields(Options)}


def of_cell(kind: str, single_step: bool = False) -> Iterator[Field[Any]]:
    """The options that a cell takes. kind: "rnn", "gru", "lstm" or "slstm"."""
    for f in TABLE.values():
        if kind in f.metadata["cells"] and (f.metadata["single_step"] or not single_step):
            yield f


def reads(name: str) -> Any:
    """A property of a layer, cell or module: the constructor's keyword of this name, as it was given."""

    def read(holder: Any) -> Any:
        return TABLE[name].metadata["shown"](getattr(holder._step_options, name))

    return property(read, doc=f"The constructor's keyword {name}.")


class HasOptions:
    """Properties by the names of the constructors' keywords. (A cell of torch has a parameter named peephole.)"""

    _step_options: Options = NEUTRAL

    proj_size = reads("proj_size")
    coupled = reads("coupled")
    clip = reads("clip")
    activations = reads("activations")
    reset_after = reads("reset_after")
    layer_norm = reads("layer_norm")
    zoneout = reads("zoneout")
    recurrent_dropout = reads("recurrent_dropout")
    heads = reads("heads")
    independent = reads("independent")


def takes_options(kind: str, single_step: bool = False) -> Callable[[_Class], _Class]:
    """A class whose ``__init__`` takes the options of a cell as ``**keywords``: its signature and docstring.

    Keyword-only parameters of the base class' ``__init__`` come before them.
    """

    def decorate(cls: _Class) -> _Class:
        own = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
        base = inspect.signature(cls.__mro__[1].__init__).parameters  # type: ignore[misc]
        explicit = [p for p in own.values() if p.kind is not p.VAR_KEYWORD]
        keywords = [p for p in base.values() if p.kind is p.KEYWORD_ONLY and p.name not in own]
        said: list[str] = []
        for f in of_cell(kind, single_step):
            about = f.metadata
            said += textwrap.wrap(f"{f.name}: {about['said']}", 116, subsequent_indent="    ")
            if f.name not in own:
                keyword = inspect.Parameter.KEYWORD_ONLY
                keywords.append(
                    inspect.Parameter(f.name, keyword, default=about["default"], annotation=about["annotation"])
                )
        cls.__init__.__signature__ = inspect.Signature([*explicit, *keywords])  # type: ignore[misc]
        cls.__doc__ = f"{inspect.cleandoc(cls.__doc__ or '')}\n\n{_HEADING}\n\n" + "\n".join(said) + "\n"
        return cls

    return decorate


_HEADING = "Options of the step (equations: docs/options.md); an unsupported combination is an error:"


def parse(cell: str, hidden_size: int, given: Mapping[str, Any]) -> Options:
    """The options of a constructor's keywords. cell: "rnn_tanh", "rnn_relu", "gru", "lstm" or "slstm".

    Raises ValueError or TypeError naming the keyword, what was expected and what came.
    """
    kind = cell.split("_")[0]
    out: dict[str, Any] = {}
    for name, value in given.items():
        about, neutral = TABLE[name].metadata, TABLE[name].default
        if value is None or value is neutral:
            continue
        out[name] = about["parse"](name, value, kind)
        if kind not in about["cells"] and out[name] != neutral:
            if len(about["cells"]) == 1:
                raise ValueError(f"{name}: only {about['cells'][0].upper()} has it, got {value!r} for {kind.upper()}")
            raise ValueError(f"{name}: {_SPELLED.get(kind, kind.upper())} does not have it, got {value!r}")
    options = Options(**out)
    if options.proj_size >= hidden_size > 0:
        raise ValueError(f"proj_size: expected less than hidden_size {hidden_size}, got {options.proj_size}")
    if options.heads > 1 and hidden_size % options.heads:
        raise ValueError(f"heads: expected a divisor of hidden_size {hidden_size}, got {options.heads}")
    return options


_SPELLED = {"slstm": "sLSTM"}


def check_keywords(owner: str, cell: str, given: Mapping[str, Any], single_step: bool = False) -> None:
    """TypeError, as Python's own, for a keyword that the constructor of ``owner`` does not take."""
    taken = {f.name for f in of_cell(cell.split("_")[0], single_step)}
    for name in given:
        if name not in taken:
            raise TypeError(f"{owner}.__init__() got an unexpected keyword argument {name!r}")


def layer_shapes(
    options: Options, gates: int, states: int, input_size: int, hidden_size: int, bias: bool
) -> dict[str, tuple[int, ...]]:
    """Name without suffix -> shape of one layer's parameters in one direction, in the order the scheduler takes them.

    weight_ih, weight_hh, bias_ih, bias_hh, weight_hr as torch.nn orders them, then the options' own.
    """
    rows, outputs = gates * hidden_size, options.proj_size or hidden_size
    shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, input_size)}
    shapes["weight_hh"] = (hidden_size,) if options.independent else (rows, outputs // options.heads)
    if bias:
        shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
    if options.proj_size:
        shapes["weight_hr"] = (outputs, hidden_size)
    if options.peephole:
        shapes["peephole"] = (3, hidden_size)
    if options.layer_norm:
        shapes |= {"gamma_ih": (rows,), "gamma_hh": (rows,)}
        if states == 2:
            shapes |= {"gamma_c": (hidden_size,), "beta_c": (hidden_size,)}
    return shapes


def vector_rows(options: Options, names: list[str], bias: bool) -> list[str]:
    """The parameters that the kernel takes as rows of one matrix (``rnnk_weights.params``), in its order."""
    own = ["weight_hh", "bias_hh"] if options.independent else ["peephole"] if options.peephole else []
    return own + [name for name in ("gamma_ih", "gamma_hh", "gamma_c", "beta_c") if name in names]
