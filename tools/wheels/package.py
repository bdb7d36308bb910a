"""Puts a module and the package's Python files into a wheel, with the metadata of pyproject.toml."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from build import ROOT
from wheel.wheelfile import WheelFile

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def write_wheel(module: Path, python: str, platform: str, folder: Path, *, name: str = "rnnkern") -> Path:
    """Writes the wheel of `module` for Python `python` ("3.12") into `folder`."""
    settings = project()
    version = settings["project"]["version"]
    tag = f"cp{python.replace('.', '')}"
    stem = f"{name.replace('-', '_')}-{version}"
    path = folder / f"{stem}-{tag}-{tag}-{platform}.whl"
    folder.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with WheelFile(path, "w") as wheel:
        for arcname, source in package_files(settings["tool"]["scikit-build"]["wheel"]):
            wheel.write(source, arcname)
        wheel.write(module, f"rnnkern/{module.name}")
        for arcname, text in _metadata(name):
            wheel.writestr(f"{stem}.dist-info/{arcname}", text)
        tags = [f"Tag: {tag}-{tag}-{one}" for one in platform.split(".")]
        lines = ["Wheel-Version: 1.0", "Generator: rnnkern tools/wheels", "Root-Is-Purelib: false", *tags]
        wheel.writestr(f"{stem}.dist-info/WHEEL", "\n".join(lines) + "\n")
    return path


def package_files(settings: dict[str, object]) -> Iterator[tuple[str, Path]]:
    """(name in the wheel, file) of every file that pyproject.toml's wheel.packages names and git knows."""
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], check=True, capture_output=True, text=True)
    files = [Path(name) for name in listed.stdout.split("\0") if name and not (ROOT / name).is_symlink()]
    for into, source in settings["packages"].items():
        for file in files:
            if not file.is_relative_to(source):
                continue
            arcname = f"{into}/{file.relative_to(source).as_posix()}"
            if not any(fnmatch.fnmatch(arcname, pattern) for pattern in settings["exclude"]):
                yield arcname, ROOT / file


def _metadata(name: str) -> Iterator[tuple[str, str]]:
    """Files of the .dist-info folder, but for WHEEL and RECORD."""
    with tempfile.TemporaryDirectory() as scratch:
        code = (
            "import sys, scikit_build_core.build as b; "
            "b.prepare_metadata_for_build_wheel(sys.argv[1], {'cmake.define.RNNKERN_CUDA': 'OFF'})"
        )
        subprocess.run([sys.executable, "-c", code, scratch], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        (info,) = Path(scratch).glob("*.dist-info")
        for file in sorted(info.rglob("*")):
            arcname = file.relative_to(info).as_posix()
            if file.is_file() and arcname not in ("WHEEL", "RECORD"):
                text = file.read_text()
                if arcname == "METADATA":
                    text = re.sub(r"^Name: .*$", f"Name: {name}", text, count=1, flags=re.M)
                yield arcname, text
