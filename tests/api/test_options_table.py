"""The table of options: signatures, docstrings, types for type checkers and properties all say what it says."""

from __future__ import annotations

import contextlib
import inspect
import typing
from typing import Any

import pytest

import rnnkern as rk
from rnnkern import _core, option_types, options

EVERY = ("zoneout", "recurrent_dropout", "heads")  # options that every cell takes
KINDS = {"rnn": "RNN", "gru": "GRU", "lstm": "LSTM", "slstm": "sLSTM"}
CLASSES = [
    pytest.param(kind, single, getattr(rk, name + ("Cell" if single else "")), id=name + ("Cell" if single else ""))
    for kind, name in KINDS.items()
    for single in (False, True)
]


def names(kind: str, single: bool) -> list[str]:
    return [field.name for field in options.of_cell(kind, single)]


@pytest.mark.parametrize(("kind", "single", "cls"), CLASSES)
def test_signature_and_docstring(kind: str, single: bool, cls: Any) -> None:
    parameters = inspect.signature(cls).parameters
    for field in options.of_cell(kind, single):
        assert parameters[field.name].default == field.metadata["default"]
        assert f"\n{field.name}: " in inspect.getdoc(cls)
    assert set(parameters) & set(options.TABLE) == set(names(kind, single))
    assert all(p.kind is not p.VAR_KEYWORD for p in parameters.values())


@pytest.mark.parametrize(("kind", "single", "cls"), CLASSES)
def test_types_for_type_checkers(kind: str, single: bool, cls: Any) -> None:
    """The TypedDicts have the keywords of the signature, and the table's annotations."""
    title = kind.capitalize() + ("Cell" if single else "")
    keywords = [p.name for p in inspect.signature(cls).parameters.values() if p.kind is p.KEYWORD_ONLY]
    typed = typing.get_type_hints(getattr(option_types, f"{title}Keywords"))
    assert set(typed) == set(keywords)
    of_torch = typing.get_type_hints(getattr(option_types, f"{title}Options"))
    assert set(of_torch) == set(keywords) & set(options.TABLE)
    for name in of_torch:
        assert eval(options.TABLE[name].metadata["annotation"], {"Any": Any}) == typed[name], name


@pytest.mark.parametrize(("kind", "single", "cls"), CLASSES)
def test_keywords_of_other_cells_are_refused(kind: str, single: bool, cls: Any) -> None:
    cls(4, 8, seed=1)
    for name in {*options.TABLE, "hidden"} - set(names(kind, single)):
        with pytest.raises(TypeError, match=f"{cls.__name__}.* unexpected keyword argument '{name}'"):
            cls(4, 8, **{name: 1})


@pytest.mark.parametrize("kind", KINDS)
def test_the_library_says_the_same(kind: str) -> None:
    """What a cell's header declares (csrc/cells) is what the table says."""
    cell = "rnn_tanh" if kind == "rnn" else kind
    ((count, own),) = ((count, own) for name, _, _, count, own in _core.cells() if name == cell)
    declared = [*own, *EVERY, *["activations"] * (count > 0)]
    takes_c = "zoneout of c" in declared
    declared = ["reset_after" if name == "reset_before" else name for name in declared if name != "zoneout of c"]
    assert sorted(declared) == sorted(names(kind, single=False))
    with contextlib.nullcontext() if takes_c else pytest.raises(ValueError, match="zoneout: "):
        options.parse(cell, 8, {"zoneout": (0.1, 0.2)})
    if count:
        with pytest.raises(ValueError, match=f"activations: expected {count} "):
            options.parse(cell, 8, {"activations": ["Tanh"] * (count + 1)})


def test_the_signature_of_a_users_class_is_its_own() -> None:
    class Mine(rk.GRU):
        def __init__(self, size: int) -> None:
            super().__init__(size, size, clip=2.0)

    assert list(inspect.signature(Mine).parameters) == ["size"] and Mine(3).clip == 2.0


def test_every_option_is_a_property_in_the_values_of_its_keyword() -> None:
    given = {"proj_size": 3, "peephole": True, "clip": 2.0, "zoneout": (0.1, 0.2)}
    layer = rk.LSTM(4, 8, **given)  # type: ignore[arg-type]
    for name, field in options.TABLE.items():
        assert getattr(layer, name) == given.get(name, field.metadata["default"]), name
