"""Pulls from a real registry on the loopback: with logins, slow, broken, and by several at once."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tasks.errors import ConfigError
from tests.integration.engine.jobs import Jobs
from tests.support import dockerd, engine, registry
from tests.support.guard import REPO
from tests.support.runtimes import hear, soon
from worker.engine_sections import PullPolicy
from worker.runtimes.engine.auth import read_credentials
from worker.runtimes.engine.errors import ImageUnavailable
from worker.runtimes.engine.images import ImageRules
from worker.runtimes.engine.runtime import EngineRuntime

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[registry.Registry]:
    """A registry that holds the base as ``team/base:1`` and ``team/base:2``."""
    registry.require()
    with registry.Registry(tmp_path_factory.mktemp("registry")) as started:
        client = engine.raw(engine.shared())
        for version in ("1", "2"):
            client.tag(engine.BASE, f"{started.host}/team/base", version)
            said = client.push(
                f"{started.host}/team/base",
                version,
                auth_config={"username": registry.USER, "password": registry.PASSWORD},
                stream=True,
                decode=True,
            )
            assert not [one for one in said if "error" in one]
            client.remove_image(f"{started.host}/team/base:{version}")
        client.close()
        yield started


@pytest.fixture
def door(hub: registry.Registry) -> Iterator[registry.Door]:
    with registry.Door(hub) as opened:
        yield opened


@pytest.fixture(scope="module")
def empty() -> Iterator[dockerd.Dockerd]:
    """An engine that has no image at all."""
    engine.require()
    with dockerd.Dockerd() as started:
        yield started


@pytest.fixture
def blank(empty: dockerd.Dockerd) -> Iterator[dockerd.Dockerd]:
    yield empty
    client = engine.raw(empty.socket)
    for image in client.images():
        client.remove_image(image["Id"], force=True)
    client.close()


def puller(
    jobs_root: Path, engine_: dockerd.Dockerd, host: str, **settings: Any
) -> tuple[Jobs, EngineRuntime]:
    """A runtime whose ``docker.registry`` is ``host/team``."""
    jobs_root.mkdir(exist_ok=True)
    logins = settings.pop("logins", "right")
    if logins == "right":
        logins = registry.auth_file(jobs_root, host)
    made = Jobs(
        jobs_root,
        engine_.socket,
        rules=ImageRules(
            registry=f"{host}/team",
            allow=("cyxwiz/*",),
            policy=settings.pop("policy", PullPolicy.IF_NOT_PRESENT),
        ),
        credentials=read_credentials(logins),
        **settings,
    )
    return made, made.runtime


def test_a_pull_and_a_job_from_it(
    blank: dockerd.Dockerd, door: registry.Door, tmp_path: Path
) -> None:
    jobs, runtime = puller(tmp_path, blank, door.host)
    heard: list[str] = []
    runtime.prepare("cyxwiz/base:1", heard.append)
    assert heard
    handle = runtime.start(jobs.plan("print('there')", image="cyxwiz/base:1"), soon())
    assert hear(handle).out == b"there\n"
    assert handle.report is not None  # type: ignore[attr-defined]  # of an EngineHandle
    digest = handle.report.digest  # type: ignore[attr-defined]
    assert digest.startswith(f"{door.host}/team/base@sha256:")
    handle.remove()
    asked = len(door.asked)
    runtime.prepare("cyxwiz/base:1", heard.append)
    assert len(door.asked) == asked, "if-not-present asks nobody for what is here"
    # a retry pins what the first attempt ran
    pinned = f"cyxwiz/base@{digest.partition('@')[2]}"
    assert runtime.images.present(pinned).digests == (digest,)
    jobs.close()


def test_always_asks_each_time(blank: dockerd.Dockerd, door: registry.Door, tmp_path: Path) -> None:
    jobs, runtime = puller(tmp_path, blank, door.host, policy=PullPolicy.ALWAYS)
    runtime.prepare("cyxwiz/base:1", lambda _: None)
    asked = len(door.asked)
    runtime.prepare("cyxwiz/base:1", lambda _: None)
    assert len(door.asked) > asked
    jobs.close()


@pytest.mark.parametrize("logins", ["none", "wrong"])
def test_without_a_login_there_is_no_image(
    blank: dockerd.Dockerd, door: registry.Door, tmp_path: Path, logins: str
) -> None:
    wrong = registry.auth_file(tmp_path, door.host, password="guess")
    jobs, runtime = puller(tmp_path, blank, door.host, logins=None if logins == "none" else wrong)
    with pytest.raises(ImageUnavailable, match=r"team/base:1: .*(auth|denied|credential)"):
        runtime.prepare("cyxwiz/base:1", lambda _: None)
    jobs.close()


def test_a_tag_that_is_not_there(
    blank: dockerd.Dockerd, door: registry.Door, tmp_path: Path
) -> None:
    jobs, runtime = puller(tmp_path, blank, door.host)
    with pytest.raises(ImageUnavailable, match=r"base:9"):
        runtime.prepare("cyxwiz/base:9", lambda _: None)
    jobs.close()


def test_a_blob_that_comes_slowly_comes_all_the_same(
    blank: dockerd.Dockerd, door: registry.Door, tmp_path: Path
) -> None:
    """Longer in all than the silence that is allowed: it moves, so nobody gives it up."""
    pieces = threading.Event()

    def trickle(content: bytes, send: registry.Pass) -> None:
        step = len(content) // 12 + 1
        for at in range(0, len(content), step):
            send(content[at : at + step])
            pieces.wait(0.25)

    door.blob = trickle
    jobs, runtime = puller(tmp_path, blank, door.host, pull_silence=1.5)
    heard: list[str] = []
    runtime.prepare("cyxwiz/base:1", heard.append)
    assert any(" MB in " in line for line in heard)
    jobs.close()


def test_a_blob_that_stops_is_given_up(
    blank: dockerd.Dockerd, door: registry.Door, tmp_path: Path
) -> None:
    over = threading.Event()

    def stall(content: bytes, send: registry.Pass) -> None:
        send(content[: len(content) // 2])
        over.wait(60)

    door.blob = stall
    jobs, runtime = puller(tmp_path, blank, door.host, pull_silence=1.0)
    try:
        with pytest.raises(ImageUnavailable, match="nothing moved for 1 s"):
            runtime.prepare("cyxwiz/base:1", lambda _: None)
    finally:
        over.set()
    jobs.close()


def test_a_blob_with_other_content_is_refused(
    blank: dockerd.Dockerd, door: registry.Door, tmp_path: Path
) -> None:
    door.blob = lambda content, send: send(content[:-4096] + bytes(4096))
    jobs, runtime = puller(tmp_path, blank, door.host)
    with pytest.raises(ImageUnavailable, match="base:1"):
        runtime.prepare("cyxwiz/base:1", lambda _: None)
    assert not runtime.manager.image_exists(f"{door.host}/team/base:1")
    jobs.close()


def test_a_failed_pull_leaves_no_stale_image_in_its_place(
    blank: dockerd.Dockerd, door: registry.Door, tmp_path: Path
) -> None:
    """`always` means the registry's: what was pulled yesterday does not stand in for it."""
    jobs, runtime = puller(tmp_path, blank, door.host, policy=PullPolicy.ALWAYS)
    runtime.prepare("cyxwiz/base:1", lambda _: None)
    away, gone = puller(
        tmp_path / "again", blank, "127.0.0.1:1", policy=PullPolicy.ALWAYS, logins=None
    )
    engine.raw(blank.socket).tag(f"{door.host}/team/base:1", "127.0.0.1:1/team/base", "1")
    with pytest.raises(ImageUnavailable, match=r"127.0.0.1:1/team/base:1"):
        gone.prepare("cyxwiz/base:1", lambda _: None)
    jobs.close()
    away.close()


