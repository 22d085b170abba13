"""What the host shows of a container that runs under gVisor (``runsc``).

There the job's processes are none of the host's: what the host has is gVisor's own kernel, a
process that is nobody, sees no file and has a filter of its own on system calls. So what the job is
inside (its user, its capabilities, its mounts) cannot be read from /proc/PID. It is read from the
bundle that this kernel was started with, which the engine wrote for it alone; that such a kernel
keeps what a bundle says, a probe has shown. Limits and namespaces are the kernel process's, and are
seen on the host as ever. Linux.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from worker.keeper import procfs, secret_files
from worker.sandbox import evidence
from worker.sandbox import profile as profiles
from worker.sandbox.profile import Profile
from worker.sandbox.readback import Finding, finding

KERNEL: Final = "kernel"
"""The finding that the job's kernel is gVisor's."""
OWN: Final = "gVisor's own"
_PROGRAM: Final = "runsc"
_MOST_BUNDLE: Final = 4 << 20
# its pid namespace may be the host's: what the job sees are the processes of its own kernel
_NAMESPACES: Final = ("mnt", "ipc", "uts", "user")


def observe(
    pid: int, asked: Mapping[str, Any], profile: Profile, *, cpus: int = 0
) -> list[Finding]:
    """As `worker.sandbox.evidence.observe`, whose items it has, and `KERNEL` beside them."""
    start = procfs.process(pid)
    if start is None or start.dead:
        raise evidence.Gone
    host = asked["HostConfig"]
    arguments = _arguments(pid)
    bundle = _bundle(start.parent, arguments)
    found = [
        finding(KERNEL, OWN, _kernel(pid, arguments)),
        *_inside(bundle, profile),
        *_mounts(bundle, host, profile),
        *evidence.spaces(pid, profile, _NAMESPACES),
        *evidence.groups(pid, host),
        *_limits(bundle, host),
    ]
    now = procfs.process(pid)
    if now is None or now.dead or now.start != start.start:
        raise evidence.Gone
    return found


def _arguments(pid: int) -> list[str]:
    raw = procfs.read_bytes(f"/proc/{pid}/cmdline") or b""
    return raw.decode(errors="replace").split("\0")


def _kernel(pid: int, arguments: list[str]) -> str:
    """`OWN`, or what is wrong with it."""
    program = Path(_link(f"/proc/{pid}/exe")).name
    if program != _PROGRAM or arguments[:1] != ["runsc-sandbox"] or "boot" not in arguments:
        return f"the host's: the container's process is {program or 'unknown'}"
    status = evidence.status(pid)
    if (
        status.get("Uid", "0").split() != status.get("Gid", "0").split()
        or "0" in status.get("Uid", "0").split()
    ):
        return "gVisor's, and it is root"
    if (status.get("NoNewPrivs"), status.get("Seccomp")) != ("1", "2"):
        return "gVisor's, and it may make any system call"
    mounts = evidence.kinds(pid)
    if list(mounts) != ["/"] or mounts["/"][0] != "tmpfs" or "ro" not in mounts["/"][1]:
        return f"gVisor's, and it sees {', '.join(mounts) or 'who knows what'}"
    return OWN


def _bundle(shim: int, arguments: list[str]) -> Mapping[str, Any]:
    """What the kernel was told of the container. ``shim``: what started it, and has the file by
    that name. {}: it cannot be read."""
    place = next((one.partition("=")[2] for one in arguments if one.startswith("--bundle=")), "")
    raw = procfs.read_bytes(f"/proc/{shim}/root{place}/config.json") if place else None
    try:
        content = json.loads(raw or b"")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""


def _inside(bundle: Mapping[str, Any], profile: Profile) -> Iterator[Finding]:
    process = bundle.get("process") or {}
    user = process.get("user") or {}
    uid, gid = profile.user
    yield finding("uid", uid, user.get("uid"))
    yield finding("gid", gid, user.get("gid"))
    others = set(user.get("additionalGids") or ()) - {gid}
    yield finding("groups", "", " ".join(map(str, sorted(others))))
    yield finding("no_new_privs", True, process.get("noNewPrivileges"))
    yield finding("seccomp", "gVisor's kernel answers", "gVisor's kernel answers")
    if profile.drop_capabilities:
        sets = process.get("capabilities")
        held = {one for some in (sets or {}).values() for one in some or ()}
        seen = " ".join(sorted(held)) if "process" in bundle else "?"
        yield finding("capabilities", "", seen)


def _mounts(
    bundle: Mapping[str, Any], host: Mapping[str, Any], profile: Profile
) -> Iterator[Finding]:
    mounts = {str(one.get("destination")): one for one in bundle.get("mounts") or ()}
    if profile.read_only_root:
        root = bundle.get("root") or {}
        yield finding("root", "ro", "ro" if root.get("readonly") is True else "rw")
    tmp = set((mounts.get(profiles.TMP) or {}).get("options") or ())
    wanted = {"nosuid", "nodev"} | ({"noexec"} if profile.tmp_noexec else set())
    seen = ",".join(sorted(wanted & tmp)) or "none of them"
    yield finding("/tmp", ",".join(sorted(wanted)), seen)
    secrets = mounts.get(profiles.TARGET_SECRETS)
    if any(one["Target"] == profiles.TARGET_SECRETS for one in host["Mounts"]):
        yield finding("secrets", "tmpfs ro", _secrets(secrets or {}))
    writable = {one["Target"] for one in host["Mounts"] if not one["ReadOnly"]}
    stray = sorted(
        path
        for path, mount in mounts.items()
        if "ro" not in (mount.get("options") or ())
        and path not in {profiles.TMP, *writable}
        and not evidence.of_the_kernel(path)
        and path != "/sbin/docker-init"
    )
    yield finding("writable mounts", "", " ".join(stray) if "mounts" in bundle else "?")


def _secrets(mount: Mapping[str, Any]) -> str:
    try:
        kind = secret_files.file_system(Path(str(mount.get("source") or "")))
    except OSError:
        kind = "absent"
    return f"{kind} {'ro' if 'ro' in (mount.get('options') or ()) else 'rw'}"


def _limits(bundle: Mapping[str, Any], host: Mapping[str, Any]) -> Iterator[Finding]:
    process = bundle.get("process") or {}
    told = {str(one.get("type")): one.get("hard") for one in process.get("rlimits") or ()}
    for limit in host["Ulimits"]:
        name = limit["Name"]
        yield finding(name, limit["Hard"], told.get(f"RLIMIT_{name.upper()}"))
    yield finding("oom_score_adj", host["OomScoreAdj"], process.get("oomScoreAdj"))
