"""rnnkern.keras on each backend of Keras, in processes of their own: our cases, and Keras's tests on the kernels."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("keras") is None:
    pytest.skip("keras is not installed", allow_module_level=True)

SUPPORT = Path(__file__).parents[1] / "support"
KERAS = Path(str(importlib.util.find_spec("keras").origin)).parent  # type: ignore[union-attr]
NAMES = ("lstm", "gru", "simple_rnn", "bidirectional", "rnn", "stacked_rnn_cells", "time_distributed")
BACKENDS = ["torch", pytest.param("jax", marks=pytest.mark.builds), "numpy"]  # XLA compiles for a minute


def pytest_of(backend: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider", "--noconftest"]
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONWARNINGS": "ignore"}
    environment["PYTHONPATH"] = os.pathsep.join([str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [*command, *map(str, arguments)], env=environment, capture_output=True, text=True, cwd=SUPPORT
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_our_cases(backend: str) -> None:
    done = pytest_of(backend, "-W", "error::DeprecationWarning:rnnkern", SUPPORT / "keras_cases.py")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def failures(said: str) -> set[str]:
    return set(re.findall(r"^FAILED \S*?(\w+_test\.py::\S+)", said, re.MULTILINE))


@pytest.mark.parametrize("backend", BACKENDS)
def test_keras_s_own_tests_pass_as_with_its_own_loop(backend: str) -> None:
    tests = [KERAS / "src/layers/rnn" / f"{name}_test.py" for name in NAMES]
    ours = pytest_of(backend, "-p", "keras_plugin", *tests)
    counts = re.search(r"calls: \{'kernels': (\d+)", ours.stdout)
    assert counts and int(counts[1]) > 80, ours.stdout[-2000:] + ours.stderr[-1000:]
    if ours.returncode:  # what fails with Keras's own loop, too, is not ours
        assert not failures(ours.stdout) - failures(pytest_of(backend, *tests).stdout), ours.stdout[-3000:]


def test_tensorflow_is_refused_by_name() -> None:
    program = "import types, sys\nkeras = types.ModuleType('keras')\nkeras.__version__ = '3.1'\n"
    program += "keras.config = types.SimpleNamespace(backend=lambda: 'tensorflow')\nsys.modules['keras'] = keras\n"
    program += "import rnnkern.keras"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "expected the backend torch, jax or numpy, got tensorflow" in done.stderr
