"""The ``rnnkern`` command: info, demo's arguments, and what bad arguments and missing packages get."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import rnnkern as rk
from rnnkern.cli import app


def rnnkern(*args: str | Path) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "200"})


def test_the_commands_are_there():
    result = rnnkern("--help")
    assert result.exit_code == 0
    assert all(name in result.output for name in ("info", "bench", "demo"))


def test_info_lists_every_kernel_and_why_it_cannot_run():
    result = rnnkern("info")
    assert result.exit_code == 0
    assert rk.info()["version"] in result.output
    for kernel in rk.kernels():
        assert kernel.name in result.output
        first_words = " ".join(kernel.unavailable.split()[:2])  # a table may wrap the rest
        assert (first_words or "available") in result.output


def test_info_as_json_is_what_the_library_says():
    result = rnnkern("info", "--json")
    assert result.exit_code == 0
    facts = json.loads(result.output)
    assert [(k["name"], k["reason"]) for k in facts["kernels"]] == [(k.name, k.unavailable) for k in rk.kernels()]
    assert facts["threads"] == rk.get_num_threads() and facts["version"] == rk.info()["version"]


def test_demo_passes_its_arguments_to_a_program():
    """The programs themselves are tried in test_gallery.py."""
    done = subprocess.run([sys.executable, "-m", "rnnkern.cli", "demo", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "A character model" in done.stdout and "--prompt" in done.stdout
    done = subprocess.run([sys.executable, "-m", "rnnkern.cli", "demo", "11", "-h"], capture_output=True, text=True)
    assert done.returncode == 0 and "Streaming" in done.stdout and "--load" in done.stdout
    done = subprocess.run([sys.executable, "-m", "rnnkern.cli", "demo", "--rows"], capture_output=True, text=True)
    assert done.returncode == 2 and "unrecognized arguments: --rows" in done.stderr


def test_demo_refuses_an_unknown_program_by_name():
    result = rnnkern("demo", "99")
    assert result.exit_code == 2 and "expected a number of 01, 02," in result.stderr and "got '99'" in result.stderr


@pytest.mark.parametrize(("missing", "arguments"), [("typer", ["info"]), ("rich", ["demo"]), ("matplotlib", ["demo"])])
def test_a_missing_package_is_named_with_what_to_install(missing, arguments):
    program = f"import sys; sys.modules[{missing!r}] = None\nfrom rnnkern.cli import app; app({arguments!r})"
    if missing == "typer":
        program = program.replace(f"app({arguments!r})", "app()")  # what the entry point calls
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert missing in done.stderr and "pip install 'rnnkern[cli]'" in done.stderr and "Traceback" not in done.stderr
