"""What a probe's program does inside: it says what it sees, and tries what it may not do.

It is sent to the container as text and runs there on any Python 3; here it is never imported.
Each line of its output stands alone, since it may be killed for the last.
"""

# A program for containers: it prints, and is short rather than careful.
# ruff: noqa: PTH112, PTH123, PTH208, SIM115, T201

from __future__ import annotations

import ctypes
import json
import os
import sys
import time

PIDS = int(sys.argv[1])
MEMORY_MB = int(sys.argv[2])
WAIT_S = float(sys.argv[3])
"""To be looked at before it is over."""


def tell(name: str, value: object) -> None:
    print(json.dumps({name: value}), flush=True)


def can_write(path: str) -> bool:
    try:
        with open(path, "w"):
            return True
    except OSError:
        return False


def links() -> list[str]:
    root = "/sys/class/net"
    names = [name for name in os.listdir(root) if name != "lo"] if os.path.isdir(root) else []
    return [name for name in names if int(open(f"{root}/{name}/flags").read(), 16) & 1]


def can_make_users() -> bool:
    child = os.fork()
    if child == 0:
        os._exit(ctypes.CDLL(None).unshare(0x10000000) != 0)
    return os.waitpid(child, 0)[1] == 0


def can_choose_cpus() -> bool:
    try:
        os.sched_setaffinity(0, os.sched_getaffinity(0))
        return True
    except OSError:
        return False


def is_gvisor() -> bool:
    """What the kernel says as it starts; only gVisor's shows that to everybody."""
    log = ctypes.create_string_buffer(1 << 16)
    size = ctypes.CDLL(None).klogctl(3, log, len(log))
    return size > 0 and b"gVisor" in log.raw[:size]


def fork_many() -> int:
    """Half as many again as it may have; how many there were at once, itself and its init too."""
    read, write = os.pipe()
    children = []
    try:
        for _ in range(PIDS + PIDS // 2):
            child = os.fork()
            if child == 0:
                os.close(write)
                os.read(read, 1)  # until the parent lets go of the other end
                os._exit(0)
            children.append(child)
    except OSError:
        pass
    os.close(write)
    for child in children:
        os.waitpid(child, 0)
    return len(children) + 2


def take_memory() -> bool:
    """Whether a child can have half as much again as it may."""
    child = os.fork()
    if child == 0:
        try:
            held = bytearray(b"x" * (1 << 20)) * (MEMORY_MB + MEMORY_MB // 2)
            os._exit(0 if held[-1] else 1)
        except MemoryError:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


time.sleep(WAIT_S)
status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines())
tell("uid", os.getuid())
tell("capabilities", status["CapBnd"])
tell("wrote_root", can_write("/cyxwiz-probe"))
tell("links", links())
tell("devices", sorted(os.listdir("/dev")))
tell("gvisor", is_gvisor())
tell("made_users", can_make_users())
tell("chose_cpus", can_choose_cpus())
if PIDS:
    tell("forked", fork_many())
if MEMORY_MB:
    tell("took_memory", take_memory())
