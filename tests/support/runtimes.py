"""Programs that every runtime can run, and what the tests need of each runtime."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.devices.leases import LeaseFile, held
from worker.plan import AttemptId, ExitStatus, Grant, LaunchPlan, Limits
from worker.runtimes.base import Chunk, Handle, Runtime, Stream
from worker.runtimes.fake import FakeHost, FakeRuntime
from worker.runtimes.fake_script import Script
from worker.runtimes.native import NativeRuntime

if TYPE_CHECKING:
    from worker.runtimes.engine.runtime import EngineRuntime
    from worker.sandbox.profile import Profile

PYTHON = str(Path(sys.executable).resolve())
ABANDON_AFTER = 1.0


@dataclass(frozen=True, kw_only=True)
class Program:
    """The same behaviour as Python source and as a script of the fake."""

    source: str
    script: Script
    argv: tuple[str, ...] = ()
    """Instead of ``source``."""


@dataclass
class Places:
    """Directories and leases of a node in a test."""

    root: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": os.defpath})
    leases: list[LeaseFile] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def state(self) -> Path:
        return self.root / "state"

    def plan(self, argv: tuple[str, ...], limits: Limits) -> LaunchPlan:
        attempt = AttemptId(job_id=f"job-{next(self._numbers)}", fence=1)
        lease = LeaseFile.acquire(self.root / "leases", f"slot-{attempt.job_id}", {})
        assert lease is not None
        self.leases.append(lease)
        return LaunchPlan(
            attempt=attempt,
            argv=argv,
            env={**self.env, "CYXWIZ_OUTPUT": str(self.root / "output" / str(attempt))},
            data=None,
            checkpoints=self.root / "checkpoints" / str(attempt),
            output=self.root / "output" / str(attempt),
            scratch=self.root / "scratch" / str(attempt),
            state=self.state / "attempts" / str(attempt),
            limits=limits,
            grant=Grant(slot="cpu0", fds=(lease.fd,)),
        )

    def release(self) -> None:
        """Close this process's copies of the leases, as a slot does after the start."""
        for lease in self.leases:
            lease.close()

    def leases_held(self) -> list[Path]:
        return [lease.path for lease in self.leases if held(lease.path)]

    def left_behind(self) -> list[Path]:
        """Directories of attempts that should not be there any more."""
        places = (self.state / "attempts", self.root / "scratch")
        return [path for place in places if place.is_dir() for path in place.iterdir()]


class Harness:
    """One runtime under test."""

    def __init__(
        self, make: Callable[[], Runtime], plan: Callable[[Program, Limits], LaunchPlan]
    ) -> None:
        """``make``: a runtime, as each supervisor of the same node would."""
        self._make = make
        self._plan = plan
        self.runtime = make()
        self._made = [self.runtime]

    def plan(self, program: Program, limits: Limits = Limits()) -> LaunchPlan:  # noqa: B008
        return self._plan(program, limits)

    def successor(self) -> Runtime:
        """A runtime as a later supervisor of the same node would make it."""
        self._made.append(self._make())
        return self._made[-1]

    def close(self) -> None:
        for handle in self.runtime.recover():
            handle.remove()
        for made in self._made:
            made.close()


def native_harness(places: Places) -> Harness:
    def plan(program: Program, limits: Limits) -> LaunchPlan:
        return places.plan(program.argv or (PYTHON, "-S", "-c", program.source), limits)

    return Harness(
        lambda: NativeRuntime(state_root=places.state, abandon_after=ABANDON_AFTER), plan
    )


def fake_harness(places: Places) -> Harness:
    host = FakeHost()
    scripts: dict[AttemptId, Script] = {}

    def plan(program: Program, limits: Limits) -> LaunchPlan:
        made = places.plan(program.argv or ("fake",), limits)
        scripts[made.attempt] = program.script
        return made

    return Harness(
        lambda: FakeRuntime(
            lambda plan: scripts[plan.attempt], host=host, abandon_after=ABANDON_AFTER
        ),
        plan,
    )


