"""A node with other limits than its own: `limited.py NAME=NUMBER|JSON... -- PYTHON -m ipcd ARGUMENTS`, for tests that
reach them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from ipcd import limits


def limited(**values: Any) -> Sequence[str]:
    """The launcher of a node (Daemons.run) with these limits, by their names in ipcd/limits.py."""
    return (sys.executable, __file__, *(f"{name}={json.dumps(value)}" for name, value in values.items()), "--")


def main() -> None:
    end = sys.argv.index("--")
    for setting in sys.argv[1:end]:
        name, _, value = setting.partition("=")
        getattr(limits, name)  # there has to be one
        setattr(limits, name, json.loads(value))
    # As `python -m ipcd` does it.
    sys.argv = ["ipcd", *sys.argv[end + 4 :]]
    from ipcd.cli import main as run

    run()


if __name__ == "__main__":
    main()
