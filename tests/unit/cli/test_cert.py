"""`ipcctl cert`. No daemon."""

from __future__ import annotations

import errno
import json
import os
import shlex
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from ipcd_client.certs.authority import Authority
from ipcd_client.certs.identity import Identity
from ipcd_client.cli.program import root, run

DAY = 86400


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place to work, and an operator's home."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    # It is not asked, so that there is none is no trouble.
    monkeypatch.setenv("IPCD_SOCKET", "/nonexistent/ipcd.sock")


@pytest.fixture
def cert(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def ran(*arguments: str) -> tuple[int, str, str]:
        code = run(["cert", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return ran


@pytest.fixture
def as_json(cert: Callable[..., tuple[int, str, str]]) -> Callable[..., Any]:
    def ran(*arguments: str) -> Any:
        code, out, err = cert(*arguments, "-o", "json")
        assert (code, err) == (0, "")
        return json.loads(out)

    return ran


def mode(path: str | Path) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


def test_a_cluster(cert: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    directory = tmp_path / "home" / ".config" / "ipcd" / "authority"
    code, out, err = cert("init", "--cluster", "lab")
    assert (code, err) == (0, "next, an identity file for each node: ipcctl cert issue NODE...\n")
    assert out.startswith("authority of cluster lab, until 20")
    assert f"{directory}/authority.pem" in out
    assert f"{directory}/trusted.pem" in out
    code, out, err = cert("issue", "host1", "host2")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["NODE", "FILE", "VALID", "UNTIL", "SHA-256"]
    assert [line[:2] for line in lines[1:]] == [["host1", "host1.pem"], ["host2", "host2.pem"]]
    for node in ("host1", "host2"):
        assert mode(f"{node}.pem") == 0o600
        loaded = Identity.load(f"{node}.pem")
        assert (loaded.cluster, loaded.node) == ("lab", node)
        assert loaded.sha256 in out
    code, out, err = cert("show", "host1.pem", str(directory / "trusted.pem"))
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()][1:]
    assert [row[:3] for row in rows] == [
        ["host1.pem", "node", "spiffe://lab/node/host1"],
        ["host1.pem", "authority", "spiffe://lab"],
        [str(directory / "trusted.pem"), "authority", "spiffe://lab"],
    ]
    assert [row[-2] for row in rows] == ["364", "3649", "3649"]
    assert "PRIVATE" not in out


def test_a_cluster_for_programs(as_json: Callable[..., Any], tmp_path: Path) -> None:
    directory = str(tmp_path / "authority")
    made = as_json("init", "--dir", directory)
    authority = made.pop("certificates")
    assert made == {
        "cluster": "default",
        "rotating": False,
        "authority": f"{directory}/authority.pem",
        "trusted": f"{directory}/trusted.pem",
    }
    (tmp_path / "out").mkdir()
    (issued,) = as_json("issue", "a", "--dir", directory, "--out", str(tmp_path / "out"), "--days", "30")
    path = str(tmp_path / "out" / "a.pem")
    assert as_json("show", path) == [issued, {**authority[0], "file": path}]
    expires = Identity.load(path).expires
    assert abs(expires - time.time() - 30 * DAY) < 60
    assert issued == {
        "file": path,
        "kind": "node",
        "identity": "spiffe://default/node/a",
        "cluster": "default",
        "node": "a",
        "subject": "node a",
        "issuer": authority[0]["subject"],
        "serial": issued["serial"],
        "not_before": issued["not_before"],
        "not_after": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(expires)),
        "expires": expires,
        "days_left": 30.0,
        "sha256": Identity.load(path).sha256,
    }


def test_the_directory_by_the_environment(
    as_json: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert as_json("init")["authority"] == str(tmp_path / "config" / "ipcd" / "authority" / "authority.pem")


def test_a_rotation(cert: Callable[..., tuple[int, str, str]], as_json: Callable[..., Any]) -> None:
    cert("init")
    code, out, err = cert("rotate")
    assert code == 0
    assert [line.split()[3] for line in out.splitlines()[1:]] == ["signs", "trusted"]
    assert "ipcctl cert issue --force NODE" in err
    assert "ipcctl cert rotate --retire" in err
    assert [each["kind"] for each in as_json("issue", "a")] == ["node"]
    kinds = [each["kind"] for each in as_json("show", "a.pem")]
    assert kinds == ["node", "cross-signed", "authority", "authority"]
    code, out, err = cert("rotate")
    assert (code, out) == (2, "")
    assert "the last rotation has not ended; when all nodes have a new file" in err
    assert err.endswith(": ipcctl cert rotate --retire\n")
    code, out, err = cert("rotate", "--retire")
    assert code == 0
    assert [line.split()[3] for line in out.splitlines()[1:]] == ["signs", "retired"]
    assert "ipcctl cert issue --force NODE" in err
    assert "--retire" not in err
    assert [each["kind"] for each in as_json("issue", "a", "--force")] == ["node"]
    assert [each["kind"] for each in as_json("show", "a.pem")] == ["node", "authority"]


def test_a_rotation_for_programs(as_json: Callable[..., Any]) -> None:
    first = as_json("init")["certificates"]
    rotated = as_json("rotate")
    assert rotated["rotating"] is True
    assert rotated["certificates"][1:] == first
    assert rotated["retired"] == []
    retired = as_json("rotate", "--retire")
    assert retired["rotating"] is False
    assert retired["certificates"] == rotated["certificates"][:1]
    assert retired["retired"] == [{**first[0], "file": None}]


def test_nothing_is_overwritten(cert: Callable[..., tuple[int, str, str]], as_json: Callable[..., Any]) -> None:
    as_json("init")
    as_json("issue", "b")
    before = Path("b.pem").read_bytes()
    code, out, err = cert("init", "-o", "json")
    assert (code, out) == (2, "")
    assert json.loads(err)["code"] == "USAGE"
    assert json.loads(err)["error"].endswith("/authority.pem: this is there already; --force overwrites it")
    assert cert("issue", "a", "b") == (2, "", "ipcctl: b.pem: this is there already; --force overwrites it\n")
    assert Path("b.pem").read_bytes() == before
    # Rather none than some of them.
    assert not Path("a.pem").exists()
    as_json("issue", "a", "b", "--force")
    assert Path("b.pem").read_bytes() != before
    as_json("init", "--force")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["issue", "a"], "authority.pem: there is no such file; make an authority with: ipcctl cert init"),
        (["rotate"], "authority.pem: there is no such file; make an authority with: ipcctl cert init"),
        (["show", "none.pem"], "none.pem: there is no such file"),
        (["show", "."], ".: this is not a regular file"),
        (["init", "--cluster", "A"], "cluster 'A': in a certificate a name begins with a small letter"),
        (["init", "--dir", "/dev/null/x"], "/dev/null: this is not a directory"),
    ],
)
def test_what_is_wrong_is_named(arguments: list[str], words: str, cert: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = cert(*arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.startswith("ipcctl: ")


def test_names_are_checked_before_anything_is_written(cert: Callable[..., tuple[int, str, str]]) -> None:
    cert("init")
    code, _, err = cert("issue", "a", "Host1")
    assert code == 2
    assert "node 'Host1': in a certificate a name begins with a small letter" in err
    assert list(Path().iterdir()) == []


def test_a_full_disk(cert: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    cert("init")

    def fsync(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    assert cert("issue", "a") == (2, "", "ipcctl: a.pem: it cannot be written: No space left on device\n")
    assert list(Path().iterdir()) == []


def test_what_has_expired_is_shown_and_is_a_no(cert: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    now = time.time()
    authority = Authority.create(tmp_path / "authority", "lab", now=now - 2 * DAY)
    for node, when in (("late", now - 2 * DAY), ("early", now + DAY)):
        Path(f"{node}.pem").write_bytes(authority.issue(node, 1, now=when).content)
    for node, state in (("late", "expired"), ("early", "not yet")):
        code, out, err = cert("show", f"{node}.pem")
        assert (code, err) == (1, "")
        assert state in out.splitlines()[1]
        code, out, err = cert("show", f"{node}.pem", "-o", "json")
        assert code == 1
        assert json.loads(out)[0]["days_left"] == (-1.0 if node == "late" else 2.0)


def test_files_with_nothing_to_show(cert: Callable[..., tuple[int, str, str]]) -> None:
    cert("init")
    cert("issue", "a")
    text = Path("a.pem").read_text()
    Path("key.pem").write_text(text[text.index("-----BEGIN PRIVATE") : text.index("-----END PRIVATE") + 25])
    assert cert("show", "key.pem") == (2, "", "ipcctl: key.pem: there is a key in it, and no certificate\n")


def test_no_command_shows_the_help(cert: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = cert()
    assert code == 2
    listed = [line.split()[0] for line in out.partition("Commands:\n")[2].splitlines()]
    assert listed == ["init", "issue", "show", "rotate"]


def shown(*arguments: str) -> str:
    result = CliRunner().invoke(root, ["cert", *arguments, "--help"], prog_name="ipcctl")
    assert result.exit_code == 0
    return result.output


def examples() -> Iterator[list[str]]:
    for command in ("", "init", "issue", "show", "rotate"):
        for line in shown(*command.split()).partition("Examples:\n")[2].split("\n\n")[0].splitlines():
            yield shlex.split(line.strip().split(" | ")[0])[1:]


@pytest.mark.parametrize("arguments", list(examples()), ids=" ".join)
def test_every_example_works(arguments: list[str], cert: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    def there(argument: str) -> str:
        return argument.replace("/media/stick", str(tmp_path / "stick")).replace("~", str(tmp_path / "home"))

    (tmp_path / "stick").mkdir()
    if "init" not in arguments:
        assert cert("init")[0] == 0
    if "show" in arguments or "--force" in arguments:
        assert cert("issue", "host1")[0] == 0
    if "--retire" in arguments:
        assert cert("rotate")[0] == 0
    expanded = [
        name for each in map(there, arguments) for name in (map(str, Path().glob(each)) if "*" in each else [each])
    ]
    code, _, err = cert(*expanded[1:])
    assert code == 0, err