def engine_harness(places: Places, name: str) -> Harness:
    """On the tests' own engine; skips, or under CI fails, where none can be started."""
    from tests.support import engine

    socket = engine_socket(name)

    def plan(program: Program, limits: Limits) -> LaunchPlan:
        made = places.plan(program.argv or (engine.PYTHON, "-S", "-c", program.source), limits)
        env = {**made.env, "CYXWIZ_OUTPUT": "/job/output"}
        return replace(made, image=engine.BASE, env=env)

    return Harness(lambda: engine_runtime_in(name, places.state, socket), plan)


def engine_socket(name: str) -> Path:
    """The socket of the tests' own engine ``name``."""
    from tests.support import engine, podman

    if name == "gvisor":
        engine.require_gvisor()
    return podman.shared() if name == "podman" else engine.shared()


def docker_runtime_in(
    state: Path, socket: Path, *, profile: Profile | None = None, **differs: Any
) -> EngineRuntime:
    """`engine_runtime_in` for Docker."""
    return engine_runtime_in("docker", state, socket, profile=profile, **differs)


def engine_runtime_in(
    name: str, state: Path, socket: Path, *, profile: Profile | None = None, **differs: Any
) -> EngineRuntime:
    """The runtime of engine ``name`` with its state in ``state``. ``differs``: of `EngineSettings`.

    ``gvisor`` is Docker with gVisor's kernel. With Podman, limits that it does not keep are
    accepted, unless ``differs`` says otherwise.
    """
    from worker.engine_sections import PullPolicy
    from worker.runtimes.docker import docker_runtime
    from worker.runtimes.engine.images import ImageRules
    from worker.runtimes.engine.settings import EngineSettings
    from worker.runtimes.podman import podman_runtime
    from worker.sandbox.profile import Profile, user_for

    own = profile or Profile(tmp_mb=64, runtime="runsc" if name == "gvisor" else "")
    settings = EngineSettings(
        socket=socket,
        node="test-node",
        state_root=state,
        abandon_after=ABANDON_AFTER,
        profile=replace(own, user=user_for(os.geteuid(), os.getegid())),
        accept_unenforced=frozenset({"memory"}) if name == "podman" else frozenset(),
        rules=ImageRules(registry="docker.io/cyxwiz", allow=("cyxwiz/*",), policy=PullPolicy.NEVER),
    )
    make = podman_runtime if name == "podman" else docker_runtime
    return make(replace(settings, **differs))


HARNESSES: dict[str, Callable[[Places], Harness]] = {
    "native": native_harness,
    "fake": fake_harness,
    "docker": partial(engine_harness, name="docker"),
    "podman": partial(engine_harness, name="podman"),
}


def soon(seconds: float = 60.0) -> float:
    """A deadline that is far enough away."""
    return time.monotonic() + seconds


@dataclass
class Heard:
    """What was read of one attempt; checks the offsets as it goes."""

    streams: dict[Stream, bytearray] = field(
        default_factory=lambda: {s: bytearray() for s in Stream}
    )
    first: dict[Stream, int] = field(default_factory=dict)
    exit: ExitStatus | None = None

    def take(self, item: Chunk | ExitStatus | None) -> None:
        if isinstance(item, ExitStatus):
            self.exit = item
        elif item is not None:
            got = self.streams[item.stream]
            start = self.first.setdefault(item.stream, item.offset)
            assert item.offset == start + len(got), "bytes are missing or came twice"
            got += item.data

    @property
    def out(self) -> bytes:
        return bytes(self.streams[Stream.STDOUT])

    @property
    def err(self) -> bytes:
        return bytes(self.streams[Stream.STDERR])


def hear(
    handle: Handle,
    *,
    until: Callable[[Heard], bool] = lambda heard: heard.exit is not None,
    ack: bool = True,
    timeout: float = 20.0,
) -> Heard:
    """Read until the condition holds (by default: to the end)."""
    heard = Heard()
    give_up = time.monotonic() + timeout
    while not until(heard):
        assert time.monotonic() < give_up, f"waited {timeout} s; heard {heard.out[-200:]!r}"
        item = handle.read(0.5)
        heard.take(item)
        if ack and isinstance(item, Chunk):
            handle.ack(item.stream, item.offset + len(item.data))
    return heard
