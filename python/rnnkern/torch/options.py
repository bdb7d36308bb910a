"""The options of a cell's step as one string, the form in which operators take them, and as properties of modules.

The string is JSON of the constructor's keywords that are not neutral, in ``rnnkern.options``' order, and empty where
all are: '{"clip": 0.5, "zoneout": [0.1, 0.2]}'. A graph that was saved says with it what its layers compute.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import torch

from ..options import NEUTRAL, HasOptions, Options, parse

__all__ = ["NEUTRAL", "Options", "StepOptions", "options_of", "parse", "random_of", "read_option", "text_of"]


class _Values(HasOptions):
    """Options by the values that constructors take."""

    def __init__(self, options: Options) -> None:
        self._options = options


def _said(options: Options) -> dict[str, Any]:
    values = _Values(options)
    return {name: getattr(values, name) for name in options.said()}


def text_of(options: Options) -> str:
    said = _said(options)
    return json.dumps(said) if said else ""


@torch.compiler.assume_constant_result
def options_of(cell: str, hidden_size: int, text: str) -> Options:
    """The options of a string; ValueError or TypeError for one that says none.

    To Dynamo it is a constant, of which it reads fields, but neither compares it nor reads properties.
    """
    return _options_of(cell, hidden_size, text) if text else NEUTRAL


@torch.compiler.assume_constant_result
def random_of(cell: str, hidden_size: int, text: str) -> str:
    """Those of a string's options that draw masks in training, in words; "" where there are none."""
    said = _said(_options_of(cell, hidden_size, text)) if text else {}
    return ", ".join(f"{name}={value}" for name, value in said.items() if name in ("zoneout", "recurrent_dropout"))


@lru_cache(maxsize=256)
def _options_of(cell: str, hidden_size: int, text: str) -> Options:
    try:
        given = json.loads(text)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise ValueError(f"step: expected JSON of a cell's options by name, or nothing, got {text!r}")
    known = Options.__dataclass_fields__
    for name in given:
        if name not in known:
            raise ValueError(f"step: expected names among {', '.join(known)}, got {name!r}")
    return parse(cell, hidden_size, given)


def read_option(name: str) -> Any:
    def read(module: StepOptions) -> Any:
        return getattr(_Values(module._chosen), name)

    return property(read, doc=f"The constructor's keyword {name}, as it was given.")


class StepOptions:
    """The options of a module, read-only: a change of one would have to change parameters with it.

    ``peephole`` is a layer's alone: a cell has a parameter of this name.
    """

    _chosen: Options = (
        NEUTRAL  # class-level values are a plain cell's, as torch.nn's own modules are that ``replace`` swaps
    )
    _step_text: str = ""  # text_of(_chosen)
    _random: bool = False  # whether training draws masks for them

    proj_size = read_option("proj_size")
    coupled = read_option("coupled")
    clip = read_option("clip")
    activations = read_option("activations")
    reset_after = read_option("reset_after")
    layer_norm = read_option("layer_norm")
    zoneout = read_option("zoneout")
    recurrent_dropout = read_option("recurrent_dropout")
    heads = read_option("heads")
    independent = read_option("independent")

    def _choose(self, options: Options) -> None:
        if options != NEUTRAL:
            self._chosen, self._step_text, self._random = options, text_of(options), options.random

    def _forget(self) -> None:
        for name in ("_chosen", "_step_text", "_random"):
            self.__dict__.pop(name, None)

    def _said(self) -> str:
        """For ``repr``, the projection left out: torch.nn has a place of its own for it."""
        return "".join(f", {name}={value!r}" for name, value in _said(self._chosen).items() if name != "proj_size")
