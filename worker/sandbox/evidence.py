"""What the host shows of a running container, whatever image it is of.

The engine's word is one thing; /proc/PID and the control groups of the container's first process
are another, and need no help from inside. Linux.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from worker.keeper import cgroups, procfs
from worker.sandbox import profile as profiles
from worker.sandbox.profile import Profile
from worker.sandbox.readback import Finding, finding

_NAMESPACES: Final = ("mnt", "pid", "ipc", "uts")
_ALLOWED_WRITABLE: Final = ("/dev", "/proc", "/sys")
_NO_CAPABILITIES: Final = "0000000000000000"


class Gone(Exception):
    """The container ended before it could be looked at."""


def observe(
    pid: int, asked: Mapping[str, Any], profile: Profile, *, cpus: int = 0
) -> list[Finding]:
    """Each promise of the sandbox, as the host shows it for process ``pid``.

    ``asked``: the create call. ``cpus``: how many its processes are kept to; 0: to no number.
    Raises `Gone`: the process has ended.
    """
    start = procfs.process(pid)
    if start is None or start.dead:
        raise Gone
    host = asked["HostConfig"]
    found = [
        *_status(pid, host, profile),
        *_mounts(pid, host, profile),
        *spaces(pid, profile),
        *groups(pid, host),
        *_limits(pid, host),
    ]
    if host["UsernsMode"]:
        found.append(_users(pid, start.parent))
    if cpus:
        found.append(_kept_to(pid, cpus))
    now = procfs.process(pid)
    if now is None or now.dead or now.start != start.start:
        raise Gone
    return found


def status(pid: int) -> dict[str, str]:
    """/proc/PID/status."""
    lines = (procfs.read_bytes(f"/proc/{pid}/status") or b"").decode(errors="replace").splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def _status(pid: int, host: Mapping[str, Any], profile: Profile) -> list[Finding]:
    seen = status(pid)
    uid, gid = profile.user
    found = [
        finding("uid", "\t".join([str(uid)] * 4), seen.get("Uid", "")),
        finding("gid", "\t".join([str(gid)] * 4), seen.get("Gid", "")),
        finding("groups", " ".join(sorted(host["GroupAdd"])), _others(seen.get("Groups"), gid)),
        finding("no_new_privs", 1, seen.get("NoNewPrivs")),
        finding("seccomp", 2, seen.get("Seccomp")),
    ]
    if profile.drop_capabilities:
        names = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
        held = {seen.get(name, "?") for name in names}
        found.append(finding("capabilities", _NO_CAPABILITIES, ", ".join(sorted(held))))
    return found


def _others(groups: str | None, gid: int) -> str:
    """What it is in beside its own group."""
    return "?" if groups is None else " ".join(sorted(set(groups.split()) - {str(gid)}))


def _mounts(pid: int, host: Mapping[str, Any], profile: Profile) -> list[Finding]:
    table = _table(pid)
    found = []
    if profile.read_only_root:
        found.append(finding("root", "ro", "ro" if "ro" in table.get("/", ()) else "rw"))
    tmp = table.get(profiles.TMP, ())
    wanted = {"nosuid", "nodev"} | ({"noexec"} if profile.tmp_noexec else set())
    seen = "absent" if not tmp else ",".join(sorted(wanted & set(tmp))) or "none of them"
    sizes = _sizes(pid)
    most, has = profile.tmp_mb << 10, sizes.get(profiles.TMP, "no size")
    found.append(finding("/tmp", f"{','.join(sorted(wanted))},{most}k", f"{seen},{has}"))
    shm = f"{host['ShmSize'] >> 10}k"
    found.append(finding("/dev/shm", shm, sizes.get("/dev/shm", "no size")))
    if any(one["Target"] == profiles.TARGET_SECRETS for one in host["Mounts"]):
        kind, options = kinds(pid).get(profiles.TARGET_SECRETS, ("absent", ()))
        here = f"{kind} {'ro' if 'ro' in options else 'rw'}"
        found.append(finding("secrets", "tmpfs ro", here))
    writable = {one["Target"] for one in host["Mounts"] if not one["ReadOnly"]}
    expected = {profiles.TMP, *writable}
    stray = sorted(
        path
        for path, options in table.items()
        if "rw" in options and path not in expected and not of_the_kernel(path)
        if path != "/" or profile.read_only_root
    )
    found.append(finding("writable mounts", "", " ".join(stray)))
    return found


def of_the_kernel(path: str) -> bool:
    """What each container has of its own, and the few files that engines lay over /etc."""
    engines = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
    return path in engines or any(
        path == top or path.startswith(f"{top}/") for top in _ALLOWED_WRITABLE
    )


def _table(pid: int) -> dict[str, tuple[str, ...]]:
    """Mount point to its options; the topmost where several lie over each other."""
    return {path: options for path, (_, options) in kinds(pid).items()}


def kinds(pid: int) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Mount point to its file system and its options."""
    text = (procfs.read_bytes(f"/proc/{pid}/mountinfo") or b"").decode(errors="replace")
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for line in text.splitlines():
        mount, _, of = line.partition(" - ")
        fields = mount.split(" ")
        found[fields[4]] = (of.split(" ")[0], tuple(fields[5].split(",")))
    return found


