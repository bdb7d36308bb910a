"""README.md, CONTRIBUTING.md and docs/: code runs, commands exist, links lead somewhere, tables equal their records.

A page's Python blocks run in order, as one program, in an empty directory. A block that needs something special
follows a line ``<!-- not run: REASON -->``; it must still compile.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").exists())
DOCS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
PAGES = ["README.md", "CONTRIBUTING.md", *DOCS]
ALL = [*PAGES, "ARCHITECTURE.md", "CHANGELOG.md", "bench/NOTES.md"]

BLOCK = re.compile(r"^(?:<!-- not run: (?P<why>.+?) -->\n)?```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^```", re.M | re.S)


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, *languages: str) -> Iterator[tuple[str, str]]:
    """(code, why it is not run) of every block in these languages."""
    for match in BLOCK.finditer(text(page)):
        if match["language"] in languages:
            yield match["code"], match["why"] or ""


# --- code -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in PAGES if list(blocks(page, "python"))])
def test_python_blocks_run_in_order(page: str, tmp_path: Path) -> None:
    found = list(blocks(page, "python"))
    for code, _ in found:
        compile(code, page, "exec")
    for module in ("torch", "onnx", "jax", "flax", "optax"):
        used = any(re.search(rf"^\s*(import|from) .*\b{module}\b", code, re.M) for code, _ in found)
        if used and importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    program = "\n".join(code for code, why in found if not why)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr


def test_few_blocks_are_not_run() -> None:
    reasons = [why for page in PAGES for _, why in blocks(page, "python", "sh", "c", "cpp") if why]
    assert len(reasons) <= 6, reasons


# The names that the blocks of README.md and docs/c.md use without declaring them.
DECLARED = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "rnnkern/rnnkern.h"
enum { T = 6, B = 2, I = 3, H = 5 };
extern rnnk_problem problem;
extern rnnk_plan* plan;
extern rnnk_sizes sizes;
extern rnnk_weights weights;
extern rnnk_args args;
extern void* packed;
extern float x[], y[], w_ih[], w_hh[], b_ih[], b_hh[];
void block(void);
void block(void) {
"""


@pytest.mark.parametrize(("language", "compiler"), [("c", "cc -std=c11"), ("cpp", "c++ -std=c++20")])
def test_blocks_in_c_compile(language: str, compiler: str, tmp_path: Path) -> None:
    command, *flags = compiler.split()
    if shutil.which(command) is None:
        pytest.skip(f"{command} is not installed")
    for page in PAGES:
        for code, _ in blocks(page, language):
            file = tmp_path / f"block.{language}"
            file.write_text(code if "main(" in code else f"{DECLARED}{code}}}\n", encoding="utf-8")
            include = ROOT / "csrc" / "include"
            check = [command, *flags, "-Wall", "-Werror", "-fsyntax-only", f"-I{include}", file]
            done = subprocess.run(check, capture_output=True, text=True)
            assert done.returncode == 0, f"{page}:\n{code}\n{done.stderr}"


# --- commands ---------------------------------------------------------------------------------------------------------

# Programs that a reader brings along.
PROGRAMS = {"python3", "pip", "cmake", "cc", "c++", "git", "mkdocs", "torchrun", "cd", "export"}


def commands(page: str) -> Iterator[list[str]]:
    """Every command of the page's shell blocks, as words; ``a && b`` is two of them."""
    for code, _ in blocks(page, "sh"):
        for line in code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words:
                end = next((i for i, word in enumerate(words) if word in ("&&", "|", ";")), len(words))
                yield words[:end]
                words = words[end + 1 :]


@cache
def subcommands() -> dict[str, set[str]]:
    """Subcommand of ``rnnkern`` -> its options."""
    typer = pytest.importorskip("typer")
    from rnnkern.cli import app

    group = typer.main.get_command(app)
    return {
        name: {option for parameter in command.params for option in parameter.opts} | {"--help"}
        for name, command in group.commands.items()
    }


