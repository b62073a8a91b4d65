"""The report's tables, as Markdown: pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from benchmarks.figures import Result, times
from benchmarks.peers.base import DOWN, UP
from benchmarks.peers.registry import Peer
from benchmarks.plan import LARGE, SMALL
from benchmarks.stats import Reading, Run, best, ratio, select, value
from ipcd.demo.timing import ratio_text

NOTHING = "-"


def size_text(size: int) -> str:
    """Bytes as people say them."""
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Empty where there is no row. The first `left` columns are text, the others numbers."""
    lines = [_line(row) for row in rows]
    if not lines:
        return ""
    marks = ["---" if index < left else "---:" for index in range(len(headings))]
    return "\n".join([_line(headings), _line(marks), *lines])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def _points(run: Run, group: str, name: str) -> list[int]:
    return sorted({int(one.at[name]) for one in select(run, group) if name in one.at})


def _by_point(
    run: Run,
    peers: Sequence[Peer],
    group: str,
    name: str,
    heading: Callable[[int], str],
    cell: Callable[[Peer, int], str],
) -> str:
    """A row for each peer that has a reading, a column for each point."""
    points = _points(run, group, name)
    measured = [peer for peer in peers if select(run, group, peer.name)]
    rows = ([peer.label, *(cell(peer, point) for point in points)] for peer in measured)
    return table(["", *map(heading, points)], rows)


def _time(us: float) -> str:
    return f"{us / 1000:,.1f} ms" if us >= 10_000 else f"{us:.0f} us" if us >= 100 else f"{us:.1f} us"


def _with_ratio(part: float | None, text: Callable[[float], str], rest: str) -> str:
    return rest if part is None else f"**{text(part)}** ({rest})"


def figures(told: Sequence[Result], reasons: dict[str, str], runs: int) -> str:
    """What is to be reached, and what was; `reasons` says by peer why there is nothing of it."""

    def row(one: Result) -> list[str]:
        if one.value is None:
            why = next((reasons[peer] for peer in one.figure.needs if peer in reasons), "not measured, or not in full")
            return [one.figure.name, one.figure.target, NOTHING, NOTHING, f"not available: {why}"]
        single = ", ".join(NOTHING if each is None else one.figure.text(each) for each in one.single)
        return [one.figure.name, one.figure.target, one.figure.text(one.value), single, f"**{one.verdict}**"]

    return table(
        ["", "to reach", "measured" if runs == 1 else f"median of {runs} runs", "each run", ""], map(row, told)
    )


def latency(run: Run, peers: Sequence[Peer]) -> str:
    """p50 and p99 by size."""

    def cell(peer: Peer, size: int) -> str:
        p50 = value(run, "p50_us", "latency", peer.name, size=size)
        p99 = value(run, "p99_us", "latency", peer.name, size=size)
        if p50 is None or p99 is None:
            return NOTHING
        part = ratio(p50, value(run, "p50_us", "latency", peer.beside, size=size))
        return _with_ratio(part, ratio_text, f"{_time(p50)} / {_time(p99)}")

    rows = _by_point(run, peers, "latency", "size", size_text, cell)
    return rows and f"p50 beside grpcio's (p50 / p99).\n\n{rows}"


def cpu(run: Run, peers: Sequence[Peer]) -> str:
    """Of both processes, by size."""

    def spent(peer: str, size: int) -> tuple[float, float] | None:
        client = value(run, "client_cpu_us", "latency", peer, size=size)
        server = value(run, "server_cpu_us", "latency", peer, size=size)
        return None if client is None or server is None else (client, server)

    def cell(peer: Peer, size: int) -> str:
        ours, theirs = spent(peer.name, size), spent(peer.beside, size)
        if ours is None:
            return NOTHING
        part = None if theirs is None else ratio(sum(ours), sum(theirs))
        return _with_ratio(part, ratio_text, f"{_time(ours[0])} + {_time(ours[1])}")

    rows = _by_point(run, peers, "latency", "size", size_text, cell)
    return rows and (
        "Both processes together beside grpcio's (client + server), from the same turns. The time spent looking for the"
        " next message instead of sleeping is in it, and what the client does to time and check its calls.\n\n" + rows
    )


