"""Jobs under gVisor: what the host and a probe show of it, and that nothing else passes for it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.engine.jobs import LIMITS, Jobs, clean_jobs, up
from tests.support import engine
from tests.support.runtimes import hear, soon
from tests.support.waiting import wait_until
from worker.keeper import procfs
from worker.launchers.secrets import with_secrets
from worker.plan import SecretFiles
from worker.runtimes.base import Status
from worker.runtimes.engine.errors import SandboxUnavailable
from worker.runtimes.engine.probe import probe
from worker.sandbox import gvisor
from worker.sandbox.attestation import concluded
from worker.sandbox.engine_report import EngineReport
from worker.sandbox.levels import SandboxLevel
from worker.sandbox.profile import TARGET_SECRETS, Profile

pytestmark = pytest.mark.integration

WAITS = "import signal; print('up', flush=True); signal.pause()"


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    with clean_jobs(tmp_path, "gvisor") as made:
        yield made


def attested(jobs: Jobs, tmp_path: Path) -> EngineReport:
    probed = probe(jobs.runtime, [engine.BASE], tmp_path)
    return concluded(jobs.runtime.facts(), probed, accepted=(), images=(), require_patched=False)


def test_a_probe_shows_its_kernel_from_inside_and_from_the_host(jobs: Jobs, tmp_path: Path) -> None:
    report = attested(jobs, tmp_path)
    assert report.reason == ""
    assert report.gvisor
    assert report.level is SandboxLevel.FULL
    kept = {one.name: one.seen for one in report.promises}
    assert kept["kernel"] == "kernel gVisor's own"
    assert set(report.enforced) == set(kept)


def test_the_hosts_kernel_is_not_taken_for_it(jobs: Jobs, tmp_path: Path) -> None:
    """A runtime of that name which is runc: refused, by the probe and for each job."""
    profile = Profile(tmp_mb=64, runtime="runsc-in-name-only")
    liar = jobs.another(profile=profile)
    with pytest.raises(SandboxUnavailable, match=r"kernel: wanted gVisor's own, found the host's"):
        liar.start(jobs.plan(WAITS), soon())
    jobs.places.release()
    probed = probe(liar, [engine.BASE], tmp_path)
    report = concluded(liar.facts(), probed, accepted=(), images=(), require_patched=False)
    assert not report.usable
    assert not report.gvisor
    liar.close()


def test_a_job_that_demands_it_does_not_start_without(jobs: Jobs) -> None:
    plain = jobs.another(profile=Profile(tmp_mb=64))
    with pytest.raises(SandboxUnavailable, match="here jobs have the host's kernel"):
        plain.start(jobs.plan(WAITS, gvisor=True), soon())
    jobs.places.release()
    plain.close()


def test_the_report_of_a_job_has_each_item(jobs: Jobs) -> None:
    handle = jobs.start(WAITS, gvisor=True)
    assert handle.report is not None
    seen = {one.item: one.seen for one in handle.report.from_host}
    assert seen["kernel"] == "gVisor's own"
    assert (seen["uid"], seen["gid"], seen["groups"], seen["capabilities"]) == ("1000",) * 2 + (
        "",
        "",
    )
    assert (seen["root"], seen["network routes"], seen["writable mounts"]) == ("ro", "", "")
    assert (seen["memory"], seen["cpu"]) == (str(LIMITS.memory_mb << 20), "1.00")
    assert (seen["nofile"], seen["core"]) == (str(LIMITS.nofile), "0")
    assert seen["fsize"] == str((LIMITS.memory_mb + 1) << 20)
    assert all(one.good for one in (*handle.report.from_engine, *handle.report.from_host))


def test_inside_the_kernel_is_its_own(jobs: Jobs) -> None:
    heard, _ = jobs.run(
        "import os, socket\n"
        "print(os.uname().release, os.getuid(), sorted(n for _, n in socket.if_nameindex()),\n"
        "      [p for p in os.listdir('/proc') if p.isdigit()])"
    )
    release, _, rest = heard.out.decode().strip().partition(" ")
    assert release == "4.4.0"
    assert release != os.uname().release
    assert rest == "1000 ['lo'] ['1', '2']"


BUNDLE: dict[str, Any] = {
    "uid": {"process": {"user": {"uid": 0, "gid": 1000}}},
    "capabilities": {"process": {"capabilities": {"bounding": ["CAP_SYS_ADMIN"]}}},
    "root": {"root": {"readonly": False}},
    "writable mounts": {"mounts": [{"destination": "/etc/x", "options": ["rbind", "rw"]}]},
    "no_new_privs": {"process": {"noNewPrivileges": False}},
}


def test_a_bundle_with_a_difference_is_seen(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = jobs.plan(WAITS)
    handle = jobs.runtime.start(plan, soon())
    pid = handle._kept._link.job_pid  # type: ignore[attr-defined]
    asked = jobs.runtime.starting.asked(plan, jobs.runtime.images.present(engine.BASE, ""))
    profile = jobs.runtime.settings.profile
    real = gvisor._bundle(procfs.process(pid).parent, gvisor._arguments(pid))  # type: ignore[union-attr]

    def wrong(bundle: Any) -> set[str]:
        monkeypatch.setattr(gvisor, "_bundle", lambda *_: bundle)
        return {one.item for one in gvisor.observe(pid, asked, profile) if not one.good}

    assert wrong(real) == set()
    for item, changes in BUNDLE.items():
        changed = json.loads(json.dumps(real))
        for name, value in changes.items():
            if isinstance(value, dict):
                changed[name] = {**changed[name], **value}
            else:
                changed[name] = [*changed[name], *value]
        assert wrong(changed) == {item}
    assert {"uid", "gid", "capabilities", "root", "/tmp", "writable mounts"} <= wrong({})
    handle.remove()
    jobs.places.release()


def test_a_bundle_that_cannot_be_read_starts_no_job(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gvisor, "_bundle", lambda *_: {})
    with pytest.raises(SandboxUnavailable, match="uid: wanted 1000, found None"):
        jobs.runtime.start(jobs.plan(WAITS), soon())
    jobs.places.release()


def test_a_secret_is_read_inside_and_seen_in_memory(jobs: Jobs) -> None:
    root = Path("/dev/shm") / f"cyxwiz-test-gvisor-{os.getpid()}"
    plan = jobs.plan(
        "import os; place = os.environ['CYXWIZ_SECRETS_DIR']\n"
        "print(open(place + '/token').read(), flush=True)\n"
        "try: open(place + '/token', 'w')\n"
        "except OSError as error: print('refused', flush=True)\n" + WAITS
    )
    files = SecretFiles(place=root / str(plan.attempt), values={"token": "hf_AbCdEf0123456789"})
    handle = jobs.runtime.start(with_secrets(plan, files, TARGET_SECRETS), soon())
    heard = hear(handle, until=up)
    assert heard.out == b"hf_AbCdEf0123456789\nrefused\nup\n"
    report = handle.report  # type: ignore[attr-defined]
    assert {one.item: one.seen for one in report.from_host}["secrets"] == "tmpfs ro"
    handle.remove()
    jobs.places.release()
    root.rmdir()


def test_it_can_be_frozen_signalled_and_killed(jobs: Jobs) -> None:
    handle = jobs.start(
        "import signal, time\nsignal.signal(10, lambda *_: print('told', flush=True))\n"
        "print('up', flush=True)\nwhile True: time.sleep(0.1)"
    )
    hear(handle, until=up)
    handle.pause()
    wait_until(lambda: handle.read(0.1) or handle.status() is Status.PAUSED, what="it is frozen")
    handle.resume()
    wait_until(lambda: handle.read(0.1) or handle.status() is Status.RUNNING, what="it goes on")
    handle.signal(signal.SIGUSR1)
    hear(handle, until=lambda heard: b"told\n" in heard.out)
    handle.stop(0.3)
    assert hear(handle).exit is not None
