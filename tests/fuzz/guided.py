"""The process in which atheris fuzzes one target: `python -m fuzz.guided TARGET`, then libFuzzer's own arguments."""

from __future__ import annotations

import sys

import atheris


def main() -> None:
    """Does not return: libFuzzer ends the process."""
    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["ipcd", "ipcd_client"]):
        from fuzz import engines, every
    from fuzz.registry import run

    target = every.TARGETS[name]

    def one(data: bytes) -> None:
        run(target, data, twice=False)

    sys.stderr.write(f"rss-begin: {engines.rss()}\n")
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
