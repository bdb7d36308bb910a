"""Exact conversion of weights between PyTorch's layout and the layout of another system.

``layouts.py`` describes the arrays of each system as a table. A conversion cuts all arrays into blocks, one for each
parameter and gate: it reads the blocks by one table, settles the biases, and writes the blocks by the other table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .._arrays.host import as_numpy
from ..nn.parameters import check_bool, check_int
from ..weights.blocks import (
    Array,
    Blocks,
    Label,
    add_to_forget,
    check_placed,
    check_present,
    measure,
    read,
    settle_biases,
    write,
    zero_biases,
)
from ..weights.layouts import RESET_BEFORE, SYSTEMS, Row, System, rows

CELLS = ("rnn", "gru", "lstm")


def to_system(
    system: str,
    cell: str,
    state_dict: Mapping[str, Any],
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    reset_after: bool = True,
    forget_bias: float | None = None,
) -> list[Any]:
    """Convert a state dict with PyTorch's names and layout to the arrays of another system.

    system: "keras", "flax" (linen), "nnx", "onnx", "onednn", "cudnn", "tensorflow_block", "haste", "mlx", "madmom" or
        "lasagne".
    cell: "rnn", "gru" or "lstm".
    state_dict: ``weight_ih_l0`` [G*H, I], ``weight_hh_l0`` [G*H, P], ..., and ``weight_hr``, ``peephole`` [3, H],
        ``gamma_*``, ``beta_c``, ``h_0`` and ``c_0`` (of ``rk.InitialState``) if the system has them. All arrays have
        one dtype, and the result has the same.
    reset_after: True if the reset gate of a GRU comes after the recurrent product.
    forget_bias: the number that "tensorflow_block" adds to the forget gate at run time (None: its default, 1.0). The
        converted bias is smaller by this number.

    Returns a list of new arrays:
    keras: as ``get_weights()``: kernel, recurrent_kernel and, with biases, bias of layer 0, then of layer 0 reverse
        (``keras.layers.Bidirectional``), then of layer 1, ...
    onnx: a dict for each layer with W [D, G*H, I], R, B, P.
    onednn: a dict for each layer with weights_layer [1, D, I, G, H], weights_iter, weights_peephole,
        weights_projection, bias. Use one oneDNN primitive for each layer: a bidirectional primitive of several layers
        joins its directions only at the end, which is another network.
    other systems: a dict for each layer and direction, in the order l0, l0_reverse, l1, ... Flax's dicts are nested by
        submodule. cuDNN has ``{linLayerID: {"matrix": [H, I], "bias": [H]}}`` for each pseudo-layer. The caller
        reverses the sequence of a reverse cell.

    A system with one bias gets the sum of the two biases, rounded once in the dtype. A system whose bias is not
    optional gets zeros for a state dict without biases.

    Raises ValueError for an unknown system or cell, for names or shapes that do not fit, and for a parameter that the
    system cannot represent. Raises TypeError for a value that is no array and for dtypes that differ.
    """
    found, key = _find(system, cell, reset_after)
    added = _forget_bias(system, found, cell, forget_bias)
    suffixes = _suffixes(num_layers, bidirectional)
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict: expected a mapping of names to arrays, got {type(state_dict).__name__}")
    source, target = _torch_rows(system, key), rows(system, key)
    own = {suffix: [row.name for row in source if row.name + suffix in state_dict] for suffix in suffixes}
    unexpected = state_dict.keys() - {name + suffix for suffix in suffixes for name in own[suffix]}
    if unexpected:
        raise ValueError(
            f"state_dict: expected the names of {cell} with num_layers={num_layers}, bidirectional={bidirectional} "
            f"({', '.join(row.name for row in source)}; suffixes {', '.join(suffixes)}), got "
            f"{', '.join(map(repr, sorted(unexpected, key=str)))}"
        )
    labels = [_in_state_dict(suffix) for suffix in suffixes]
    units = [{name: state_dict[name + suffix] for name in own[suffix]} for suffix in suffixes]
    written = []
    for blocks, label in zip(_read(source, units, labels, num_layers, {"weight"}), labels, strict=True):
        if found.always_bias and not any(parameter == "bias_ih" for parameter, _ in blocks):
            zero_biases(blocks)
        settle_biases(blocks, target, reset_after)
        check_placed(blocks, target, label, system)
        add_to_forget(blocks, -added)
        written.append(write(target, blocks))
    return _join(found, written, num_layers)


def from_system(
    system: str,
    cell: str,
    arrays: Sequence[Any],
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    reset_after: bool = True,
    forget_bias: float | None = None,
) -> dict[str, Array]:
    """Convert the arrays of another system to a state dict with PyTorch's names, layout and order.

    This is the inverse of ``to_system``, and the other arguments and errors are the same.

    arrays: the list that ``to_system`` returns for the system, such as ``model.get_weights()`` of Keras or ``[params]``
        of one Flax cell. The arrays may be NumPy arrays or host arrays of any library with DLPack. The weights of
        Keras 1 and of CuDNNLSTM and CuDNNGRU are accepted, too, and so are layers of madmom in place of their arrays,
        with initial states only if they are not zero.

    If the system has one bias, it becomes ``bias_ih``, and ``bias_hh`` is zero except for the rows of n if the system
    has a bias for them. If the system has no biases, the state dict has none. The result is new arrays of the same
    dtype.
    """
    found, key = _find(system, cell, reset_after)
    added = _forget_bias(system, found, cell, forget_bias)
    suffixes = _suffixes(num_layers, bidirectional)
    if isinstance(arrays, (Mapping, np.ndarray)) or not isinstance(arrays, Sequence):
        raise TypeError(f"arrays: expected a list, as to_system({system!r}, ...) returns, got {type(arrays).__name__}")
    source, target = rows(system, key), _torch_rows(system, key)
    if found.modern is not None:
        arrays = found.modern(key, arrays, len(suffixes))
    units, labels = _split(found, source, arrays, num_layers, len(suffixes) // num_layers)
    needed = {"weight", "bias"} if found.always_bias else {"weight"}
    state_dict: dict[str, Array] = {}
    for suffix, blocks in zip(suffixes, _read(source, units, labels, num_layers, needed), strict=True):
        add_to_forget(blocks, added)
        for parameter, gate in list(blocks):
            if parameter == "bias_ih":
                blocks.setdefault(("bias_hh", gate), np.zeros_like(blocks[parameter, gate]))
        state_dict |= {name + suffix: array for name, array in write(target, blocks).items()}
    return state_dict


# --- arguments --------------------------------------------------------------


def _find(system: str, cell: str, reset_after: bool) -> tuple[System, str]:
    if system not in SYSTEMS:
        raise ValueError(f"system: expected one of {', '.join(SYSTEMS)}, got {system!r}")
    if cell not in CELLS:
        raise ValueError(f"cell: expected one of {', '.join(CELLS)}, got {cell!r}")
    after, found = check_bool("reset_after", reset_after), SYSTEMS[system]
    key = RESET_BEFORE if cell == "gru" and not after else cell
    if key not in found.cells:
        if cell == "gru" and {"gru", RESET_BEFORE} & found.cells.keys():
            raise ValueError(
                f"reset_after: in {system}'s GRU the reset gate comes {'before' if after else 'after'} the recurrent "
                f"product: expected {not after}, got {after}"
            )
        have = sorted({name.split()[0] for name in found.cells})
        raise ValueError(f"cell: {system} has {', '.join(have)}, got {cell!r}")
    return found, key


def _forget_bias(system: str, found: System, cell: str, value: float | None) -> float:
    default = found.forget_bias if cell == "lstm" else None
    if default is None and value is not None:
        raise ValueError(f"forget_bias: {system}'s {cell} adds none at run time: expected None, got {value!r}")
    return float(value if value is not None else default or 0.0)


def _suffixes(num_layers: int, bidirectional: bool) -> list[str]:
    directions = ("", "_reverse") if check_bool("bidirectional", bidirectional) else ("",)
    return [f"_l{k}{direction}" for k in range(check_int("num_layers", num_layers, 1)) for direction in directions]


def _torch_rows(system: str, key: str) -> tuple[Row, ...]:
    """PyTorch's rows of a network that this system can have: where R is a vector there (IndRNN), it is one here."""
    recurrent = [row for row in rows(system, key) if any(part.parameter == "weight_hh" for part in row.parts)]
    vector = not any("i" in axes for row in recurrent for axes in row.axes)
    plain = rows("torch", key)
    return tuple(row._replace(axes=("go",)) if vector and row.name == "weight_hh" else row for row in plain)


