"""``cyxwiz exec``: an operator's command beside a trusted native job, and what becomes of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from celery.result import AsyncResult

from tasks.control import Ask, NotRunning, ask, cancel
from tasks.errors import ExecFailed, ExecRefused, UnknownJob
from tasks.exec_request import EXEC_END, MOST_OUTPUT, ExecRequest
from tasks.executing import Output, execute
from tasks.state import JobState
from tests.support.cli import Cli
from tests.support.cluster import Cluster, started
from tests.support.commanding import SECRET, Operators
from tests.support.live_node import LiveNode
from tests.support.nodes import gone
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until
from worker.node.audit import check

pytestmark = pytest.mark.e2e

UNTIL = "until [ -e go ]; do sleep 0.05; done"
HANGS = "echo $$; exec sleep 600"


@pytest.fixture(scope="module")
def operators(tmp_path_factory: pytest.TempPathFactory) -> Operators:
    return Operators.made(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def cluster(operators: Operators, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with RedisServer(tcp=True) as server:
        node = LiveNode(
            directory=tmp_path_factory.mktemp("node"),
            redis_url=server.url,
            slots=2,
            extra=operators.sections,
        )
        with started(node) as made:
            yield made


@pytest.fixture
def job(cluster: Cluster, operators: Operators) -> Iterator[AsyncResult]:
    """A trusted one that runs until there is a file ``go`` in its directory."""
    config = operators.signed(command=["/bin/sh", "-c", UNTIL], env={"WHO": "me"}, memory_mb=256)
    made = cluster.submit(config)
    cluster.wait_state(made, JobState.RUNNING)
    yield made
    if not cluster.record(made).state.terminal:
        with contextlib.suppress(ExecFailed):  # it ends with the job, which may be faster
            operators.run(cluster.app, made.id, "touch", "go")
        assert cluster.wait_state(made).state is JobState.SUCCEEDED
    cluster.wait_clean()


def audited(cluster: Cluster, job: AsyncResult) -> list[dict[str, object]]:
    path = cluster.node.paths.audit
    check(path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [one for one in lines if one["job"] == job.id and one["event"].startswith("exec")]


def test_a_command_runs_where_the_job_runs_and_is_written_down(
    cluster: Cluster, operators: Operators, job: AsyncResult
) -> None:
    script = "pwd; echo $WHO $CYXWIZ_JOB_ID; ulimit -c; echo to err >&2; exit 3"
    code, out, err = operators.run(cluster.app, job.id, "sh", "-c", script)
    (attempt,) = cluster.node.paths.attempts.iterdir()
    scratch = json.loads((attempt / "keeper.lock").read_text())["scratch"]
    assert (code, out, err) == (3, f"{scratch}\nme {job.id}\n0\n", "to err\n")
    asked, ended = audited(cluster, job)
    assert (asked["key"], asked["argv"]) == (
        "ops",
        json.dumps(["sh", "-c", script], separators=(",", ":")),
    )
    assert (ended["event"], ended["code"]) == ("exec_ended", 3)
    assert cluster.record(job).state is JobState.RUNNING


def test_the_command_line_passes_output_and_exit_code_on(
    cluster: Cluster, operators: Operators, job: AsyncResult, tmp_path: Path
) -> None:
    cli = Cli(cwd=tmp_path, env={"CYXWIZ_REDIS_URL": cluster.settings.redis_url})
    key = ("--key", str(operators.key_file))
    done = cli.fresh("exec", job.id, *key, "--", "sh", "-c", "echo here; echo there >&2; exit 7")
    assert (done.code, done.out, done.err) == (7, "here\n", "there\n")
    done = cli.fresh("exec", job.id, *key, "--timeout", "0.5", "--", "sleep", "600")
    assert done.code == 124
    assert "took longer than 0.5 s, and was ended" in done.err
    assert cli("exec", job.id, "--", "true").code == 2
    assert cli("exec", "nobody", *key, "--", "true").code == 5
    stranger = tmp_path / "stranger.key"
    type(operators.ops).generate().save(stranger)
    done = cli("exec", job.id, "--key", str(stranger), "--", "true")
    assert (done.code, "refused: signature: by the key" in done.err) == (125, True)
    running = cli.start("exec", job.id, *key, "--", "sh", "-c", HANGS)
    running.wait_said("\n")
    pid = int(running.out)
    assert running.end(signal.SIGINT).code == 130
    wait_until(lambda: gone(pid), what="the end of the command that nobody waits for")


def test_a_secret_of_the_job_is_masked(cluster: Cluster, operators: Operators) -> None:
    made = cluster.submit(operators.signed(command=["/bin/sh", "-c", UNTIL], secrets=["token"]))
    cluster.wait_state(made, JobState.RUNNING)
    script = (
        f"printf a-secret; sleep 0.2; printf '%s\\n' {SECRET[8:]}; cat $CYXWIZ_SECRETS_DIR/token"
    )
    assert operators.run(cluster.app, made.id, "sh", "-c", script) == (0, "***\n***", "")
    cancel(made.id, app=cluster.app)
    cluster.wait_state(made)
    cluster.wait_clean()


def test_what_is_refused(cluster: Cluster, operators: Operators, job: AsyncResult) -> None:
    unsigned = cluster.submit({"command": ["/bin/sh", "-c", "sleep 60"]})
    cluster.wait_state(unsigned, JobState.RUNNING)
    with pytest.raises(ExecRefused, match="the job is untrusted"):
        operators.run(cluster.app, unsigned.id, "true")
    with pytest.raises(ExecRefused, match="the key alice may not"):
        operators.run(cluster.app, job.id, "true", key=operators.alice)
    first = execute(job.id, ["sh", "-c", HANGS], key=operators.ops, app=cluster.app)
    next(first)
    with pytest.raises(ExecRefused, match="another command runs"):
        operators.run(cluster.app, job.id, "true")
    first.close()
    wait_until(lambda: _echoes(cluster, operators, job), what="the end of the first")

    ask(job.id, Ask.PAUSE, app=cluster.app)
    cluster.wait_state(job, JobState.PAUSED)
    with pytest.raises(NotRunning):
        operators.run(cluster.app, job.id, "true")
    ask(job.id, Ask.RESUME, app=cluster.app)
    wait_until(lambda: _echoes(cluster, operators, job), what="a command beside it again")
    with pytest.raises(UnknownJob):
        operators.run(cluster.app, "nobody", "true")
    cancel(unsigned.id, app=cluster.app)
    cluster.wait_state(unsigned, JobState.CANCELLED)


def test_nobody_else_ends_a_command_or_answers_it(
    cluster: Cluster, operators: Operators, job: AsyncResult
) -> None:
    """Every producer hears the requests, and may say on every channel what it likes."""
    record, client = cluster.record(job), cluster.app.records.client
    beside = cluster.submit(operators.signed(command=["/bin/sh", "-c", "sleep 600"]))
    cluster.wait_state(beside, JobState.RUNNING)
    channels = [cluster.settings.keys.control(record.node, one.id) for one in (job, beside)]
    argv = ["sh", "-c", "echo 1; until [ -e on ]; do sleep 0.02; done; echo 2; rm on"]
    asked = ExecRequest.new(job.id, record.node, argv, 60, operators.ops)
    said = asked.signed(operators.ops)
    answer = cluster.settings.keys.exec(asked.token)
    client.publish(channels[0], json.dumps(said))
    wait_until(lambda: _types(cluster, answer) == ["begun", "out"], what="its first word")
    forged = [
        {"op": EXEC_END, "token": asked.token},
        {"op": EXEC_END, "token": asked.token, "secret": asked.ends},
        said,
        {**said, "signature": "x"},
        {**said, "job_id": beside.id},
        replace(asked, job_id=beside.id).signed(operators.alice),
        *(replace(asked, ends=ends).signed(operators.alice) for ends in ("", asked.ends)),
    ]
    for one in forged:
        for channel in channels:
            client.publish(channel, json.dumps(one))
    with pytest.raises(ExecRefused, match="another command runs"):  # so those before it were heard
        operators.run(cluster.app, job.id, "true")
    assert operators.run(cluster.app, beside.id, "touch", _directory(cluster, job, "on"))[0] == 0
    wait_until(lambda: _types(cluster, answer)[-1:] == ["end"], what="its end")
    for channel in channels:
        client.publish(channel, json.dumps(said))
    wait_until(lambda: _echoes(cluster, operators, job), what="a command after that")
    assert [one for one in _types(cluster, answer) if one != "beat"] == [
        *("begun", "out", "out", "end")
    ]
    assert client.ttl(answer) > 0
    cancel(beside.id, app=cluster.app)
    cluster.wait_state(beside, JobState.CANCELLED)


def test_an_asker_of_the_version_before_is_answered_and_cannot_end(
    cluster: Cluster, operators: Operators, job: AsyncResult
) -> None:
    record, client = cluster.record(job), cluster.app.records.client
    channel = cluster.settings.keys.control(record.node, job.id)
    argv = ("sh", "-c", "until [ -e on ]; do sleep 0.02; done; exit 4")
    asked = ExecRequest(token="0" * 32, job_id=job.id, node=record.node, argv=argv, seconds=60.0)
    client.publish(channel, json.dumps(asked.signed(operators.ops)))
    answer = cluster.settings.keys.exec(asked.token)
    wait_until(lambda: _types(cluster, answer)[:1] == ["begun"], what="its beginning")
    client.publish(channel, json.dumps({"op": EXEC_END, "token": asked.token}))
    with pytest.raises(ExecRefused, match="another command runs"):
        operators.run(cluster.app, job.id, "true")
    Path(_directory(cluster, job, "on")).touch()
    wait_until(lambda: _types(cluster, answer)[-1:] == ["end"], what="its end")
    assert client.xrevrange(answer, count=1)[0][1]["code"] == "4"


def _directory(cluster: Cluster, job: AsyncResult, name: str) -> str:
    """The job's own, with ``name``."""
    (attempt,) = cluster.node.paths.attempts.glob(f"{job.id}~*")
    scratch: str = json.loads((attempt / "keeper.lock").read_text())["scratch"]
    return f"{scratch}/{name}"


