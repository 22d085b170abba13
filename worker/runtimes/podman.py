"""Attempts in containers of rootless Podman.

Podman speaks Docker's API, and what it cannot say there it drops without a word: containers are
made and looked at through its own API, and only started, attached to, waited for and removed
through Docker's.

The node runs as the user whose Podman it is. Inside, a job has that user's number, in a user
namespace of its own (``keep-id``): so what it leaves is the node's to read and to delete. It has no
more rights than the node's user on the host, and none of root's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from worker.keeper.zygote import Zygote
from worker.runtimes.engine import toolkit
from worker.runtimes.engine.client import Version
from worker.runtimes.engine.dialect import PODMAN
from worker.runtimes.engine.errors import EngineError, SandboxUnavailable
from worker.runtimes.engine.manager import ContainerManager
from worker.runtimes.engine.runtime import EngineRuntime
from worker.runtimes.engine.settings import EngineSettings
from worker.sandbox import libpod
from worker.sandbox.engine_report import EngineFacts
from worker.sandbox.readback import Finding
from worker.sandbox.standins import CPU, LIMITS, MEMORY, PIDS, Shortfall, kernel_version

_API: Final = "/v4.0.0/libpod"
"""Podman's own API, of the oldest version that is used: newer ones speak it too."""
_KEEP_ID: Final = "keep-id"
_FORBIDDEN: Final = frozenset(
    {
        "sched_setaffinity",  # a job stays on the CPUs that it was given
        *("unshare", "setns", "mount", "umount2", "pivot_root", "fsopen", "fsmount", "move_mount"),
        *("open_tree", "mount_setattr", "fsconfig", "fspick"),
        "clone3",  # its flags are out of a filter's sight; programs then use clone
    }
)
"""Calls that Podman's profile lets a job make, and Docker's does not but for the first."""
_NEW_NAMESPACES: Final = 0x7E020000
"""The flags of clone that make a namespace: a job that makes users has all rights among them."""
_FEWEST_IDS: Final = 65_536
_GIVE_IDS: Final = (
    "install uidmap, then usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER; "
    "podman system migrate"
)
_NO_IDS: Final = "keep-id requires additional UIDs or GIDs"
"""How its answer begins where it finds no subordinate ids of its user, or thinks so."""
_TRIES: Final = 4
_PAUSE: Final = 0.05
_TURN_WITHIN: Final = 120.0
_AGAIN: Final = 0.005


def podman_runtime(settings: EngineSettings, *, zygote: Zygote | None = None) -> EngineRuntime:
    """The runtime of the Podman at ``settings.socket``. Nothing is asked of it yet."""
    return EngineRuntime(PODMAN, settings, making=PodmanMaking, zygote=zygote)