def _sizes(pid: int) -> dict[str, str]:
    """Mount point to the most that its tmpfs may hold, as the kernel says it: ``65536k``."""
    text = (procfs.read_bytes(f"/proc/{pid}/mountinfo") or b"").decode(errors="replace")
    found: dict[str, str] = {}
    for line in text.splitlines():
        mount, _, of = line.partition(" - ")
        options = of.split(" ")[-1].split(",")
        size = next((one for one in options if one.startswith("size=")), "")
        found[mount.split(" ")[4]] = size.removeprefix("size=") or "no size"
    return found


def spaces(pid: int, profile: Profile, names: tuple[str, ...] = _NAMESPACES) -> list[Finding]:
    """That it has namespaces of its own, and no way out of that of the network."""
    wanted = (*names, "net")
    shared = [name for name in wanted if _space(pid, name) in ("", _space(os.getpid(), name))]
    found = [finding("namespaces shared with the host", "", " ".join(shared))]
    if profile.no_network:
        found.append(finding("network routes", "", " ".join(sorted(_routes(pid)))))
    return found


def _users(pid: int, parent: int) -> Finding:
    """A user namespace that it shares with neither the host nor what started it."""
    own = _space(pid, "user")
    others = {_space(os.getpid(), "user"), _space(parent, "user")}
    seen = "its own" if own and "" not in others and own not in others else "shared"
    return finding("user namespace", "its own", seen)


def _kept_to(pid: int, cpus: int) -> Finding:
    """The most CPUs that any process of it may run on."""
    counts = [_cpus_of(one) for one in (pid, *(one.pid for one in procfs.descendants(pid)))]
    most = max((count for count in counts if count is not None), default=0)
    wanted = min(cpus, os.cpu_count() or cpus)
    good = 0 < most <= wanted
    return Finding(item="cpus", wanted=f"at most {wanted}", seen=str(most), good=good)


def _cpus_of(pid: int) -> int | None:
    try:
        return len(os.sched_getaffinity(pid))
    except OSError:
        return None


def _routes(pid: int) -> set[str]:
    """The interfaces, but the loopback, that a packet could leave by."""
    seen = {"?"}  # what cannot be read is not clean
    fourth = procfs.read_bytes(f"/proc/{pid}/net/route")
    if fourth is not None:
        seen = {line.split()[0].decode() for line in fourth.splitlines()[1:] if line.split()}
    sixth = procfs.read_bytes(f"/proc/{pid}/net/ipv6_route") or b""
    return (seen | {line.split()[-1].decode() for line in sixth.splitlines() if line}) - {"lo"}


def _space(pid: int, name: str) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/{name}").readlink())
    except OSError:
        return ""


def groups(pid: int, host: Mapping[str, Any]) -> list[Finding]:
    """Its limits, in its control groups."""
    own = cgroups.groups(pid)
    version2 = own.get(cgroups.V2)
    found = []
    if host["Memory"]:
        if "memory" in own:
            seen = cgroups.number(own["memory"], "memory.limit_in_bytes")
            swaps = _swaps(own["memory"], "memory.memsw.limit_in_bytes", host["Memory"])
        else:
            seen = cgroups.number(version2, "memory.max")
            swaps = _swaps(version2, "memory.swap.max", 0)
        also = " and swap" if swaps else ""
        found.append(finding("memory", host["Memory"], f"{seen}{also}"))
    pids = cgroups.number(own.get("pids", version2), "pids.max")
    found.append(finding("pids", host["PidsLimit"], pids))
    if host["NanoCpus"]:
        found.append(finding("cpu", f"{host['NanoCpus'] / 1e9:.2f}", _cores(own)))
    return found


def _swaps(directory: str | None, name: str, most: int) -> bool:
    """Whether it may have memory swapped out: ``name`` says more than ``most``, or the kernel does
    not count swap, and has some."""
    limit = procfs.read_bytes(f"{directory}/{name}")
    if limit is not None:
        number = cgroups.number(directory, name)
        return number is None or number > most
    return len((procfs.read_bytes("/proc/swaps") or b"?\n?\n").splitlines()) > 1


def _cores(groups: Mapping[str, str]) -> str:
    if "cpu" in groups:
        quota = cgroups.number(groups["cpu"], "cpu.cfs_quota_us")
        period = cgroups.number(groups["cpu"], "cpu.cfs_period_us")
    else:
        text = procfs.read_bytes(f"{groups.get(cgroups.V2)}/cpu.max") or b""
        parts = [int(one) if one.isdigit() else None for one in text.split()]
        quota, period = (*parts, None, None)[:2]
    return f"{quota / period:.2f}" if quota and quota > 0 and period else "no limit"


def _limits(pid: int, host: Mapping[str, Any]) -> list[Finding]:
    text = (procfs.read_bytes(f"/proc/{pid}/limits") or b"").decode(errors="replace")
    lines = text.splitlines()
    names = {
        "core": "Max core file size",
        "nofile": "Max open files",
        "fsize": "Max file size",
        "nproc": "Max processes",
        "data": "Max data size",
    }
    found = []
    for limit in host["Ulimits"]:
        name = names[limit["Name"]]
        line = next((one for one in lines if one.startswith(name)), "")
        hard = line.removeprefix(name).split()[1:2]
        found.append(finding(limit["Name"], limit["Hard"], "".join(hard)))
    score = (procfs.read_bytes(f"/proc/{pid}/oom_score_adj") or b"").decode().strip()
    found.append(finding("oom_score_adj", host["OomScoreAdj"], score))
    return found
