"""Why data, code or artefacts cannot be had. Local to the node: the attempt turns each into an
outcome.

StoreError
├── DataRefused       not on this node: policy, or what the job names is wrong; never retried
│   └── CodeRefused   … of the job's code: its author has to change it
├── DataUnavailable   the source did not give it; another try may
├── NoRoom            this node's disk or cache has no room: the job is handed back
└── Interrupted       the attempt was ended meanwhile
"""

from __future__ import annotations


class StoreError(Exception):
    """The root. Messages are for the job's owner: no password or query of a URL stands in them."""


class DataRefused(StoreError):
    """What the job names is forbidden here, is not there, or is not what its hash says."""

    def __init__(self, message: str, *, elsewhere: bool = False) -> None:
        super().__init__(message)
        self.elsewhere = elsewhere
        """Another node may have it."""


class CodeRefused(DataRefused):
    """The code cannot be run as it stands: unsafe, too large, or without its script."""


class DataUnavailable(StoreError):
    """The source did not answer, broke off, or has no such thing."""


class NoRoom(StoreError):
    """There is no room on this node now."""


class Interrupted(StoreError):
    """Whoever waited for it does not want it any more."""