def _in_state_dict(suffix: str) -> Label:
    return lambda name: f"state_dict[{name + suffix!r}]"


def _in_list(index: int) -> Label:
    return lambda name: f"arrays[{index}][{name!r}]"


# --- networks ---------------------------------------------------------------


def _read(
    source: Sequence[Row],
    units: Sequence[Mapping[str, Any]],
    labels: Sequence[Label],
    num_layers: int,
    needed: set[str],
) -> list[Blocks]:
    """Every layer and direction as blocks, after all checks: names, one dtype, shapes, sizes that fit together."""
    directions = len(units) // num_layers
    taken = [
        {name: as_numpy(value, label(name)) for name, value in unit.items()}
        for unit, label in zip(units, labels, strict=True)
    ]
    for unit, label in zip(taken, labels, strict=True):
        check_present(source, set(unit), needed, label)
    first, name = labels[0](source[0].name), source[0].name
    for unit, label in zip(taken, labels, strict=True):
        for other, array in unit.items():
            if array.dtype != taken[0][name].dtype:
                raise TypeError(f"{label(other)}: expected {taken[0][name].dtype}, {first}'s dtype, got {array.dtype}")
    sizes = [measure(source, unit, label) for unit, label in zip(taken, labels, strict=True)]
    for index, (size, label) in enumerate(zip(sizes, labels, strict=True)):
        inputs = sizes[0].inputs if index < directions else directions * sizes[0].outputs
        wanted = sizes[0]._replace(inputs=inputs)
        if size != wanted:
            raise ValueError(f"{label(name)}: expected {wanted}, from {first}, got {size}")
    return [read(source, unit, size, label) for unit, size, label in zip(taken, sizes, labels, strict=True)]


