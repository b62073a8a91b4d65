"""One module for each group of measurements: `measure(stage, effort, step)` gives the readings of one run.

`step` is told after each turn what it gave. Peers take turns, each round begun by another, so that whatever drifts
(clock rate, other load) hits all alike; only one of them is called at a time.
"""
