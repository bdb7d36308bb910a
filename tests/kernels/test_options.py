"""Every kernel x dtype x combination of options (option_cases.py), forward and BPTT, against the judge."""

from __future__ import annotations

import pytest

from option_cases import CASES, Case, make_case
from option_runs import compare, plan_of, run
from problems import DTYPES
from runner import KERNELS

pytestmark = pytest.mark.whole

# One lane is slow: every third case.
_RUNS = [
    (k, case) for k in KERNELS for n, case in enumerate(CASES) if k != "cpu_scalar" or n % 3 == 0 or case["heads"] == 2
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kernel", "case"), _RUNS, ids=str)
def test_against_reference(kernel: str, case: Case, dtype: str) -> None:
    data = make_case(case, dtype)
    compare(case, dtype, run(case, data, plan_of(case, dtype, kernel), dtype))


def test_every_pair_of_options_stands_in_a_case() -> None:
    """Options that may stand together, the structure of a call included."""
    from option_cases import CELL_OPTIONS, allowed_together, values_of

    for cell in CELL_OPTIONS:
        values = values_of(cell)
        rows = [dict(case.row) for case in CASES if case.cell == cell]
        for a in values:
            for b in values:
                for one in values[a]:
                    for other in values[b]:
                        if a == b or "zoneout" in (a, b) or not allowed_together({a: one, b: other}):
                            continue
                        assert any(row[a] == one and row[b] == other for row in rows), (cell, a, one, b, other)
