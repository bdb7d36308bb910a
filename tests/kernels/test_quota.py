"""How many CPUs a container's quota pays for, read from files as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from native import CSRC, INCLUDES, run, tool


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quota") / "quota"
    main = Path(__file__).parent / "quota" / "main.cpp"
    run(tool("g++"), "-std=c++20", "-Wall", "-Wextra", *INCLUDES, main, CSRC / "core/os.cpp", "-pthread", "-o", path)
    return path


V1 = "cpu,cpuacct"
CASES = {
    "no groups": ("", {}, 0),
    "no limit": ("0::/\n", {"cpu.max": "max 100000\n"}, 0),
    "one and a half": ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
    "two": ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
    "a twentieth": ("0::/\n", {"cpu.max": "5000 100000\n"}, 1),
    "another period": ("0::/\n", {"cpu.max": "150000 50000\n"}, 3),
    "of a group": ("0::/a/b\n", {"a/b/cpu.max": "300000 100000\n"}, 3),
    "of a group above": ("0::/a/b\n", {"a/b/cpu.max": "900000 100000\n", "a/cpu.max": "400000 100000\n"}, 4),
    "in a container that sees its own group on top": ("0::/x/docker/y\n", {"cpu.max": "250000 100000\n"}, 3),
    "version 1": (
        f"12:memory:/a\n4:{V1}:/a\n",
        {f"{V1}/a/cpu.cfs_quota_us": "350000\n", f"{V1}/a/cpu.cfs_period_us": "100000\n"},
        4,
    ),
    "version 1, no limit": (
        f"4:{V1}:/\n",
        {f"{V1}/cpu.cfs_quota_us": "-1\n", f"{V1}/cpu.cfs_period_us": "100000\n"},
        0,
    ),
    "version 1 under its short name": (
        "4:cpuacct,cpu:/\n",
        {"cpu/cpu.cfs_quota_us": "120000\n", "cpu/cpu.cfs_period_us": "100000\n"},
        2,
    ),
    "another controller": ("5:cpuset:/\n", {"cpuset/cpu.cfs_quota_us": "1\n", "cpuset/cpu.cfs_period_us": "1\n"}, 0),
    "both versions": (
        f"4:{V1}:/\n0::/\n",
        {
            f"{V1}/cpu.cfs_quota_us": "500000\n",
            f"{V1}/cpu.cfs_period_us": "100000\n",
            "unified/cpu.max": "max 100000\n",
        },
        5,
    ),
    "nonsense": ("0::\n::\nhello\n0::/\n", {"cpu.max": "banana\n"}, 0),
    "a quota of 0": ("0::/\n", {"cpu.max": "0 100000\n"}, 0),
}


@pytest.mark.parametrize("name", CASES)
def test_quota(name: str, program: Path, tmp_path: Path) -> None:
    membership, files, cpus = CASES[name]
    (tmp_path / "membership").write_text(membership)
    for path, text in files.items():
        file = tmp_path / "mount" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert run(program, tmp_path / "membership", tmp_path / "mount").strip() == str(cpus)
