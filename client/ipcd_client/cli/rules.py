"""`ipcctl rules`: what the rules in a daemon's file say, without a daemon."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ipcd_client.access import identity as ids
from ipcd_client.access import tables
from ipcd_client.access.rules import VERBS, Decision, Rule, Rules
from ipcd_client.cli.failures import NO, OK, WrongUsage
from ipcd_client.cli.output import Output
from ipcd_client.cli.session import Session, common, pass_session

if TYPE_CHECKING:
    from collections.abc import Mapping

_COLOURS: Final = {"allow": "green", "deny": "red"}


@click.group("rules")
@common
def rules() -> None:
    """Who may do what, as a daemon's file says it.

    \b
    Examples:
      ipcctl rules check /etc/ipcd.toml
      ipcctl rules check /etc/ipcd.toml --as uid:1001 --may call lab.v1.Lab
    """


@rules.command("check")
@click.argument("file", type=click.Path(dir_okay=False))
@click.argument("name", default="")
@click.option(
    "--as", "caller", metavar="IDENTITY", help="spiffe://CLUSTER/node/NODE/uid/UID, or uid:UID: a user of NODE."
)
@click.option("--may", "verb", type=click.Choice(VERBS), help="What it would do with NAME.")
@click.option("--node", metavar="NODE", help="The daemon's node. [node in FILE, else the host's name]")
@click.option("--cluster", metavar="CLUSTER", help="Its cluster. [cluster in FILE, else default]")
@click.option("--uid", metavar="UID", type=click.IntRange(0), help="The daemon's user. [yours]")
@common
@pass_session
def check(
    session: Session,
    file: str,
    name: str,
    caller: str | None,
    verb: str | None,
    node: str | None,
    cluster: str | None,
    uid: int | None,
) -> int:
    """Check the rules in FILE, the daemon's TOML file, and list them; no daemon is asked.

    With --as, --may and NAME: whether IDENTITY may do that, and which rule says so. Exit code 0 if it may, 1 if not, 2
    if the file is wrong.

    \b
    Examples:
      ipcctl rules check /etc/ipcd.toml
      ipcctl rules check /etc/ipcd.toml --as uid:1001 --may call lab.v1.Lab
      ipcctl rules check /etc/ipcd.toml --as uid:1001 --may call command:wc
      ipcctl rules check /etc/ipcd.toml --as spiffe://default/node/b/uid/0 --may register lab.v1.Lab -o json
    """
    given = [caller is not None, verb is not None, bool(name)]
    if any(given) and not all(given):
        raise WrongUsage("--as IDENTITY, --may VERB and NAME belong together")
    table = _read(file)
    judged = Rules(
        tables.checked(table.get("rules", []), f"rules in {file}"),
        cluster or _text(table, "cluster", file) or "default",
        node or _text(table, "node", file) or socket.gethostname(),
        os.geteuid() if uid is None else uid,
    )
    if caller is None or verb is None:
        _list(session.output, judged)
        return OK
    decision = judged.decide(str(ids.asked(caller, judged.cluster, judged.node)), verb, name)
    _say(session.output, decision)
    return OK if decision.allowed else NO


def _read(file: str) -> Mapping[str, Any]:
    import tomllib

    try:
        return tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise WrongUsage(f"{file}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WrongUsage(f"{file}: {error}") from error


def _text(table: Mapping[str, Any], key: str, file: str) -> str:
    value = table.get(key, "")
    if not isinstance(value, str):
        raise WrongUsage(f"{key} in {file}: {value!r} is not a text")
    return value


def _list(output: Output, judged: Rules) -> None:
    every = [(rule, False) for rule in judged.own] + [(rule, True) for rule in judged.built_in]
    if output.json:
        output.document([_as_json(rule, built_in=built_in) for rule, built_in in every])
        return
    rows = [
        [rule.name, rule.effect, ", ".join(rule.who), ", ".join(rule.may), ", ".join(rule.what)] for rule, _ in every
    ]
    output.table(["RULE", "EFFECT", "WHO", "MAY", "WHAT"], rows, colours=_COLOURS)


def _as_json(rule: Rule, *, built_in: bool) -> dict[str, Any]:
    return {
        "rule": rule.name,
        "effect": rule.effect,
        "who": list(rule.who),
        "may": list(rule.may),
        "what": list(rule.what),
        "built_in": built_in,
    }


def _say(output: Output, decision: Decision) -> None:
    if output.json:
        output.document(
            {
                "allowed": decision.allowed,
                "rule": decision.rule_name or None,
                "identity": decision.identity,
                "may": decision.verb,
                "name": decision.name,
                "node": decision.node,
                "reason": str(decision),
            }
        )
    else:
        output.line(f"{'yes' if decision.allowed else 'no'}: {decision}")
