"""Code from a file, a folder, an archive, a bundle; and archives that were made to harm."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.store.conftest import entries, leftovers
from tests.integration.store.serving import Page, Server
from worker.store.cache import Cache
from worker.store.code import Code, CodeStore, script_argv
from worker.store.fetching import Fetcher
from worker.store.policy import Policy
from worker.store.refusals import CodeRefused, DataRefused
from worker.store.send import Waiting
from worker.store.sources import parse

pytestmark = pytest.mark.integration

Get = Callable[..., Code]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def get(policy: Callable[..., Policy], data: Path) -> Get:
    def one(uri: str, script: str = "train.py", **changed: object) -> Code:
        rules = policy(**changed)
        cache = Cache(rules.cache, cap=rules.cap, keep_free=rules.keep_free)
        store = CodeStore(cache, rules, Fetcher(cache, rules), Waiting(stall=20))
        return store.get(parse("code_uri", uri, rules.schemes), script)

    return one


def tree(code: Code) -> dict[str, bytes]:
    files = [path for path in code.root.rglob("*") if path.is_file()]
    assert not any(path.is_symlink() for path in code.root.rglob("*"))
    assert not any(path.stat().st_mode & 0o7222 for path in code.root.rglob("*")), "read-only"
    return {str(path.relative_to(code.root)): path.read_bytes() for path in files}


def test_one_file(get: Get, data: Path) -> None:
    (data / "train.py").write_text("print(1)")
    code = get(f"file://{data}/train.py")
    assert tree(code) == {"train.py": b"print(1)"}
    assert script_argv(code, Path("/py")) == ("/py", str(code.root / "train.py"))
    given = script_argv(code, Path("/py"), ("--lr", "$X"), Path("/job/code"))
    assert given == ("/py", "/job/code/train.py", "--lr", "$X")


def test_a_folder_is_copied(get: Get, data: Path) -> None:
    (data / "p" / "lib").mkdir(parents=True)
    (data / "p" / ".git").mkdir()
    (data / "p" / ".git" / "config").write_text("x")
    (data / "p" / "train.py").write_text("one")
    (data / "p" / "lib" / "a.py").write_text("a")
    (data / "p" / "run.sh").write_text("true")
    (data / "p" / "run.sh").chmod(0o4755)
    (data / "p" / "alias.py").symlink_to("lib/a.py")
    code = get(f"file://{data}/p")
    (data / "p" / "train.py").write_text("two")
    assert tree(code) == {
        "train.py": b"one", "lib/a.py": b"a", "run.sh": b"true", "alias.py": b"a",
    }  # fmt: skip
    assert stat.S_IMODE((code.root / "run.sh").stat().st_mode) == 0o555
    assert get(f"file://{data}/p", "run.sh").sha256 != code.sha256
    assert script_argv(get(f"file://{data}/p", "run.sh"), Path("/py"))[0] == "/bin/sh"


def test_a_pin(get: Get, data: Path) -> None:
    (data / "train.py").write_text("good")
    right = hashlib.sha256(b"good").hexdigest()
    get(f"file://{data}/train.py#sha256={right}")
    (data / "train.py").write_text("evil")
    with pytest.raises(DataRefused, match="pin"):
        get(f"file://{data}/train.py#sha256={right}")


def packed(kind: str, files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as opened:
            for name, content in files.items():
                opened.writestr(name, content)
        return out.getvalue()
    with tarfile.open(fileobj=out, mode=f"w:{kind.partition('.')[2]}") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_an_archive_from_a_server(get: Get, server: Server, kind: str, tmp_path: Path) -> None:
    files = {"repo-main/train.py": b"print(1)", "repo-main/lib/a.py": b"a"}
    server.pages[f"/code.{kind}"] = Page(packed(kind, files), etag='"1"')
    code = get(f"{server.url}/code.{kind}")
    assert tree(code) == {"train.py": b"print(1)", "lib/a.py": b"a"}, "the one folder is the root"
    before = entries(tmp_path / "cache")
    assert get(f"{server.url}/code.{kind}", "lib/a.py").root == code.root
    assert entries(tmp_path / "cache") == before
    assert not leftovers(tmp_path / "cache")


def test_a_git_bundle(get: Get, data: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "train.py").write_text("print(1)")
    (work / "again.py").symlink_to("train.py")
    (work / ".gitattributes").write_text("train.py export-ignore filter=evil\n")
    identity = {
        f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    for command in (
        ["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "x"],
        ["bundle", "create", "-q", str(data / "code.bundle"), "HEAD"],
    ):  # fmt: skip
        subprocess.run(["git", *command], cwd=work, check=True, env={**os.environ, **identity})
    code = get(f"file://{data}/code.bundle")
    assert tree(code)["train.py"] == tree(code)["again.py"] == b"print(1)"
    (data / "bad.bundle").write_bytes((data / "code.bundle").read_bytes()[:-30])
    with pytest.raises(CodeRefused, match="bundle"):
        get(f"file://{data}/bad.bundle")


def _tar(*members: tuple[str, bytes, str]) -> bytes:
    """Members of a name, a tar type and a link's target."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("train.py"), io.BytesIO())
        for name, kind, target in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)
    return out.getvalue()


