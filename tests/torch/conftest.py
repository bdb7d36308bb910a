"""Every test here but those of the threads themselves runs on torch's threads."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="module")
def _torch_threads(request: pytest.FixtureRequest) -> None:
    if request.path.stem != "test_threads":
        request.getfixturevalue("torch_threads")
