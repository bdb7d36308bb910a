"""The options of a cell's step as one string, the form in which operators take them, and as properties of modules.

The string is JSON of the constructor's keywords that are not neutral, in ``rnnkern.options``' order, and empty where
all are: '{"clip": 0.5, "zoneout": [0.1, 0.2]}'. A graph that was saved says with it what its layers compute.
"""

from __future__ import annotations

import json
from functools import lru_cache

import torch

from ..options import NEUTRAL, HasOptions, Options, parse

__all__ = ["NEUTRAL", "Options", "StepOptions", "options_of", "parse", "random_of", "text_of"]


def text_of(options: Options) -> str:
    shown = options.shown()
    return json.dumps(shown) if shown else ""


@torch.compiler.assume_constant_result
def options_of(cell: str, hidden_size: int, text: str) -> Options:
    """The options of a string; ValueError or TypeError for one that says none.

    To Dynamo it is a constant, of which it reads fields, but neither compares it nor reads properties.
    """
    return _options_of(cell, hidden_size, text) if text else NEUTRAL


@torch.compiler.assume_constant_result
def random_of(cell: str, hidden_size: int, text: str) -> str:
    """Those of a string's options that draw masks in training, in words; "" where there are none."""
    shown = _options_of(cell, hidden_size, text).shown() if text else {}
    return ", ".join(f"{name}={value}" for name, value in shown.items() if name in ("zoneout", "recurrent_dropout"))


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


class StepOptions(HasOptions):
    """The options of a module, read-only: a change of one would have to change parameters with it.

    Class-level values are a plain cell's, as those of the torch.nn modules that ``replace`` swaps.
    """

    _step_text: str = ""  # text_of(_step_options)
    _random: bool = False  # whether training draws masks for them

    def _choose(self, options: Options) -> None:
        if options != NEUTRAL:
            self._step_options, self._step_text, self._random = options, text_of(options), options.random

    def _forget(self) -> None:
        for name in ("_step_options", "_step_text", "_random"):
            self.__dict__.pop(name, None)

    def _said(self) -> str:
        """For ``repr``, the projection left out: torch.nn has a place of its own for it."""
        shown = self._step_options.shown().items()
        return "".join(f", {name}={value!r}" for name, value in shown if name != "proj_size")
