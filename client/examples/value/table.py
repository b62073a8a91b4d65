"""A table of numbers that one program writes and any number of others read, without a copy where they share a machine:

table.py write 1000000        # and again, for the readers to see
table.py read
"""

from __future__ import annotations

import sys
from array import array

import ipcd_client


def main(deed: str, count: str = "1000000") -> None:
    with ipcd_client.value("table") as table:
        if deed == "write":
            print("version", table.set(array("q", range(int(count)))))
            return
        for found in table.watch():
            # With NumPy: numpy.frombuffer(found.data, dtype="<i8"), which copies nothing either.
            numbers = found.data.cast("q")
            print(f"version {found.version}: {len(numbers)} numbers, sum {sum(numbers)}", flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        pass
