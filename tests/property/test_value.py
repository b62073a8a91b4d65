"""The values of a node beside a plain model: the same answers, whatever is done in whatever order."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ipcd_client.primitives.errors import BadRequest, Lost

from ipcd import limits
from ipcd.state.value import LEAST, MOST, Values

NAMES = ("a", "b", "c", "d")
HOLDS = 3


@dataclass(eq=False)
class Content:
    """Counts as kept until it is given back."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)


class Model(NamedTuple):
    """A value, as it should be."""

    data: bytes
    version: int
    expires: float | None
    holder: int


@dataclass
class Ended:
    """What is remembered of those that ended, the oldest first."""

    most: int
    versions: dict[str, int] = field(default_factory=dict)
    floor: int = 0

    def put(self, name: str, version: int) -> None:
        self.versions.pop(name, None)
        self.versions[name] = version
        if len(self.versions) > self.most:
            oldest = next(iter(self.versions))
            self.floor = max(self.floor, self.versions.pop(oldest))

    def next(self, name: str) -> int:
        return self.versions.pop(name, self.floor) + 1


datas = st.one_of(
    st.binary(max_size=8),
    st.integers(LEAST - 2, MOST + 2).map(lambda number: b"%d" % number),
    st.integers(-9, 9).map(lambda number: b"%d" % number),
)
ttls = st.one_of(st.just(0.0), st.integers(1, 5).map(float))
names = st.sampled_from(NAMES)
versions = st.one_of(st.none(), st.integers(0, 6))


class Machine(RuleBasedStateMachine):
    @initialize(ended=st.integers(0, 3), most=st.integers(1, 4), before=st.integers(0, 2))
    def begin(self, ended: int, most: int, before: int) -> None:
        self.most = most
        self.values: Values[Content] = Values(names=most, ended=ended, holds=HOLDS, before=before)
        self.model: dict[str, Model] = {}
        self.ended = Ended(ended, floor=before)
        self.before = before
        self.holds: dict[int, str] = {}
        self.over: list[int] = []
        self.kept: set[Content] = set()
        self.seen: dict[str, int] = {}
        self.now = 100.0

    # -- what the model does ----------------------------------------------------------------------

    def put(self, name: str, data: bytes, expires: float | None, holder: int) -> int:
        before = self.model.get(name)
        version = before.version + 1 if before else self.ended.next(name)
        # Also over its end: nobody takes a value made again for what was before.
        assert version > self.seen.get(name, self.before)
        self.seen[name] = version
        self.model[name] = Model(data, version, expires, holder)
        return version

    def end(self, name: str) -> None:
        self.ended.put(name, self.model.pop(name).version)

    def dropped(self, content: Content | None) -> None:
        if content is not None:
            self.kept.remove(content)

    def full(self, name: str) -> bool:
        return name not in self.model and len(self.model) == self.most

    # -- verbs ------------------------------------------------------------------------------------

    @rule(name=names, data=datas, ttl=ttls, expected=versions, holder=st.integers(0, 8))
    def set(self, name: str, data: bytes, ttl: float, expected: int | None, holder: int) -> None:
        content = Content(data)

        def act() -> None:
            self.changed = self.values.set(name, content, self.now, expected=expected, ttl=ttl, holder=holder)

        now = self.model[name].version if name in self.model else 0
        if holder and self.holds.get(holder) != name:
            with pytest.raises(Lost):
                act()
        elif expected is not None and expected != now:
            act()
            assert self.changed.refused
            assert self.changed.version == now
            assert self.changed.old is None
        elif self.full(name):
            with pytest.raises(limits.LimitReached):
                act()
        else:
            act()
            assert not self.changed.refused
            self.kept.add(content)
            self.dropped(self.changed.old)
            assert self.changed.version == self.put(name, data, self.now + ttl if ttl else None, holder)

    @rule(name=names, ttl=st.sampled_from([-1.0, float("nan"), float("inf"), 1e10]))
    def set_wrongly(self, name: str, ttl: float) -> None:
        with pytest.raises(BadRequest):
            self.values.set(name, Content(b""), self.now, ttl=ttl)

    @rule(name=names, amount=st.one_of(st.integers(-9, 9), st.integers(LEAST, MOST)))
    def add(self, name: str, amount: int) -> None:
        before = self.model.get(name)
        made: list[Content] = []

        def make(data: bytes) -> Content:
            made.append(Content(data))
            return made[0]

        text = before.data if before is not None else b"0"
        number = int(text) if re.fullmatch(rb"\s*[-+]?[0-9]{1,19}\s*", text) else MOST + 1
        fits = LEAST <= number <= MOST and LEAST <= number + amount <= MOST
        if not fits:
            with pytest.raises(BadRequest):
                self.values.add(name, amount, make)
            assert not made
        elif self.full(name):
            with pytest.raises(limits.LimitReached):
                self.values.add(name, amount, make)
            assert not made
        else:
            total, changed = self.values.add(name, amount, make)
            assert total == number + amount
            self.kept.update(made)
            self.dropped(changed.old)
            expires, holder = (before.expires, before.holder) if before is not None else (None, 0)
            assert changed.version == self.put(name, b"%d" % total, expires, holder)

    @rule(name=names, expected=versions)
    def delete(self, name: str, expected: int | None) -> None:
        changed = self.values.delete(name, expected)
        before = self.model.get(name)
        self.dropped(changed.old)
        if before is None or (expected is not None and expected != before.version):
            assert changed.refused
            assert changed.version == (before.version if before is not None else 0)
        else:
            assert not changed.refused
            assert changed.version == 0
            self.end(name)

    @rule(name=names)
    def hold(self, name: str) -> None:
        if len(self.holds) == HOLDS:
            with pytest.raises(limits.LimitReached):
                self.values.hold(name)
            return
        holder = self.values.hold(name)
        assert holder not in self.holds
        assert holder not in self.over
        self.holds[holder] = name

    @precondition(lambda self: self.holds)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(sorted(self.holds)))
        del self.holds[holder]
        self.over.append(holder)
        tied = [name for name, value in self.model.items() if value.holder == holder]
        gone = self.values.release(holder)
        assert [one.name for one in gone] == tied
        for one in gone:
            self.dropped(one.old)
            self.end(one.name)
        assert self.values.release(holder) == []

    @rule(seconds=st.integers(1, 6))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds
        due = {name for name, value in self.model.items() if value.expires is not None and value.expires <= self.now}
        if due:
            assert self.values.next_end <= self.now
        gone = self.values.expire(self.now)
        assert {one.name for one in gone} == due
        for one in gone:
            self.dropped(one.old)
            self.end(one.name)

    # -- always -----------------------------------------------------------------------------------

    @invariant()
    def the_same(self) -> None:
        if not hasattr(self, "model"):
            return
        assert set(self.values) == set(self.model)
        assert len(self.values) == len(self.model)
        for name in NAMES:
            kept, value = self.values.get(name), self.model.get(name)
            assert self.values.version(name) == (value.version if value is not None else 0)
            if kept is None or value is None:
                assert kept is None
                assert value is None
                continue
            expires = kept.expires or None
            assert (kept.content.data, expires, kept.holder) == (value.data, value.expires, value.holder)
        # Nothing is forgotten that was not given back, and the other way round.
        found = [self.values.get(name) for name in NAMES]
        assert self.kept == {kept.content for kept in found if kept is not None}


TestValues = Machine.TestCase
