"""The node daemon of ipcd. `ipcd run` starts it; `embedded` runs one inside this process."""

from ipcd.embed import Embedded, embedded

__all__ = ["Embedded", "embedded"]
