"""Identities as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ipcd_client.access import identity as ids
from ipcd_client.access.identity import BadIdentity, Identity
from ipcd_client.pb.ipcd.v1 import node_pb2

# As limits.check_name lets names be.
names = st.text(st.characters(min_codepoint=0x21, blacklist_characters="/"), min_size=1, max_size=20).filter(
    str.isprintable
)
uids = st.integers(0, 0xFFFF_FFFE)


def test_what_they_look_like() -> None:
    process = node_pb2.Process(node="b", pid=7, uid=1000, gid=9)
    assert ids.of_process("prod", process) == "spiffe://prod/node/b/uid/1000"
    assert ids.of_node("prod", "b") == "spiffe://prod/node/b"
    assert ids.of_grpc("prod", "b") == "spiffe://prod/node/b/grpc"


@given(names, names, uids)
def test_what_is_made_is_parsed(cluster: str, node: str, uid: int) -> None:
    for text, parts in (
        (ids.of_uid(cluster, node, uid), Identity(cluster, node, uid)),
        (ids.of_node(cluster, node), Identity(cluster, node)),
        (ids.of_grpc(cluster, node), Identity(cluster, node, grpc=True)),
    ):
        assert ids.parsed(text) == parts
        assert str(parts) == text


@given(st.text() | st.from_regex(r"spiffe://[a-b/]*(node)?/?(uid)?/?[0-9/]*", fullmatch=True))
def test_any_text_is_an_identity_or_none(text: str) -> None:
    try:
        identity = ids.parsed(text)
    except BadIdentity:
        return
    assert str(identity) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "node/a/uid/0",
        "spiffe://",
        "spiffe:///node/a",
        "spiffe://c",
        "spiffe://c/node",
        "spiffe://c/node/",
        "spiffe://c/node/a/",
        "spiffe://c/node/a/uid",
        "spiffe://c/node/a/uid/",
        "spiffe://c/node/a/uid/-1",
        "spiffe://c/node/a/uid/01",
        "spiffe://c/node/a/uid/4294967295",
        "spiffe://c/node/a/uid/" + "9" * 2000,
        "spiffe://c/node/a/uid/\N{ARABIC-INDIC DIGIT ONE}",
        "spiffe://c/node/a/uid/1/x",
        "spiffe://c/node/a/grpc/x",
        "spiffe://c/node/a\n",
        "SPIFFE://c/node/a",
        "spiffe://c/node/" + "a" * 2048,
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(BadIdentity, match=r"no identity: one is spiffe://CLUSTER/node/NODE|at most 2048 bytes"):
        ids.parsed(text)


def test_short_for_a_user_of_the_node_that_is_asked() -> None:
    assert str(ids.asked("uid:1000", "prod", "a")) == "spiffe://prod/node/a/uid/1000"
    assert str(ids.asked("spiffe://x/node/b/grpc", "prod", "a")) == "spiffe://x/node/b/grpc"
    for text, words in (("uid:root", "'root' is no user's number"), ("1000", "or uid:UID for a user of node a")):
        with pytest.raises(BadIdentity, match=words):
            ids.asked(text, "prod", "a")
