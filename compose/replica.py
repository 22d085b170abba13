"""Starts one of several nodes that are alike: under the first name that no other has.

node-1, node-2, … each have a directory of that name beneath CYXWIZ_STATE. Whoever holds the lock in
it has the name, for as long as its container lives. So a container that is made anew, or that comes
in the place of a killed one, is the same node: it goes on with what that one left, and clears away
its jobs' containers. What it is called with is a command of ``cyxwiz``.
"""

import fcntl
import os
import sys
from pathlib import Path

MOST = 1000


def claimed(place: Path) -> bool:
    """Whether nobody had it; the lock is this process's, and stays so when it becomes the node."""
    place.mkdir(mode=0o700, exist_ok=True)
    fd = os.open(place / "replica.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return False
    os.set_inheritable(fd, True)
    return True


def main() -> None:
    states = Path(os.environ.get("CYXWIZ_STATE", "/var/lib/cyxwiz"))
    for number in range(1, MOST + 1):
        place = states / f"node-{number}"
        if claimed(place):
            os.environ["CYXWIZ_NODE__NAME"] = f"node-{number}"
            os.environ["CYXWIZ_NODE__STATE_DIR"] = str(place)
            command = [sys.executable, "-m", "worker.cli", *sys.argv[1:]]
            os.execv(sys.executable, command)  # noqa: S606 - no shell is wanted
    sys.exit(f"{states}: all of node-1 to node-{MOST} are taken")


main()
