"""Accounts of Redis for each role, over TLS: each can do its work, and not what it must not."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from celery import chord

from tasks.celery import make_app
from tasks.cluster import Cluster as ClusterView
from tasks.control import Ask, ask, cancel
from tasks.errors import RedisUnavailable
from tasks.following import follow
from tasks.settings import Settings
from tasks.state import JobState
from tests.support.certificates import Authority
from tests.support.cluster import Cluster
from tests.support.flower import Flower
from tests.support.live_node import LiveNode
from tests.support.redis_server import RedisServer, free_port
from tests.support.waiting import wait_until
from worker.trust.acl import Role, acl_line

pytestmark = pytest.mark.integration

PASSWORD = "a-password-of-a-test"


@dataclass
class Roles:
    """One Redis with TLS and accounts, and a node on it."""

    server: RedisServer
    admin: redis.Redis
    authority: Authority
    port: int
    node: LiveNode

    def url(self, user: str, ca: Path | None = None) -> str:
        where = f"{user}:{PASSWORD}@127.0.0.1:{self.port}/0"
        return f"rediss://{where}?ssl_ca_certs={ca or self.authority.path}"

    def settings(self, user: str) -> Settings:
        return Settings(redis_url=self.url(user))

    def client(self, user: str) -> redis.Redis:
        return self.settings(user).connect()

    def denied(self) -> list[tuple[str, str, str]]:
        """What Redis has refused since the last call."""
        found = self.admin.acl_log()
        self.admin.acl_log_reset()
        return [(one["username"], one["reason"], one["object"]) for one in found]


@pytest.fixture(scope="module")
def roles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Roles]:
    directory = tmp_path_factory.mktemp("roles")
    authority = Authority(directory)
    certificate, key = authority.server()
    port = free_port()
    users = directory / "users.acl"
    lines = [
        "user default on nopass ~* &* +@all",  # by its socket, which only this test reaches
        acl_line(Role.PRODUCER, "alice", PASSWORD),
        acl_line(Role.NODE, "node-a", PASSWORD, node="node-a"),
        acl_line(Role.NODE, "node-b", PASSWORD, node="node-b"),
        acl_line(Role.MONITOR, "flower", PASSWORD),
        acl_line(Role.OPERATOR, "ops", PASSWORD),
    ]
    users.write_text("\n".join(lines) + "\n")
    more = {
        "aclfile": str(users),
        "tls-port": str(port),
        "tls-cert-file": str(certificate),
        "tls-key-file": str(key),
        "tls-ca-cert-file": str(authority.path),
        "tls-auth-clients": "no",
        "port": "0",
    }
    with RedisServer(more=more) as server:
        admin = server.client()
        node = LiveNode(directory=directory / "node", redis_url="", name="node-a", slots=2)
        node.directory.mkdir()
        found = Roles(server, admin, authority, port, node)
        node.redis_url = found.url("node-a")
        try:
            try:
                node.start()
            except AssertionError as error:
                raise AssertionError(f"{error}: refused: {found.denied()}") from error
            yield found
        finally:
            node.close()
            admin.close()


@pytest.fixture
def cluster(roles: Roles) -> Iterator[Cluster]:
    """A producer with its own account, and nothing refused before."""
    roles.denied()
    settings = roles.settings("alice")
    made = Cluster(node=roles.node, settings=settings, app=make_app(settings, include=()))
    yield made
    made.close()


def test_each_role_can_do_its_work(roles: Roles, cluster: Cluster) -> None:
    """A whole job, a chord, a cancel of a queued and of a running one, a retry, the cluster's view,
    and Celery's events: over TLS, each with its own account, and Redis refuses nothing."""
    seen: list[str] = []
    monitor = make_app(roles.settings("flower"), include=())
    with monitor.connection_for_read() as connection:
        receiver = monitor.events.Receiver(
            connection, handlers={"*": lambda event: seen.append(event["type"])}
        )
        capture = receiver.itercapture(limit=None, timeout=20, wakeup=False)
        next(capture)

        job = cluster.shell("echo hello")
        assert job.get(timeout=30)["attempt"] == 1
        assert "hello" in cluster.logged(job)
        assert [one.type for one in follow(job.id, settings=roles.settings("flower"))][-1] == (
            "succeeded"
        )
        failed = cluster.shell("exit 3", max_attempts=1)
        assert cluster.wait_state(failed).state is JobState.FAILED
        while "task-succeeded" not in seen:
            next(capture)

    step = {"args": [{"command": ["true"]}], "immutable": True, "app": cluster.app}
    ids = [f"step-{number}" for number in range(3)]
    first, second, last = (
        cluster.app.signature("tasks.train", **step, task_id=job_id) for job_id in ids
    )
    done = chord([first, second], app=cluster.app)(last)
    assert done.get(timeout=40)["job_id"] == "step-2"

    queued = cluster.shell("true", pool="nobody")
    assert cancel(queued.id, app=cluster.app).state is JobState.CANCELLED
    running = cluster.shell("sleep 60")
    cluster.wait_state(running, JobState.RUNNING)
    ask(running.id, Ask.PAUSE, app=cluster.app)
    cluster.wait_state(running, JobState.PAUSED)
    ask(running.id, Ask.RESUME, app=cluster.app)
    cluster.wait_state(running, JobState.RUNNING)
    cancel(running.id, app=cluster.app)
    assert cluster.wait_state(running).state is JobState.CANCELLED

    operator = make_app(roles.settings("ops"), include=())
    assert set(operator.control.inspect(timeout=5).ping()) == {"cpu0@node-a", "cpu1@node-a"}
    running = cluster.shell("sleep 60")
    cluster.wait_state(running, JobState.RUNNING)
    operator.control.revoke(running.id)
    assert cluster.wait_state(running).state is JobState.CANCELLED
    client = roles.client("ops")
    view = ClusterView(client, roles.settings("ops").keys)
    view.cordon("node-b", why="a test")
    assert view.uncordon("node-b")
    client.close()
    operator.close()

    for user in ("alice", "flower", "ops"):
        client = roles.client(user)
        view = ClusterView(client, roles.settings(user).keys)
        assert [one.name for one in view.nodes().items] == ["node-a"]
        client.close()
    assert roles.denied() == []


