"""Who may do what: rules of identities, verbs and names, and what they decide. Pure.

A deny wins over every allow, wherever the two stand; without an allow that fits, the answer is no. Two allows are there
from the start, and can be denied like any other:

- `same-uid`: the daemon's own user, and root, on every node, may do everything;
- `grpc-listen`: whoever comes over the node's plain gRPC port, which its operator has opened, may call everything, and
  use everything that has a name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from ipcd_client.access import identity as ids
from ipcd_client.access import patterns
from ipcd_client.access.patterns import ANY, Name, Who

Effect = Literal["allow", "deny"]
EFFECTS: Final[tuple[Effect, ...]] = ("allow", "deny")
ALLOW: Final = "allow"
DENY: Final = "deny"
REGISTER: Final = "register"
CALL: Final = "call"
PUBLISH: Final = "publish"
READ: Final = "read"
VERBS: Final = (REGISTER, CALL, PUBLISH, READ)
# What there is to do with what has a name.
OF_THINGS: Final = (REGISTER, PUBLISH, READ)
# The service of commands. Each is offered by a server of its own, whose name is the command's.
COMMAND: Final = "ipcd.v1.Command"
_COMMANDS: Final = "command:"
SAME_UID: Final = "same-uid"
GRPC_LISTEN: Final = "grpc-listen"
BUILT_IN: Final = (SAME_UID, GRPC_LISTEN)

# Identities for which it is remembered which rules are theirs.
_KNOWN: Final = 1024


def named(service: str, server: str) -> str:
    """What rules call a service as a server of that name has it: of commands it is command:NAME."""
    return f"{_COMMANDS}{server}" if service == COMMAND and server else service


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, checked (tables.py). `who` are patterns of identities, `may` verbs, `what` patterns of names. `name` is
    "rule N", by its place in the file, where it was given none."""

    name: str
    effect: Effect
    who: tuple[str, ...]
    may: tuple[str, ...]
    what: tuple[str, ...]

    def __str__(self) -> str:
        return self.name if self.name.startswith("rule ") else f"the rule {self.name}"


class Decision(NamedTuple):
    """Whether `identity` may do `verb` with `name` on `node`. `rule` decided; None: there was none that fits.
    `users`: those that the rule same-uid allows, in words. `why`: instead of what no rule allows."""

    allowed: bool
    rule: Rule | None
    identity: str
    verb: str
    name: str
    node: str
    users: str = ""
    why: str = ""

    @property
    def rule_name(self) -> str:
        """Empty where no rule decided."""
        return self.rule.name if self.rule is not None else ""

    def __str__(self) -> str:
        deed = f"{self.verb} {self.name or 'methods without a service'} on node {self.node}"
        if self.allowed:
            return f"{self.identity} may {deed}: {self.rule} allows it"
        if self.rule is not None:
            return (
                f"{self.identity} may not {deed}: {self.rule} denies it, and a deny wins over every allow; "
                f"only a change of the rules of node {self.node} would let it"
            )
        if self.why:
            return f"{self.identity} may not {deed}: {self.why}"
        path = self.identity.removeprefix(ids.SCHEME).partition("/")[2]
        help_ = f'effect = "allow", who = "{path}", may = "{self.verb}", what = "{self.name or ANY}"'
        return (
            f"{self.identity} may not {deed}: no rule allows it (the rule {SAME_UID} allows {self.users}); "
            f"this one of node {self.node} would: {help_}"
        )


class _Compiled:
    __slots__ = ("rule", "total", "what", "who")

    def __init__(self, rule: Rule, who: Sequence[Who] | None = None) -> None:
        self.rule = rule
        self.who = [patterns.who(each) for each in rule.who] if who is None else who
        self.what: list[Name] = [patterns.name(each) for each in rule.what]
        self.total = any(not each.strip(ANY) for each in rule.what)  # of all names

    def concerns(self, verb: str, name: str) -> bool:
        if verb in self.rule.may:
            for fits in self.what:
                if fits(name):
                    return True
        # What is said of the service is said of every command.
        return name.startswith(_COMMANDS) and self.concerns(verb, COMMAND)


