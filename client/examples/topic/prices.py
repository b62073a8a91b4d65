"""Prices for whoever listens: `prices.py publish` on one machine, `prices.py listen [PATTERN]` on any."""

import sys

import ipcd_client


def publish() -> None:
    """The last price of each is kept for those who come later."""
    for subject, price in (("prices.eu.wheat", b"210"), ("prices.us.wheat", b"190"), ("prices.eu.wheat", b"212")):
        ipcd_client.topic(subject).publish(price, retain=True)


def listen(pattern: str) -> None:
    """First what is known, then what is new, until nothing comes for a second."""
    with ipcd_client.topic(pattern) as prices, prices.subscribe(policy="latest", replay=1) as messages:
        while True:
            try:
                message = messages.receive(wait=1.0)
            except TimeoutError:
                return
            print(f"{message.subject} {bytes(message.data).decode()}", flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["publish"]:
            publish()
        case ["listen", *pattern]:
            listen(*pattern or ["prices.>"])
        case _:
            sys.exit(__doc__)