K = "cyxwiz:"
FORBIDDEN: list[tuple[str, str]] = [
    *((user, command) for user in ("alice", "node-a", "flower", "ops") for command in (
        "FLUSHALL", "FLUSHDB", "CONFIG GET *", "KEYS *", "SCAN 0", "SHUTDOWN",
        "CLIENT LIST", "CLIENT KILL TYPE normal", "CLIENT TRACKING ON BCAST",
        "MONITOR", "ACL LIST", "SCRIPT FLUSH",
        "FUNCTION LIST", "SAVE", "REPLICAOF NO ONE", "PUBSUB CHANNELS", "DBSIZE", "SWAPDB 0 1",
        "GET other", "SET other 1", "PUBLISH other 1", "SUBSCRIBE other", "PSUBSCRIBE *",
        "BRPOP cyxwiz:slot.node-b.cpu0 1", "RPOP cyxwiz:to.node-b", "RPOP cyxwiz:to.node-ab",
        "HSET cyxwiz:node:node-b v 1", "DEL cyxwiz:node:node-b", "CLIENT CACHING YES",
    )),
    *((user, f"SUBSCRIBE {K}orders:node-b") for user in ("alice", "node-a", "flower")),
    *((user, f"XADD {K}exec:x * t end") for user in ("alice", "flower", "ops")),
    *(("ops", command) for command in (
        f"RPOP {K}work.x", f"SET {K}reaper me", f"DEL {K}nodes", f"HDEL {K}unacked x",
        f"SET {K}nonce:x y", f"DEL {K}put_aside", f"ZADD {K}serving:x 1 y",
    )),
    *((user, command) for user in ("node-a", "flower") for command in (
        f"SUBSCRIBE {K}control:node-b:job-1", f"PSUBSCRIBE {K}control:*",
    )),
    *(("alice", command) for command in (
        f"RPOP {K}work.x", f"LRANGE {K}work.x 0 -1", f"SET {K}reaper me", f"DEL {K}nodes",
        f"SET {K}nonce:x y", f"HSET {K}cordoned node-a x", f"HDEL {K}unacked x",
        f"PUBLISH {K}/0.celery.pidbox x", f"DEL {K}put_aside", "INFO",
    )),
    *(("flower", command) for command in (
        f"HSET {K}job:x state queued", f"DEL {K}job:x", f"LPUSH {K}work.x y", f"RPOP {K}work.x",
        f"PUBLISH {K}control:node-a:x y",
        f"SET {K}celery-task-meta-x y",
    )),
]  # fmt: skip


def test_no_role_can_do_what_it_must_not(roles: Roles) -> None:
    allowed = []
    clients = {user: roles.client(user) for user in ("alice", "node-a", "flower", "ops")}
    for user, command in FORBIDDEN:
        with clients[user].client() as one:
            try:
                one.execute_command(*command.split())
            except redis.exceptions.NoPermissionError:
                continue
            except redis.RedisError as error:
                allowed.append((user, command, str(error)))
                continue
        allowed.append((user, command, "was done"))
    for one in clients.values():
        one.close()
    assert not allowed, "\n".join(map(str, allowed))