ONE = """
import sys, json
from pathlib import Path
from tests.integration.engine.test_registry import puller
from tests.support import dockerd
engine = dockerd.Dockerd(Path(sys.argv[1]))
jobs, runtime = puller(Path(sys.argv[2]), engine, sys.argv[3])
heard = []
runtime.prepare('cyxwiz/base:2', heard.append)
print(json.dumps(heard))
"""


def test_processes_of_a_node_pull_an_image_once(
    blank: dockerd.Dockerd, door: registry.Door, tmp_path: Path
) -> None:
    waiting = threading.Event()

    def slowly(content: bytes, send: registry.Pass) -> None:
        half = len(content) // 2
        send(content[:half])
        waiting.wait(2)
        send(content[half:])

    door.blob = slowly
    node = tmp_path / "node"
    node.mkdir()
    started = [
        subprocess.Popen(
            [sys.executable, "-c", ONE, str(blank.directory), str(node), door.host],
            cwd=REPO,
            stdout=subprocess.PIPE,
        )
        for _ in range(3)
    ]
    said = [json.loads(one.communicate(timeout=60)[0]) for one in started]
    assert [one.returncode for one in started] == [0, 0, 0]
    assert all(said), "who waits hears how it goes"
    manifests = [path for path in door.asked if path.endswith("/manifests/2")]
    blobs = [path for path in door.asked if "/blobs/" in path]
    assert len(blobs) == len(set(blobs)), "a layer was fetched twice"
    assert len(manifests) <= 2, "one pull asks for it once or twice: HEAD and GET"


def test_images_are_pushed_to_a_registry_and_run_from_there(
    blank: dockerd.Dockerd, hub: registry.Registry, socket: Path, tmp_path: Path
) -> None:
    engine.executor()
    config = tmp_path / "docker"
    config.mkdir()
    registry.auth_file(tmp_path, hub.host).rename(config / "config.json")
    done = subprocess.run(
        [sys.executable, "images/build.py", "push", f"{hub.host}/mine", "cpu"],
        cwd=REPO,
        env={
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "DOCKER_HOST": f"unix://{socket}",
            "DOCKER_CONFIG": str(config),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"pushed {hub.host}/mine/executor:cpu-latest" in done.stdout
    jobs = Jobs(
        tmp_path,
        blank.socket,
        rules=ImageRules(
            registry=f"{hub.host}/mine", allow=("cyxwiz/*",), policy=PullPolicy.IF_NOT_PRESENT
        ),
        credentials=read_credentials(registry.auth_file(tmp_path, hub.host)),
    )
    image = jobs.runtime.images.ensure("cyxwiz/executor:cpu-latest", lambda _: None)
    assert image.labels["org.cyxwiz.flavour"] == "cpu"
    client: docker.APIClient = engine.raw(socket)
    for tag in done.stdout.split():
        if tag.startswith(hub.host):
            client.remove_image(tag)
    client.close()
    jobs.close()


def test_a_file_of_logins_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = registry.auth_file(tmp_path, "registry.example")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match=r"docker.auth_file: others may read .* chmod 600"):
        read_credentials(path)
    path.chmod(0o600)
    found = read_credentials(path)
    assert found.of("registry.example")["password"] == registry.PASSWORD
    assert found.of("other.example") == {}
    assert registry.PASSWORD not in repr(found)
    path.write_text('{"auths": {"registry.example": {"auth": "?"}}}')
    with pytest.raises(ConfigError, match=r"auths.registry.example.auth must be the base64"):
        read_credentials(path)
