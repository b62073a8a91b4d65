"""The benchmarks: every way of calling side by side in one run. `python -m benchmarks --help`; `make bench`.

cli          the command
cluster      another: what it costs that every node knows every server; mesh: the nodes, in one process
plan         what is measured for how long: data
peers/       one module for each library, behind the contract of peers/base.py; which there are: peers/registry.py
server       the process of a peer's server
worker       the process of a peer's client: it makes the calls, and times them
crew         several of them behind one: processes that call at the same time
stage        starts and ends all of these; says what is not to be had, and why
measure/     one module for each group of measurements; they tell the workers when it is their turn
stats        samples, medians, ratios
figures      the figures to reach, and whether they are
report       the tables; plots: the plots; machine: what it was measured on
"""
