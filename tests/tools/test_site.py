"""The site of the documentation builds without a warning, documents every public name, and needs no other host."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").exists())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for module in ("material", "mkdocstrings"):
        pytest.importorskip(module, reason=f"{module} is not installed: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def public(module: str) -> list[str]:
    """``__all__`` of a package, read without importing it."""
    tree = ast.parse((ROOT / "python" / module.replace(".", "/") / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            return list(ast.literal_eval(node.value))
    raise AssertionError(f"{module} has no __all__")


@pytest.mark.parametrize(
    "module",
    ["rnnkern", "rnnkern.torch", "rnnkern.jax", "rnnkern.keras", "rnnkern.train", "rnnkern.structure", "rnnkern.onnx"],
)
def test_every_public_name_is_documented(site: Path, module: str) -> None:
    inventory = (site / "objects.inv").read_bytes()
    _, _, compressed = inventory.partition(b"zlib.\n")
    names = [line.split()[0] for line in zlib.decompress(compressed).decode().splitlines()]
    documented = {name.rpartition(".")[2] for name in names if name.startswith(f"{module}.")}
    assert not set(public(module)) - documented


def test_pages_load_nothing_from_another_host(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(r"<(?:link|script|img)[^>]*(?:href|src)=\"?(https?://[^\">\s]+)", page.read_text())
        assert not loaded, (page.name, loaded)
