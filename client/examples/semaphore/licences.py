"""Three licences for a whole cluster: run it as often as you like, on any of its machines.

python licences.py [SECONDS]
"""

from __future__ import annotations

import os
import sys
import time

import ipcd_client
from ipcd_client.primitives.errors import Lost, TimedOut


def main(seconds: float = 1.0) -> int:
    with ipcd_client.semaphore("licences", 3) as licences:
        try:
            hold = licences.hold(wait=10)
        except TimedOut as error:
            print(f"no licence: {error}")
            return 1
        try:
            with hold:
                # Whoever keeps the licences can refuse those who come with a smaller token than it has seen.
                print(f"process {os.getpid()} has a licence, {licences.get_value()} left", flush=True)
                time.sleep(seconds)
        except Lost as error:
            print(f"the licence was lost meanwhile: {error}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(float, sys.argv[1:])))
