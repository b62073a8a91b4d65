#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["grpcio-tools==1.72.1"]
# ///
"""Generate the checked-in protobuf code, or with --check tell whether it is out of date.

    tox run -e protos -- --write      what `make protos` does
    tox run -e protos                 --check

The generator's version, pinned above, decides which runtimes can load the result. Code generated for protobuf N loads
on the runtimes N and N+1 and on nothing older than the generator; so the *oldest* generator of a major version gives
the widest range. 1.72.1 is the first that generates protobuf 6 code and has wheels for CPython 3.11 to 3.13. Raising it
raises the lower bounds of grpcio and protobuf in pyproject.toml and in the tox env `oldest`; this script refuses to run
with any other version, because its output would differ.
"""

from __future__ import annotations

import argparse
import difflib
import importlib.metadata
import importlib.resources
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Target:
    """One tree of .proto files and the package that its code goes to.

    protos: where import paths within the .proto files start, relative to the repository.
    tree:   the directory below `protos` that this target takes; it is also the first part of the protobuf package.
    source: the directory on sys.path that `package` is found in, relative to the repository.
    package: the Python package that wholly belongs to the generator; all else in it is removed.
    """

    protos: str
    tree: str
    source: str
    package: str

    @property
    def out(self) -> Path:
        return Path(self.source, *self.package.split("."))

    def files(self) -> list[str]:
        base = ROOT / self.protos
        return sorted(path.relative_to(base).as_posix() for path in (base / self.tree).rglob("*.proto"))


TARGETS = (
    Target("proto", "ipcd", "client", "ipcd_client.pb"),
    Target("proto", "lab", ".", "ipcd.demo.pb"),
    Target("client/examples/quickstart", "hello", "client/examples/quickstart", "generated"),
    Target("client/examples/helloworld", "helloworld", "client/examples/helloworld", "helloworld_pb"),
    Target("client/examples/routeguide", "routeguide", "client/examples/routeguide", "routeguide_pb"),
    Target("tests/conformance/proto", "interop", "tests", "conformance.pb"),
)


def pinned_version() -> str:
    """The one place of the pin is the script metadata at the top, from which tox installs it."""
    match = re.search(r'^# dependencies = \["grpcio-tools==([\d.]+)"\]$', Path(__file__).read_text(), re.MULTILINE)
    if match is None:
        raise SystemExit(f"{__file__}: no pinned grpcio-tools in the script metadata")
    return match[1]


def require_pinned_version() -> None:
    pinned = pinned_version()
    try:
        installed = importlib.metadata.version("grpcio-tools")
    except importlib.metadata.PackageNotFoundError:
        installed = "none"
    if installed != pinned:
        raise SystemExit(f"grpcio-tools {pinned} is needed, {installed} is installed: run `make protos`")


def rewrite_imports(text: str, packages: dict[str, str]) -> str:
    """Point the imports of generated modules at where those modules are.

    protoc derives the import from the .proto's path: ipcd/v1/node.proto becomes `from ipcd.v1 import node_pb2`, which
    is the daemon's package, not the SDK's.
    """

    def rewritten(match: re.Match[str]) -> str:
        directory, module = match["directory"], match["module"]
        package = packages.get(f"{directory.replace('.', '/')}/{module}.proto")
        return match[0] if package is None else f"from {package}.{directory} import {module}_pb2"

    return re.sub(r"^from (?P<directory>[\w.]+) import (?P<module>\w+)_pb2\b", rewritten, text, flags=re.MULTILINE)


def generate(target: Target, packages: dict[str, str]) -> dict[Path, str]:
    """What belongs below `target.out`: path relative to it, and text."""
    from grpc_tools import protoc  # absent where only --help is wanted, and the pin is checked before

    files = target.files()
    if not files:
        return {}
    with tempfile.TemporaryDirectory() as scratch:
        arguments = [
            "protoc",
            f"-I{ROOT / target.protos}",
            f"-I{importlib.resources.files('grpc_tools') / '_proto'}",  # google/protobuf/*.proto
            f"--python_out={scratch}",
            f"--pyi_out={scratch}",
            f"--grpc_python_out={scratch}",
            *files,
        ]
        if protoc.main(arguments) != 0:
            raise SystemExit(f"protoc failed for {target.protos}/{target.tree}")
        result = {Path("__init__.py"): ""}
        for path in sorted(Path(scratch).rglob("*.py*")):
            text = path.read_text()
            if path.name.endswith("_pb2_grpc.py") and "class " not in text:
                continue  # no service in that file: the module would only import grpc for nothing
            relative = path.relative_to(scratch)
            result[relative] = rewrite_imports(text, packages)
            for parent in relative.parents:
                result[parent / "__init__.py"] = ""
    return result


def present(target: Target) -> dict[Path, str]:
    base = ROOT / target.out
    return {
        path.relative_to(base): path.read_text()
        for path in base.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def write(target: Target, wanted: dict[Path, str]) -> int:
    """Make the package what it should be; returns how many files were touched."""
    base, found = ROOT / target.out, present(target)
    changed = {path: text for path, text in wanted.items() if found.get(path) != text}
    stale = found.keys() - wanted.keys()
    for path, text in changed.items():
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        (base / path).write_text(text)
    for path in stale:
        (base / path).unlink()
    return len(changed) + len(stale)


def differences(target: Target, wanted: dict[Path, str]) -> list[str]:
    found, lines = present(target), list[str]()
    for path in sorted(wanted.keys() | found.keys()):
        name = (target.out / path).as_posix()
        if path not in wanted:
            lines.append(f"{name}: no .proto gives this file")
        elif path not in found:
            lines.append(f"{name}: missing")
        elif found[path] != wanted[path]:
            lines += difflib.unified_diff(
                found[path].splitlines(), wanted[path].splitlines(), name, f"{name} (generated)", lineterm=""
            )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description="Generate the checked-in protobuf code.")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--write", action="store_true", help="write what is out of date (the default)")
    mode.add_argument("--check", action="store_true", help="write nothing; exit 1 and show what is out of date")
    options = parser.parse_args()
    require_pinned_version()

    packages = {file: target.package for target in TARGETS for file in target.files()}
    stale = list[str]()
    for target in TARGETS:
        wanted = generate(target, packages)
        if options.check:
            lines = differences(target, wanted)
            stale += lines
            outcome = "out of date" if lines else "up to date"
        else:
            outcome = f"{write(target, wanted)} written or removed"
        print(f"{target.out}: {len(wanted)} files from {len(target.files())} .proto, {outcome}")
    if stale:
        print(*stale, "run `make protos`", sep="\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
