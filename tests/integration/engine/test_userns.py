"""Docker with ``userns-remap``: a job's user is nobody outside, and all else is as without."""

from __future__ import annotations

import pwd
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.engine.jobs import Jobs
from tests.support import engine
from tests.support.dockerd import Dockerd
from tests.support.runtimes import hear, soon
from worker.launchers.secrets import with_secrets
from worker.plan import SecretFiles
from worker.sandbox.profile import TARGET_SECRETS

pytestmark = pytest.mark.integration


def lender() -> tuple[str, int]:
    """A user who has subordinate ids, and the first of them."""
    path = Path("/etc/subuid")
    for line in path.read_text().splitlines() if path.exists() else ():
        name, first, count = line.split(":")
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        if int(count) >= 65_536:
            return name, int(first)
    pytest.skip("no user of this host has subordinate ids (usermod --add-subuids)")


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[tuple[Jobs, int]]:
    engine.require()
    name, first = lender()
    # the engine's data are the lent users': each directory above lets them through
    place = Path(tempfile.mkdtemp(prefix="cyx-userns-", dir="/tmp"))
    started = Dockerd(place, options=[f"--userns-remap={name}"])
    place.chmod(0o711)
    with started:
        engine.import_base(started.socket)
        made = Jobs(tmp_path / "node", started.socket)
        yield made, first
        made.close()
        assert made.places.left_behind() == []
    shutil.rmtree(place, ignore_errors=True)


def test_a_jobs_user_is_nobody_outside(jobs: tuple[Jobs, int]) -> None:
    node, first = jobs
    root = Path("/dev/shm") / f"cyxwiz-test-userns-{first}"
    plan = node.plan(
        "import os, signal\n"
        "print(os.getuid(), open(os.environ['CYXWIZ_SECRETS_DIR'] + '/token').read())\n"
        "open('/job/output/mine', 'w').write('kept')\n"
        "print('up', flush=True); signal.pause()"
    )
    files = SecretFiles(place=root / str(plan.attempt), values={"token": "hf_AbCdEf0123456789"})
    plan = with_secrets(plan, files, TARGET_SECRETS)
    handle = node.runtime.start(plan, soon())
    heard = hear(handle, until=lambda heard: b"up\n" in heard.out)
    assert heard.out == b"1000 hf_AbCdEf0123456789\nup\n"
    report = handle.report  # type: ignore[attr-defined]
    seen = {one.item: one.seen for one in report.from_host}
    assert seen["uid"].split() == [str(first + 1000)] * 4
    assert (plan.output / "mine").stat().st_uid == first + 1000
    assert (plan.output / "mine").read_text() == "kept"
    handle.remove()
    node.places.release()
    root.rmdir()
