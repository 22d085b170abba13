"""What an engine answers is not believed of rootless Podman either; its jobs get no network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.integration.engine.jobs import Jobs, clean_jobs
from tests.integration.engine.test_sandbox import WAITS, image
from tests.support import engine
from tests.support.runtimes import hear, soon
from worker.runtimes.engine.errors import SandboxUnavailable
from worker.runtimes.podman import PodmanMaking
from worker.sandbox import libpod

pytestmark = [pytest.mark.integration, pytest.mark.podman]

LOOSE = {"read_only_filesystem": False, "cap_drop": [], "no_new_privileges": False}


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    with clean_jobs(tmp_path, "podman") as made:
        yield made


def loosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a Podman that is asked, and does something else."""
    specification = libpod.specification

    def forgetful(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return {**specification(*args, **kwargs), **LOOSE}

    monkeypatch.setattr(libpod, "specification", forgetful)


def refusal(jobs: Jobs, **differs: Any) -> str:
    """Why nothing is started."""
    plan = replace(jobs.plan(WAITS), **differs)
    with pytest.raises(SandboxUnavailable) as caught:
        jobs.runtime.start(plan, soon())
    jobs.places.release()
    assert jobs.containers() == []
    assert not plan.state.exists()
    return str(caught.value)


def test_an_options_difference_is_refused_before_the_start(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    loosen(monkeypatch)
    why = refusal(jobs)
    assert "ReadonlyRootfs" in why
    assert "Capabilities" in why


def test_a_difference_on_the_host_is_refused(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that says yes and does no."""
    loosen(monkeypatch)
    monkeypatch.setattr(PodmanMaking, "read_back", lambda *_: [])
    why = refusal(jobs)
    assert "no_new_privs" in why
    assert "capabilities" in why


def test_an_images_own_wishes_count_for_nothing(jobs: Jobs) -> None:
    wishes = [
        "USER root",
        'ENTRYPOINT ["/bin/sh", "-c", "echo entered"]',
        "VOLUME /big",
        "ENV NVIDIA_VISIBLE_DEVICES=all",
        "WORKDIR /big",
    ]
    raw = engine.raw(jobs.socket)
    try:
        with image(raw, wishes) as tag:
            handle = jobs.start(
                "import os\n"
                "print(os.getuid() != 0, os.environ['NVIDIA_VISIBLE_DEVICES'], os.getcwd())\n"
                "try: open('/big/x', 'w')\n"
                "except OSError as error: print(error.errno, flush=True)\n"
                "__import__('signal').pause()",
                image=tag,
            )
            heard = hear(handle, until=lambda heard: heard.out.count(b"\n") >= 2)
            assert heard.out == b"True void /tmp\n30\n"
            handle.remove()
    finally:
        raw.close()


def test_no_job_joins_a_network(jobs: Jobs) -> None:
    assert "network of their own with Docker only" in refusal(jobs, network="podman")