class Rules:
    """The rules of one node, and the two that are always there. `uid`: the daemon's user.

    Raises:
        BadPattern: a rule was not checked before.
    """

    def __init__(self, rules: Iterable[Rule], cluster: str, node: str, uid: int) -> None:
        self.cluster = cluster
        self.node = node
        self.own = tuple(rules)
        self._uids = sorted({0, uid})
        self.users = " and ".join(f"uid {one}" for one in self._uids)
        same = Rule(SAME_UID, ALLOW, tuple(f"node/*/uid/{one}" for one in self._uids), VERBS, (ANY,))
        path = f"node/{node}/grpc"
        grpc = Rule(GRPC_LISTEN, ALLOW, (path,), VERBS, (ANY,))
        self.built_in = (same, grpc)
        # A node's name may have a * in it, which means nothing there.
        compiled = [_Compiled(rule) for rule in (*self.own, same)] + [_Compiled(grpc, [patterns.exactly(path)])]
        self._denies = [each for each in compiled if each.rule.effect == DENY]
        self._allows = [each for each in compiled if each.rule.effect == ALLOW]
        self._known: dict[str, tuple[list[_Compiled], list[_Compiled]]] = {}

    def decide(self, identity: str, verb: str, name: str) -> Decision:
        """Whether it may, and which rule says so: of several the first, those of the file before the built-in ones."""
        denies, allows = self._of(identity)
        for each in denies:
            if each.concerns(verb, name):
                return Decision(False, each.rule, identity, verb, name, self.node)
        for each in allows:
            if each.concerns(verb, name):
                return Decision(True, each.rule, identity, verb, name, self.node)
        return Decision(False, None, identity, verb, name, self.node, self.users)

    def differ_for(self, identity: str) -> bool:
        """Whether one name may be decided otherwise than another: a rule of the file is about it."""
        return any(each.rule not in self.built_in for rules in self._of(identity) for each in rules)

    def admits(self, identity: str) -> bool:
        """Whether there is anything that it may do, so that it is worth while to let it ask: a rule allows it something
        of some names, and none denies it the same of all."""
        denies, allows = self._of(identity)
        denied = {verb for each in denies if each.total for verb in each.rule.may}
        return any(not denied.issuperset(each.rule.may) for each in allows)

    def bar(self, identity: str) -> Rule | None:
        """Of somebody who is not admitted: a rule that denies what another allows; None where none allows anything."""
        denies, allows = self._of(identity)
        return next((each.rule for each in denies if allows and each.total), None)

    @property
    def admits_others(self) -> bool:
        """Whether processes of this node come in question that are neither root's nor the daemon's user's."""
        return any(self.admits(ids.of_uid(self.cluster, self.node, uid)) for uid in self._others())

    def _others(self) -> Iterable[int]:
        """Users that the rules may mean: for each pattern one that its last segment fits."""
        for each in self._allows:
            for pattern in each.rule.who:
                last = pattern.rpartition("/")[2]
                # Three, so that one of them is neither root nor the daemon's user.
                for text in (last.replace(patterns.ANY_SEGMENTS, ANY).replace(ANY, digit) for digit in ("", *"123")):
                    if ids.is_uid(text) and int(text) not in self._uids:
                        yield int(text)

    def _of(self, identity: str) -> tuple[list[_Compiled], list[_Compiled]]:
        """The rules that are about an identity."""
        known = self._known.get(identity)
        if known is None:
            segments = patterns.cut(identity)
            denies, allows = (
                [each for each in rules if any(fits(segments) for fits in each.who)]
                for rules in (self._denies, self._allows)
            )
            if len(self._known) >= _KNOWN:
                self._known.clear()
            known = self._known[identity] = (denies, allows)
        return known
