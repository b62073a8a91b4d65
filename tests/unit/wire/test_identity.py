"""Whose certificate it is. What OpenSSL says is as it comes from `getpeercert()`."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ipcd_client.access.identity import of_node, of_uid
from ipcd_client.errors import NotAllowed
from ipcd_client.wire import identity
from ipcd_client.wire.identity import LONGEST_CLUSTER, LONGEST_NODE, checked, parts

A = "spiffe://lab/node/a/uid/7"
BY_A = ((("commonName", "node a"),),)

names = st.from_regex(identity.NAME, fullmatch=True).filter(lambda name: len(name) <= LONGEST_CLUSTER)
kinds = st.sampled_from(["URI", "DNS", "email", "IP Address", "Registered ID", "othername", "<invalid>"])
entries = st.tuples(kinds, st.one_of(st.text(), st.just(A), st.sampled_from([A + "/", A[:-1], A.upper(), A + "\0"])))
directories = st.tuples(st.just("DirName"), st.just(((("commonName", A),),)))
issuers = st.lists(
    st.lists(
        st.tuples(st.sampled_from(["commonName", "countryName"]), st.one_of(st.just("node a"), st.text())), max_size=2
    ).map(tuple),
    max_size=2,
).map(tuple)


def test_the_identities() -> None:
    assert of_node("lab", "a") == "spiffe://lab/node/a"
    assert of_uid("lab", "a", 7) == A
    assert parts("spiffe://lab/node/a") == ("lab", "a", "")
    assert parts(A) == ("lab", "a", "/uid/7")
    assert parts("spiffe://lab/node/a/grpc") == ("lab", "a", "/grpc")


@given(names, names, st.one_of(st.none(), st.integers(0, 2**32 - 2)))
def test_what_is_put_together_comes_apart(cluster: str, node: str, uid: int | None) -> None:
    uri = of_node(cluster, node) if uid is None else of_uid(cluster, node, uid)
    assert parts(uri) == (cluster, node, "" if uid is None else f"/uid/{uid}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "lab",
        "spiffe://lab",
        "spiffe://lab/",
        "spiffe:///node/a",
        "spiffe://lab/node/",
        "spiffe://lab/node/a/",
        "spiffe://lab/node/a/uid",
        "spiffe://lab/node/a/uid/",
        "spiffe://lab/node/a/uid/-1",
        "spiffe://lab/node/a/uid/07",
        "spiffe://lab/node/a/uid/12345678901",
        "spiffe://lab/node/a/uid/7/x",
        "spiffe://lab/node/a/uid/\u0667",
        "spiffe://lab/node/a/http",
        "spiffe://lab/node/../uid/7",
        "spiffe://lab/nodes/a",
        "spiffe://lab/node/A",
        "spiffe://Lab/node/a",
        "SPIFFE://lab/node/a",
        "spiffe://lab:1/node/a",
        "spiffe://x@lab/node/a",
        "spiffe://lab/node/a?x",
        "spiffe://lab/node/a#x",
        "spiffe://lab/node/a%2fb",
        "spiffe://lab/node/a\n",
        "\nspiffe://lab/node/a",
        f"spiffe://lab/node/{'a' * (LONGEST_NODE + 1)}",
        f"spiffe://{'a' * (LONGEST_CLUSTER + 1)}/node/a",
    ],
)
def test_what_is_no_identity(text: str) -> None:
    assert parts(text) is None
    with pytest.raises(NotAllowed, match="which is no identity"):
        checked({"subjectAltName": (("URI", text),), "issuer": BY_A}, text)


@given(st.text())
def test_any_text_is_an_identity_or_not(text: str) -> None:
    assert parts(text) is None or text.startswith("spiffe://")


def test_the_one_that_was_expected() -> None:
    assert checked({"subjectAltName": (("URI", A),), "issuer": BY_A}, A) == A
    # Names of other kinds say nothing that is asked for.
    assert checked({"subjectAltName": (("DNS", "x"), ("URI", A), ("DirName", ())), "issuer": BY_A}, A) == A
    assert checked({"subjectAltName": (("URI", "spiffe://lab/node/a"),), "issuer": BY_A}, "spiffe://lab/node/a")


@pytest.mark.parametrize(
    ("peercert", "words"),
    [
        (None, "the other end shows no certificate"),
        ({}, "the other end shows no certificate"),
        ({"issuer": BY_A}, "has no identity in it"),
        ({"issuer": BY_A, "subjectAltName": ()}, "has no identity in it"),
        ({"issuer": BY_A, "subjectAltName": (("DNS", A),)}, "has no identity in it"),
        ({"issuer": BY_A, "subjectAltName": (("DirName", ((("commonName", A),),)),)}, "has no identity in it"),
        ({"issuer": BY_A, "subjectAltName": (("URI", A), ("URI", A))}, "has 2 identities in it"),
        ({"issuer": BY_A, "subjectAltName": (("URI", A), ("URI", "x"))}, "has 2 identities in it"),
        ({"issuer": BY_A, "subjectAltName": (("URI", "x\x1b[2J"),)}, r"the other end is 'x\\x1b\[2J'"),
        ({"issuer": BY_A, "subjectAltName": (("URI", "spiffe://lab/node/a"),)}, "the other end is"),
        ({"subjectAltName": (("URI", A),)}, "its issuer is None"),
        ({"subjectAltName": (("URI", A),), "issuer": ()}, "its issuer is ''"),
        ({"subjectAltName": (("URI", A),), "issuer": ((("commonName", "node b"),),)}, "its issuer is 'node b'"),
        ({"subjectAltName": (("URI", A),), "issuer": ((("commonName", "node A"),),)}, "its issuer is 'node A'"),
        ({"subjectAltName": (("URI", A),), "issuer": ((("organizationName", "node a"),),)}, "its issuer is ''"),
        (
            {"subjectAltName": (("URI", A),), "issuer": (*BY_A, (("commonName", "node b"),))},
            "its issuer is 'node a, node b'",
        ),
        (
            {"subjectAltName": (("URI", A),), "issuer": ((("commonName", "node a"), ("commonName", "node b")),)},
            "its issuer is 'node a, node b'",
        ),
    ],
)
def test_anybody_else(peercert: Any, words: str) -> None:
    with pytest.raises(NotAllowed, match=rf"^{A} was expected, and .*{words}") as raised:
        checked(peercert, A)
    assert raised.value.code is grpc.StatusCode.PERMISSION_DENIED


@given(st.lists(st.one_of(entries, directories), max_size=4).map(tuple), issuers)
def test_there_is_one_way_to_be_let_in(alternatives: tuple[Any, ...], issuer: tuple[Any, ...]) -> None:
    shown = [entry[1] for entry in alternatives if entry[0] == "URI"]
    peercert = {"subjectAltName": alternatives, "issuer": issuer}
    if shown == [A] and issuer == BY_A:
        assert checked(peercert, A) == A
        return
    with pytest.raises(NotAllowed) as raised:
        checked(peercert, A)
    # One line, of a bounded length, whatever a stranger wrote.
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 500
