"""From a plan and a profile to what the engine is asked for. Pure.

Every item that the sandbox rests on is asked for by name, also where it is the engine's default:
`worker.sandbox.readback` compares each with what the engine says it has made of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from worker.plan import Grant, LaunchPlan, Limits
from worker.runtimes.engine.gpus import RUNTIME, Via, device_requests
from worker.sandbox import profile as profiles
from worker.sandbox.profile import Profile

_MIB: Final = 1 << 20
_TMPFS: Final = "rw,nosuid,nodev"
_NO_GPU: Final = {"NVIDIA_VISIBLE_DEVICES": "void"}
"""An image that asks for all devices by its environment gets none."""


def container_config(
    plan: LaunchPlan,
    profile: Profile,
    *,
    image: str,
    volumes: Iterable[str],
    labels: Mapping[str, str],
    log: Mapping[str, Any],
    groups: Iterable[int] = (),
) -> dict[str, Any]:
    """The body of the engine's create call.

    ``image``: its id, so that nobody can move a tag meanwhile. ``volumes``: where the image
    declares volumes; each is covered, or it would be writable and without a size. ``log``: the
    engine's ``LogConfig``. ``groups``: beside the user's own, what the grant's device nodes need.
    """
    mounts = [*_job_mounts(plan), *_covers(volumes)]
    return {
        "Image": image,
        "Entrypoint": [plan.argv[0]],
        "Cmd": list(plan.argv[1:]),
        "Env": [f"{name}={value}" for name, value in sorted(_environment(plan).items())],
        "WorkingDir": profiles.TMP,
        "User": f"{profile.user[0]}:{profile.user[1]}",
        "Labels": dict(labels),
        "Hostname": "job",
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGTERM",
        "Tty": False,
        "OpenStdin": False,
        "AttachStdin": False,
        "AttachStdout": True,
        "AttachStderr": True,
        "HostConfig": {
            **_confinement(profile),
            **_devices(plan.grant),
            "GroupAdd": [str(group) for group in groups],
            **_amounts(plan.limits, profile),
            "Tmpfs": {profiles.TMP: _tmpfs(profile)},
            "Mounts": mounts,
            "LogConfig": dict(log),
        },
    }


def _confinement(profile: Profile) -> dict[str, Any]:
    options: dict[str, Any] = {
        "NetworkMode": "none" if profile.no_network else profile.network or "default",
        "ReadonlyRootfs": profile.read_only_root,
        "CapDrop": ["ALL"] if profile.drop_capabilities else [],
        "CapAdd": [],
        "SecurityOpt": ["no-new-privileges"],
        "Privileged": False,
        "IpcMode": "private",
        "PidMode": "",
        "UTSMode": "",
        "UsernsMode": "",
        "CgroupnsMode": "private",
        "DeviceCgroupRules": [],
        "Binds": [],
        "VolumesFrom": [],
        "Sysctls": {},
        "PublishAllPorts": False,
        "PortBindings": {},
        "Links": [],
        "OomScoreAdj": profile.oom_score,
        "OomKillDisable": False,
        "Init": True,
        "AutoRemove": False,
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
    }
    if profile.runtime:
        options["Runtime"] = profile.runtime
    return options


def _devices(grant: Grant) -> dict[str, Any]:
    """Those of the grant, each by its name, and no others."""
    options: dict[str, Any] = {
        "Devices": [
            {"PathOnHost": node, "PathInContainer": node, "CgroupPermissions": "rwm"}
            for node in grant.nodes
        ],
        # what its device nodes make of a ROCm device, no request may do a second time
        "DeviceRequests": [] if grant.nodes else device_requests(grant.devices, grant.via),
    }
    if grant.devices and grant.via == Via.RUNTIME:
        options["Runtime"] = RUNTIME
    return options


def _amounts(limits: Limits, profile: Profile) -> dict[str, Any]:
    memory = limits.memory_mb * _MIB
    pids = max(limits.pids or profiles.PIDS_WITHOUT_CAP, profiles.LEAST_PIDS)
    if profile.gvisor:
        pids = profiles.GVISOR_PIDS + pids * profiles.GVISOR_PIDS_EACH
    return {
        "Memory": memory,
        "MemorySwap": memory,
        "NanoCpus": round(limits.cpu_cores * 1e9),
        "PidsLimit": pids,
        "ShmSize": (limits.shm_size_mb or profiles.SHM_MB_WITHOUT_CAP) * _MIB,
        "Ulimits": [
            {"Name": name, "Soft": most, "Hard": most} for name, most in _rlimits(limits, profile)
        ],
    }


def _rlimits(limits: Limits, profile: Profile) -> Iterator[tuple[str, int]]:
    yield "core", 0
    yield "nofile", limits.nofile
    if limits.output_mb and limits.memory_mb:
        # Each regular file counts, also those in memory: none may be larger than all that there is
        # room for. A mebibyte more, so that what is over the cap is seen to be.
        shm = limits.shm_size_mb or profiles.SHM_MB_WITHOUT_CAP
        most = max(limits.output_mb, limits.memory_mb, shm, profile.tmp_mb)
        yield "fsize", (most + 1) * _MIB


def _tmpfs(profile: Profile) -> str:
    executable = "noexec" if profile.tmp_noexec else "exec"
    return f"{_TMPFS},{executable},size={profile.tmp_mb}m,mode=1777"


def _job_mounts(plan: LaunchPlan) -> list[dict[str, Any]]:
    own = [
        _bind(str(plan.checkpoints), profiles.TARGET_CHECKPOINTS, read_only=False),
        _bind(str(plan.output), profiles.TARGET_OUTPUT, read_only=False),
    ]
    if plan.data is not None:
        own.insert(0, _bind(str(plan.data), profiles.TARGET_DATA, read_only=True))
    if plan.secrets is not None:
        own.append(_bind(str(plan.secrets.place), profiles.TARGET_SECRETS, read_only=True))
    more = (*plan.mounts, *plan.grant.mounts)
    return own + [_bind(str(one.source), one.target, read_only=one.read_only) for one in more]


def _bind(source: str, target: str, *, read_only: bool) -> dict[str, Any]:
    return {
        "Type": "bind",
        "Source": source,
        "Target": target,
        "ReadOnly": read_only,
        "BindOptions": {"Propagation": "rprivate"},
    }


def _covers(volumes: Iterable[str]) -> list[dict[str, Any]]:
    """An empty, read-only file system over each volume of the image that no mount of ours is."""
    ours = {
        profiles.TMP,
        profiles.TARGET_DATA,
        profiles.TARGET_CHECKPOINTS,
        profiles.TARGET_OUTPUT,
        profiles.TARGET_SECRETS,
    }
    return [
        {
            "Type": "tmpfs",
            "Target": path,
            "ReadOnly": True,
            "TmpfsOptions": {"SizeBytes": _MIB, "Mode": 0o555},
        }
        for path in sorted({str(PurePosixPath("/", one)) for one in volumes} - ours - {"/"})
    ]


def _environment(plan: LaunchPlan) -> dict[str, str]:
    # the engine's hook for GPUs reads these as root: they are the node's to set
    own = {name: value for name, value in plan.env.items() if not name.startswith("NVIDIA_")}
    granted = dict(plan.grant.env)
    if not plan.grant.devices or plan.grant.nodes or plan.grant.via == Via.CDI:
        granted |= _NO_GPU
    elif plan.grant.via != Via.RUNTIME:
        granted.pop("NVIDIA_VISIBLE_DEVICES", None)  # the engine sets it, by the request
    return {**own, **granted}