def _echoes(cluster: Cluster, operators: Operators, job: AsyncResult) -> bool:
    try:
        return operators.run(cluster.app, job.id, "echo", "on")[1] == "on\n"
    except (NotRunning, ExecRefused):
        return False


def _types(cluster: Cluster, stream: str) -> list[str]:
    return [entry["t"] for _, entry in cluster.app.records.client.xrange(stream)]


def test_a_command_that_floods_is_ended_and_the_job_goes_on(
    cluster: Cluster, operators: Operators, job: AsyncResult
) -> None:
    got: list[Output] = []
    with pytest.raises(ExecFailed, match=f"more than {MOST_OUTPUT} bytes"):
        got.extend(execute(job.id, ["yes"], key=operators.ops, app=cluster.app))
    assert sum(len(one.data) for one in got) == MOST_OUTPUT
    with pytest.raises(ExecFailed, match=r"longer than 0\.3 s"):
        operators.run(cluster.app, job.id, "sh", "-c", HANGS, seconds=0.3)
    assert cluster.record(job).state is JobState.RUNNING


def test_a_command_ends_with_the_child_that_asked_for_it(
    cluster: Cluster, operators: Operators, job: AsyncResult
) -> None:
    """The job goes on, and so do commands beside it once it is adopted."""
    slot = cluster.record(job).slot
    saying = execute(job.id, ["sh", "-c", HANGS], key=operators.ops, app=cluster.app)
    said = next(saying)
    assert not isinstance(said, int)
    pid = int(said.data)
    os.kill(cluster.node.pool_child(slot), signal.SIGKILL)
    wait_until(lambda: gone(pid), what="the end of the command")
    with pytest.raises(ExecFailed, match="says nothing any more"):
        next(saying)
    cluster.wait_adopted(job)
    assert operators.run(cluster.app, job.id, "echo", "again")[:2] == (0, "again\n")


def test_a_job_that_ends_takes_the_command_with_it(cluster: Cluster, operators: Operators) -> None:
    made = cluster.submit(operators.signed(command=["/bin/sh", "-c", UNTIL]))
    cluster.wait_state(made, JobState.RUNNING)
    script = "import time; open('go', 'w'); time.sleep(600)"
    code = 137
    with contextlib.suppress(ExecFailed):  # "the job ends", if that is told first
        code = operators.run(cluster.app, made.id, sys.executable, "-S", "-c", script)[0]
    assert code == 137
    assert cluster.wait_state(made).state is JobState.SUCCEEDED
    cluster.wait_clean()