def _join(found: System, units: list[dict[str, Array]], num_layers: int) -> list[Any]:
    """The arrays of every layer and direction as the system holds them."""
    if found.holds == "flat":
        return [array for unit in units for array in unit.values()]
    if found.holds == "cells":
        return [_nest(unit) for unit in units]
    directions = len(units) // num_layers
    layers = []
    for k in range(num_layers):
        own = units[k * directions : (k + 1) * directions]
        stacked = {name: np.stack([unit[name] for unit in own]) for name in own[0]}
        layers.append({name: np.expand_dims(a, tuple(range(found.leading_ones))) for name, a in stacked.items()})
    return layers


def _split(
    found: System, source: Sequence[Row], arrays: Sequence[Any], num_layers: int, directions: int
) -> tuple[list[dict[str, Any]], list[Label]]:
    """What a system holds -> name -> array of every layer and direction, and how errors name them."""
    count = num_layers * directions
    if found.holds == "flat":
        names = [row.name for row in source]
        if len(arrays) == count * (len(names) - 1):
            names = [row.name for row in source if row.group != "bias"]
        if len(arrays) != count * len(names):
            raise ValueError(
                f"arrays: expected {', '.join(row.name for row in source)} (the last may be absent) for each of "
                f"{count} layers and directions, got {len(arrays)} arrays"
            )
        units = [dict(zip(names, arrays[n * len(names) :], strict=False)) for n in range(count)]
        return units, [_in_flat(names, n * len(names)) for n in range(count)]
    mappings = count if found.holds == "cells" else num_layers
    if len(arrays) != mappings or not all(isinstance(own, Mapping) for own in arrays):
        got = ", ".join(sorted({type(own).__name__ for own in arrays}))
        raise ValueError(f"arrays: expected {mappings} mappings of names to arrays, got {len(arrays)} of {got}")
    flat = [_flatten(own) for own in arrays]
    known = [row.name for row in source]
    for n, own in enumerate(flat):
        unexpected = [name for name in own if name not in known]
        if unexpected:
            raise ValueError(f"arrays[{n}]: expected {', '.join(known)}, got {', '.join(unexpected)}")
    if found.holds == "cells":
        return flat, [_in_list(n) for n in range(count)]
    leading = (1,) * found.leading_ones + (directions,)
    units = []
    for n, own in enumerate(flat):
        taken = {name: as_numpy(value, f"arrays[{n}][{name!r}]") for name, value in own.items()}
        for name, array in taken.items():
            if array.shape[: len(leading)] != leading:
                raise ValueError(
                    f"arrays[{n}][{name!r}]: expected leading axes {list(leading)}, got {list(array.shape)}"
                )
        place = (0,) * found.leading_ones
        units += [{name: array[place][d] for name, array in taken.items()} for d in range(directions)]
    return units, [_in_list(n // directions) for n in range(count)]


def _in_flat(names: Sequence[str], start: int) -> Label:
    return lambda name: f"arrays[{start + names.index(name)}] ({name})" if name in names else f"arrays ({name})"


def _nest(arrays: Mapping[str, Array]) -> dict[Any, Any]:
    """{"ii/kernel": a} -> {"ii": {"kernel": a}}, {"0/bias": a} -> {0: {"bias": a}}."""
    nested: dict[Any, Any] = {}
    for name, array in arrays.items():
        *path, last = (int(key) if key.isdigit() else key for key in name.split("/"))
        inner = nested
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = array
    return nested


def _flatten(nested: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= _flatten(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
