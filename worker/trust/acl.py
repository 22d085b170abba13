"""Redis's access lists for the roles of a hub: what each account may do, and may not. Pure.

Redis cannot say that a command is allowed inside a script only, so whoever runs the project's
scripts may also run what is in them. What it can keep apart, it does: whose queues may be read,
whose control is heard, who registers as what, and none of the server's own commands. What it cannot
(a node's word on another's job) is in docs/security.md.
"""

from __future__ import annotations

import hashlib
import re
from enum import StrEnum
from typing import Final

from tasks.errors import ConfigError
from tasks.keys import DEFAULT_PREFIX

_NODE: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_USER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Role(StrEnum):
    """Who an account is for."""

    PRODUCER = "producer"
    """Submits, follows, cancels; reads what the cluster says of itself."""
    NODE = "node"
    """One node: takes jobs, and reaps for the cluster."""
    MONITOR = "monitor"
    """Reads, asks workers about themselves, and writes nothing but what that takes."""
    OPERATOR = "operator"
    """A producer and a monitor in one, that cordons nodes."""


# Beside @admin and @dangerous (flush, config, keys, debug, shutdown, …): what would tell of others'
# names, as the invalidations of a tracked client do, wait in others' stead or run for long.
_COMMANDS: Final = (
    "+@all -@admin -@dangerous -scan -randomkey -dbsize -swapdb -move -copy -object -function "
    "-fcall -script +script|load +script|exists -pubsub -acl +acl|whoami -wait -sort_ro "
    "-client|tracking -client|caching"
)
_RECORDS: Final = (
    "job:* history:* tail:* state:* user:* live waiting:* queues leases delayed expiring untold "
    "line:* counts:* holds:* busy:* usage:* usage-users:* broken:*"
)
"""What the scripts of `tasks/lua` write, whoever runs them."""
_RESULTS: Final = "celery-task-meta-* celery-taskset-meta-* _kombu.binding*"
_EVENTS: Final = "_kombu.binding* celeryev.* *.reply.celery.pidbox* unacked_mutex"
"""What Celery's event receiver declares, and where answers of workers come."""
_ASKING: Final = ("/0.celeryev/*", "/0.celery.pidbox")
"""Events, and questions to workers, which Flower begins with. Workers obey nothing else there."""
_CLUSTER: Final = "node:* nodes node-names serving:* slots:* cordoned reaper put_aside unacked"
"""What nodes write of themselves."""


def acl_line(
    role: Role,
    user: str,
    password: str,
    *,
    node: str = "",
    every_node: bool = False,
    prefix: str = DEFAULT_PREFIX,
) -> str:
    """The account's line for an ACL file. The password is in it as its SHA-256.

    ``node``: the node's name, for a node. ``every_node``: it is for all nodes of the hub, whose
    names nobody knows beforehand; nothing keeps them apart then. Raises ConfigError.
    """
    if not _USER.fullmatch(user):
        raise ConfigError(f"user {user!r:.80}: 1 to 64 of A-Z, a-z, 0-9 and '._-' are needed")
    if len(password) < 16 or any(char.isspace() for char in password):
        raise ConfigError("password: at least 16 characters, and no space, are needed")
    if role is Role.NODE and not every_node and not _NODE.fullmatch(node):
        raise ConfigError(f"node {node!r:.80}: the node's name (node.name) is needed")
    keys, channels = _ROLES[role](prefix, "*" if every_node else node)
    digest = hashlib.sha256(password.encode()).hexdigest()
    allowed = " ".join([*keys, *(f"&{channel}" for channel in channels)])
    return f"user {user} on #{digest} resetkeys resetchannels {allowed} {_COMMANDS}{_EXTRA[role]}"


def _producer(prefix: str, node: str) -> tuple[list[str], list[str]]:
    keys = [
        *_each("~", prefix, f"{_RECORDS} {_RESULTS}"),
        *_each("%W~", prefix, "work.* to.*"),  # puts into them, and takes nothing out
        *_each("%R~", prefix, f"{_CLUSTER} exec:*"),
    ]
    channels = ["events:*", "control:*", "celery-task-meta-*", "/0.celeryev/task.sent"]
    return keys, [f"{prefix}{one}" for one in channels]


def _node(prefix: str, node: str) -> tuple[list[str], list[str]]:
    keys = [
        *_each(
            "~", prefix, f"{_RECORDS} {_RESULTS} nonce:* exec:* reaper reaper:seen put_aside work.*"
        ),
        *_each("~", prefix, "unacked unacked_index unacked_mutex nodes node-names"),
        *_each("~", prefix, f"serving:* slots:* cordoned node:{node}"),
        *_each("~", prefix, "checkpoints checkpoints:swept:*"),
        # its own queues; the reaper counts and refills those of others, and takes nothing out
        *_each("~", prefix, f"to.{node} to.{node}[^a-z0-9-]* slot.{node}.*"),
        *_each("%R~", prefix, "to.* slot.* node:*"),
        *_each("%W~", prefix, "to.?* slot.?*"),  # written as one pattern, they would be one right
        f"~{prefix}*@{node}.celery.pidbox*",
        f"%W~{prefix}*.reply.celery.pidbox*",
    ]
    channels = [
        *("events:*", f"control:{node}:*", f"orders:{node}", "celery-task-meta-*"),
        *("/0.celeryev/*", "/0.celery.pidbox"),
    ]
    return keys, [f"{prefix}{one}" for one in channels]


def _monitor(prefix: str, node: str) -> tuple[list[str], list[str]]:
    keys = [f"%R~{prefix}*", *_each("~", prefix, _EVENTS)]
    return keys, [f"{prefix}{one}" for one in ("events:*", "celery-task-meta-*", *_ASKING)]


def _operator(prefix: str, node: str) -> tuple[list[str], list[str]]:
    keys = [
        f"%R~{prefix}*",
        *_each("~", prefix, f"{_RECORDS} {_RESULTS} {_EVENTS} cordoned"),
        *_each("%W~", prefix, "work.* to.*"),
    ]
    channels = ["events:*", "control:*", "orders:*", "celery-task-meta-*", *_ASKING]
    return keys, [f"{prefix}{one}" for one in channels]


_ROLES: Final = {
    Role.PRODUCER: _producer,
    Role.NODE: _node,
    Role.MONITOR: _monitor,
    Role.OPERATOR: _operator,
}
# info: the reaper looks whether Redis was restarted; Flower shows the broker
_EXTRA: Final = {
    Role.PRODUCER: "",
    Role.NODE: " +info",
    Role.MONITOR: " +info",
    Role.OPERATOR: " +info",
}


def _each(sign: str, prefix: str, names: str) -> list[str]:
    return [f"{sign}{prefix}{name}" for name in names.split()]
