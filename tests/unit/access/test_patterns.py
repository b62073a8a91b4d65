"""Patterns of names and identities. They are held against a plain definition that may take for ever."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ipcd_client.access import patterns
from ipcd_client.access.patterns import BadPattern
from ipcd_client.primitives import flags, lock_terms, offer, pipe_parts, semaphore_terms, subjects, values

from ipcd.primitives import queue_boxes
from ipcd.state.primitives import EXIT


def glob(pattern: str, text: str) -> bool:
    """What * means, tried in every way."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(glob(pattern[1:], text[at:]) for at in range(len(text) + 1))
    return bool(text) and pattern[0] == text[0] and glob(pattern[1:], text[1:])


def path(pattern: Sequence[str], segments: Sequence[str]) -> bool:
    """What ** means, tried in every way."""
    if not pattern:
        return not segments
    if pattern[0] == "**":
        return any(path(pattern[1:], segments[at:]) for at in range(len(segments) + 1))
    return bool(segments) and glob(pattern[0], segments[0]) and path(pattern[1:], segments[1:])


globs = st.text("ab.*", min_size=1, max_size=8)
texts = st.text("ab.", max_size=12)
segments = st.lists(st.text("ab", min_size=1, max_size=3), max_size=7)
parts = st.lists(st.sampled_from(["**", "*", "a", "b", "a*", "*b", "ab", "a*b"]), min_size=1, max_size=6)


@given(globs, texts)
def test_names_fit_as_they_are_defined_to(pattern: str, text: str) -> None:
    assert patterns.name(pattern)(text) is glob(pattern, text)


@given(parts, segments)
def test_identities_fit_as_they_are_defined_to(pattern: list[str], rest: list[str]) -> None:
    identity = "/".join(["node", *rest])
    assert patterns.who("/".join(["node", *pattern]))(patterns.cut(f"spiffe://c/{identity}")) is path(pattern, rest)
    whole = patterns.who("/".join(["spiffe://c/node", *pattern]))
    assert whole(patterns.cut(f"spiffe://c/{identity}")) is path(pattern, rest)
    assert whole(patterns.cut(f"spiffe://d/{identity}")) is False


@pytest.mark.parametrize(
    ("pattern", "fits", "others"),
    [
        ("pkg.*", ["pkg.A", "pkg.sub.A", "pkg."], ["pkg", "Pkg.A", "xpkg.A"]),
        ("pkg.A", ["pkg.A"], ["pkg.AB", "pkg.a", "pkgxA"]),
        ("*", ["", "pkg.A"], []),
        ("**", ["", "pkg.A"], []),
        ("*.v1.*", ["a.v1.B"], ["a.v2.B"]),
        ("[ab]?", ["[ab]?"], ["a1"]),
    ],
)
def test_names(pattern: str, fits: list[str], others: list[str]) -> None:
    matches = patterns.name(pattern)
    assert [text for text in [*fits, *others] if matches(text)] == fits


@pytest.mark.parametrize(
    ("pattern", "fits", "others"),
    [
        ("node/b/uid/1000", ["node/b/uid/1000"], ["node/b/uid/10001", "node/b", "node/c/uid/1000"]),
        ("node/*/uid/0", ["node/b/uid/0"], ["node/b/x/uid/0", "node/uid/0"]),
        ("node/b/**", ["node/b", "node/b/grpc", "node/b/uid/0"], ["node/bb", "node/c/uid/0"]),
        ("**", ["node/b", "node/b/uid/0"], []),
        ("**/grpc", ["node/b/grpc"], ["node/b/uid/0", "node/grpc/uid/0"]),
        ("*/b/uid/*", ["node/b/uid/7"], ["node/b/grpc"]),
        ("node/rack1-*/uid/10*", ["node/rack1-a/uid/1000"], ["node/rack2-a/uid/1000", "node/rack1-a/uid/2000"]),
        ("spiffe://c/**", ["node/b", "node/b/uid/0"], []),
        ("spiffe://d/**", [], ["node/b"]),
        ("spiffe://*/node/b", ["node/b"], ["node/c"]),
        ("spiffe://**", ["node/b/grpc"], []),
    ],
)
def test_identities(pattern: str, fits: list[str], others: list[str]) -> None:
    matches = patterns.who(pattern)
    assert [text for text in [*fits, *others] if matches(patterns.cut(f"spiffe://c/{text}"))] == fits


def test_an_exact_one_has_no_stars() -> None:
    matches = patterns.exactly("node/*/grpc")
    assert matches(patterns.cut("spiffe://c/node/*/grpc"))
    assert not matches(patterns.cut("spiffe://c/node/b/grpc"))


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("", "an empty segment"),
        ("node//uid/1", "an empty segment"),
        ("/node/b", "an empty segment"),
        ("node/b/", "an empty segment"),
        ("node/a**", "whole segments"),
        ("uid:1000", "begins with node/"),
        ("1000", "begins with node/"),
        ("spiffe://c/uid/1000", "begins with node/"),
        ("spiffe://c", "ends behind the cluster"),
        ("spiffe://", "an empty segment"),
        ("node/b c", "a space"),
    ],
)
def test_identities_that_there_cannot_be(pattern: str, words: str) -> None:
    with pytest.raises(BadPattern, match=words):
        patterns.who(pattern)


@pytest.mark.parametrize("pattern", ["", "a b", "a/b", "a\nb"])
def test_names_that_there_cannot_be(pattern: str) -> None:
    with pytest.raises(BadPattern, match=r"empty|a space, a slash"):
        patterns.name(pattern)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("sem:x", "there is no kind 'sem' of named things; there are command, .*semaphore"),
        ("Lock:x", "no kind 'Lock'"),
        (":x", "no kind ''"),
        ("command:wc@b", "where the thing is"),
    ],
)
def test_things_that_there_cannot_be(pattern: str, words: str) -> None:
    """A rule of theirs would never hold, and one that denies would seem to."""
    with pytest.raises(BadPattern, match=words):
        patterns.name(pattern)


def test_all_kinds_of_things_are_known() -> None:
    modules = (flags, lock_terms, offer, pipe_parts, queue_boxes, semaphore_terms, subjects, values)
    assert sorted([EXIT, *(module.KIND for module in modules)]) == list(patterns.KINDS)
    for kind in patterns.KINDS:
        assert patterns.name(f"{kind}:a.*")(f"{kind}:a.b")
    assert patterns.name("*:x")("lock:x")


class Steps:
    """Counts the lines of Python that a call runs."""

    def __enter__(self) -> Self:
        self.taken = 0
        self._before = sys.gettrace()
        sys.settrace(lambda *_: self._count)
        return self

    def _count(self, *_: object) -> None:
        self.taken += 1

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)


def test_the_worst_takes_no_more_than_the_product_of_the_lengths() -> None:
    """What makes a backtracking matcher try every way: nearly all of it fits, again and again."""
    for size in (50, 200):
        name = patterns.name("*a" * size + "b*c")
        with Steps() as steps:
            assert not name("a" * size + "c")
        assert steps.taken < 20 * size
        who = patterns.who("/".join(["**", "a"] * size + ["b", "**", "c"]))
        cut = patterns.cut("spiffe://c/" + "/".join(["a"] * size + ["c"]))
        with Steps() as steps:
            assert not who(cut)
        assert steps.taken < 40 * size
        # Blocks that fit all but their end at every place.
        who = patterns.who("/".join(["**", *["a"] * size, "b", "**"]))
        cut = patterns.cut("spiffe://c/" + "/".join(["a"] * 2 * size))
        with Steps() as steps:
            assert not who(cut)
        assert steps.taken < 10 * size * size
