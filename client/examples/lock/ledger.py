"""A ledger that one process at a time writes: `python ledger.py FILE AMOUNT`, on any machine that sees the file.

Each entry has the fencing token of the lock that was held for it. Who was stopped for so long that the lock has gone to
another is found out: by `Lost`, or at the latest by its token, which is lower than that of the last entry.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ipcd_client


def add(file: Path, amount: int) -> int:
    """Adds an entry; the new balance."""
    with ipcd_client.lock("ledger", wait=30) as held:
        lines = file.read_text().splitlines() if file.exists() else []
        last = json.loads(lines[-1]) if lines else {"balance": 0, "token": 0}
        if held.token < last["token"]:
            raise SystemExit("another one has written meanwhile")
        entry = {"balance": last["balance"] + amount, "token": held.token}
        held.check()
        file.write_text("\n".join([*lines, json.dumps(entry)]) + "\n")
        return int(entry["balance"])


if __name__ == "__main__":
    print(add(Path(sys.argv[1]), int(sys.argv[2])))
