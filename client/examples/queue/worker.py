"""Squares numbers from the queue `numbers`, until none comes for a while: `python worker.py [SECONDS]`.

Several may run, on any node. One that is killed loses nothing: what it had in hand, another one gets.
"""

from __future__ import annotations

import sys

import ipcd_client
from ipcd_client.primitives.errors import TimedOut


def main() -> None:
    patience = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    with ipcd_client.queue("numbers", create=True, deliveries=3, dead_letters="numbers.dead") as numbers:
        while True:
            try:
                message = numbers.receive(timeout=patience, ack=False)
            except TimedOut:
                return
            try:
                # Acknowledged at the end; given back where that fails, and after three times to numbers.dead.
                with message:
                    print(int(message.data) ** 2, flush=True)
            except ValueError as error:
                print(f"try {message.deliveries}: {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
