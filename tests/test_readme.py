"""README.md: its examples run as they stand, its files are there, and its commands are those that CI runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"), ids=["numpy", "torch"])
def test_examples_run_in_an_empty_directory(code: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert not done.stdout and not done.stderr and not list(tmp_path.iterdir())


def test_the_two_commands_come_first_and_are_one_line_each() -> None:
    demo, tests = (block.strip() for block in blocks("sh")[:2])
    assert "\n" not in demo and demo.endswith(".venv/bin/rnnkern demo")
    assert "\n" not in tests and tests.endswith(".venv/bin/pytest")
    # CI finds the line by this pattern, and must find this one.
    (pattern,) = re.findall(r"grep -m 1 -E '(.*)' README\.md", (ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    assert next(line for line in README.splitlines() if re.search(pattern, line)) == tests
    # The torch that is installed first is the one that the tests are pinned to, so nothing pulls another build.
    (pinned,) = re.findall(r"pip install (torch==[\d.]+) ", tests)
    assert f'"{pinned}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "document",
    [*("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"), *(f"docs/{p.name}" for p in DOCS)],
)
def test_links_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#\s]+)\)", text) if "://" not in target]
    assert not [target for target in targets if not (ROOT / document).parent.joinpath(target).exists()]


def test_features_of_torch_name_tests_that_are_there() -> None:
    """docs/torch.md: the last column, `file::test` or, after one of those, `test` of the same file."""
    rows = re.findall(r"^\|.*\|([^|]*)\|$", (ROOT / "docs" / "torch.md").read_text(encoding="utf-8"), re.MULTILINE)
    named = [name for row in rows[2:] for name in [None, *re.findall(r"`([^`]+)`", row)]]
    assert len([name for name in named if name]) > 25
    file = ""
    for name in named:
        if name is None:
            continue
        if name.endswith(".py") or "::" in name:
            file, _, name = name.partition("::")
        source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert not name or re.search(rf"^def {name}\(", source, re.MULTILINE), f"{file}::{name}"


@pytest.mark.parametrize("document", DOCS, ids=lambda p: p.name)
def test_documents_name_files_that_are_there(document: Path) -> None:
    """Every `tests/...` and `examples/...` in docs/."""
    named = re.findall(r"`((?:tests|examples|bench)/[\w/.]+)`", document.read_text(encoding="utf-8"))
    assert not [name for name in named if not (ROOT / name).exists()]
