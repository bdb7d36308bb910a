"""The host SIMT executor (tests/cuda/simt), which runs CUDA kernels as fibers where there is no GPU.

A program of its own (simt/selftest) has two kinds of cases: kernels without a fault, right in twenty orders of
their threads, and kernels with a fault planted in them, which the executor must show or report.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from native import EXECUTOR, INCLUDES, ROOT, WATCHED, once, run, tool

pytestmark = pytest.mark.executor

SIMT = ROOT / "tests/cuda/simt"
_TABLES = [(SIMT / f"selftest/{kind}.cpp").read_text() for kind in ("right", "planted", "reported")]
CASES = [case for table in _TABLES for case in re.findall(r"CASE\((\w+)\)", table)]


@pytest.fixture(scope="session")
def selftest() -> Path:
    def make(folder: Path) -> None:
        compiler = (tool("g++"), "-std=c++20", "-O1", "-pthread", "-DRNNK_SIMT",
                    *INCLUDES, "-I", ROOT, "-I", ROOT / "tests/cuda")  # fmt: skip
        objects = []
        for source in sorted((SIMT / "selftest").glob("*.cpp")):
            objects.append(folder / f"{source.stem}.o")
            run(*compiler, *WATCHED, "-c", source, "-o", objects[-1])
        # The executor first: of templates that both have, its instances, which are not watched, are linked.
        run(*compiler, *EXECUTOR, *objects, "-o", folder / "selftest")

    return once("executor", make, ROOT / "cuda", SIMT) / "selftest"


def test_cases_are_the_programs(selftest: Path) -> None:
    assert run(selftest).split() == CASES


@pytest.mark.parametrize("case", CASES)
def test_case(selftest: Path, case: str) -> None:
    run(selftest, case)


EXCHANGE = """
#include "cuda/exchange.cuh"
using namespace rnnk;
struct Params { uint32_t* words; uint64_t* pairs; gpu::Quad* quads; };
__global__ void kernel(Params p) {
  auto* barrier = reinterpret_cast<uint64_t*>(gpu::shared());
  auto* quad = reinterpret_cast<gpu::Quad*>(gpu::shared() + 128);
  gpu::mbarrier_init(barrier, 1);
  gpu::cluster_arrive_release();
  gpu::cluster_wait_acquire();
  const int peer = (gpu::cluster_rank() + 1) % gpu::cluster_size();
  gpu::mbarrier_expect(barrier, 20);
  gpu::store_async(gpu::map_shared(quad, peer), gpu::load_relaxed(p.quads), gpu::map_shared(barrier, peer));
  gpu::store_async(gpu::map_shared(quad, peer)[1].word, gpu::load_relaxed(p.words), gpu::map_shared(barrier, peer));
  while (!gpu::mbarrier_try_wait(barrier, 0)) gpu::poll_pause();
  gpu::store_relaxed(p.quads, *quad);
  gpu::store_relaxed(p.pairs, gpu::load_relaxed(p.pairs + 1) + gpu::global_timer());
  gpu::store_relaxed(p.words, gpu::load_acquire(p.words + 1));
  gpu::publish(p.quads + 1, quad[1]);
  gpu::store_release(p.words + 2, 1u);
}
"""


def test_relaxed_accesses_are_words() -> None:
    """Relaxed accesses of 8 and 16 bytes are made of elements of 4, as the executor has them when it looks for those
    that overlap in part."""
    text = (ROOT / "cuda/exchange.cuh").read_text()
    kinds = re.findall(r"(?:ld|st)\.relaxed\.gpu\.global([\w.]*)", text)
    assert sorted(kinds) == sorted(2 * [".b32", ".v2.b32", ".v4.b32"])


@pytest.mark.nvcc
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_exchange_is_ptx(arch: str, tmp_path: Path) -> None:
    """Every function of cuda/exchange.cuh is assembled, those of sm_90 there."""
    source = tmp_path / "exchange.cu"
    source.write_text(EXCHANGE)
    run(tool("nvcc"), "-std=c++20", f"-arch={arch}", *INCLUDES, "-I", ROOT, "-cubin", source, "-o", tmp_path / "cubin")
