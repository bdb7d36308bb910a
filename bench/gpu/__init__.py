"""Measuring on a GPU: what is to be run as soon as one is at hand, each command within its own budget of minutes.

    python -m bench.gpu.run check|bench|peers [--dry-run]        (from a checkout)
    python -m bench.gpu.cudnn_baseline --budget 480 --json out.json        (needs torch only)

latencies.cu   exchanges, barriers and rates of the GPU itself: a program of its own, with the .cuh files beside it
points.py      cell x precision x H x B, most telling first; budgets of time
record.py      bench/results/<gpu>/<date>-<command>.json, written as it goes; what the GPU and its software are
jobs.py        other processes with a time limit: a hang or a crash costs one point, not the run
contenders.py  rnnkern.torch and torch.nn at one point: equal answers first, then times in alternating blocks
worker.py      the process in which a point is run
tables.py      the short tables printed last
"""
