"""What a process offers to run, and what callers may change of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

from ipcd_client.primitives import naming
from ipcd_client.primitives.errors import BadRequest

KIND: Final = "command"
# Bytes of the arguments and of the environment that a caller adds, together.
ADDED_MOST: Final = 64 << 10
# Arguments that a caller may add, where some are allowed and it is not said how many.
ARGS: Final = 32
# Runs at once, and callers that wait for their turn.
MOST: Final = 16
WAITING: Final = 128
# Seconds between SIGTERM and SIGKILL, and for what a command has started and left behind.
GRACE: Final = 5.0


def program(command: Sequence[str]) -> tuple[str, ...]:
    """The program and its arguments, of an Offer.

    Raises:
        BadRequest: it is one text, or not all of it is text.
    """
    if isinstance(command, str | bytes) or not all(isinstance(part, str) for part in command):
        raise BadRequest("a command is a list of texts: there is no shell that would take one apart")
    return tuple(command)


@dataclass(frozen=True, slots=True)
class Offer:
    """A command. Nothing that a caller says gets near a shell.

    Args:
        name: what it is called.
        command: the program and the arguments that every run has.
        args: patterns (`*`, `?`, `[...]`, as of fnmatch, for the whole argument) of which each argument that a caller
            adds has to fit one. One that begins with "-" fits only a pattern that does: `*` allows no options.
        args_most: how many a caller may add; default: 32 where `args` allows any.
        env: what a caller may set of the environment: NAME, or NAME=PATTERN for its value.
        detach: a caller may ask that the run outlives it.
        most: runs at once.
        waiting: callers that wait for their turn; 0: none may.
        seconds: how long one may run; 0: as long as it wants.
        grace: seconds between SIGTERM and SIGKILL.
        cwd: the directory in which it runs; default: that of the offering process.

    Raises:
        BadRequest: something of it makes no sense.
    """

    name: str
    command: tuple[str, ...]
    args: tuple[str, ...] = ()
    args_most: int = -1
    env: tuple[str, ...] = ()
    detach: bool = False
    most: int = MOST
    waiting: int = WAITING
    seconds: float = 0.0
    grace: float = GRACE
    cwd: str | None = None
    _values: Mapping[str, str] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        if naming.parse(KIND, self.name)[1]:
            raise BadRequest(f"{self.name!r}: a command is offered on the node of this machine; its name is without @")
        if not self.command or not self.command[0]:
            raise BadRequest("a command has at least a program")
        if self.most < 1 or self.waiting < 0 or self.seconds < 0 or self.grace < 0:
            raise BadRequest("at least one run at a time, and no negative number of anything")
        if self.args_most < 0:
            object.__setattr__(self, "args_most", ARGS if self.args else 0)
        if self.args_most and not self.args:
            raise BadRequest("without a pattern of arguments none is allowed")
        values = {}
        for entry in self.env:
            name, _, pattern = entry.partition("=")
            if not name or "\0" in name:
                raise BadRequest(f"{entry!r} is no name of an environment variable")
            values[name] = pattern if "=" in entry else "*"
        object.__setattr__(self, "_values", values)

    def check(self, args: Iterable[str], env: Mapping[str, str], *, detach: bool) -> None:
        """Whether a caller may have it so.

        Raises:
            BadRequest: it may not, and what would be allowed.
        """
        args = list(args)
        size = sum(len(text.encode("utf-8", "replace")) + 1 for text in (*args, *env.keys(), *env.values()))
        if size > ADDED_MOST:
            raise BadRequest(f"arguments and environment have {size} bytes; at most {ADDED_MOST} are taken")
        if any("\0" in text for text in (*args, *env.keys(), *env.values())):
            raise BadRequest("an argument, or something of the environment, has a zero byte")
        if len(args) > self.args_most:
            allowed = f"at most {self.args_most} are" if self.args_most else "none is"
            raise BadRequest(f"{len(args)} arguments are given, and {allowed} allowed")
        for arg in args:
            if not any(_fits(arg, pattern) for pattern in self.args):
                raise BadRequest(f"the argument {arg!r} is not allowed: it has to fit {' or '.join(self.args)}")
        for name, value in env.items():
            allowed_value = self._values.get(name)
            if allowed_value is None or not fnmatchcase(value, allowed_value):
                raise BadRequest(f"{name}={value!r} is not allowed: {', '.join(self.env) or 'nothing'} may be set")
        if detach and not self.detach:
            raise BadRequest("it may not outlive its caller: it was not offered so")


def _fits(arg: str, pattern: str) -> bool:
    if arg.startswith("-") and not pattern.startswith("-"):
        return False
    return fnmatchcase(arg, pattern)
