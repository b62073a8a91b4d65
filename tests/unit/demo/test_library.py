"""What the demo's service does, without any RPC."""

from __future__ import annotations

import hashlib
import os
import re
import sysconfig
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipcd.demo import library as lab
from ipcd.demo.library import (
    Digester,
    InvalidRequestError,
    LabError,
    Library,
    NoSuchFileError,
    OverLimitError,
    Reply,
    Session,
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small library with everything beside it that must not be reached."""
    root = tmp_path / "lib"
    for name, text in {
        "alpha.py": "import os\n\ndef alpha():\n    pass\n",
        "beta.py": "class BetaError(Exception):\r\n    pass\r\n",
        "notes.txt": "def not_python\n",
        "json/decoder.py": "def decode(s):\n    return s\n",
        "json/deep/er.py": "def deeper():\n    pass",
        "site-packages/foreign.py": "def foreign():\n    pass\n",
        "json/__pycache__/decoder.py": "def compiled():\n    pass\n",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    (tmp_path / "secret.py").write_text("def secret(): pass\n")
    (root / "out.py").symlink_to(tmp_path / "secret.py")
    (root / "in.py").symlink_to(root / "alpha.py")
    (root / "loop.py").symlink_to(root / "loop.py")
    (root / "away").symlink_to(tmp_path)
    os.mkfifo(root / "pipe.py")
    return root


@pytest.fixture
def library(tree: Path) -> Library:
    return Library(tree)


def test_reads_a_file_by_its_path_below_the_root(library: Library, tree: Path) -> None:
    assert library.read("json/decoder.py") == (tree / "json/decoder.py").read_bytes()
    assert library.read("decoder.py", "json") == library.read("json/decoder.py")
    assert library.read("../alpha.py", "json") == library.read("alpha.py")
    assert library.read("in.py") == library.read("alpha.py")


@pytest.mark.parametrize(
    "path",
    [
        "../secret.py",
        "/etc/passwd",
        "json/../../secret.py",
        "out.py",
        "away/secret.py",
        "a\0b",
        "site-packages/foreign.py",
    ],
)
def test_a_path_that_leads_out_is_an_invalid_argument(library: Library, path: str) -> None:
    with pytest.raises(InvalidRequestError, match="standard library"):
        library.read(path)


@pytest.mark.parametrize("path", ["none.py", "json", "", "loop.py", "alpha.py/x", "pipe.py", "x" * 300])
def test_what_is_no_readable_file_is_not_found(library: Library, path: str) -> None:
    with pytest.raises(NoSuchFileError):
        library.read(path)


def test_a_file_over_the_limit_is_refused_and_passed_over(library: Library, tree: Path) -> None:
    (tree / "big.py").write_bytes(b"def big\n" + bytes(lab.MAX_FILE_BYTES))
    with pytest.raises(OverLimitError, match=str(lab.MAX_FILE_BYTES)):
        library.read("big.py")
    assert [hit.file for hit in library.search("^def ")] == ["alpha.py"]


@given(
    path=st.text(alphabet=st.sampled_from("./a\0é~"), max_size=20),
    directory=st.sampled_from(["", "a", "a/b"]),
)
def test_no_path_names_anything_outside(path: str, directory: str) -> None:
    root = Path("/nowhere/lib")
    try:
        name = Library(root).name_of(path, directory)
    except InvalidRequestError:
        return
    assert Path(os.path.normpath(root / name)).is_relative_to(root)
    assert name == "" or os.path.normpath(name) == name


@pytest.mark.parametrize(
    ("glob", "files"),
    [
        ("", ["alpha.py", "beta.py"]),
        ("*.txt", ["notes.txt"]),
        ("json/*.py", ["json/decoder.py"]),
        ("j*/d*/*", ["json/deep/er.py"]),
        ("./alpha.py", ["alpha.py"]),
        ("**/*.py", ["alpha.py", "beta.py", "json/decoder.py", "json/deep/er.py"]),
        ("json/**/*.py", ["json/decoder.py", "json/deep/er.py"]),
        ("none/*.py", []),
        ("site-packages/*", []),
        ("away/*", []),
    ],
)
def test_globs(library: Library, glob: str, files: list[str]) -> None:
    assert list(library.files(glob)) == files


@pytest.mark.parametrize("glob", ["../*", "/etc/*", "a/../../*", "**/a/**/b", "**", "json/", "\0", "a" * 201])
def test_a_bad_glob_is_refused_before_anything_is_read(library: Library, glob: str) -> None:
    with pytest.raises(InvalidRequestError):
        library.files(glob)


def test_search_gives_file_line_and_text(library: Library) -> None:
    hits = list(library.search(r"^(class|def) \w+", "**/*.py"))
    assert [(hit.file, hit.line, hit.text) for hit in hits] == [
        ("alpha.py", 3, "def alpha():"),
        ("beta.py", 1, "class BetaError(Exception):"),
        ("json/decoder.py", 1, "def decode(s):"),
        ("json/deep/er.py", 1, "def deeper():"),
    ]


def test_search_counts_lines_as_an_editor_does(library: Library, tree: Path) -> None:
    (tree / "odd.py").write_bytes(b"one\x0ctwo\r\nthree \xff\xe9\n" + b"x" * 500)
    hits = list(library.search("", "odd.py"))
    assert [hit.line for hit in hits] == [1, 2, 3]
    assert hits[1].text == "three \ufffd\ufffd"
    assert len(hits[2].text) == lab.MAX_TEXT


def test_search_gives_no_more_than_its_limit(library: Library, tree: Path) -> None:
    (tree / "many.py").write_text("x\n" * (lab.MAX_MATCHES + 1))
    assert len(list(library.search("x", "many.py", 3))) == 3
    assert len(list(library.search("x", "many.py"))) == lab.DEFAULT_MATCHES
    assert len(list(library.search("x", "many.py", lab.MAX_MATCHES))) == lab.MAX_MATCHES
    with pytest.raises(InvalidRequestError, match=str(lab.MAX_MATCHES)):
        library.search("x", "many.py", lab.MAX_MATCHES + 1)


def test_search_ends_once_nobody_wants_it(library: Library) -> None:
    asked = iter([True, False])
    assert [hit.file for hit in library.search("", "**/*.py", active=lambda: next(asked))] == ["alpha.py"] * 4


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("a(b", "position 1: missing \\)"),
        ("ab[", "position 2: unterminated"),
        ("x" * 201, "201 characters"),
        ("a{99999999999999999999}", "bad pattern"),
    ],
)
def test_a_bad_pattern_is_refused_naming_the_position(library: Library, pattern: str, says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        library.search(pattern)


@given(data=st.binary(max_size=300), cut=st.integers(0, 300), algorithm=st.sampled_from(lab.ALGORITHMS))
def test_digests_are_those_of_hashlib_however_the_bytes_come(data: bytes, cut: int, algorithm: str) -> None:
    digester = Digester(algorithm)
    digester.update(data[:cut])
    digester.update(data[cut:])
    found = digester.result()
    assert (found.algorithm, found.hex, found.size) == (
        algorithm,
        hashlib.new(algorithm, data).hexdigest(),
        len(data),
    )
    assert lab.digest(data, algorithm) == found


def test_digest_refusals() -> None:
    assert lab.digest(b"").algorithm == "sha256"
    with pytest.raises(InvalidRequestError, match=r"'crc32'.*sha256"):
        lab.digest(b"", "crc32")
    with pytest.raises(OverLimitError, match="4 bytes are over the limit of 3"):
        lab.digest(b"1234", limit=3)
    digester = Digester(limit=3)
    digester.update(b"123")
    with pytest.raises(OverLimitError):
        digester.update(b"4")


def test_every_refusal_has_a_status_code_of_its_own() -> None:
    codes = [kind.code for kind in LabError.__subclasses__()]
    assert sorted(code.name for code in codes) == ["INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"]
    assert grpc.StatusCode.INTERNAL not in codes


def ask(session: Session, line: str) -> list[str]:
    replies = list(session.answer(line))
    assert [reply.last for reply in replies] == [False] * (len(replies) - 1) + [True]
    assert not any(reply.error for reply in replies), replies
    return [reply.text for reply in replies]


def refusal(session: Session, line: str) -> str:
    (reply,) = session.answer(line)
    assert reply.last
    assert reply.text == ""
    return reply.error


def test_a_session_keeps_its_directory(library: Library) -> None:
    session = Session(library)
    assert ask(session, "ls *.py") == ["alpha.py", "beta.py", "2 entries"]
    assert ask(session, "cd json") == ["json"]
    assert ask(session, "ls") == ["deep/", "decoder.py", "2 entries"]
    assert ask(session, 'grep "^def" decoder.py') == ["1:def decode(s):", "1 matches"]
    (line,) = ask(session, "digest decoder.py")
    assert line == f"sha256 {hashlib.sha256(library.read('json/decoder.py')).hexdigest()} 28 bytes"
    (line,) = ask(session, "stat decoder.py")
    assert re.fullmatch(r"-rw.{7} 28 bytes, changed \d{4}-\d\d-\d\dT[\d:]+\+00:00", line)
    assert ask(session, "cd ..") == ["."]
    assert ask(session, "cd .") == ["."]
    assert not session.ended
    assert ask(session, "quit") == ["bye"]
    assert session.ended


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "no command ''"),
        ("rm alpha.py", "no command 'rm'; there are cd, ls"),
        ("stat", "stat takes 1 arguments, not 0"),
        ("ls a b", "ls takes 0 or 1 arguments, not 2"),
        ("cd ..", "leads out"),
        ("cd alpha.py", "alpha.py is no directory"),
        ("cd " + "x" * 300, "is no directory"),
        ("stat none.py", "none.py: No such file"),
        ("digest /etc/passwd", "leads out"),
        ("grep ( alpha.py", "bad pattern at position 0"),
        ("grep x json", "json is no file"),
        ('grep "x', "can't split the command: No closing quotation"),
        ("ls " + "x" * lab.MAX_COMMAND, "over the limit of 1000"),
    ],
)
def test_a_refused_command_is_answered_and_the_session_goes_on(library: Library, line: str, says: str) -> None:
    session = Session(library)
    assert re.search(says, refusal(session, line))
    assert ask(session, "ls alpha.py") == ["alpha.py", "1 entries"]


def test_what_a_session_gives_is_bounded(library: Library, tree: Path) -> None:
    (tree / "many.py").write_text("x\n" * (lab.MAX_LISTED + 5))
    session = Session(library)
    assert len(ask(session, "grep x many.py")) == lab.MAX_LISTED + 1
    for _ in range(lab.MAX_REQUESTS - 1):
        assert list(session.answer("cd .")) == [Reply(".", last=True)]
    with pytest.raises(OverLimitError, match=str(lab.MAX_REQUESTS)):
        session.answer("cd .")


def test_the_library_is_the_running_pythons_own_unless_told_otherwise() -> None:
    library = Library()
    assert library.root == Path(sysconfig.get_path("stdlib")).resolve()
    files = list(library.files())
    assert "typing.py" in files
    assert files == sorted(files)
