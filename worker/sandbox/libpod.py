"""From what any engine is asked for to what Podman's own API is asked for, and back. Pure.

Podman answers Docker's create call too, and drops on the way what it has no word for there: open
files, processes and devices of a job, without an error. Its own call can say all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from worker.sandbox.readback import (
    Finding,
    compare_environment,
    compare_health,
    compare_labels,
    compare_mounts,
    same,
)

_CPU_PERIOD: Final = 100_000
_RUN_BY_ENGINE: Final = ("TERM", "container")
"""Variables that Podman gives to each container, and nobody has asked for."""
_UNDERSTOOD: Final = frozenset(
    {
        *("NetworkMode", "ReadonlyRootfs", "CapDrop", "CapAdd", "SecurityOpt", "Privileged"),
        *("IpcMode", "PidMode", "UTSMode", "UsernsMode", "CgroupnsMode", "PublishAllPorts"),
        *("OomScoreAdj", "OomKillDisable", "Init", "AutoRemove", "RestartPolicy", "Runtime"),
        *("Memory", "MemorySwap", "NanoCpus", "PidsLimit", "ShmSize", "Ulimits", "Tmpfs"),
        *("Mounts", "LogConfig", "DeviceRequests", "Devices"),
    }
)


class Unsayable(ValueError):
    """An option that Podman has no word for, or that it would not keep."""


def specification(
    name: str, asked: Mapping[str, Any], *, ignored: frozenset[str], seccomp: str = ""
) -> dict[str, Any]:
    """The body of Podman's create call.

    ``asked``: Docker's create call, which is what engines are asked for here. ``ignored``: limits
    that this Podman cannot keep; they are left out, since some versions fail at them. ``seccomp``:
    the path of a profile; '': Podman's own.

    Raises `Unsayable`.
    """
    host = asked["HostConfig"]
    if host.get("GroupAdd"):
        nodes = ", ".join(one["PathOnHost"] for one in host["Devices"])
        raise Unsayable(
            f"rootless Podman gives a job none of the host's groups, and {nodes} belongs to "
            f"{', '.join(host['GroupAdd'])}: use Docker, or open the device nodes by a udev rule "
            'to everybody of this host, MODE="0666"'
        )
    if host["NetworkMode"] not in ("none", "default"):
        raise Unsayable(
            f"jobs get a network of their own with Docker only, and {host['NetworkMode']} is asked "
            "for: what it leads to is not proven for rootless Podman"
        )
    for key, value in host.items():
        if key not in _UNDERSTOOD and value not in (None, "", [], {}, 0, False):
            raise Unsayable(f"Podman is not asked for {key}: what is meant by {value!r} there?")
    env = dict(pair.split("=", 1) for pair in asked["Env"])
    env.setdefault("HOME", asked["WorkingDir"])  # else it is the home of the node's user
    spec: dict[str, Any] = {
        "name": name,
        "image": asked["Image"],
        "entrypoint": list(asked["Entrypoint"]),
        "command": list(asked["Cmd"]),
        "env": env,
        "unsetenv": [one for one in _RUN_BY_ENGINE if one not in env],
        "work_dir": asked["WorkingDir"],
        "user": asked["User"],
        "passwd_entry": f"job:*:$UID:$GID::{asked['WorkingDir']}:/bin/sh",
        "labels": dict(asked["Labels"]),
        "hostname": asked["Hostname"],
        "healthconfig": {"test": ["NONE"]},
        "stop_signal": 15,
        "terminal": False,
        "stdin": False,
        "userns": {"nsmode": host["UsernsMode"]},
        "netns": {"nsmode": "none"} if host["NetworkMode"] == "none" else {"nsmode": "slirp4netns"},
        **{space: {"nsmode": "private"} for space in ("ipcns", "pidns", "utsns", "cgroupns")},
        "read_only_filesystem": host["ReadonlyRootfs"],
        "cap_drop": list(host["CapDrop"]),
        "no_new_privileges": "no-new-privileges" in host["SecurityOpt"],
        "privileged": False,
        "init": host["Init"],
        "remove": False,
        "restart_policy": "no",
        "image_volume_mode": "ignore",  # each is covered: see `worker.sandbox.options`
        "oom_score_adj": host["OomScoreAdj"],
        "shm_size": host["ShmSize"],
        "r_limits": [_rlimit(one) for one in host["Ulimits"]],
        "resource_limits": _resources(host, ignored),
        "mounts": [*_temporary(host["Tmpfs"]), *map(_mount, host["Mounts"])],
        "devices": [{"path": path} for path in _devices(host)],
        "log_configuration": {
            "driver": host["LogConfig"]["Type"],
            "size": int(host["LogConfig"]["Config"]["max-size"]),
        },
    }
    if host.get("Runtime"):
        spec["oci_runtime"] = host["Runtime"]
    if seccomp:
        spec["seccomp_profile_path"] = seccomp
    return spec


def _rlimit(limit: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": limit["Name"], "soft": limit["Soft"], "hard": limit["Hard"]}


def _resources(host: Mapping[str, Any], ignored: frozenset[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if host["Memory"] and "memory" not in ignored:
        found["memory"] = {"limit": host["Memory"], "swap": host["MemorySwap"]}
    if "pids" not in ignored:
        found["pids"] = {"limit": host["PidsLimit"]}
    if host["NanoCpus"] and "cpu" not in ignored:
        found["cpu"] = {"quota": _quota(host), "period": _CPU_PERIOD}
    return found


def _quota(host: Mapping[str, Any]) -> int:
    return int(host["NanoCpus"] * _CPU_PERIOD // 10**9)


def _temporary(places: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {"type": "tmpfs", "source": "tmpfs", "destination": path, "options": _options(text)}
        for path, text in places.items()
    ]


def _options(text: str) -> list[str]:
    return [*text.split(","), "notmpcopyup"]


def _mount(one: Mapping[str, Any]) -> dict[str, Any]:
    if one["Type"] == "tmpfs":
        amounts = one["TmpfsOptions"]
        way = ["ro", "nosuid", "nodev", "noexec", f"size={amounts['SizeBytes']}"]
        return {
            "type": "tmpfs",
            "source": "tmpfs",
            "destination": one["Target"],
            "options": [*way, f"mode={amounts['Mode']:o}", "notmpcopyup"],
        }
    way = ["rbind", "ro" if one["ReadOnly"] else "rw", one["BindOptions"]["Propagation"]]
    return {
        "type": "bind",
        "source": one["Source"],
        "destination": one["Target"],
        "options": [*way, "nosuid", "nodev"],
    }


def _devices(host: Mapping[str, Any]) -> list[str]:
    """Device nodes by their paths; what is requested, by its name in the Container Device
    Interface: nothing else gives it here."""
    names = [str(one["PathOnHost"]) for one in host.get("Devices") or ()]
    for request in host.get("DeviceRequests") or ():
        if request.get("Driver") != "cdi" or not request.get("DeviceIDs"):
            raise Unsayable("Podman gives devices by their CDI names, such as nvidia.com/gpu=0")
        names += request["DeviceIDs"]
    return names


def compare(
    asked: Mapping[str, Any],
    seen: Mapping[str, Any],
    *,
    ignored: frozenset[str],
) -> list[Finding]:
    """One finding for each item that Podman's own ``inspect`` tells of. What it does not tell, the
    host shows, or a probe: of a seccomp profile it says nothing but that there is one at all."""
    host, config = seen.get("HostConfig") or {}, seen.get("Config") or {}
    wanted = asked["HostConfig"]
    plain = ("NetworkMode", "ReadonlyRootfs", "Privileged", "OomScoreAdj", "ShmSize", "Init")
    more = ("AutoRemove", "PublishAllPorts", "OomKillDisable")
    found = [same(name, wanted[name], host.get(name)) for name in (*plain, *more)]
    found += [
        same("User", asked["User"], config.get("User")),
        same("WorkingDir", asked["WorkingDir"], config.get("WorkingDir")),
        same("Tty", False, config.get("Tty")),
        same("OpenStdin", False, config.get("OpenStdin")),
        _program(asked, seen),
        same("RestartPolicy", "no", (host.get("RestartPolicy") or {}).get("Name") or "no"),
        same("Capabilities", [], [*(seen.get("EffectiveCaps") or ()), *_bounding(seen)])
        if wanted["CapDrop"]
        else same("CapAdd", [], host.get("CapAdd")),
        same("SecurityOpt", list(wanted["SecurityOpt"]), list(host.get("SecurityOpt") or ())),
        same("Ulimits", _ulimits(wanted), _asked_for(wanted, _ulimits(host))),
        same("Tmpfs", _tmpfs(asked), sorted(host.get("Tmpfs") or ())),
        *_given(wanted, host),
        same("LogConfig", wanted["LogConfig"]["Type"], (host.get("LogConfig") or {}).get("Type")),
        compare_mounts(
            {**wanted, "Mounts": [one for one in wanted["Mounts"] if one["Type"] == "bind"]}, seen
        ),
        compare_health(config),
        compare_labels(asked, config),
        compare_environment(asked, config),
    ]
    if wanted.get("Runtime"):
        found.append(same("Runtime", wanted["Runtime"], seen.get("OCIRuntime")))
    if wanted["Memory"] and "memory" not in ignored:
        found.append(same("Memory", wanted["Memory"], host.get("Memory")))
        found.append(same("MemorySwap", wanted["MemorySwap"], host.get("MemorySwap")))
    if "pids" not in ignored:
        found.append(same("PidsLimit", wanted["PidsLimit"], host.get("PidsLimit")))
    if wanted["NanoCpus"] and "cpu" not in ignored:
        found.append(same("CpuQuota", _quota(wanted), host.get("CpuQuota")))
    return found


def _bounding(seen: Mapping[str, Any]) -> Sequence[str]:
    return seen.get("BoundingCaps") or ()


def _program(asked: Mapping[str, Any], seen: Mapping[str, Any]) -> Finding:
    """Its init, and after that the program with its arguments and nothing of the image's."""
    argv = [*asked["Entrypoint"], *asked["Cmd"]]
    init = ["--"] if asked["HostConfig"]["Init"] else []
    there = list(seen.get("Args") or ())
    if not init:
        there.insert(0, seen.get("Path"))
    good = there == init + argv
    return Finding(item="Cmd", wanted=str(argv), seen=str(there), good=good)