@pytest.mark.parametrize("user", ["default", "alice", "node-a", "flower", "ops"])
def test_nobody_is_told_which_keys_others_change(roles: Roles, user: str) -> None:
    """A client that tracks all keys is told the name of each that is changed, whatever it may
    read. The first account here may do all, so it shows that there would be something to hear."""
    url = roles.server.url if user == "default" else roles.url(user)
    client = redis.Redis.from_url(url, protocol=3, decode_responses=True, socket_timeout=20)
    with client.client() as one:
        told: list[str] = []
        try:
            one.execute_command("CLIENT", "TRACKING", "ON", "BCAST")
            one.connection._parser.set_invalidation_push_handler(lambda said: told.append(said))
            roles.admin.set("somebody-elses", 1)
            wait_until(lambda: one.ping() and told, what="the name of the key")
        except redis.exceptions.NoPermissionError:
            assert user != "default"
        assert bool(told) == (user == "default")
    client.close()


def test_a_script_can_do_no_more_than_its_account(roles: Roles) -> None:
    client = roles.client("node-a")
    for body in (
        "return redis.call('RPOP', 'cyxwiz:slot.node-b.cpu0')",
        "return redis.call('CONFIG', 'GET', '*')",
        "return redis.call('HSET', 'cyxwiz:node:node-b', 'v', 1)",
    ):
        with pytest.raises(
            redis.ResponseError, match=r"ACL failure|not allowed|permission|can't access"
        ):
            client.eval(body, 0)
    client.close()


@pytest.mark.parametrize("user", ["node-b", "flower", "ops"])
def test_a_node_obeys_no_broadcast_but_questions(roles: Roles, cluster: Cluster, user: str) -> None:
    """Whoever asks workers about themselves, as Flower does, may publish on Celery's control
    channel; so may a node, since it must hear it."""
    mallory = make_app(roles.settings(user), include=())
    workers = {roles.node.worker("cpu0"), roles.node.worker("cpu1")}
    for order in ("shutdown", "pool_restart", "cancel_consumer", "pool_shrink"):
        mallory.control.broadcast(order, arguments={"queue": "x"} if "consumer" in order else {})
    assert cluster.shell("true").get(timeout=30)["attempt"] == 1
    assert {roles.node.worker("cpu0"), roles.node.worker("cpu1")} == workers
    mallory.close()


@pytest.mark.parametrize(("user", "profile"), [("flower", "read-only"), ("ops", "operator")])
def test_flower_does_its_work_with_the_account_of_its_profile(
    roles: Roles, cluster: Cluster, tmp_path: Path, user: str, profile: str
) -> None:
    pytest.importorskip("flower", reason="the extra `monitor` is not installed")
    env = {**os.environ, "CYXWIZ_REDIS_URL": roles.url(user), "CYXWIZ_FLOWER_PROFILE": profile}
    flower = Flower(env, tmp_path)
    try:
        wait_until(flower.answers, timeout=40, what="Flower")
        wait_until(lambda: flower.shows("/workers", "cpu0@node-a"), timeout=40, what="workers")
        roles.denied()
        running = cluster.shell("sleep 60")
        cluster.wait_state(running, JobState.RUNNING)
        wait_until(lambda: flower.ask(f"/task/{running.id}")[0] == 200, timeout=30, what="a page")
        status, _ = flower.ask(f"/api/task/revoke/{running.id}?terminate=true", data=b"")
        assert status == (200 if profile == "operator" else 403)
        cancel(running.id, app=cluster.app)
        cluster.wait_state(running)
        assert roles.denied() == []
    finally:
        flower.close()


def test_only_the_right_server_is_spoken_to_and_only_by_tls(roles: Roles, tmp_path: Path) -> None:
    Settings(redis_url=roles.url("alice")).check()
    other = Authority(tmp_path, "other")
    for wrong in (
        roles.url("alice", other.path),
        roles.url("alice").partition("?")[0],
        roles.url("alice").replace("rediss:", "redis:").partition("?")[0],
        roles.url("alice").replace(PASSWORD, "another-password"),
    ):
        with pytest.raises(RedisUnavailable) as caught:
            Settings(redis_url=wrong).check()
        assert "another-password" not in str(caught.value)
        assert PASSWORD not in str(caught.value)
        assert "127.0.0.1" in str(caught.value)


def test_no_password_is_in_what_a_worker_says_of_itself(roles: Roles) -> None:
    app = make_app(Settings(redis_url=roles.server.url), include=())  # of an operator
    said = app.control.inspect(timeout=5)
    text = json.dumps([said.stats(), said.conf(with_defaults=True)])
    assert "node-a" in text
    assert PASSWORD not in text
    assert PASSWORD not in roles.node.said
    app.close()
