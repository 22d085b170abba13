"""A producer who believes only what a node has signed."""

from __future__ import annotations

from celery.result import AsyncResult

from tasks.events import Envelope
from tasks.following import follow
from tasks.roots import TrustRoot
from tasks.trust import SigningKey
from tests.support.cluster import Cluster


def root_of(cluster: Cluster) -> TrustRoot:
    """Its node by its key, as its operator gave it to the producer."""
    key = SigningKey.load(cluster.node.paths.node_key).public
    return TrustRoot(nodes={cluster.node.name: (key,)})


def proven(cluster: Cluster, job: AsyncResult) -> list[Envelope]:
    """Every event of the job, once it has ended, each of which its node has signed."""
    found = list(follow(job.id, settings=cluster.settings, timeout=60, trust=root_of(cluster)))
    signers = {one.signed_by for one in found if one.type not in ("queued", "truncated")}
    assert signers == {cluster.node.name}, found
    return found
