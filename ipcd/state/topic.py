"""Topics of one node: who listens, what waits for whom, and what becomes of it. Pure.

What is published here goes to each subscriber of this node, once to each other node where it is wanted (`Outlet`), and
to one member of each group. What others publish comes as parcels and goes to those of this node alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping

from ipcd_client.pb.ipcd.v1 import topic_pb2
from ipcd_client.primitives import subjects
from ipcd_client.primitives.errors import BadRequest

from ipcd import limits
from ipcd.state import foreign
from ipcd.state.kept import Kept
from ipcd.state.outlet import Outlet, Parcel, Want
from ipcd.state.quota import Owner, Shares
from ipcd.state.subscription import BLOCK, MISSED_MOST, Interest, Message, Pending, Subscription
from ipcd.state.trie import Trie

Wanting = Subscription | Want


class Board:
    """Of one node. What has changed for others is in `news`, `changed` and the outlets, from where the caller takes it.

    `news`: subscriptions and outlets that have something to take, and publishers that wait no longer.
    `changed`: interests of this node that other nodes are to be told of. `over`: watched messages that nobody holds.
    """

    def __init__(self, node: str) -> None:
        self.node = node
        self.news: dict[Subscription | Outlet | Pending, None] = {}
        self.changed: dict[int, Interest] = {}
        self.over: list[Message] = []
        self.interests: dict[int, Interest] = {}
        self.kept = Kept()
        self.published = 0
        self.sent = 0
        self.subscriptions: dict[Subscription, None] = {}
        self._subscribed = Shares("subscriptions", limits.TOPIC_SUBSCRIPTIONS, limits.TOPIC_SUBSCRIPTIONS_EACH)
        self._held = Shares("bytes of messages that wait", limits.TOPIC_BYTES, limits.TOPIC_BYTES_EACH)
        self._trie: Trie[Wanting] = Trie()
        self._by_key: dict[tuple[str, str, tuple[str, ...]], Interest] = {}
        self._groups: dict[tuple[str, str], int] = {}  # whose turn it is
        self._last = 0

    # -- subscribers of this node -----------------------------------------------------------------

    def subscribe(
        self,
        request: topic_pb2.TopicSubscribeRequest,
        owner: Owner,
        identities: tuple[str, ...],
        may: Callable[[str], bool] | None = None,
        *,
        maps: bool = False,
    ) -> Subscription:
        """Somebody listens from now on, for these identities. `may`: whether it may read a subject, where the pattern
        has wildcards. `maps`: it is a process of this machine that can map memory.

        Raises:
            BadRequest: the pattern is none, nor the name of the group, or there is no such policy.
            LimitReached: too many, or it asks for too much.
        """
        pattern = subjects.pattern(request.name)
        if request.policy not in topic_pb2.TopicPolicy.values():
            raise BadRequest(f"there is no policy {request.policy}")
        subjects.group(request.group)
        limits.check("messages that wait for one subscription", request.most, limits.TOPIC_WAITING_MOST)
        limits.check("bytes that wait for one subscription", request.most_bytes, limits.TOPIC_WAITING_BYTES)
        self._subscribed.take(owner)
        key = (pattern, request.group, identities)
        interest = self._by_key.get(key)
        if interest is None:
            self._last += 1
            interest = self._by_key[key] = Interest(self._last, *key)
            self.interests[interest.id] = interest
        subscription = Subscription(
            interest,
            request.policy,
            request.most or limits.TOPIC_WAITING,
            request.most_bytes or limits.TOPIC_WAITING_BYTES,
            owner,
            may,
            maps=maps,
        )
        interest.members[subscription] = None
        self.subscriptions[subscription] = None
        self._trie.add(pattern, subscription)
        self.changed[interest.id] = interest
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """It has gone. What waited for it is lost, and nobody waits for it."""
        interest = subscription.interest
        del self.subscriptions[subscription]
        del interest.members[subscription]
        self._trie.remove(interest.pattern, subscription)
        self._subscribed.give(subscription.owner)
        for message in subscription.close():
            self.release(message)
        while subscription.blocked:
            self._left(subscription.blocked.popleft(), subscription)
        if not interest.members:
            del self._by_key[interest.key]
            del self.interests[interest.id]
            self._forget_group(interest)
        self.changed[interest.id] = interest
        self.news.pop(subscription, None)

    def take(self, subscription: Subscription) -> tuple[Message | None, int, bool] | None:
        """The next message, how many before it were missed, and whether there may be more of these. Without a message
        if there are only those; None if there is nothing."""
        taken = subscription.take()
        if taken is None:
            return None
        message = taken[0]
        if message is not None:
            self.release(message)
            while subscription.blocked and subscription.has_room(subscription.blocked[0].message):
                pending = subscription.blocked.popleft()
                self._put(subscription, pending.message)
                self._left(pending, subscription)
        return taken

    # -- publishers -------------------------------------------------------------------------------

    def publish(
        self, request: topic_pb2.TopicPublishRequest, owner: Owner, now: float, *, wait: bool = True
    ) -> Pending:
        """Gives a message to all. What comes back is over once nobody has to be waited for; without `wait`, it is at
        once, and those who have no room miss the message: `full` says how many they are.

        Raises:
            BadRequest: no subject.
            LimitReached: it is too large, or too much waits or is kept.
        """
        subject = subjects.subject(request.name)
        limits.check("bytes of a message", len(request.data), limits.TOPIC_MESSAGE)
        limits.check("messages of a subject that are kept", request.keep, limits.TOPIC_KEPT)
        self._held.check(owner, _cost(request.data))
        message = Message(subject, request.data, self.node, self.published + 1, now, owner)
        if request.keep:
            self.kept.keep(message, request.keep)
        self.published += 1
        pending = Pending(message, wait=wait)
        self.hold(message)
        parcels: dict[Outlet, Parcel] = {}
        groups: dict[tuple[str, str], list[Wanting]] = {}
        for one in list(self._trie.match(subject)):
            if isinstance(one, Want) and not one.may(subject):
                if not one.group:
                    parcels.setdefault(one.outlet, Parcel(message)).not_for.append(one.id)
            elif one.group:
                groups.setdefault((one.pattern, one.group), []).append(one)
            elif isinstance(one, Want):
                parcel = parcels.setdefault(one.outlet, Parcel(message))
                parcel.plain.append(one.id)
                parcel.blocking |= one.blocking
            else:
                self._offer(one, pending)
        for key, members in groups.items():
            chosen = self._turn(key, members)
            if isinstance(chosen, Want):
                parcel = parcels.setdefault(chosen.outlet, Parcel(message))
                parcel.groups.append(chosen.id)
                parcel.blocking |= chosen.blocking
            elif chosen is not None:
                self._offer(chosen, pending)
        for outlet, parcel in parcels.items():
            if parcel.plain or parcel.groups:
                self._send(outlet, parcel, pending)
        self.release(message)
        return pending

    def give_up(self, pending: Pending) -> None:
        """Its publisher waits no longer: those who have no room miss it."""
        for one in list(pending.left):
            if isinstance(one, Subscription):
                one.blocked.remove(pending)
                self._miss(one)
            else:
                outlet, number = one
                outlet.give_up(number)
                self.news[outlet] = None
            pending.full += 1
            self._left(pending, one)

    # -- other nodes ------------------------------------------------------------------------------

    def want(self, outlet: Outlet, wants: Iterable[Want]) -> None:
        """Another node wants this from now on, or no more."""
        for want in wants:
            before = outlet.discard(want.id)
            if before is not None:
                self._trie.remove(before.pattern, before)
                self._forget_group(before)
            if want.members:
                outlet.add(want)
                self._trie.add(want.pattern, want)

    def acked(self, outlet: Outlet, number: int, full: int) -> None:
        """All subscribers of another node have got a message, but so many that had no room."""
        pending = outlet.unacked.pop(number, None)
        if pending is not None:
            pending.full += min(full, limits.TOPIC_SUBSCRIPTIONS)
            self._left(pending, (outlet, number))

    def away(self, outlet: Outlet) -> None:
        """The other node cannot be reached: what it misses is counted from now on, and nobody waits for it."""
        for parcel in outlet.cut():
            self.release(parcel.message)
        for number, pending in list(outlet.unacked.items()):
            del outlet.unacked[number]
            self._left(pending, (outlet, number))

    def forget(self, outlet: Outlet) -> None:
        """It is not expected back."""
        self.away(outlet)
        self.want(outlet, [Want(want.id, "", "", 0, False, outlet) for want in list(outlet.wants.values())])
        self.news.pop(outlet, None)

    def next(self, outlet: Outlet) -> Parcel | None:
        """The next parcel to be sent there."""
        parcel = outlet.take()
        if parcel is not None:
            self.sent += 1
            self.release(parcel.message)
        return parcel

    def arrived(self, node: str, parcel: topic_pb2.TopicParcel, owner: Owner) -> Pending:
        """Another node's message for those here. `owner`: that node.

        Raises:
            BadRequest: it makes no sense.
            LimitReached: it is too large, or too much waits; this is counted as missed.
        """
        message = foreign.message(node, parcel.message, owner)
        pending = Pending(message, wait=bool(parcel.number))
        kept_from = set(parcel.not_for)
        mine: list[Subscription] = []
        if parcel.plain:
            for one in self._trie.match(message.subject):
                if isinstance(one, Subscription) and not one.group:
                    interest = one.interest
                    if interest.id not in kept_from and node not in interest.refused:
                        mine.append(one)
        for number in dict.fromkeys(parcel.groups):
            wanted = self.interests.get(number)
            if wanted is None or not wanted.group or node in wanted.refused:
                continue
            if not subjects.matches(wanted.pattern, message.subject):
                raise BadRequest(f"{message.subject!r} is not what was asked for: {wanted.pattern!r}")
            chosen = self._turn((wanted.pattern, wanted.group), list(wanted.members))
            if isinstance(chosen, Subscription):
                mine.append(chosen)
        try:
            self._held.check(owner, _cost(message.data))
        except limits.LimitReached:
            for one in mine:
                self._miss(one)
            raise
        self.hold(message)
        for one in mine:
            self._offer(one, pending)
        self.release(message)
        return pending

    def missed(self, counts: Mapping[int, int]) -> None:
        """Another node could not send so many messages, by the interests here that wanted them."""
        for number, count in counts.items():
            interest = self.interests.get(number)
            if interest is None:
                continue
            # Of a group, one would have got it; nobody knows which.
            for one in list(interest.members)[: 1 if interest.group else None]:
                self._miss(one, min(count, MISSED_MOST))

    def forgive(self, node: str) -> None:
        """The node says anew what it refuses."""
        for interest in self.interests.values():
            interest.refused.pop(node, None)

    def gap(self, interests: Iterable[int]) -> None:
        """Those of these interests may have missed messages that nobody has counted."""
        for number in interests:
            interest = self.interests.get(number)
            for one in interest.members if interest is not None else ():
                one.gap = True
                self.news[one] = None

    # -- one message to one -----------------------------------------------------------------------

    def _offer(self, one: Subscription, pending: Pending) -> None:
        message = pending.message
        if one.may is not None and not one.may(message.subject):
            return
        pending.reached += 1
        message.readers += one.maps
        if one.policy != BLOCK or (not one.blocked and one.has_room(message)):
            self._put(one, message)
        elif pending.wait:
            one.blocked.append(pending)
            pending.left[one] = None
            self.hold(message)
        else:
            pending.full += 1
            self._miss(one)

    def _put(self, one: Subscription, message: Message) -> None:
        self.hold(message)
        for dropped in one.put(message):
            self.release(dropped)
        self.news[one] = None

    def _miss(self, one: Subscription, count: int = 1) -> None:
        one.miss(count)
        self.news[one] = None

    def _turn(self, key: tuple[str, str], members: list[Wanting]) -> Wanting | None:
        """The one of a group whose turn it is; one that has no room only if none has."""
        places = [one.members if isinstance(one, Want) else 1 for one in members]
        if not members:
            return None
        turn = self._groups.get(key, 0)
        self._groups[key] = turn + 1
        place = turn % sum(places)
        first = next(index for index, end in enumerate(itertools.accumulate(places)) if place < end)
        for one in (*members[first:], *members[:first]):
            if isinstance(one, Want) or one.idle:
                return one
        return members[first]

    def _forget_group(self, one: Interest | Want) -> None:
        if one.group:
            self._groups.pop((one.pattern, one.group), None)

    def _send(self, outlet: Outlet, parcel: Parcel, pending: Pending) -> None:
        if outlet.is_away:
            outlet.lost(parcel)
            return
        pending.nodes += 1
        if parcel.blocking and pending.wait:
            self._number(outlet, parcel, pending)
        self.hold(parcel.message)
        for dropped in outlet.put(parcel):
            self.release(dropped.message)
        self.news[outlet] = None

    def _number(self, outlet: Outlet, parcel: Parcel, pending: Pending) -> None:
        parcel.number = outlet.number()
        outlet.unacked[parcel.number] = pending
        pending.left[outlet, parcel.number] = None
        self.hold(parcel.message)

    def _left(self, pending: Pending, one: Subscription | tuple[Outlet, int]) -> None:
        """One less that has to be waited for."""
        del pending.left[one]
        self.release(pending.message)
        if not pending.left:
            self.news[pending] = None

    def hold(self, message: Message) -> None:
        """It waits for one more, until that one releases it. Of a message that has just been taken."""
        if not message.holders:
            self._held.take(message.owner, _cost(message.data))
        message.holders += 1

    def release(self, message: Message) -> None:
        """It waits for one less."""
        message.holders -= 1
        if not message.holders:
            self._held.give(message.owner, _cost(message.data))
            if message.watched:
                self.over.append(message)

    @property
    def held(self) -> int:
        """Bytes of messages that wait."""
        return self._held.used

    def check(self) -> None:
        """What always holds, for tests."""
        queued: dict[Message, int] = {}
        for one in self.subscriptions:
            for message in (*one.messages(), *(pending.message for pending in one.blocked)):
                queued[message] = queued.get(message, 0) + 1
            assert not one.blocked or one.policy == BLOCK
        assert all(message.holders >= count for message, count in queued.items())
        assert self._held.used >= sum(len(message.data) for message in queued)


def _cost(data: bytes) -> int:
    return len(data) + limits.TOPIC_COST
