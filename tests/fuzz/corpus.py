"""The inputs that are kept, a directory for each target: they are replayed before anything else is tried."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from fuzz.registry import Target

DIRECTORY: Final = Path(__file__).parent / "corpus"
# Of one target: files, and bytes of one.
MOST: Final = 30
LARGEST: Final = 1024


def kept(target: Target, directory: Path = DIRECTORY) -> list[bytes]:
    """Those of a target."""
    return [path.read_bytes() for path in sorted((directory / target.name).glob("*"))]


def name_of(data: bytes) -> str:
    """What the file of an input is called."""
    return hashlib.sha256(data).hexdigest()[:16]


def keep(target: Target, found: Mapping[str, bytes], sort: Callable[[bytes], str], directory: Path) -> int:
    """Adds inputs, by their sort, each as small as it can be made: how many. There is a bound, of files and bytes."""
    place = directory / target.name
    place.mkdir(parents=True, exist_ok=True)
    present = kept(target, directory)
    known = {sort(data) for data in present}
    room = MOST - len(present)
    added = 0
    for wanted, data in found.items():
        if added == room:
            break
        small = shrunk(data, lambda candidate, wanted=wanted: sort(candidate) == wanted)  # type: ignore[misc]
        if wanted not in known and len(small) <= LARGEST:
            (place / name_of(small)).write_bytes(small)
            added += 1
    return added


def shrunk(data: bytes, still: Callable[[bytes], bool]) -> bytes:
    """The input without what is not needed for `still` to hold."""
    size = len(data) // 2
    while size:
        at = 0
        while at < len(data):
            without = data[:at] + data[at + size :]
            if still(without):
                data = without
            else:
                at += size
        size //= 2
    return data
