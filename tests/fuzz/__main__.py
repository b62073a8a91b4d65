"""`python -m fuzz TARGET|all --seconds N | --inputs N`, from tests/: fuzzes, and says what came of it.

Each target has a process of its own. What a target must not be given is written to a file, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
from pathlib import Path

from fuzz import corpus, engines
from fuzz.every import TARGETS
from fuzz.registry import Target, run


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("target", nargs="+", choices=["all", *TARGETS], metavar="TARGET|all", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=float, help="how long, for each target")
    parser.add_argument("--inputs", type=int, help="how many, for each target")
    parser.add_argument("--engine", choices=["random", "atheris"], default="random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--crashes", type=Path, default=Path("crashes"), help="directory for inputs that were found")
    parser.add_argument(
        "--keep", action="store_true", help="add what was new to the corpus, as small as it can be made"
    )
    arguments = parser.parse_args()
    if arguments.seconds is None and arguments.inputs is None:
        parser.error("--seconds or --inputs has to be given")
    names = list(TARGETS) if "all" in arguments.target else arguments.target
    if len(names) == 1:
        return _fuzz(TARGETS[names[0]], arguments)
    options = [
        f"--{name}" if value is True else f"--{name}={value}"
        for name, value in vars(arguments).items()
        if name != "target" and value is not None and value is not False
    ]
    failed = 0
    for name in names:
        done = subprocess.run([sys.executable, "-m", "fuzz", name, *options], check=False)
        failed |= done.returncode
    return min(1, abs(failed))


def _fuzz(target: Target, arguments: argparse.Namespace) -> int:
    logging.disable()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    engine = engines.by_chance if arguments.engine == "random" else engines.guided
    result = engine(target, seconds=arguments.seconds, inputs=arguments.inputs, seed=arguments.seed)
    rate = result.inputs / result.seconds if result.seconds else 0.0
    crashes = 0 if result.crash is None else 1
    print(
        f"{target.name:20} {result.inputs:>9} inputs {rate:>8.0f}/s {len(result.new):>4} new "
        f"{crashes} crashes, RSS {result.rss[0]} -> {result.rss[1]} KiB"
    )
    if arguments.keep and result.crash is None:
        added = corpus.keep(target, result.new, lambda data: run(target, data, twice=False), corpus.DIRECTORY)
        print(f"{target.name:20} {added} added to the corpus")
    if result.crash is not None:
        arguments.crashes.mkdir(parents=True, exist_ok=True)
        path = arguments.crashes / f"{target.name}-{corpus.name_of(result.crash.data)}"
        path.write_bytes(result.crash.data)
        print(f"{result.crash}\n  written to {path}")
        if result.crash.__cause__ is not None:
            logging.disable(logging.NOTSET)
            import traceback

            traceback.print_exception(result.crash.__cause__)
    return crashes


if __name__ == "__main__":
    sys.exit(main())
