"""`ipcd demo`: the run itself."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ipcd.demo.processes import StageError, ended_as_interrupted
from ipcd.demo.roads import Asked
from ipcd.demo.show import Checked, Outcome, Output, Show, compare
from ipcd.demo.stage import Client, Stage, interleave, set_up
from ipcd.demo.timing import Summary

SIZE = 64  # bytes of an echo's payload

# What `auto` picks is found out by asking; what comes out as a road before it is left out.
ROADS = (
    Asked(caller="a", transport="auto"),
    Asked(caller="a", transport="shm", optional=True),
    Asked(caller="a", transport="unix"),
    Asked(caller="b", transport="auto"),
)


@dataclass(frozen=True, slots=True)
class Effort:
    rounds: int
    seconds: float  # of measuring, over all rounds and clients


FULL = Effort(rounds=20, seconds=16.0)
QUICK = Effort(rounds=4, seconds=2.0)


def run(*, quick: bool = False, output: Output = "text") -> int:
    """Play the demo. The command's exit code: 0; 1, any result wrong or the run failed; 130, interrupted."""
    show = Show(output)
    began = time.monotonic()
    try:
        with ended_as_interrupted(), set_up(ROADS, show.line) as stage:
            for road, why in stage.left_out:
                show.line(f"left out: {road.transport}, because {why}")
            checked = _work(stage)
            for one in checked:
                show.checked(one)
            figures = _measure(stage, QUICK if quick else FULL, show)
    except StageError as error:
        show.failed(str(error))
        return 1
    except KeyboardInterrupt:
        show.failed("interrupted; what was started has been ended")
        return 130
    outcome = Outcome(stage, checked, figures, SIZE, time.monotonic() - began)
    show.outcome(outcome)
    return 0 if outcome.ok else 1


def _work(stage: Stage) -> list[Checked]:
    return compare({client.taken.transport: client.work() for client in stage.clients})


def _measure(stage: Stage, effort: Effort, show: Show) -> dict[str, Summary]:
    clients = stage.clients
    with show.progress((effort.rounds + 1) * len(clients)) as step:

        def after(client: Client, median: float) -> None:
            step(f"{client.taken.transport}: {median:.0f} us")

        turn = effort.seconds / (effort.rounds * len(clients))
        return interleave(clients, effort.rounds, turn, SIZE, after)
