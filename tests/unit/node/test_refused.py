"""Servers that their daemon does not let in."""

from __future__ import annotations

import logging

import grpc
import pytest
from ipcd_client.errors import NoDaemon, NotAllowed
from ipcd_client.node.registering import Returning, Starting
from ipcd_client.rpc.failure import CallFailed

REFUSALS = [NotAllowed("rule 1"), CallFailed(grpc.StatusCode.PERMISSION_DENIED, "rule 1")]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_one_that_starts_is_told_at_once(refusal: NotAllowed | CallFailed) -> None:
    with pytest.raises(type(refusal), match="rule 1"):
        Starting(1000.0, 0.0).failed(refusal, 0.0)


@pytest.mark.parametrize("refusal", REFUSALS)
def test_one_that_comes_back_says_so_once(refusal: NotAllowed | CallFailed, caplog: pytest.LogCaptureFixture) -> None:
    returning = Returning()
    with caplog.at_level(logging.WARNING, "ipcd_client"):
        for error in (NoDaemon("/s", "no such file"), refusal, refusal):
            returning.failed(error)
    assert [record.getMessage() for record in caplog.records] == ["rule 1; trying again until that changes"]