def _zip_link(name: str, target: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as opened:
        opened.writestr("train.py", "")
        link = zipfile.ZipInfo(name)
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        opened.writestr(link, target)
    return out.getvalue()


HARM = {
    "up.zip": ("no path inside", packed("zip", {"train.py": b"", "../up": b"x"})),
    "absolute.zip": ("no path inside", packed("zip", {"train.py": b"", "/tmp/absolute": b"x"})),
    "backslash.zip": ("characters", packed("zip", {"train.py": b"", "..\\up": b"x"})),
    "link.zip": ("outside", _zip_link("l", "/etc/passwd")),
    "bomb.zip": ("more than 1 MiB", packed("zip", {"train.py": b"", "zeros": bytes(4 << 20)})),
    "many.zip": ("more than 100 files", packed("zip", {f"{n}.py": b"" for n in range(200)})),
    "up.tar": ("no path inside", packed("tar", {"train.py": b"", "a/../../up": b"x"})),
    "absolute.tar": ("no path inside", packed("tar", {"train.py": b"", "/tmp/absolute": b"x"})),
    "bomb.tar.xz": (
        "more than 1 MiB",
        packed("tar.xz", {"train.py": b"", "zeros": bytes(4 << 20)}),
    ),
    "twice.tar": ("twice", packed("tar", {"train.py": b"", "./train.py": b"other"})),
    "file-and-folder.tar": ("at once", packed("tar", {"train.py": b"", "train.py/x": b""})),
    "symlink.tar": ("outside", _tar(("l", tarfile.SYMTYPE, "../../etc/passwd"))),
    "absolute-symlink.tar": ("outside", _tar(("l", tarfile.SYMTYPE, "/etc/passwd"))),
    "through-a-link.tar": (
        "outside",
        _tar(("d", tarfile.SYMTYPE, "."), ("d/x", tarfile.REGTYPE, "")),
    ),
    "dangling.tar": ("not in the tree", _tar(("l", tarfile.SYMTYPE, "nothing"))),
    "hardlink.tar": ("outside", _tar(("l", tarfile.LNKTYPE, "../../../etc/passwd"))),
    "device.tar": ("neither a file", _tar(("null", tarfile.CHRTYPE, ""))),
    "fifo.tar": ("neither a file", _tar(("p", tarfile.FIFOTYPE, ""))),
    "directories.tar": ("entries", _tar(*[(f"d{n}", tarfile.DIRTYPE, "") for n in range(2000)])),
    "garbage.zip": ("cannot be read as a zip", b"PK\x03\x04 and nothing more"),
    "garbage.tar.gz": ("cannot be read as a tar", b"\x1f\x8b and nothing more"),
}


@pytest.mark.parametrize("name", HARM)
def test_an_archive_made_to_harm(get: Get, data: Path, tmp_path: Path, name: str) -> None:
    says, content = HARM[name]
    (data / name).write_bytes(content)
    around = sorted(path for path in tmp_path.iterdir())
    with pytest.raises(CodeRefused, match=says):
        get(f"file://{data}/{name}")
    assert sorted(path for path in tmp_path.iterdir() if path.name != "cache") == around
    assert not Path("/tmp/absolute").exists()
    assert len(entries(tmp_path / "cache")) == 1, "the archive itself, and nothing of it"
    assert not leftovers(tmp_path / "cache")


def test_a_set_uid_bit_is_not_taken_over(get: Get, data: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo("train.py")
        member.mode, member.uid = 0o6777, 0
        tar.addfile(member)
    (data / "a.tar").write_bytes(out.getvalue())
    assert stat.S_IMODE((get(f"file://{data}/a.tar").root / "train.py").stat().st_mode) == 0o555


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("requirements.txt", "torch\n"),
        ("environment.yml", "dependencies: [torch]\n"),
        ("pyproject.toml", '[project]\nname = "x"\ndependencies = ["torch"]\n'),
        ("pyproject.toml", '[tool.poetry.dependencies]\npython = "^3.11"\ntorch = "*"\n'),
    ],
)
def test_requirements_are_refused(get: Get, data: Path, name: str, content: str) -> None:
    (data / "train.py").write_text("")
    (data / name).write_text(content)
    with pytest.raises(CodeRefused, match="image") as caught:
        get(f"file://{data}")
    assert name in str(caught.value)


def test_a_pyproject_that_needs_nothing(get: Get, data: Path) -> None:
    (data / "train.py").write_text("")
    (data / "pyproject.toml").write_text('[tool.ruff]\nline-length = 100\n[project]\nname = "x"\n')
    get(f"file://{data}")


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("other.py", "it has train.py"),
        ("../train.py", "inside code_uri"),
        ("/etc/passwd", "inside code_uri"),
        ("notes.ipynb", "use command"),
    ],
)
def test_a_script_that_is_not_in_it(get: Get, data: Path, script: str, says: str) -> None:
    (data / "train.py").write_text("")
    with pytest.raises(CodeRefused, match=says):
        get(f"file://{data}/train.py", script)


def test_too_large_and_outside(get: Get, data: Path, server: Server) -> None:
    (data / "train.py").write_bytes(bytes(2 << 20))
    server.pages["/train.py"] = Page(bytes(2 << 20))
    for uri in (f"file://{data}/train.py", f"{server.url}/train.py"):
        with pytest.raises(CodeRefused, match=r"storage\.code_mb"):
            get(uri)
    (data / "link").mkdir()
    (data / "link" / "train.py").symlink_to("/etc/passwd")
    with pytest.raises(CodeRefused, match="outside"):
        get(f"file://{data}/link")
    with pytest.raises(DataRefused, match=r"storage\.roots"):
        get("file:///etc/passwd")
