"""``cyxwiz`` against a real Redis and a real node, one of each for the module."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import COMMAND, Cli, Started
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

STEPS = """
import json, sys
for epoch in range(1, 4):
    print(json.dumps({"type": "progress", "epoch": epoch, "total_epochs": 3, "loss": 1 / epoch}))
print("to out", flush=True)
print("to err", file=sys.stderr, flush=True)
print(json.dumps({"type": "complete", "success": True}))
"""
UNTIL_TOLD = """
import pathlib, signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: print("saved", flush=True))
print("at work", flush=True)
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.02)
"""


def python(code: str, *args: str, **fields: Any) -> str:
    """A command job, as JSON."""
    return json.dumps({"command": ["python3", "-S", "-c", code, *args], **fields})


@pytest.fixture(scope="module")
def hub() -> Iterator[RedisServer]:
    with RedisServer(tcp=True) as server:
        yield server


@pytest.fixture(scope="module")
def cli(hub: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """The command, with a node of two slots that takes what it submits."""
    directory = tmp_path_factory.mktemp("cli")
    config = directory / "server-node.yaml"
    config.write_text(
        json.dumps(
            {
                "execution": {"mode": "native", "allow_untrusted_native": True},
                "node": {"name": "node-a", "state_dir": str(directory / "state")},
                "slots": {"cpu": 2},
                "timeouts": {"stop_grace": 1},
            }
        )
    )
    cli = Cli(cwd=directory, env={"CYXWIZ_REDIS_URL": hub.url})
    node = cli.start("node", "--config", str(config), "--drain", "0")
    try:
        node.wait_said("node ready")
        yield cli
        done = node.end()
        assert done.code == 0, done
    finally:
        node.close()


@pytest.fixture
def done_job(cli: Cli) -> str:
    """A job that has succeeded."""
    job_id = submitted(cli, python(STEPS))
    assert cli("follow", job_id).code == 0
    return job_id


class Busy:
    """A job that runs until it is told to end."""

    def __init__(self, cli: Cli, tmp_path: Path, **fields: Any) -> None:
        self.until = tmp_path / f"enough-{uuid.uuid4()}"
        self.cli = cli
        self.job_id = submitted(cli, python(UNTIL_TOLD, str(self.until), **fields))

    def wait(self, text: str = "at work", times: int = 1) -> None:
        """Until it has printed ``text``."""

        def printed() -> bool:
            return self.cli("logs", self.job_id).out.count(text) >= times

        wait_until(printed, timeout=30, what=text)

    def end(self) -> None:
        self.until.touch()


@pytest.fixture
def busy(cli: Cli, tmp_path: Path) -> Iterator[Busy]:
    job = Busy(cli, tmp_path)
    job.wait()
    yield job
    job.end()
    assert cli("follow", job.job_id).code in (0, 7)


def submitted(cli: Cli, job: str, *args: str) -> str:
    done = cli("submit", "-", *args, stdin=job)
    assert done.code == 0, done
    return done.out.strip()


# --- submit


def test_submit_takes_json_and_yaml_files_and_prints_the_ids(cli: Cli, tmp_path: Path) -> None:
    one, other = tmp_path / "job.json", tmp_path / "job.yaml"
    one.write_text(python("pass"))
    other.write_text("command: [python3, -S, -c, pass]\nuser_id: yam\n")
    done = cli("submit", str(one), str(other), "--set", "labels.n=1")
    assert done.code == 0
    first, second = done.out.split()
    assert cli("follow", first, second).code == 0
    spec = cli("job", second, "--json").json["spec"]
    assert spec["user_id"] == "yam"
    assert spec["labels"] == {"n": "1"}


def test_submit_says_id_and_queue_as_json(cli: Cli) -> None:
    found = cli("submit", "-", "--json", stdin=python("pass", job_id="named-json")).json
    assert found == {"job_id": "named-json", "queue": found["queue"]}
    assert found["queue"].startswith("work.")


def test_submit_and_follow_ends_as_the_job_does(cli: Cli) -> None:
    done = cli("submit", "-", "--follow", stdin=python("import sys; sys.exit(3)"))
    assert done.code == 1
    assert "failed: user_error" in done.out
    done = cli("submit", "-", "--follow", "--json", stdin=python("pass"))
    assert done.code == 0
    assert done.lines[-1]["type"] == "succeeded"


def test_the_same_job_twice_is_one_and_another_under_its_id_is_refused(cli: Cli) -> None:
    job = python("pass", job_id="same")
    assert submitted(cli, job) == submitted(cli, job) == "same"
    done = cli("submit", "-", stdin=python("print(1)", job_id="same"))
    assert done.code == 6
    assert "'same' was submitted before, with another configuration" in done.err


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"epoch": 3}, "epoch"),
        ({"epochs": 0}, "epochs"),
        ({"epochs": "three"}, "epochs"),
        ({"memory_mb": -1}, "memory_mb"),
        ({"job_id": "a/b"}, "job_id"),
        ({"hyperparameters": {"learning_rate": float("nan")}}, "learning_rate"),
    ],
)
def test_a_wrong_job_is_refused_naming_file_and_field(
    cli: Cli, tmp_path: Path, fields: dict[str, Any], names: str
) -> None:
    good, wrong = tmp_path / "good.json", tmp_path / "wrong.json"
    good.write_text(python("pass", job_id=f"good-{names}"))
    wrong.write_text(python("pass", **fields))
    done = cli("submit", str(good), str(wrong))
    assert done.code == 3
    assert done.out == ""
    assert f"{wrong}: " in done.err
    assert names in done.err
    assert "Traceback" not in done.err
    assert cli("job", f"good-{names}").code == 5, "nothing is submitted unless all are right"


def test_wrong_usage_is_2(cli: Cli) -> None:
    assert cli("submit").code == 2
    assert cli("submit", "-", "-").code == 2
    assert cli("submit", "-", "--set", "epochs", stdin=python("pass")).code == 2
    assert cli("nothing").code == 2
    assert cli("jobs", "--after", "x").code == 2


# --- follow


def test_a_late_follower_sees_every_event_once(cli: Cli, done_job: str) -> None:
    first, second = (cli("follow", done_job, "--json") for _ in range(2))
    assert first.out == second.out
    assert [event["seq"] for event in first.lines] == list(range(1, len(first.lines) + 1))
    kinds = [event["type"] for event in first.lines]
    assert kinds[0] == "queued"
    assert kinds[-1] == "succeeded"
    assert kinds.count("progress") == 3
    assert {event["job_id"] for event in first.lines} == {done_job}


def test_a_pipe_gets_plain_lines(cli: Cli, done_job: str) -> None:
    out = cli("follow", done_job).out
    assert "\x1b" not in out
    assert "epoch 3/3  loss 0.3333" in out
    assert "| to out" in out
    assert "succeeded: loss 0.3333" in out.splitlines()[-1]


def test_a_terminal_gets_a_bar(cli: Cli, done_job: str) -> None:
    done = cli.on_terminal("follow", done_job)
    assert done.code == 0
    assert "\x1b[" in done.out
    assert "100 %" in done.out
    assert "epoch 3/3  loss 0.3333" in done.out


def test_a_dumb_terminal_gets_plain_lines(cli: Cli, done_job: str) -> None:
    dumb = Cli(cwd=cli.cwd, env={**cli.env, "TERM": "dumb"})
    assert "\x1b" not in dumb.on_terminal("follow", done_job).out


def test_several_jobs_are_followed_at_once_and_the_gravest_end_counts(cli: Cli) -> None:
    good = submitted(cli, python(STEPS))
    bad = submitted(cli, python("import sys; sys.exit(1)"))
    done = cli("follow", good, bad)
    assert done.code == 1
    assert f"{good} succeeded" in done.out
    assert f"{bad} failed" in done.out
    assert cli.on_terminal("follow", good, bad).code == 1


def test_ctrl_c_leaves_the_job_running(cli: Cli, busy: Busy) -> None:
    following = cli.start("follow", busy.job_id)
    following.wait_said("at work")
    done = following.end(signal.SIGINT)
    assert done.code == 130
    assert f"cyxwiz follow {busy.job_id}" in done.err
    assert "Traceback" not in done.err
    assert cli("job", busy.job_id, "--json").json["state"] == "running"


def test_a_reader_that_goes_away_ends_it_quietly(cli: Cli, busy: Busy) -> None:

    process = subprocess.Popen(
        [*COMMAND, "follow", busy.job_id],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=cli.environment(),
        cwd=cli.cwd,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    busy.end()
    assert process.wait(30) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


# --- job, cancel


def test_job_shows_the_record(cli: Cli, done_job: str) -> None:
    shown = cli("job", done_job).out
    assert "succeeded" in shown
    assert "node-a/cpu" in shown
    found = cli("job", done_job, "--json").json
    assert set(found) == {
        *("job_id", "state", "reason", "message", "queue", "user_id", "attempt", "max_attempts"),
        *("node", "slot", "submitted", "started", "finished", "cancel", "progress", "result"),
        *("spec", "seq"),
    }
    assert found["state"] == "succeeded"
    assert found["attempt"] == 1
    assert found["result"]["metrics"] == {"loss": pytest.approx(1 / 3)}
    assert found["submitted"] <= found["started"] <= found["finished"]


def test_a_queued_job_has_not_started(cli: Cli) -> None:
    job_id = submitted(cli, python("pass", pool="nobody-serves-it"))
    found = cli("job", job_id, "--json").json
    assert (found["state"], found["started"], found["finished"]) == ("queued", None, None)
    done = cli("cancel", job_id, "--json", "--why", "by hand")
    assert (done.code, done.json) == (
        0,
        {"job_id": job_id, "state": "cancelled", "changed": True},
    )
    followed = cli("follow", job_id)
    assert followed.code == 7
    assert "cancelled: by hand" in followed.out


def test_a_running_job_is_cancelled_and_again(cli: Cli, busy: Busy) -> None:
    done = cli("cancel", busy.job_id)
    assert done.code == 0
    assert "its node was asked" in done.out
    assert cli("follow", busy.job_id).code == 7
    again = cli("cancel", busy.job_id)
    assert again.code == 0
    assert "was before" in again.out


def test_what_has_ended_cannot_be_cancelled(cli: Cli, done_job: str) -> None:
    done = cli("cancel", done_job)
    assert done.code == 10
    assert "had ended before: succeeded" in done.err


def test_a_rejected_job_is_8(cli: Cli) -> None:
    job_id = submitted(cli, python("pass", secrets=["token"]))
    done = cli("follow", job_id)
    assert done.code == 8
    assert "rejected: untrusted" in done.out


@pytest.mark.parametrize(
    "command", ["follow", "job", "cancel", "logs", "retry", "checkpoint", "pause", "resume"]
)
def test_an_unknown_job_is_5(cli: Cli, command: str) -> None:
    done = cli(command, "nobody-knows-it")
    assert done.code == 5
    assert "no job 'nobody-knows-it'" in done.err
    assert done.out == ""


# --- jobs, logs, retry, checkpoint, pause


def test_jobs_are_listed_by_user_state_and_label_page_by_page(cli: Cli) -> None:
    user = f"u{uuid.uuid4().hex}"
    ids = [
        submitted(cli, python("pass", user_id=user, pool="none", labels={"n": str(n)}))
        for n in range(5)
    ]
    first = cli("jobs", "--user", user, "--limit", "2", "--json").json
    assert [job["job_id"] for job in first["jobs"]] == [ids[4], ids[3]]
    assert first["jobs"][0]["state"] == "queued"
    assert first["jobs"][0]["labels"] == {"n": "4"}
    rest = cli("jobs", "--user", user, "--after", first["next"], "--json").json
    assert [job["job_id"] for job in rest["jobs"]] == [ids[2], ids[1], ids[0]]
    assert rest["next"] is None
    labelled = cli("jobs", "--user", user, "--label", "n=1", "--json").json
    assert [job["job_id"] for job in labelled["jobs"]] == [ids[1]]
    assert cli("jobs", "--user", user, "--label", "m", "--json").json["jobs"] == []
    assert cli("cancel", ids[0]).code == 0
    queued = cli("jobs", "--user", user, "--state", "queued", "--json").json["jobs"]
    assert {job["job_id"] for job in queued} == set(ids[1:])
    everyones = cli("jobs", "--state", "cancelled", "--limit", "1", "--json").json["jobs"]
    assert [job["job_id"] for job in everyones] == [ids[0]]
    shown = cli("jobs", "--user", user, "--limit", "3")
    assert [line.split()[:2] for line in shown.out.splitlines()] == [
        ["JOB", "STATE"],
        *([job_id, "queued"] for job_id in ids[:1:-1]),
    ]
    assert "more: --after " in shown.err


def test_all_states_come_in_one_order(cli: Cli, done_job: str) -> None:
    assert cli("jobs", "--limit", "1", "--json").json["jobs"][0]["job_id"] == done_job
    seen: list[str] = []
    place: list[str] = []
    while True:
        page = cli("jobs", "--limit", "7", "--json", *place).json
        seen += [job["job_id"] for job in page["jobs"]]
        if page["next"] is None:
            break
        place = ["--after", page["next"]]
    assert len(seen) == len(set(seen))
    assert done_job in seen


def test_logs_are_what_the_job_printed(cli: Cli, done_job: str) -> None:
    done = cli("logs", done_job)
    assert (done.code, done.out, done.err) == (0, "to out\n", "to err\n")
    as_json = cli("logs", done_job, "--json").lines
    assert {(event["type"], *event["lines"]) for event in as_json} == {
        ("log", "to out"),
        ("log", "to err"),
    }
    assert cli("logs", done_job, "-t").out.endswith(" to out\n")


def test_logs_go_on_until_the_job_ends(cli: Cli, busy: Busy) -> None:
    following = cli.start("logs", "-f", busy.job_id)
    following.wait_said("at work")
    busy.end()
    assert following.process.wait(30) == 0


def test_retry_is_a_new_job(cli: Cli, done_job: str, busy: Busy) -> None:
    failed = submitted(cli, python("import sys; sys.exit(1)", labels={"kept": "yes"}))
    assert cli("follow", failed).code == 1
    again = cli("retry", failed, "--json", "--set", "epochs=7").json
    assert again["retry_of"] == failed
    assert again["job_id"] != failed
    spec = cli("job", again["job_id"], "--json").json["spec"]
    assert (spec["labels"], spec["epochs"]) == ({"kept": "yes"}, 7)
    assert cli("retry", failed, "--follow").code == 1
    assert cli("retry", busy.job_id).code == 10
    refused = cli("retry", done_job)
    assert refused.code == 10
    assert "--again" in refused.err
    assert cli("retry", done_job, "--again", "--follow").code == 0


def test_checkpoint_reaches_the_job(cli: Cli, busy: Busy) -> None:
    assert cli("checkpoint", busy.job_id, "--json").json == {
        "job_id": busy.job_id,
        "asked": "checkpoint",
    }
    busy.wait("saved")


def test_a_job_pauses_and_goes_on(cli: Cli, busy: Busy) -> None:
    def state() -> str:
        return str(cli("job", busy.job_id, "--json").json["state"])

    assert cli("pause", busy.job_id).code == 0
    wait_until(lambda: state() == "paused", timeout=20, what="the pause")
    assert cli("resume", busy.job_id).code == 0
    wait_until(lambda: state() == "running", timeout=20, what="the job going on")


@pytest.mark.parametrize("command", ["checkpoint", "pause", "resume"])
def test_only_a_running_job_can_be_asked(cli: Cli, done_job: str, command: str) -> None:
    done = cli(command, done_job)
    assert done.code == 10
    assert "only a running job" in done.err


# --- Redis


@pytest.mark.parametrize(
    "command",
    [
        ("submit", "-"),
        ("follow", "x"),
        ("job", "x"),
        ("jobs",),
        ("logs", "x"),
        ("cancel", "x"),
        ("retry", "x"),
        ("checkpoint", "x"),
        ("node",),
    ],
    ids=lambda command: str(command[0]),
)
def test_a_redis_that_refuses_is_named_without_its_password(
    cli: Cli, tmp_path: Path, command: tuple[str, ...]
) -> None:
    url = "redis://user:hunter2@127.0.0.1:1/3"
    env = {"CYXWIZ_NODE__STATE_DIR": str(tmp_path / "state")}
    done = cli(*command, "--redis", url, stdin=python("pass"), env=env)
    assert done.code == 4
    assert "redis://user:***@127.0.0.1:1/3" in done.err
    assert "hunter2" not in done.err + done.out
    assert "Traceback" not in done.err


def test_a_redis_that_does_not_answer_is_named(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"redis://127.0.0.1:{deaf.getsockname()[1]}/0"
        done = cli("job", "x", "--redis", url)
    assert done.code == 4
    assert url in done.err


def test_the_option_comes_before_the_variable(cli: Cli, hub: RedisServer, done_job: str) -> None:
    env = {"CYXWIZ_REDIS_URL": "redis://127.0.0.1:1/0"}
    assert cli("job", done_job, env=env).code == 4
    assert cli("job", done_job, "--redis", hub.tcp_url, env=env).code == 0


def test_what_is_no_url_is_refused(cli: Cli) -> None:
    done = cli("job", "x", "--redis", "somewhere")
    assert done.code == 3
    assert "--redis: somewhere is no URL of a Redis" in done.err


# --- node


@pytest.fixture
def start(hub: RedisServer, tmp_path: Path) -> Iterator[Any]:
    """Starts commands beside the module's node; ends them."""
    cli = Cli(cwd=tmp_path)
    started: list[Started] = []

    def start(*args: str, **env: str) -> Started:
        started.append(cli.start(*args, env=env))
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_a_second_node_of_a_directory_or_name_is_refused(cli: Cli, tmp_path: Path) -> None:
    config = str(cli.cwd / "server-node.yaml")
    second = cli("node", "--config", config)
    assert second.code == 6
    assert f"{cli.cwd / 'state'}: an agent runs there already" in second.err
    env = {"CYXWIZ_NODE__STATE_DIR": str(tmp_path / "other")}
    namesake = cli("node", "--config", config, env=env)
    assert namesake.code == 6
    assert "node name 'node-a' is taken" in namesake.err


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("execution:\n  mode: nativ\n", ":2: execution.mode: must be"),
        ("execution: {mode: auto}\nexecutoin: {}\n", ":2: executoin: unknown key; did you mean"),
        ("docker: [\n", ":2: not YAML"),
    ],
)
def test_a_wrong_configuration_is_refused_with_its_line(
    cli: Cli, tmp_path: Path, text: str, names: str
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    done = cli("node", "--config", str(path))
    assert done.code == 3
    assert f"{path}{names}" in done.err
    assert cli("node", "--config", str(tmp_path / "none.yaml")).code == 3


def test_windows_is_refused_and_wsl2_named(cli: Cli) -> None:
    # only what the platform is, not how its libraries behave: those are loaded before
    code = (
        "import sys, click, rich.console, asyncio, subprocess, redis\n"
        "sys.platform = 'win32'\n"
        "from worker.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    for command in ("node", "demo"):
        done = subprocess.run(
            [sys.executable, "-c", code, command],
            capture_output=True,
            text=True,
            env=cli.environment(),
            cwd=cli.cwd,
            timeout=60,
            check=False,
        )
        assert done.returncode == 9, done
        assert "WSL2" in done.stderr


def test_a_users_own_tasks_py_is_named(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text("")
    done = Cli(cwd=tmp_path, env={**cli.env, "PYTHONPATH": str(tmp_path)}).fresh("job", "x")
    assert done.code == 3
    assert f"{tmp_path / 'tasks.py'} stands before this project's package" in done.err


def test_a_node_without_a_redis_starts_its_own_and_this_users_commands_find_it(
    start: Any, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    env = {
        "CYXWIZ_NODE__STATE_DIR": str(state),
        "CYXWIZ_EXECUTION__ALLOW_UNTRUSTED_NATIVE": "true",
        "CYXWIZ_SLOTS__CPU": "1",
    }
    node = start("node", **env)
    node.wait_said("node ready")
    cli = Cli(cwd=tmp_path, env=env)
    done = cli("submit", "-", "--follow", stdin=python("pass"))
    assert done.code == 0, done
    other = cli("node")
    assert other.code == 6
    assert "an agent runs there already" in other.err
    assert node.end().code == 0
    assert not (state / "redis.url").exists()
    assert cli("jobs").code == 4


# --- doctor, help


def test_doctor_says_what_can_run_here(cli: Cli) -> None:
    config = ("--config", str(cli.cwd / "server-node.yaml"))
    done = cli("doctor", *config)
    assert done.code == 0, done
    assert "jobs can run here" in done.out
    found = cli("doctor", "--json", *config).json
    assert found["ok"] is True
    checks = {check["name"]: check for check in found["checks"]}
    assert set(checks) >= {
        *("platform", "python", "configuration", "cpu, memory", "state directory", "redis"),
        *("redis-server", "native jobs", "runner", "docker", "podman", "gpus (nvidia)", "policy"),
    }
    assert checks["native jobs"]["verdict"] == "ok"
    assert checks["redis"]["verdict"] == "ok"
    for check in found["checks"]:
        assert set(check) == {"name", "verdict", "found", "why", "todo"}
        assert (check["verdict"] == "ok") == (check["why"] == "" and check["todo"] == "")


def test_doctor_ends_with_1_where_no_job_can_run(cli: Cli, tmp_path: Path) -> None:
    def blocking(env: dict[str, str], *args: str) -> dict[str, dict[str, str]]:
        done = cli("doctor", "--json", *args, env=env)
        assert done.code == 1, done
        return {one["name"]: one for one in done.json["checks"] if one["verdict"] == "blocks"}

    state = {"CYXWIZ_NODE__STATE_DIR": str(tmp_path / "state")}
    assert "allow_untrusted_native" in blocking(state)["policy"]["todo"]
    trusting = {**state, "CYXWIZ_EXECUTION__ALLOW_UNTRUSTED_NATIVE": "true"}
    refused = blocking(trusting, "--redis", "redis://:hunter2@127.0.0.1:1/0")
    assert list(refused) == ["redis"]
    assert "hunter2" not in json.dumps(refused)
    wrong = blocking({**trusting, "CYXWIZ_EXECUTION__MODE": "nativ"})
    assert "CYXWIZ_EXECUTION__MODE" in wrong["configuration"]["why"]
    no_python = blocking({**trusting, "CYXWIZ_NATIVE__INTERPRETER": str(tmp_path / "python")})
    assert list(no_python) == ["native jobs"]
    (tmp_path / "file").touch()
    no_room = blocking({**trusting, "CYXWIZ_NODE__STATE_DIR": str(tmp_path / "file" / "state")})
    assert list(no_room) == ["state directory"]
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "doctor leaves nothing"


def test_help_and_version_load_no_celery(cli: Cli) -> None:
    code = (
        "import sys\n"
        "from worker.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n    assert not {'celery', 'redis', 'pydantic'} & set(sys.modules)\n"
    )
    for args, said in (
        (["--help"], "follow      Show every event"),
        (["--version"], "cyxwiz "),
        (["submit", "--help"], "--set KEY=VALUE"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *args],
            capture_output=True,
            text=True,
            env=cli.environment(),
            timeout=60,
            check=True,
        )
        assert said in done.stdout


def test_debug_shows_the_traceback(cli: Cli) -> None:
    done = cli("--debug", "job", "nobody-knows-it")
    assert done.code == 5
    assert "Traceback" in done.err