@pytest.mark.parametrize("page", [page for page in PAGES if list(blocks(page, "sh"))])
def test_commands_exist(page: str) -> None:
    for words in commands(page):
        while "=" in words[0]:  # VARIABLE=value before the command
            words = words[1:]
        program = words[0].removeprefix(".venv/bin/")
        if program == "rnnkern":
            if words[1].startswith("-"):
                assert words[1] == "--help", words
                continue
            options = {word.partition("=")[0] for word in words[2:] if word.startswith("--")}
            assert options <= subcommands()[words[1]], words
        elif program == "python" and words[1] == "-m" and words[2].startswith("bench"):
            assert (ROOT / words[2].replace(".", "/")).with_suffix(".py").is_file(), words
        elif program == "python":
            assert (ROOT / words[1]).is_file(), words
        elif "/" in program:
            # A script of the checkout, or a program that an earlier command of the page builds.
            assert (ROOT / program).is_file() or program.startswith("build/"), words
        else:
            known = PROGRAMS | {"pytest", "ruff", "mypy", "clang-format"}
            assert program in known, words


def test_the_two_commands_come_first_and_are_one_line_each() -> None:
    demo, tests = (code.strip() for code, _ in list(blocks("README.md", "sh"))[:2])
    assert "\n" not in demo and demo.endswith(".venv/bin/rnnkern demo")
    assert "\n" not in tests and tests.endswith(".venv/bin/pytest")
    # CI finds the line by this pattern, and must find this one.
    lines = [
        line for line in text("README.md").splitlines() if re.search(r"^python3 -m venv \.venv && .*/pytest$", line)
    ]
    assert lines == [tests]
    # The torch that is installed first is the one that the tests are pinned to, so nothing pulls another build.
    (pinned,) = re.findall(r"pip install (torch==[\d.]+) ", tests)
    assert f'"{pinned}"' in text("pyproject.toml")


def test_the_readme_is_short() -> None:
    assert len(text("README.md").splitlines()) <= 130


# --- links ------------------------------------------------------------------------------------------------------------


def prose(page: str) -> str:
    """The page without code."""
    without_blocks = re.sub(r"^```.*?^```", "", text(page), flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", lambda match: "x" * len(match[0]), without_blocks)


@cache
def anchors(page: str) -> set[str]:
    """The anchors of the page's headings, as GitHub and the site's slugify make them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.*?) *$", re.sub(r"^```.*?^```", "", text(page), flags=re.M | re.S), re.M):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found.add(slug)
    return found


@pytest.mark.parametrize("page", ALL)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent.joinpath(file).resolve() if file else ROOT / page
        assert path.is_file(), f"{page}: {target}"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path.relative_to(ROOT).as_posix()), f"{page}: {target}"


@pytest.mark.parametrize("page", DOCS)
def test_named_tests_exist(page: str) -> None:
    """`folder/test_file.py`, `folder/test_file.py::test_name`, or `test_name` of any file that the page names."""
    found: dict[str, str] = {}
    for name in re.findall(r"`((?:\w+/)*test_\w+\.py)", text(page)):
        path = ROOT / "tests" / name.removeprefix("tests/")
        found[name] = path.read_text(encoding="utf-8")
    for file, function in re.findall(r"`(?:((?:\w+/)*test_\w+\.py)::|\w::)?(test_\w+)`", text(page)):
        sources = [found[file]] if file else found.values()
        assert any(re.search(rf"^(def {function}\(|    {function},$)", source, re.M) for source in sources), (
            f"{page}: {function}"
        )


@pytest.mark.parametrize("page", DOCS)
def test_named_files_exist(page: str) -> None:
    named = re.findall(r"`((?:examples|bench|docs|csrc)/[\w/.\-]+)`", text(page))
    assert not [name for name in named if not (ROOT / name).exists()]


# --- the tables of the benchmark --------------------------------------------------------------------------------------


def test_tables_of_the_benchmark_equal_their_records() -> None:
    done = subprocess.run([sys.executable, "-m", "bench.page", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