class PodmanMaking:
    """See `worker.runtimes.engine.making.Making`."""

    def __init__(self, manager: ContainerManager, place: Path) -> None:
        """``place``: a directory of the node's, for what Podman reads."""
        self._client = manager.client
        self._place = place
        self._info: dict[str, Any] = {}
        self._told_by = ""
        self._seccomp: str | None = None

    def unusable(self) -> str:
        return _unusable(self.info(), os.geteuid())

    def info(self) -> dict[str, Any]:
        """What it says of itself and its host: asked once of each version, since it takes half a
        second."""
        server = self._client.version().server
        if server != self._told_by:
            self._info = self._client.own("asking Podman about itself", "GET", f"{_API}/info")
            self._told_by, self._seccomp = server, None
        return self._info

    def shortfall(self) -> Shortfall:
        return shortfall(self.info(), platform.release(), pins=bool(self.seccomp()))

    def facts(self, version: Version, loosened: tuple[str, ...]) -> EngineFacts:
        info = self.info()
        host = info.get("host") or {}
        runtime = str((host.get("ociRuntime") or {}).get("version") or "").partition("\n")[0]
        return EngineFacts(
            name="podman",
            version=version.engine,
            runtime=runtime.replace(" version ", " "),
            toolkit=toolkit.described(_cdi()),
            rootless=bool((host.get("security") or {}).get("rootless")),
            cgroup_version=2 if host.get("cgroupVersion") == "v2" else 1,
            storage=str((info.get("store") or {}).get("graphDriverName") or ""),
            why_ignored=self.shortfall().why,
            loosened=loosened,
        )

    def first_ids(self) -> tuple[int, int]:
        return 0, 0  # keep-id: the job's user is the node's

    def asked(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return {**config, "HostConfig": {**config["HostConfig"], "UsernsMode": _KEEP_ID}}

    def create(self, name: str, asked: Mapping[str, Any]) -> str:
        doing = f"creating container {name}"
        try:
            spec = libpod.specification(
                name,
                asked,
                ignored=self.shortfall().ignored,
                seccomp=self.seccomp(),
            )
        except libpod.Unsayable as error:
            raise SandboxUnavailable(f"{doing}: {error}") from error
        with _turn(self._client.socket, doing):
            made = _believed(
                lambda: self._client.own(doing, "POST", f"{_API}/containers/create", spec)
            )
        return str(made["Id"])

    def read_back(self, container: str, asked: Mapping[str, Any]) -> list[Finding]:
        doing = f"inspecting container {container:.64}"
        seen = self._client.own(doing, "GET", f"{_API}/containers/{container}/json")
        return libpod.compare(asked, seen, ignored=self.shortfall().ignored)

    def seccomp(self) -> str:
        """Where Podman's own seccomp profile is, tightened; '' where it has no file to begin with:
        then jobs have Podman's as it is, and a probe shows what that lets them do."""
        if self._seccomp is None:
            own = (self.info().get("host") or {}).get("security") or {}
            text = _tightened_at(str(own.get("seccompProfilePath") or ""))
            self._seccomp = str(_kept(self._place, text)) if text else ""
        return self._seccomp


def shortfall(info: Mapping[str, Any], release: str, *, pins: bool) -> Shortfall:
    """What a Podman with this ``info`` cannot do. Pure. ``release``: the kernel's."""
    host = info.get("host") or {}
    first = str(host.get("cgroupVersion") or "v1") != "v2"
    if first:
        ignored = frozenset(LIMITS)
        why = (
            "a rootless Podman keeps no limits on control groups of version 1: boot with version 2"
        )
    else:
        there = set(host.get("cgroupControllers") or ())
        ignored = frozenset({MEMORY, PIDS, CPU} - there)
        why = (
            f"the controllers {', '.join(sorted(ignored))} are not delegated to this user: "
            "in /etc/systemd/system/user@.service.d/delegate.conf, "
            "[Service] Delegate=cpu cpuset io memory pids"
        )
    return Shortfall(
        ignored=ignored,
        why=why if ignored else "",
        pause=not first,
        own_users=True,
        kernel=kernel_version(release),
        pins=pins,
    )


def _unusable(info: Mapping[str, Any], euid: int) -> str:
    """Why a node that runs as ``euid`` cannot use a Podman with this ``info``; '' if it can."""
    host = info.get("host") or {}
    if not (host.get("security") or {}).get("rootless"):
        return (
            "it runs as root, and this node uses rootless Podman only: run node and "
            "podman.socket as an ordinary user"
        )
    mapped = (host.get("idMappings") or {}).get("uidmap") or ()
    owner = next((one["host_id"] for one in mapped if one.get("container_id") == 0), None)
    if owner != euid:
        return (
            f"it is the Podman of user {owner}, and the node runs as user {euid}: what a job "
            f"leaves would not be the node's; run the node as user {owner}"
        )
    if sum(int(one.get("size") or 0) for one in mapped) < _FEWEST_IDS:
        return f"user {owner} has no subordinate ids: {_GIVE_IDS}"
    return ""


@contextlib.contextmanager
def _turn(socket: Path, doing: str) -> Iterator[None]:
    """While nobody else makes a container of the Podman at ``socket``, in no process or node.

    To map the ids it asks a library that is not made for threads: of two that are made at once,
    one is told that its user has no subordinate ids, or Podman itself dies.

    Raises EngineError: others took too long.
    """
    try:  # the directory itself: it is there, and the same for all who use this Podman
        fd = os.open(socket.resolve().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise EngineError(f"{doing}: {error}") from error
    try:
        until = time.monotonic() + _TURN_WITHIN
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise EngineError(
                        f"{doing}: another process makes one since {_TURN_WITHIN:.0f} s"
                    ) from None
                time.sleep(_AGAIN)
        yield
    finally:
        os.close(fd)


def _believed(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``make`` made. That there are no subordinate ids is believed when it is said again and
    again: whoever uses this Podman beside the nodes waits for no turn."""
    for _ in range(_TRIES - 1):
        try:
            return make()
        except EngineError as error:
            if _NO_IDS not in str(error):
                raise
            time.sleep(_PAUSE)
    try:
        return make()
    except EngineError as error:
        if _NO_IDS not in str(error):
            raise
        raise SandboxUnavailable(f"{error}; {_GIVE_IDS}") from error


def tightened(profile: Mapping[str, Any]) -> dict[str, Any]:
    """A seccomp profile without the calls that no job is to make. Pure.

    Raises KeyError, TypeError: it is of another form.
    """
    rules = []
    for rule in profile["syscalls"]:
        names = [name for name in rule["names"] if name not in _FORBIDDEN]
        if "clone" in names and rule["action"] == "SCMP_ACT_ALLOW":
            names.remove("clone")
            only = {"index": 0, "value": _NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
            rules.append({"names": ["clone"], "action": rule["action"], "args": [only]})
        if names:
            rules.append({**rule, "names": names})
    denied = sorted(_FORBIDDEN - {"clone3"})
    rules.append({"names": denied, "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM})
    rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS})
    return {**profile, "syscalls": rules}


def _tightened_at(path: str) -> str:
    """The seccomp profile at ``path``, tightened; '' where it cannot be had."""
    try:
        return json.dumps(tightened(json.loads(Path(path).read_bytes())), sort_keys=True)
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _kept(place: Path, text: str) -> Path:
    """The file in ``place`` that holds ``text``: made once, by whichever process comes first."""
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = place / f"seccomp-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if not path.exists():
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(text)
        partial.replace(path)
    return path


def _cdi() -> str:
    """What tells Podman of NVIDIA devices; the runtimes that it lists need not be there."""
    places = (Path(place) for place in ("/etc/cdi", "/var/run/cdi"))
    found = [path for place in places if place.is_dir() for path in place.glob("*nvidia*")]
    return f"CDI {found[0]}" if found else ""
