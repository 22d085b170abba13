"""A job's secrets in a container: its user reads them in memory, nobody else, and they go with it.

On each real engine; the `jobs` fixture checks what is left.
"""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import RuntimeUnavailable
from tests.integration.engine.jobs import Jobs, clean_jobs
from tests.support.runtimes import hear, soon
from tests.support.waiting import wait_until
from worker.keeper import lock, secret_files
from worker.keeper.settle import Settlement, settle
from worker.launchers.secrets import with_secrets
from worker.plan import LaunchPlan, SecretFiles
from worker.runtimes.engine.errors import SandboxUnavailable
from worker.sandbox import evidence
from worker.sandbox.profile import TARGET_SECRETS

pytestmark = pytest.mark.integration

TOKEN = "hf_AbCdEf0123456789"
KEY = "-----BEGIN KEY-----\nMIIBVwIBADANBgkqhkiG9w0B\n-----END KEY-----\n"
LOOKS = """
import json, os, stat
place = os.environ['CYXWIZ_SECRETS_DIR']
out = {name: open(os.path.join(place, name)).read() for name in sorted(os.listdir(place))}
modes = {oct(os.stat(os.path.join(place, name)).st_mode) for name in out}
out['modes'] = sorted({*modes, oct(os.stat(place).st_mode)})
for what, do in (('write', lambda: open(os.path.join(place, 'token'), 'w')),
                 ('add', lambda: open(os.path.join(place, 'more'), 'w')),
                 ('remove', lambda: os.unlink(os.path.join(place, 'token'))),
                 ('chmod', lambda: os.chmod(os.path.join(place, 'token'), 0o666))):
    try: do()
    except OSError as error: out[what] = error.errno
print(json.dumps(out), flush=True)
"""
HOLDS = "import signal; print('up', flush=True); signal.pause()"


@pytest.fixture(params=["docker", pytest.param("podman", marks=pytest.mark.podman)])
def jobs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Jobs]:
    with clean_jobs(tmp_path, request.param) as made:
        yield made


@pytest.fixture
def root() -> Iterator[Path]:
    """As a node's directory for secrets: empty again afterwards."""
    path = Path("/dev/shm") / f"cyxwiz-test-{os.getpid()}"
    yield path
    if path.exists():
        path.rmdir()


def planned(jobs: Jobs, root: Path, source: str) -> LaunchPlan:
    plan = jobs.plan(source)
    files = SecretFiles(place=root / str(plan.attempt), values={"key": KEY, "token": TOKEN})
    return with_secrets(plan, files, TARGET_SECRETS)


def test_the_jobs_user_reads_them_and_can_change_nothing(jobs: Jobs, root: Path) -> None:
    plan = planned(jobs, root, LOOKS)
    assert TOKEN not in repr(plan)
    handle = jobs.runtime.start(plan, soon())
    heard = hear(handle, timeout=60)
    said = json.loads(heard.out)
    assert (said["key"], said["token"]) == (KEY, TOKEN)
    assert said["modes"] == ["0o100400", "0o40500"]
    assert all(said[what] in (1, 13, 30) for what in ("write", "add", "remove", "chmod"))
    handle.remove()
    jobs.places.release()
    assert list(root.iterdir()) == []


def test_they_are_in_memory_closed_to_others_and_nowhere_in_the_engine(
    jobs: Jobs, root: Path
) -> None:
    handle = jobs.runtime.start(plan := planned(jobs, root, HOLDS), soon())
    hear(handle, until=lambda heard: b"up" in heard.out)
    assert secret_files.file_system(root) == "tmpfs"
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert secret_files.read(plan.state) == {"key": KEY, "token": TOKEN}
    [name] = jobs.containers()
    seen = json.dumps(jobs.runtime.manager.inspect(name.lstrip("/")))
    assert TARGET_SECRETS in seen
    assert TOKEN not in seen
    assert "MIIBVw" not in seen
    report = handle.report  # type: ignore[attr-defined]
    assert {one.item: one.seen for one in report.from_host}["secrets"] == "tmpfs ro"
    for path in jobs.places.state.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path
    handle.remove()
    jobs.places.release()
    assert not plan.secrets or not plan.secrets.place.exists()


def test_they_go_with_a_keeper_that_was_killed(jobs: Jobs, root: Path) -> None:
    handle = jobs.runtime.start(plan := planned(jobs, root, HOLDS), soon())
    hear(handle, until=lambda heard: b"up" in heard.out)
    record = lock.read(plan.state)
    assert record is not None
    handle.detach()
    os.kill(record.pid, signal.SIGKILL)
    wait_until(lambda: not lock.alive(plan.state), what="the keeper is dead")
    assert len(list(root.iterdir())) == 1
    jobs.places.release()
    wait_until(
        lambda: settle(plan.state).outcome is Settlement.SETTLED, what="the attempt is settled"
    )
    assert list(root.iterdir()) == []
    assert not plan.state.exists()


def test_on_a_disk_they_are_not_written(jobs: Jobs, tmp_path: Path) -> None:
    if secret_files.file_system(tmp_path) == "tmpfs":
        pytest.skip("the temporary files of this host are in memory")
    plan = planned(jobs, tmp_path / "disk", HOLDS)
    with pytest.raises(RuntimeUnavailable, match="secrets would lie on a disk"):
        jobs.runtime.start(plan, soon())
    jobs.places.release()
    assert list((tmp_path / "disk").iterdir()) == []


def test_a_directory_that_others_made_first_is_not_used(jobs: Jobs, root: Path) -> None:
    root.mkdir()
    root.chmod(0o777)
    with pytest.raises(RuntimeUnavailable, match="closed to everybody else"):
        jobs.runtime.start(planned(jobs, root, HOLDS), soon())
    jobs.places.release()
    assert list(root.iterdir()) == []


def test_an_engine_that_shows_them_writable_starts_no_job(
    jobs: Jobs, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = evidence.kinds

    def writable(pid: int) -> Any:
        return {**kinds(pid), TARGET_SECRETS: ("ext4", ("rw",))}

    monkeypatch.setattr(evidence, "kinds", writable)
    with pytest.raises(SandboxUnavailable, match="secrets: wanted tmpfs ro, found ext4 rw"):
        jobs.runtime.start(planned(jobs, root, HOLDS), soon())
    jobs.places.release()
    assert list(root.iterdir()) == []


def test_what_it_printed_is_kept_without_them(jobs: Jobs, root: Path) -> None:
    source = (
        "import os, sys, time\nplace = os.environ['CYXWIZ_SECRETS_DIR']\n"
        "token = open(place + '/token').read()\nprint('plain')\n"
        "for piece in ('with ', token[:7], token[7:], '!\\n'):\n"
        "    os.write(1, piece.encode()); time.sleep(0.05)\n"
        "sys.stderr.write(open(place + '/key').read())\n"
    )
    handle = jobs.runtime.start(planned(jobs, root, source), soon())
    heard = hear(handle, timeout=60)
    assert heard.exit is not None
    handle.remove()
    jobs.places.release()
    kept = jobs.runtime.logs.path(str(handle.attempt)).read_text()
    assert sorted(kept.splitlines()) == ["***", "***", "***", "plain", "with ***!"]


def test_containers_with_secrets_do_not_stay_in_the_engine(jobs: Jobs, root: Path) -> None:
    keeping = jobs.another(remove_containers=False)
    plan = replace(planned(jobs, root, "print('over')"), checkpoints=jobs.places.root / "c")
    handle = keeping.start(plan, soon())
    hear(handle, timeout=60)
    handle.remove()
    jobs.places.release()
    keeping.close()
    assert jobs.containers() == []
