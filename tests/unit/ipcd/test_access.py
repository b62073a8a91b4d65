"""What the node logs of refusals."""

from __future__ import annotations

import logging

import pytest
from ipcd_client.access.identity import BadIdentity
from ipcd_client.access.rules import Rule
from ipcd_client.errors import NotAllowed
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.wire.unix import Credentials

from ipcd.access import Access
from ipcd.log import Log

NOBODY = Rule("nobody", "deny", ("**",), ("call",), ("secret.*",))


def access(*rules: Rule) -> Access:
    return Access("c", "a", Log("a"), rules, 1000)


def test_a_refusal_is_logged_once_for_identity_and_rule(caplog: pytest.LogCaptureFixture) -> None:
    judge = access(NOBODY)
    with caplog.at_level(logging.WARNING, "ipcd"):
        for identity, service in (
            ("spiffe://c/node/a/uid/0", "secret.X"),
            ("spiffe://c/node/a/uid/0", "secret.Y"),
            ("spiffe://c/node/b/uid/7", "secret.X"),
            ("spiffe://c/node/b/uid/7", "x.X"),
        ):
            for _ in range(5):
                error = judge.refusal(judge.may_call(identity, service))
                assert isinstance(error, NotAllowed)
                assert identity in str(error)
    logged = [record.getMessage() for record in caplog.records]
    assert logged == [
        "a: refused identity=spiffe://c/node/a/uid/0 verb=call name=secret.X rule=nobody",
        "a: refused identity=spiffe://c/node/b/uid/7 verb=call name=secret.X rule=nobody",
        "a: refused identity=spiffe://c/node/b/uid/7 verb=call name=x.X rule=none",
    ]


def test_of_ever_new_ones_not_all_are_remembered() -> None:
    judge = access(NOBODY)
    for uid in range(5000):
        judge.refusal(judge.may_call(f"spiffe://c/node/b/uid/{uid}", "secret.X"))
    assert len(judge._logged) <= 1024


def test_other_rules_are_another_matter() -> None:
    judge = access()
    x, both = (
        node_pb2.Server(process=node_pb2.Process(node="a", uid=7), services=services)
        for services in (["x.X"], ["x.X", "x.Y"])
    )
    with pytest.raises(NotAllowed, match=r"uid/7 may not register x\.X on node a: no rule allows it"):
        judge.check_register(both)
    assert judge.attach_refusal(Credentials(1, 7, 8)) is not None
    judge.change([Rule("seven", "allow", ("node/a/uid/7",), ("register",), ("x.X",))])
    judge.check_register(x)
    assert judge.attach_refusal(Credentials(1, 7, 8)) is None
    with pytest.raises(NotAllowed, match=r"may not register x\.Y"):
        judge.check_register(both)


def test_grpc_clients() -> None:
    judge = access()
    assert judge.of_gateway(tcp=True) == "spiffe://c/node/a/grpc"
    assert judge.of_gateway(tcp=False) == "spiffe://c/node/a/uid/1000"


def test_a_daemon_is_introduced_for_its_own_alone() -> None:
    judge = access(NOBODY)
    process, daemon = (node_pb2.Process(node="b", uid=1000, daemon=daemon) for daemon in (False, True))
    grpc, us = "spiffe://c/node/b/grpc", "spiffe://c/node/b/uid/1000"
    assert judge.all_of(process, "") == judge.all_of(daemon, "") == (us,)
    assert judge.all_of(daemon, grpc) == (us, grpc)
    for caller, called_for in (
        (process, grpc),
        (daemon, "spiffe://c/node/bb/grpc"),
        (daemon, "spiffe://d/node/b/grpc"),
    ):
        with pytest.raises(NotAllowed, match="own-callers"):
            judge.all_of(caller, called_for)
    with pytest.raises(BadIdentity):
        judge.all_of(daemon, grpc + "x" * 2048)
    # Whom its gateway lets in is its own to allow, and ours to deny; it has to be allowed itself.
    assert judge.against_call((us, grpc), "x.X", "") is None
    for identities, service, against in (((us, grpc), "secret.X", us), ((us[:-1], grpc), "x.X", us[:-1])):
        decision = judge.against_call(identities, service, "")
        assert decision is not None
        assert decision.identity == against
    assert judge.against_call((us, "spiffe://c/node/d/grpc"), "x.X", "") is not None


def test_who_cannot_be_is_refused_as_anybody_else() -> None:
    """Another node may say of its processes what it likes."""
    judge = access(Rule("of b", "allow", ("node/b/uid/*",), ("call",), ("x.X",)))
    caller = node_pb2.Process(node="b", uid=0xFFFF_FFFF)
    (identity,) = judge.all_of(caller, "")
    assert judge.against_call((identity,), "x.X", "") is None
    assert judge.against_call((identity,), "x.Y", "") is not None
    grant = node_pb2.Grant(caller=caller, identity=identity, service="x.X")
    assert judge.callable_there(grant, node_pb2.Server(services=["x.X", "x.Y"])) == ["x.X"]
