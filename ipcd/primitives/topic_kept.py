"""What is kept of topics, here and on other nodes, for one who asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
from ipcd_client.pb.ipcd.v1 import topic_pb2
from ipcd_client.primitives import naming
from ipcd_client.primitives.errors import BadRequest
from ipcd_client.primitives.subjects import KIND
from ipcd_client.primitives.topics import left_out

from ipcd import limits
from ipcd.primitives.host import MAKE, READ, Keeper, Who
from ipcd.primitives.topic_links import ASK, Link, Links
from ipcd.primitives.turns import through
from ipcd.state import foreign
from ipcd.state.quota import Owner, Shares
from ipcd.state.replay import PIECE, Replay
from ipcd.state.topic import Board


class Replays:
    """Of one node."""

    def __init__(self, keeper: Keeper, board: Board, links: Links) -> None:
        self._keeper = keeper
        self._board = board
        self._links = links
        self._shares = Shares(
            "bytes of messages that other nodes keep", limits.TOPIC_REPLAY_BYTES, limits.TOPIC_REPLAY_BYTES_EACH
        )

    def none(self, owner: Owner) -> Replay:
        """Nothing, for one who wants nothing of it."""
        return Replay(self._shares, owner)

    async def gathered(
        self, pattern: str, most: int, who: Who, owner: Owner, *, here: bool, until: int | None = None
    ) -> Replay:
        """Of each subject the last messages, for the caller, who closes it. `here`: of this node alone. `until`: of
        those published here, up to this number."""
        replay = Replay(self._shares, owner)
        may = partial(self._keeper.may_who, who, READ, KIND)
        try:
            names = await self._let(pattern, may)
            await through(replay.own(self._board.kept.last(names, most, until=until)))
            if not here:
                await self._ask(pattern, most, who, replay)
            await through(replay.settle(most, may))
            if replay.cut:
                self._keeper.log.info("not all kept messages are told", pattern=pattern, told=len(replay))
        except BaseException:
            replay.close()
            raise
        return replay

    async def forget(self, pattern: str, who: Who) -> int:
        """Keeps nothing here any more of the subjects of which that is allowed; how many messages these were."""
        names = await self._let(pattern, partial(self._keeper.may_who, who, MAKE, KIND))
        count = 0

        def pieces() -> Iterator[None]:
            nonlocal count
            since = 0
            for name in names:
                count += self._board.kept.forget(name)
                if count - since >= PIECE:
                    since = count
                    yield

        await through(pieces())
        return count

    async def _let(self, pattern: str, may: Callable[[str], bool]) -> list[str]:
        """Subjects of which something is kept here, and that are allowed."""
        let: list[str] = []

        def pieces() -> Iterator[None]:
            for number, name in enumerate(self._board.kept.names(pattern), 1):
                if may(name):
                    let.append(name)
                if number % PIECE == 0:
                    yield

        await through(pieces())
        return let

    async def _ask(self, pattern: str, most: int, who: Who, replay: Replay) -> None:
        request = topic_pb2.TopicReplayRequest(name=pattern, most=most, here=True, identity=who.all)

        async def ask(link: Link) -> None:
            call = link.stub().Replay(request, timeout=ASK)
            try:
                await self._add(link.node, call, pattern, replay)
            except limits.LimitReached as error:
                replay.cut = True
                self._keeper.log.warning("kept messages are left out", peer=link.node, reason=error)
            finally:
                call.cancel()

        await self._links.ask(ask)

    async def _add(self, node: str, call: Any, pattern: str, replay: Replay) -> None:
        size = 0
        try:
            async for told in call:
                size += len(told.data) + limits.TOPIC_COST
                limits.check("bytes that one node keeps of what is asked for", size, limits.TOPIC_REPLAY_NODE)
                self._add_one(node, told, pattern, replay)
        except (grpc.RpcError, asyncio.CancelledError):
            # What else it keeps of it nobody knows.
            replay.cut |= size > 0
            raise
        replay.cut |= left_out(await call.trailing_metadata())

    def _add_one(self, node: str, told: topic_pb2.TopicMessage, pattern: str, replay: Replay) -> None:
        try:
            message = foreign.message(node, told, (), pattern)
        except (BadRequest, limits.LimitReached) as error:
            subject = told.subject[: naming.MOST]
            self._keeper.log.warning("a message is lost", peer=node, subject=subject, reason=error)
        else:
            replay.add(message)
