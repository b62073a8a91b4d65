"""Runs a program as another user: `python as_user.py UID FILE ARGUMENTS...`, or `-m MODULE` instead of FILE; as root.

What it may need is imported before: the interpreter may be where others may not go. Exits with 77 where that does not
help.
"""

from __future__ import annotations

import codecs
import importlib
import os
import pkgutil
import runpy
import sys
import sysconfig

import ipcd_client

import ipcd.demo

NOT_HERE = 77


def main() -> None:
    uid, program, *arguments = sys.argv[1:]
    for encoding in ("ascii", "idna", "latin-1", "utf-8-sig"):
        codecs.lookup(encoding)
    sysconfig.get_config_vars()  # has a module of its own
    for package in (ipcd_client, ipcd.demo):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    os.setgroups([])
    os.setgid(int(uid))
    os.setuid(int(uid))
    # What a program looks for where it lies is not to be found by chance in root's folders.
    os.environ["HOME"] = "/nonexistent"
    if program == "-m":
        program, *arguments = arguments
        sys.argv = [program, *arguments]
        runpy.run_module(program, run_name="__main__", alter_sys=False)
    else:
        if not os.access(program, os.R_OK):
            sys.exit(NOT_HERE)
        sys.argv = [program, *arguments]
        runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main()
