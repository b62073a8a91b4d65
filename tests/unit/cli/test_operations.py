"""docs/operations.md says what there is."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest
from ipcd_client.access.rules import Rules
from ipcd_client.cli import failures
from ipcd_client.cli.program import root, run

from ipcd import cli, config

DOCUMENT = Path(__file__).parents[3] / "docs" / "operations.md"


@pytest.fixture
def text() -> str:
    if not DOCUMENT.exists():
        pytest.skip("the documents are not where the tests are, as when an installed wheel is tested")
    return DOCUMENT.read_text(encoding="utf-8")


def rows(text: str, heading: str) -> list[list[str]]:
    """The table below a heading's first column name, without its head; code marks are taken off."""
    body = text.partition(f"| {heading} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|").replace("`", ""))] for line in body]


def commands(text: str) -> list[str]:
    """The command lines of ipcctl, without its name."""
    return re.findall(r"^(?:host\d)?\$ ipcctl (.*?)(?:  +#.*)?$", text, re.MULTILINE)


def test_every_setting_is_there_with_its_names_and_default(text: str) -> None:
    settings = {row[2].partition(",")[0]: row for row in rows(text, "flag")}
    fields = {field.name: field for field in dataclasses.fields(config.Config)}
    assert set(settings) == set(fields)
    options = {option for parameter in cli.main.commands["run"].params for option in parameter.opts}
    for name, (flag, variable, _, default, _) in settings.items():
        if name == "rules":
            assert (flag, variable) == ("none", "none")
            continue
        assert variable.partition(",")[0] == config.VARIABLES[name]
        assert flag.partition(",")[0] in options
        actual = fields[name].default
        if isinstance(actual, bool):
            assert default == str(actual).lower()
        elif isinstance(actual, str) and actual:
            assert default == actual
    documented = {row[0].partition(",")[0] for row in rows(text, "flag")} | {"--config"}
    assert options <= documented | {"--help", "-h"}


def test_the_file_shown_is_accepted(text: str, tmp_path: Path) -> None:
    shown = text.partition("```toml\n")[2].partition("```")[0]
    file = tmp_path / "ipcd.toml"
    file.write_text(shown)
    loaded = config.load({}, environ={}, file=str(file))
    assert {key: getattr(loaded, key) for key in ("node", "listen", "insecure", "discovery")} == {
        key: value for key, value in tomllib.loads(shown).items() if key != "peers"
    }


def test_every_command_is_there(text: str) -> None:
    named = {row[0].split()[1] for row in rows(text, "command")}
    assert named | {"completion"} == set(root.commands)


def test_every_command_line_of_ipcctl_parses(text: str, tmp_path: Path) -> None:
    lines = [line for line in commands(text) if not line.startswith("cert ")]
    assert len(lines) > 8
    for line in lines:
        words = [word.strip("'") for word in re.findall(r"'[^']*'|\S+", line)]
        # Usage is checked before the daemon is looked for. To the doctor, that there is none is an answer.
        expected = failures.NO if "doctor" in words else failures.NO_DAEMON
        if words[0] == "rules":
            # Nor is the file there.
            expected = failures.USAGE
        assert run([*words, "-s", str(tmp_path / "none.sock")]) == expected, line


def test_every_command_line_about_certificates_works_after_those_before(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    lines = [line for line in commands(text) if line.startswith("cert ")]
    assert len(lines) > 4
    for line in lines:
        assert run(line.split()) == failures.OK, line


def test_the_rules_shown_say_what_the_text_does(text: str, tmp_path: Path) -> None:
    section = text.partition("\n## Rules\n")[2].partition("\n## ")[0]
    judges = []
    for number, shown in enumerate(re.findall(r"```toml\n(.*?)```", section, re.DOTALL)):
        file = tmp_path / f"{number}.toml"
        file.write_text(shown)
        judges.append(Rules(config.load({}, environ={}, file=str(file)).rules, "default", "host1", 990))
    guests, users, nodes, gateway = judges

    def rule(judge: Rules, who: str, verb: str, name: str) -> str:
        decision = judge.decide(f"spiffe://default/node/{who}", verb, name)
        return f"{'yes' if decision.allowed else 'no'}: {decision.rule_name}"

    assert rule(guests, "b/uid/1001", "register", "lab.v1.Lab") == "yes: guests"
    assert rule(users, "host1/uid/1001", "register", "shop.till.Till") == "yes: shop"
    assert rule(users, "host1/uid/1002", "call", "shop.Stock") == "yes: reports"
    assert rule(users, "host1/uid/1002", "call", "shop.till.Till") == "no: till"
    assert rule(users, "host1/uid/1002", "register", "shop.Stock") == "no: "
    assert str(users.decide("spiffe://default/node/host1/uid/1002", "call", "shop.till.Till")) in section
    assert rule(nodes, "web-1/uid/0", "call", "ledger.Ledger") == "no: tills only"
    assert rule(nodes, "till-1/uid/1001", "call", "ledger.Ledger") == "yes: tills"
    assert rule(nodes, "till-1/uid/0", "call", "ledger.Ledger") == "yes: same-uid"
    assert rule(nodes, "host1/uid/990", "call", "ledger.Ledger") == "yes: same-uid"
    assert rule(gateway, "host1/grpc", "call", "public.Front") == "yes: grpc-listen"
    assert rule(gateway, "host1/grpc", "call", "internal.X") == "no: internal"
    assert rule(gateway, "host1/uid/990", "register", "public.Front") == "no: no impostors"
    assert rule(gateway, "host1/uid/1005", "register", "public.Front") == "yes: front end"


def test_every_exit_code_is_there(text: str) -> None:
    codes = {int(row[0]) for row in rows(text, "code")}
    own = {value for name, value in vars(failures).items() if name.isupper() and isinstance(value, int)}
    assert codes == own - {failures.BUG}
    assert f"{failures.BUG} would be a bug" in text
