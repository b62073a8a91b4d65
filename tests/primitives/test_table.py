"""The table at the end of docs/primitives.md: each of its cells is tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest
from primitives import kernel, ours
from primitives.document import Cell, cells
from primitives.roads import Cluster

KERNEL: Final[dict[str, Callable[[], Any]]] = {
    "FIFO": kernel.Fifo,
    "System V queue": kernel.SystemVQueue,
    "POSIX queue": kernel.PosixQueue,
    "UNIX stream socket": kernel.UnixStream,
    "UNIX datagram socket": kernel.UnixDatagram,
}
OURS: Final[dict[str, Callable[[str], Any]]] = {
    "**pipe**": ours.Pipe,
    "**queue**": ours.Queue,
    "**signal**": ours.Signal,
    "**topic**": ours.Topic,
    "**value**": ours.Value,
}


def test_it_is_about_all_of_them() -> None:
    assert {cell.mechanism for cell in cells()} == {*KERNEL, *OURS}
    assert len(cells()) == 5 * len({*KERNEL, *OURS})


def _tried(mechanism: Any, cell: Cell) -> bool:
    found: bool = getattr(mechanism, cell.property.replace(" ", "_"))()
    return found


@pytest.mark.parametrize("cell", [cell for cell in cells() if cell.mechanism in KERNEL], ids=str)
def test_the_kernels_are_as_the_table_says(cell: Cell) -> None:
    assert _tried(KERNEL[cell.mechanism](), cell) is cell.said


@pytest.mark.parametrize("cell", [cell for cell in cells() if cell.mechanism in OURS], ids=str)
def test_ours_are_as_the_table_says(cell: Cell, cluster: Cluster) -> None:
    assert _tried(OURS[cell.mechanism](cluster.front.socket), cell) is cell.said
