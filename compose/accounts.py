"""Makes Redis's accounts, with the passwords of .env: the lines that ``cyxwiz acl`` prints.

Nodes share one, since their names are not known beforehand (--scale); so nothing keeps one node
from another's queues here. Flower's is a monitor's, or an operator's where it may cancel jobs.
"""

import os
import sys
from pathlib import Path

from tasks.errors import ConfigError
from worker.trust.acl import Role, acl_line

PLACE = Path("/var/lib/cyxwiz")


def line(role: Role, user: str) -> str:
    name = f"{user.upper()}_PASSWORD"
    try:
        return acl_line(role, user, os.environ[name], every_node=True)
    except ConfigError as error:
        sys.exit(f"CYXWIZ_{name} in .env: {error}")


cancels = os.environ["FLOWER_PROFILE"] == "operator"
lines = [
    "user default off",
    "user health on nopass resetkeys resetchannels -@all +ping",
    line(Role.NODE, "node"),
    line(Role.PRODUCER, "producer"),
    line(Role.OPERATOR if cancels else Role.MONITOR, "monitor"),
]
fresh = PLACE / "users.acl.new"
fresh.touch(0o640)  # Redis reads it, by its group
fresh.write_text("\n".join(lines) + "\n")
fresh.replace(PLACE / "users.acl")
PLACE.chmod(0o750)
