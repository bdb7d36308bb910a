"""``python -m rnnkern.cli``: the same as the ``rnnkern`` command."""

from . import app

app()
