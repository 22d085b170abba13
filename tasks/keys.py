"""Every Redis key, channel and time-to-live of the project; nothing else spells one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DEFAULT_PREFIX: Final = "cyxwiz:"

LEASE_TTL_MS: Final = 60_000
"""How long a claim holds without renewal (default)."""

TERMINAL_TTL_S: Final = 30 * 24 * 3600
"""How long the keys of an ended job stay (default): as long as Celery's results."""

NODE_TTL_S: Final = 30
"""How long a node's record stays without a heartbeat."""

PUT_ASIDE: Final = "put_aside"
PUT_ASIDE_MOST: Final = 1_000
"""How many messages that could not be read are kept."""
PUT_ASIDE_TTL_S: Final = 30 * 24 * 3600

PRIORITY_STEPS: Final = (0, 3, 6, 9)
"""kombu's priority steps; 0 is served first."""

PRIORITY_SEPARATOR: Final = "\x06\x16"
"""kombu's separator between a queue's name and its priority step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Keys:
    """The names under one prefix. Celery's own keys carry it by ``global_keyprefix``."""

    prefix: str = DEFAULT_PREFIX

    def job(self, job_id: str) -> str:
        """Hash: the record, its snapshot and the raw message."""
        return f"{self.prefix}job:{job_id}"

    def history(self, job_id: str) -> str:
        """Stream: the job's state events; the id of an entry is its seq."""
        return f"{self.prefix}history:{job_id}"

    def tail(self, job_id: str) -> str:
        """Stream: the last progress and log events; the id of an entry is its seq."""
        return f"{self.prefix}tail:{job_id}"

    def events(self, job_id: str) -> str:
        """Channel: the job's events as they happen."""
        return f"{self.prefix}events:{job_id}"

    def control(self, node: str, job_id: str) -> str:
        """Channel: what a running attempt on ``node`` is asked to do; heard by that node alone."""
        return f"{self.prefix}control:{node}:{job_id}"

    @property
    def leases(self) -> str:
        """Sorted set: job ids by the lease's expiry, ms of Redis's clock."""
        return f"{self.prefix}leases"

    @property
    def delayed(self) -> str:
        """Sorted set: queued jobs whose message waits, by the ms at which it is pushed."""
        return f"{self.prefix}delayed"

    @property
    def expiring(self) -> str:
        """Sorted set: jobs not yet started, by the ms at which they expire."""
        return f"{self.prefix}expiring"

    @property
    def untold(self) -> str:
        """Sorted set: ended jobs of which Celery has no result yet, by the ms when to see to it."""
        return f"{self.prefix}untold"

    @property
    def live(self) -> str:
        """Hash: how many jobs of each user have not ended."""
        return f"{self.prefix}live"

    def waiting(self, queue: str) -> str:
        """Sorted set: jobs queued in ``queue``, by the ms since when."""
        return f"{self.prefix}waiting:{queue}"

    @property
    def queues(self) -> str:
        """Set: names of queues in which a job waits, or did while a live node reads them."""
        return f"{self.prefix}queues"

    def by_state(self, state: str) -> str:
        """Sorted set: job ids in ``state``, by the ms since when."""
        return f"{self.prefix}state:{state}"

    def by_state_and_user(self, state: str, user_id: str) -> str:
        """Sorted set: a user's job ids in ``state``, by the ms since when."""
        return f"{self.prefix}state:{state}:{user_id}"

    @property
    def indexed(self) -> str:
        """String: there once every job is in the index of its state and user."""
        return f"{self.prefix}state:indexed"

    def by_user(self, user_id: str) -> str:
        """Sorted set: a user's job ids, by the ms of submission."""
        return f"{self.prefix}user:{user_id}"

    def nonce(self, nonce: str) -> str:
        """String: which submission has used a signature's nonce, with which fence and owner last,
        or that it has ended; lives as long as the signature."""
        return f"{self.prefix}nonce:{nonce}"

    def node(self, node: str) -> str:
        """Hash: what a node offers; lives by heartbeat."""
        return f"{self.prefix}node:{node}"

    @property
    def nodes(self) -> str:
        """Sorted set: node names by their last heartbeat, ms of Redis's clock."""
        return f"{self.prefix}nodes"

    @property
    def put_aside(self) -> str:
        """List: messages that no worker may be given, newest first, each with its reason."""
        return f"{self.prefix}{PUT_ASIDE}"

    @property
    def reaper(self) -> str:
        """String: which agent reaps; a lease with a TTL."""
        return f"{self.prefix}reaper"

    @property
    def reaper_seen(self) -> str:
        """String: what it has seen that may be a fault, for its successor (JSON)."""
        return f"{self.prefix}reaper:seen"

    @property
    def node_names(self) -> str:
        """Sorted set: node names in their order, all at score 0: for reading them by pages."""
        return f"{self.prefix}node-names"

    def serving(self, queue: str) -> str:
        """Sorted set: nodes that read ``queue``, by the ms at which each counts as lost."""
        return f"{self.prefix}serving:{queue}"

    def slots(self, kind: str) -> str:
        """Sorted set: NODE/SLOT that take jobs, of ``cpu`` or ``gpu``, by when they are lost."""
        return f"{self.prefix}slots:{kind}"

    def busy(self, kind: str) -> str:
        """Sorted set: NODE/SLOT that have a job, by the ms since when."""
        return f"{self.prefix}busy:{kind}"

    def holds(self, node: str) -> str:
        """Hash: the jobs of a node, by slot."""
        return f"{self.prefix}holds:{node}"

    def counts(self, node: str) -> str:
        """Hash: what a node's metrics are made of."""
        return f"{self.prefix}counts:{node}"

    @property
    def cluster_counts(self) -> str:
        """String: counts of the whole cluster, for nodes' metrics (JSON). No node is named so."""
        return f"{self.prefix}counts:-cluster"

    @property
    def cluster_counts_reader(self) -> str:
        """String: one of the nodes is about to read them anew."""
        return f"{self.prefix}counts:-reader"

    def exec(self, token: str) -> str:
        """Stream: the output of a command beside a job; lives as long as it is written to."""
        return f"{self.prefix}exec:{token}"

    @property
    def cordoned(self) -> str:
        """Hash: nodes that shall take no new job, by name: why, and whether they drain (JSON)."""
        return f"{self.prefix}cordoned"

    def orders(self, node: str) -> str:
        """Channel: what a node is asked to do."""
        return f"{self.prefix}orders:{node}"

    def line(self, queue: str) -> str:
        """Sorted set: jobs queued in ``queue``, in the order in which they will be served."""
        return f"{self.prefix}line:{queue}"

    def usage(self, day: int) -> str:
        """Hash: ms of slots and GPUs by user, on a day (counted from 1970, UTC)."""
        return f"{self.prefix}usage:{day}"

    def usage_users(self, day: int) -> str:
        """Sorted set: the users of `usage`, all at score 0: for reading them by pages."""
        return f"{self.prefix}usage-users:{day}"

    @property
    def checkpoints(self) -> str:
        """Hash: jobs that have checkpoints in a store, and which store."""
        return f"{self.prefix}checkpoints"

    def checkpoints_swept(self, store: str) -> str:
        """String: a node looks for what ended jobs have left in ``store``; a lease with a TTL."""
        return f"{self.prefix}checkpoints:swept:{store}"

    # kombu's and Celery's, as they stand under the same prefix

    def message_list(self, queue: str, step: int) -> str:
        """List: the messages of ``queue`` at one priority step (kombu's)."""
        return f"{self.prefix}{queue}" + (f"{PRIORITY_SEPARATOR}{step}" if step else "")

    @property
    def unacked(self) -> str:
        """Hash: messages delivered and not acknowledged, by delivery tag (kombu's)."""
        return f"{self.prefix}unacked"

    @property
    def unacked_index(self) -> str:
        """Sorted set: delivery tags by the time of delivery (kombu's)."""
        return f"{self.prefix}unacked_index"