def _ulimits(host: Mapping[str, Any]) -> list[str]:
    return sorted(
        f"{one['Name'].removeprefix('RLIMIT_').lower()}={one['Soft']}:{one['Hard']}"
        for one in host.get("Ulimits") or ()
    )


def _asked_for(wanted: Mapping[str, Any], found: Sequence[str]) -> list[str]:
    """Without the one on processes, where none is asked for: then Podman gives each job its own
    user's, which takes nothing from the sandbox."""
    own = "nproc="
    asked = any(one.startswith(own) for one in _ulimits(wanted))
    return [one for one in found if asked or not one.startswith(own)]


def _tmpfs(asked: Mapping[str, Any]) -> list[str]:
    host = asked["HostConfig"]
    covers = [one["Target"] for one in host["Mounts"] if one["Type"] == "tmpfs"]
    return sorted([*host["Tmpfs"], *covers])


def _given(wanted: Mapping[str, Any], host: Mapping[str, Any]) -> list[Finding]:
    """What Podman says of devices; nothing where some were asked for and it says nothing: versions
    before 5 never do. Then the job shows it, or does not begin: see `worker.runner.proof`."""
    asked, seen = _devices(wanted), _device_names(host)
    return [] if asked and not seen else [same("Devices", asked, seen)]


def _device_names(host: Mapping[str, Any]) -> list[str]:
    return [str(one.get("PathOnHost")) for one in host.get("Devices") or ()]