def page_faults(run: Run, peers: Sequence[Peer]) -> str:
    """Of both processes, by size."""

    def cell(peer: Peer, size: int) -> str:
        client = value(run, "client_faults", "latency", peer.name, size=size)
        server = value(run, "server_faults", "latency", peer.name, size=size)
        return NOTHING if client is None or server is None else f"{client:,.0f} + {server:,.0f}"

    rows = _by_point(run, peers, "latency", "size", size_text, cell)
    return rows and (
        "Client + server, from the same turns. Memory that is given back to the system after a message is mapped page"
        f" by page for the next: with large ones that can cost more than all else.\n\n{rows}"
    )


def in_flight(run: Run, peers: Sequence[Peer]) -> str:
    """Calls/s by how many are in flight, by the best of the ways to do so."""

    def cell(peer: Peer, count: int) -> str:
        ours = best(run, "calls_per_s", "throughput", peer.name, in_flight=count)
        if ours is None:
            return NOTHING
        rate = ours.values["calls_per_s"]
        way = f" {ours.at['way']}" if len(peer.ways) > 1 else ""
        return _with_ratio(ratio(rate, _best_rate(run, peer.beside, count)), times, f"{rate:,.0f}/s{way}")

    rows = _by_point(run, peers, "throughput", "in_flight", lambda count: f"{count} in flight", cell)
    return (
        rows
        and f"Of {size_text(SMALL)}. Where there are several ways to keep them in flight, the best is told.\n\n{rows}"
    )


def _best_rate(run: Run, peer: str, count: int) -> float | None:
    found = best(run, "calls_per_s", "throughput", peer, in_flight=count)
    return None if found is None else found.values["calls_per_s"]


def processes(run: Run, peers: Sequence[Peer]) -> str:
    """Calls/s of all together, by how many there are."""

    def cell(peer: Peer, count: int) -> str:
        rate = value(run, "calls_per_s", "processes", peer.name, processes=count)
        if rate is None:
            return NOTHING
        theirs = value(run, "calls_per_s", "processes", peer.beside, processes=count)
        return _with_ratio(ratio(rate, theirs), times, f"{rate:,.0f}/s")

    rows = _by_point(
        run, peers, "processes", "processes", lambda count: "1 process" if count == 1 else f"{count} processes", cell
    )
    return rows and f"Of {size_text(SMALL)}; calls/s of all of them.\n\n{rows}"


def streaming(run: Run, peers: Sequence[Peer]) -> str:
    """Messages/s of small ones and MB/s of large ones, each way."""
    points = ((DOWN, SMALL), (UP, SMALL), (DOWN, LARGE), (UP, LARGE))

    def cell(peer: Peer, direction: str, size: int) -> str:
        name = "messages_per_s" if size == SMALL else "mb_per_s"
        ours = value(run, name, "streaming", peer.name, direction=direction, size=size)
        theirs = value(run, name, "streaming", peer.beside, direction=direction, size=size)
        if ours is None:
            return NOTHING
        return _with_ratio(ratio(ours, theirs), times, f"{ours:,.0f}{'/s' if size == SMALL else ' MB/s'}")

    headings = [f"{size_text(size)}, {'from' if direction == DOWN else 'to'} the server" for direction, size in points]
    measured = [peer for peer in peers if select(run, "streaming", peer.name)]
    return table(["", *headings], ([peer.label, *(cell(peer, *point) for point in points)] for peer in measured))


def first_call(run: Run, peers: Sequence[Peer]) -> str:
    """p50 and p99."""

    def row(peer: Peer, one: Reading) -> list[str]:
        p50 = one.values["p50_us"]
        part = ratio(p50, value(run, "p50_us", "first-call", peer.beside))
        return [
            peer.label,
            NOTHING if part is None else f"**{ratio_text(part)}**",
            _time(p50),
            _time(one.values["p99_us"]),
        ]

    rows = [row(peer, one) for peer in peers for one in select(run, "first-call", peer.name)]
    return table(["", "beside grpcio", "p50", "p99"], rows)


