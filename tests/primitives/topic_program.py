"""A publisher or subscriber that tests kill: `topic_program.py pub|sub SOCKET NAME [POLICY [GROUP]]`."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import ipcd_client


def main() -> None:
    what, socket, name, *rest = sys.argv[1:]
    topic = ipcd_client.topic(name, node=socket)
    if what == "pub":
        for number in itertools.count():
            topic.publish(b"%d" % number)
            print(number, flush=True)
    policy: Any = rest[0]
    subscription = topic.subscribe(policy=policy, group="".join(rest[1:]), most=1, prefetch=1)
    print("listens", flush=True)
    sys.stdin.read()
    subscription.close()


if __name__ == "__main__":
    main()
