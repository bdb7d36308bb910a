"""bench.model: the library's splits over 1 to 64 threads against the best of a finer model."""

from __future__ import annotations

from itertools import product

import pytest

from rnnkern import _core
from rnnkern.bench import model

RUNS = {name for name, unavailable in _core.kernels() if not unavailable}
pytestmark = pytest.mark.skipif(not RUNS & model.KERNELS.keys(), reason="the model knows AVX-512, AVX2 and NEON alone")


@pytest.fixture(scope="module")
def found() -> list[model.Row]:
    return list(model.table(model.CORES, list(product(model.CELLS, (16, *model.HIDDEN), model.BATCH))))


def test_no_choice_is_far_from_the_best(found: list[model.Row]) -> None:
    """The bounds lie above all caches and vectors that were tried: 1.34 and 1.05.

    By a barrier that costs the same for any number of threads, true shares left out and 24 threads never tried, the
    worst had been 2.4 and the mean 1.23. Beyond a group of 8 cores an EPYC's third level is three times as fast as
    the library assumes, and its lines take twice as long: there the mean alone is bounded.
    """
    for row in found:
        assert row.ratio < 1.4 or row.cores > row.layer.cpu.group, str(row)
    for server, cores in product(("EPYC", "Xeon"), model.CORES):
        these = [row for row in found if (row.layer.cpu.name, row.cores) == (server, cores)]
        assert model.mean_ratio(these) < 1.08, (server, cores)


def test_threads_are_used(found: list[model.Row]) -> None:
    """Large layers on all cores, by rows and by units; a small one on the caller alone."""
    splits = {(r.layer.cell, r.layer.hidden, r.layer.batch, r.cores): r.chosen for r in found if not r.layer.backward}
    assert splits["lstm", 1024, 1, 32] == model.Split(1, 32)
    assert splits["lstm", 128, 64, 64] == model.Split(64, 1)
    assert splits["rnn_tanh", 16, 1, 64] == model.Split(1, 1)


def test_more_cores_are_never_slower_at_best(found: list[model.Row]) -> None:
    for row in found:
        if row.cores < max(model.CORES):
            more = model.best(row.layer, 2 * row.cores, grid=True)
            assert model.step_us(row.layer, more) <= model.step_us(row.layer, row.best)


def test_tables(found: list[model.Row], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    threads = _core.get_num_threads()
    monkeypatch.setattr("sys.argv", ["model", "--cores", "1,4", "--hidden", "64", "--batch", "8", "--all"])
    model.main()
    assert _core.get_num_threads() == threads
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == model.kernel()
    rows = [line for line in lines if "ward |" in line]
    assert len(rows) == 2 * 3 * 2 * 2  # cores, cells, passes, servers
    assert all(len(row.split("|")) == len(model.HEAD.splitlines()[0].split("|")) for row in rows)
    assert lines[-1].startswith("| Xeon | 4 |")