def memory(run: Run, peers: Sequence[Peer]) -> str:
    """Of server and client, in MB."""

    def cell(peer: Peer, side: str, when: str) -> str:
        rss = value(run, f"{side}_rss", "memory", peer.name, when=when)
        private = value(run, f"{side}_private", "memory", peer.name, when=when)
        return NOTHING if rss is None or private is None else f"{rss / 1e6:.0f} ({private / 1e6:.0f})"

    measured = [peer for peer in peers if select(run, "memory", peer.name)]
    points = [(when, side) for when in ("small", "large") for side in ("server", "client")]
    headings = [f"{side}, {'after small calls' if when == 'small' else 'after the latencies'}" for when, side in points]
    rows = table(
        ["", *headings], ([peer.label, *(cell(peer, side, when) for when, side in points)] for peer in measured)
    )
    return rows and (
        "Resident MB (of it the process's own), interpreter and libraries included; after a few calls of"
        f" {size_text(SMALL)}, and after all sizes.\n\n{rows}"
    )


def callers(run: Run, peers: Sequence[Peer]) -> str:
    """What so many cost the server."""

    def row(peer: Peer, one: Reading) -> list[str]:
        values = one.values
        served = f"{values['served']:,.0f} of {values['callers']:,.0f}"
        if "seconds" not in values:
            return [peer.label, served, *[NOTHING] * 7]
        return [
            peer.label,
            served,
            f"{values['seconds']:.1f} s",
            *(f"{values[f'{name}_per_caller'] / 1000:.0f} KB" for name in ("rss", "pss", "private", "shared")),
            f"{values['descriptors_per_caller']:.1f}",
            f"{values['idle_cpu_ms_per_s']:.1f} ms",
        ]

    rows = table(
        [
            "",
            "served",
            "in",
            "resident each",
            "by parts (PSS) each",
            "its own each",
            "shared memory each",
            "descriptors each",
            "CPU of 1 s, idle",
        ],
        [row(peer, one) for peer in peers for one in select(run, "callers", peer.name)],
    )
    return rows and (
        "Channels, each with a connection of its own, in a few client processes; what the server's memory grew by for"
        " each of them, all idle. Shared memory is what the system has allocated for both sides, whether anybody has"
        f" touched it or not; other programs may be in it.\n\n{rows}"
    )


def idle(run: Run) -> str:
    """What nobody's calls cost."""
    rows = [
        [
            f"{one.peer}, {one.at['process']}",
            str(one.at.get("connected", NOTHING)),
            f"{one.values['cpu_ms']:.1f} ms",
            f"{one.values['seconds']:.0f} s",
            f"{one.values['rss'] / 1e6:.0f} MB",
            f"{one.values['pss'] / 1e6:.0f} MB",
        ]
        for one in select(run, "idle")
    ]
    text = table(["process", "connected", "CPU time", "of", "resident", "by parts (PSS)"], rows, left=2)
    return text and f"The daemon has no other node, the linked daemon has one.\n\n{text}"


def peers(asked: Sequence[Peer], missing: dict[str, str], failures: dict[str, list[str]], taken: dict[str, str]) -> str:
    """What each is, and why it is not in the tables where it is not."""

    def row(peer: Peer) -> list[str]:
        went = f"not available: {missing[peer.name]}" if peer.name in missing else taken.get(peer.name, NOTHING)
        wrong = "; ".join(f"failed: {why}" for why in failures.get(peer.name, ()))
        return [peer.label, peer.name, "protobuf" if peer.protobuf else "plain bytes", peer.note, went, wrong]

    return table(["", "`--peer`", "messages", "what it is", "its connection", ""], map(row, asked), left=6)
