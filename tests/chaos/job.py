"""What every job of a chaos run is: it works in small steps, and writes down each of them itself.

Standard library only, run with ``python3 -I -S``. Its log lies outside the product and is synced at
each entry, so it tells what was really at work whatever the product believes of it. It also looks
whether another attempt of the same job holds the job's own lock.

Arguments: the directory of the log (''; the job's checkpoints), the seconds to work, the exit code.
"""

import fcntl
import json
import os
import pathlib
import sys
import time

STEP = 0.05
LOOK_FOR = 0.4
LOG, GUARD = "work.log", "lock"


def main() -> int:
    seconds, code = float(sys.argv[2]), int(sys.argv[3])
    job = os.environ["CYXWIZ_JOB_ID"]
    token = int.from_bytes(os.urandom(6))
    if sys.argv[1]:
        place = pathlib.Path(sys.argv[1])
        guard = os.open(place / f"{job}.{GUARD}", os.O_RDWR | os.O_CREAT, 0o666)
    else:  # whoever judges puts both files there: the same ones on each node
        place = pathlib.Path(os.environ["CYXWIZ_CHECKPOINTS"])
        guard = once_there(place / GUARD, os.O_RDWR)
    log = once_there(place / LOG, os.O_WRONLY | os.O_APPEND)

    def note(what: str, **more: object) -> None:
        entry = {"job": job, "token": token, "what": what, "t": time.monotonic_ns(), **more}
        os.write(log, (json.dumps(entry) + "\n").encode())
        os.fdatasync(log)

    note("began", attempt=os.environ.get("CYXWIZ_ATTEMPT", ""))
    alone = take(guard)
    if not alone:
        holder = os.pread(guard, 64, 0).decode().strip()
        if at_work(holder, guard):
            note("twice", holder=holder)
    os.pwrite(guard, f"{os.getpid()} {pids_of()}".ljust(64).encode(), 0)
    steps = max(1, round(seconds / STEP))
    for step in range(steps):
        print(f"line {token} {step}", flush=True)
        time.sleep(STEP)
        note("step", step=step)
        if step % 4 == 3:
            report = {"type": "progress", "epoch": step + 1, "total_epochs": steps, "token": token}
            print(json.dumps(report), flush=True)
    if code == 0:
        done = {"type": "complete", "success": True, "metrics": {"token": token, "steps": steps}}
        print(json.dumps(done), flush=True)
    note("ended", code=code)
    return code


def once_there(path: pathlib.Path, flags: int) -> int:
    while True:
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            time.sleep(0.01)


def take(guard: int) -> bool:
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def at_work(holder: str, guard: int) -> bool:
    """Whether the holder of the lock runs on: it neither stands still nor is about to be gone."""
    until = time.monotonic() + LOOK_FOR
    while time.monotonic() < until:
        if take(guard) or state_of(holder) in "TtZX":
            return False
        time.sleep(0.01)
    return True


def state_of(holder: str) -> str:
    """Its state in /proc; X if it is gone, or not to be seen from here."""
    pid, _, pids = holder.partition(" ")
    try:
        text = pathlib.Path(f"/proc/{int(pid)}/stat").read_text()
    except (OSError, ValueError):
        return "X"
    return text.rpartition(")")[2].split()[0] if pids == pids_of() else "X"


def pids_of() -> str:
    """Which processes a pid is one of."""
    return str(pathlib.Path("/proc/self/ns/pid").readlink())


if __name__ == "__main__":
    sys.exit(main())
