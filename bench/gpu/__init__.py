"""Measuring on a GPU: what is to be run as soon as one is at hand, each command within its own budget of minutes.

    bench/gpu/once.sh prepare|call1|call2 [--dry]        (from a checkout; the GPU machine has nothing but torch)
    python -m bench.gpu.run bench|strategies|stacks|peers [--dry-run]        (with rnnkern installed)
    python -m bench.gpu.cudnn_baseline --budget 480 --json out.json        (needs torch only)

once.py        the two calls of once.sh, step by step; summary.py: the table that each prints last
prepared.py    what is carried to the GPU machine; linked.py: the package that is made of it there
check.py       the steps that ask whether everything is right; counters.py: ncu; failures.py: names of failing tests
dry.py         once.sh without a GPU
latencies.cu   exchanges, barriers and rates of the GPU itself: a program of its own, with the .cuh files beside it
points.py      cell x precision x H x B, most telling first; budgets of time
record.py      bench/results/<gpu>/<date>-<command>.json, written as it goes; what the GPU and its software are
jobs.py        other processes with a time limit: a hang or a crash costs one point, not the run
contenders.py  rnnkern.torch and torch.nn at one point: equal answers first, then times in alternating blocks
worker.py      the process in which a point is run
tables.py      the short tables printed last
"""
