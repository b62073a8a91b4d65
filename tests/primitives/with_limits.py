"""Runs a module with other limits: `python with_limits.py NAME=VALUE... -- PYTHON -m MODULE ARGUMENTS...`."""

from __future__ import annotations

import runpy
import sys

from ipcd import limits


def main() -> None:
    end = sys.argv.index("--")
    for each in sys.argv[1:end]:
        name, _, value = each.partition("=")
        setattr(limits, name, type(getattr(limits, name))(value))
    _python, _m, module, *arguments = sys.argv[end + 1 :]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
