"""The benchmark: problem strings x rnnkern's kernels x every peer that is installed. `rnnkern bench` runs it.

data.py     the arrays of a problem: the same ones for everybody
subject.py  rnnkern itself as a contender
peers/      one file per opponent
check.py    do the answers agree? whoever is wrong is not timed
driver.py   who takes part, then check and time every point
timing.py   alternating blocks, with a pause until the other libraries' threads are quiet
machine.py  what this machine is, and what it can do at most
report.py   ratios, shares of the limit, geometric means; the JSON document
table.py    the table on the terminal         plot.py  the picture
page.py     the tables of docs/benchmarks.md and README.md, from the records
gpu/        the commands that measure on a GPU
"""
