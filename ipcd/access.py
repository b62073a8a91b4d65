"""The node's rules at work: asked for each attachment, registration and introduction, and what is logged of that."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from ipcd_client.access import identity as ids
from ipcd_client.access import rules
from ipcd_client.access.identity import Identity
from ipcd_client.access.rules import Decision, Rule, Rules
from ipcd_client.errors import NotAllowed
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.wire.unix import Credentials

from ipcd.log import Log

# Refusals that are remembered, so that each is logged once.
_LOGGED: Final = 1024


class Access:
    """Of one node. `uid`: the daemon's user; default: this process's."""

    def __init__(self, cluster: str, node: str, log: Log, own: Iterable[Rule] = (), uid: int | None = None) -> None:
        self._log = log
        self._uid = os.getuid() if uid is None else uid
        self._logged: set[tuple[str, str, str]] = set()
        self.rules = Rules(own, cluster, node, self._uid)

    def change(self, own: Iterable[Rule]) -> None:
        """These are the rules of the configuration now."""
        self.rules = Rules(own, self.rules.cluster, self.rules.node, self._uid)
        self._logged.clear()

    # -- who --------------------------------------------------------------------------------------

    def of(self, process: node_pb2.Process) -> str:
        """The identity of a process, of this node or another."""
        return ids.of_process(self.rules.cluster, process)

    def of_node(self, process: node_pb2.Process) -> str:
        """The identity of the node of a process."""
        return ids.of_node(self.rules.cluster, process.node)

    def all_of(self, caller: node_pb2.Process, called_for: str) -> tuple[str, ...]:
        """The identities of a process of another node, and of whom it calls for, if that is somebody.

        Raises:
            BadIdentity: that is none.
            NotAllowed: it is no daemon, or that is nobody of its node.
        """
        own = self.of(caller)
        if not called_for:
            return (own,)
        ids.parsed(called_for)  # so it is not too long to be kept
        if not caller.daemon or not called_for.startswith(f"{self.of_node(caller)}/"):
            raise NotAllowed(f"{own} is to be introduced for {called_for}; the rule own-callers allows its own")
        return own, called_for

    def of_gateway(self, *, tcp: bool) -> str:
        """The identity of a gRPC client: over TCP nobody knows who it is; the socket file only lets our own user in."""
        node = self.rules.node
        return ids.of_grpc(self.rules.cluster, node) if tcp else ids.of_uid(self.rules.cluster, node, self._uid)

    def asked(self, text: str) -> Identity:
        """The identity that a person asks about.

        Raises:
            BadIdentity: it is none.
        """
        return ids.asked(text, self.rules.cluster, self.rules.node)

    # -- may --------------------------------------------------------------------------------------

    def may_call(self, identity: str, service: str, server: str = "") -> Decision:
        """Whether it may call a service, of a server of that name, and why."""
        return self.rules.decide(identity, rules.CALL, rules.named(service, server))

    def against_call(self, identities: tuple[str, ...], service: str, server: str) -> Decision | None:
        """What there is against a call of these: one who calls, and for whom. All have to be allowed."""
        for identity in identities:
            decision = self.may_call(identity, service, server)
            if not decision.allowed and not self.left_to(ids.node_of(identities[0]), decision):
                return decision
        return None

    def left_to(self, node: str, decision: Decision) -> bool:
        """Whether it is that node's to decide: whom another node's gateway lets in is that one's to allow, and ours to
        deny."""
        gateway = ids.of_grpc(self.rules.cluster, node) if node != self.rules.node else ""
        return decision.rule is None and decision.identity == gateway

    def callable_there(self, grant: node_pb2.Grant, server: node_pb2.Server) -> list[str]:
        """What of a server's services somebody may call who was introduced; nothing where it may call all of them, so
        that the server need not look."""
        who = (self.of(grant.caller), grant.identity)
        services = [name for name in server.services if self.against_call(who, name, server.name) is None]
        if len(services) == len(server.services):
            return []
        return sorted({grant.service, *services})

    def check_register(self, server: node_pb2.Server) -> None:
        """Whether its process may register all that a server has.

        Raises:
            NotAllowed: it may not.
        """
        identity = self.of(server.process)
        for service in server.services:
            decision = self.rules.decide(identity, rules.REGISTER, rules.named(service, server.name))
            if not decision.allowed:
                raise self.refusal(decision)

    def attach_refusal(self, who: Credentials) -> NotAllowed | None:
        """Why a process may not attach; None if it may."""
        node = self.rules.node
        identity = ids.of_uid(self.rules.cluster, node, who.uid)
        if self.rules.admits(identity):
            return None
        deed = f"uid {who.uid} (pid {who.pid}, gid {who.gid}) may not attach to node {node}"
        bar = self.rules.bar(identity)
        if bar is not None:
            return NotAllowed(f"{deed}: {bar} denies {identity} what another allows")
        return NotAllowed(
            f"{deed}: no rule allows {identity} anything; the rule {rules.SAME_UID} allows {self.rules.users}"
        )

    def refusal(self, decision: Decision) -> NotAllowed:
        """The error of a decision against somebody. It is logged, though not again and again."""
        key = (decision.identity, decision.verb, decision.rule_name)
        if key not in self._logged:
            if len(self._logged) >= _LOGGED:
                self._logged.clear()
            self._logged.add(key)
            self._log.warning(
                "refused",
                identity=decision.identity,
                verb=decision.verb,
                name=decision.name,
                rule=decision.rule_name or "none",
            )
        return NotAllowed(str(decision))
