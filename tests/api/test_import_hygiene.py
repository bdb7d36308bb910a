"""What ``import rnnkern`` brings in, what a missing framework says, and who may import whom inside the package."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rnnkern

FRAMEWORKS = ("torch", "jax", "flax", "tensorflow", "keras", "onnx", "onnxruntime", "openvino", "cupy", "mlx")
PACKAGE = Path(rnnkern.__file__).parent
# Inside the package, every module but these may be imported only from the right of its arrow:
#   framework modules, cli, train -> nn -> _engine, _arrays -> _core      (ARCHITECTURE.md)
MAY_IMPORT: dict[str, set[str]] = {
    "weights": {"_arrays"},
    "option_types": set(),
    "option_values": set(),
    "options": {"option_values"},
    "steps": {"options"},
    "_cuda_libs": set(),
    "_engine": {"_core", "_cuda_libs", "options"},
    "_arrays": {"_core", "_engine"},
    "nn": {"_core", "_engine", "_arrays", "option_types", "options", "weights"},
    "convert": {"_arrays", "nn", "structure", "weights"},
    "init": {"weights"},
    "decode": {"nn", "structure", "train"},
    "padding": {"_arrays"},
    "inspect": {"_core", "_engine", "nn"},
    "io": {"_arrays"},
}


def python(code: str) -> str:
    """Run in a fresh interpreter and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_brings_no_framework() -> None:
    loaded = python(
        "import sys, rnnkern, rnnkern.train; rnnkern.LSTM(3, 4); rnnkern.info(); "
        f"print([name for name in {FRAMEWORKS} if name in sys.modules])"
    )
    assert loaded == "[]"


def test_using_arrays_brings_no_framework() -> None:
    loaded = python(
        "import sys, numpy as np, rnnkern as rk; layer = rk.LSTM(3, 4)\n"
        "y, state, tape = layer.forward(np.zeros((2, 1, 3), np.float32)); layer.backward(tape, y)\n"
        f"print([name for name in {FRAMEWORKS} if name in sys.modules])"
    )
    assert loaded == "[]"


@pytest.mark.parametrize("use", ["rnnkern.{0}", "import rnnkern.{0}", "from rnnkern import {0}"])
@pytest.mark.parametrize("name", ["torch", "jax", "keras", "onnx"])
def test_a_missing_framework_says_what_to_install(name: str, use: str) -> None:
    said = python(
        f"import sys; sys.modules[{name!r}] = None\n"  # what an absent package looks like to the import system
        "import rnnkern\n"
        f"try:\n    {use.format(name)}\nexcept ImportError as error:\n    print(error)"
    )
    assert f"rnnkern.{name} needs" in said and re.search(f"pip install '?{name}", said)


def test_lazy_modules_and_unknown_names() -> None:
    assert python("import sys, rnnkern as rk; rk.torch.LSTM; rk.train.Adam; print('torch' in sys.modules)") == "True"
    with pytest.raises(AttributeError, match="module 'rnnkern' has no attribute 'tourch'"):
        _ = rnnkern.tourch
    assert {"LSTM", "torch", "train", "explain"} <= set(dir(rnnkern))
    for name in rnnkern.__all__:
        assert getattr(rnnkern, name) is not None


def imports(path: Path) -> set[str]:
    """Names imported at run time by a module: ``.name`` for those of this package (by first component)."""
    found: set[str] = set()
    package = ("rnnkern", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for inner in ast.walk(node):
                inner._typing_only = True  # type: ignore[attr-defined]
        if getattr(node, "_typing_only", False):
            continue
        if isinstance(node, ast.Import):
            found |= {_name(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {_name(f"{module}.{alias.name}") for alias in node.names}
    return found


def _name(module: str) -> str:
    parts = module.split(".")
    return f".{parts[1]}" if parts[0] == "rnnkern" and len(parts) > 1 else parts[0]


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def test_modules_import_only_what_lies_below_them() -> None:
    for name, allowed in MAY_IMPORT.items():
        files = sorted((PACKAGE / name).glob("*.py")) or [PACKAGE / f"{name}.py"]
        inside = {found[1:] for path in files for found in imports(path) if found.startswith(".")} - {name}
        assert inside <= allowed, f"{name} imports {sorted(inside - allowed)}"


def test_no_shipping_module_imports_the_judge() -> None:
    judge = set((PACKAGE / "reference").glob("*.py"))
    assert not [path for path in sources() if ".reference" in imports(path) and path not in judge]


def test_the_judge_knows_numpy_alone() -> None:
    """Nothing else of this library, and no other package."""
    judge = sorted((PACKAGE / "reference").glob("*.py"))
    found = {name for path in judge for name in imports(path)} - set(sys.stdlib_module_names)
    assert len(judge) > 1 and found == {".reference", "numpy"}


def test_frameworks_are_imported_only_in_their_own_module() -> None:
    """The benchmark's peers/ are the opponents, loaded by name when asked for; its modules.py, cells.py, models.py,
    int8.py and gpu/ are programs on torch, flax.py on Flax, keras.py on Keras, onnx_files.py on onnxruntime. A backend
    of Keras is another framework, and so is onnxruntime beside ONNX; flashrnn is a function of torch's tensors.
    """
    programs = (
        ("bench", "peers"),
        ("bench", "modules.py"),
        ("bench", "cells.py"),
        ("bench", "models.py"),
        ("bench", "flax.py"),
        ("bench", "keras.py"),
        ("bench", "onnx_files.py"),
        ("bench", "int8.py"),
        ("bench", "gpu"),
    )
    for path in sources():
        if path.relative_to(PACKAGE).parts[:2] in programs:
            continue
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        found = imports(path) & set(FRAMEWORKS)
        more = {"jax": ["flax"], "keras": ["torch", "jax"], "onnx": ["onnxruntime"], "flashrnn": ["torch"]}
        assert found <= {own, *more.get(own, [])}, f"{path.name} imports {sorted(found)}"
