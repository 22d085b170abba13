"""How jobs end on a real node: each gets its true reason and leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import JobFailed, JobRejected
from tasks.events import Retrying
from tasks.state import FailureReason, JobState
from tests.support.cluster import Cluster
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

COMPLETE = 'print(\'{"type": "complete", "success": true}\', flush=True)'


def failure(cluster: Cluster, job: Any) -> JobFailed:
    with pytest.raises(JobFailed) as caught:
        job.get(timeout=60)
    assert cluster.record(job).state is JobState.FAILED
    return caught.value


def test_a_command_ends_well_and_its_files_are_kept(cluster: Cluster) -> None:
    job = cluster.shell('echo hello; printf 12345 > "$CYXWIZ_OUTPUT/answer.txt"')
    result = job.get(timeout=60)
    [artifact] = result["artifacts"]
    assert artifact == {
        "name": "answer.txt",
        "size": 5,
        "sha256": hashlib.sha256(b"12345").hexdigest(),
        "uri": f"file://{result['artifacts_dir']}/answer.txt",
    }
    kept = Path(result["artifacts_dir"]) / "answer.txt"
    assert kept.read_bytes() == b"12345"
    assert result["mode"] == "native"
    assert result["attempt"] == 1
    assert [event.type for event in cluster.events(job) if event.type != "log"] == [
        "queued",
        "admitted",
        "started",
        "usage",
        "succeeded",
    ]


def test_exit_3(cluster: Cluster) -> None:
    job = cluster.shell("echo the disk is made of cheese >&2; exit 3", max_attempts=1)
    error = failure(cluster, job)
    assert error.reason == FailureReason.USER_ERROR
    assert "exited with 3" in str(error)
    assert "made of cheese" in str(error)


def test_what_the_job_did_is_not_tried_again(cluster: Cluster) -> None:
    job = cluster.shell("exit 3", max_attempts=5)
    assert failure(cluster, job).reason == FailureReason.USER_ERROR
    assert cluster.record(job).attempt == 1


def test_a_stalled_job_is_tried_again_later_each_time_until_no_attempt_is_left(
    cluster: Cluster,
) -> None:
    job = cluster.shell("exec sleep 600", stall_timeout_seconds=0.3, max_attempts=3)
    assert failure(cluster, job).reason == FailureReason.STALLED
    assert cluster.record(job).attempt == 3
    told = cluster.events(job)
    again = [one for one in told if isinstance(one.event, Retrying)]
    delays = [one.event.delay_seconds for one in again if isinstance(one.event, Retrying)]
    assert delays == [1.0, 2.0]
    starts = [one for one in told if one.type == "started"]
    for one, delay, start in zip(again, delays, starts[1:], strict=True):
        assert start.ts >= one.ts + delay, "not before its time"


def test_death_by_a_signal(cluster: Cluster) -> None:
    error = failure(cluster, cluster.shell("kill -SEGV $$", max_attempts=1))
    assert error.reason == FailureReason.USER_ERROR
    assert "SIGSEGV" in str(error)


def test_10_mb_without_a_newline(cluster: Cluster) -> None:
    job = cluster.command("import sys; sys.stdout.write('x' * 10_000_000)")
    job.get(timeout=60)
    text = "".join(cluster.logged(job))
    assert text.startswith("xxx")
    assert len(text) < 200_000
    assert "cut" in text or "truncated" in text, "what was cut is said"


def test_a_forged_complete_does_not_make_it_a_success(cluster: Cluster) -> None:
    job = cluster.command(f"{COMPLETE}; raise SystemExit(1)", max_attempts=1)
    error = failure(cluster, job)
    assert error.reason == FailureReason.USER_ERROR
    assert "although it reported success" in str(error)


def test_it_says_itself_that_it_failed(cluster: Cluster) -> None:
    line = json.dumps({"type": "complete", "success": False, "error": "no convergence"})
    error = failure(cluster, cluster.command(f"print({line!r})", max_attempts=1))
    assert error.reason == FailureReason.USER_ERROR
    assert "no convergence" in str(error)


def test_a_model_that_is_not_there(cluster: Cluster) -> None:
    line = json.dumps({"type": "complete", "success": True, "model_path": "/job/output/none"})
    error = failure(cluster, cluster.command(f"print({line!r})", max_attempts=1))
    assert error.reason == FailureReason.INVALID_OUTPUT


def test_a_model_outside_the_output_directory(cluster: Cluster) -> None:
    line = json.dumps({"type": "complete", "success": True, "model_path": "/etc/passwd"})
    error = failure(cluster, cluster.command(f"print({line!r})", max_attempts=1))
    assert error.reason == FailureReason.INVALID_OUTPUT
    assert "/etc/passwd" in str(error)


def test_another_jobs_id_is_ignored(cluster: Cluster) -> None:
    other = cluster.shell("true")
    other.get(timeout=60)
    line = json.dumps({"type": "progress", "job_id": other.id, "epoch": 1, "loss": 0.5})
    job = cluster.command(f"print({line!r})", epochs=2)
    job.get(timeout=60)
    assert not cluster.progress(job), "a line with another job's id is no progress"
    assert not cluster.progress(other)


def test_nan_is_no_metric(cluster: Cluster) -> None:
    job = cluster.command(
        'print(\'{"type": "progress", "epoch": 1, "loss": NaN, "lr": Infinity, "good": 1.5}\')',
        epochs=1,
    )
    job.get(timeout=60)
    [progress] = cluster.progress(job)
    assert progress.loss is None
    assert progress.metrics == {"good": 1.5}


def test_it_never_prints(cluster: Cluster) -> None:
    job = cluster.shell("exec sleep 600", stall_timeout_seconds=0.5, max_attempts=1)
    error = failure(cluster, job)
    assert error.reason == FailureReason.STALLED


def test_it_takes_too_long(cluster: Cluster) -> None:
    job = cluster.shell("while :; do echo on; sleep 0.1; done", timeout_seconds=1, max_attempts=1)
    assert failure(cluster, job).reason == FailureReason.TIMEOUT


def test_a_daemon_ends_with_its_job(cluster: Cluster) -> None:
    script = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    for fd in range(3):
        os.close(fd)
    time.sleep(600)
"""
    cluster.command(script).get(timeout=60)
    cluster.wait_clean()


def test_sigterm_ignored(cluster: Cluster) -> None:
    job = cluster.shell("trap '' TERM; echo ready; while :; do sleep 0.1; done")
    cluster.wait_state(job, JobState.RUNNING)
    wait_until(lambda: cluster.record(job).seq >= 4, what="its first line")
    cluster.app.control.revoke(job.id)
    assert cluster.wait_state(job).state is JobState.CANCELLED
    wait_until(lambda: job.state == "REVOKED", what="Celery's view")


def test_more_memory_than_its_limit(cluster: Cluster) -> None:
    job = cluster.command(
        "import time; hoard = [bytearray(8 << 20) for _ in range(64)]; time.sleep(60)",
        memory_mb=128,
        max_attempts=1,
    )
    error = failure(cluster, job)
    assert error.reason == FailureReason.OUT_OF_MEMORY
    assert "memory_mb" in str(error)


def test_a_program_that_is_not_there(cluster: Cluster) -> None:
    job = cluster.submit({"command": ["/no/such/program"], "max_attempts": 1})
    error = failure(cluster, job)
    assert error.reason == FailureReason.USER_ERROR
    assert "/no/such/program" in str(error)


@pytest.mark.parametrize("path", ["../outside.csv", "link.csv", "missing.csv"])
def test_data_outside_the_roots(cluster: Cluster, data: Path, path: str) -> None:
    (data.parent / "outside.csv").write_text("secret")
    link = data / "link.csv"
    if not link.is_symlink():
        link.symlink_to(data.parent / "outside.csv")
    job = cluster.shell('cat "$CYXWIZ_DATA"', dataset_uri=f"file://{data}/{path}")
    with pytest.raises(JobRejected) as caught:
        job.get(timeout=60)
    assert caught.value.reason == FailureReason.DATASET_UNAVAILABLE
    assert "storage.roots" in str(caught.value)
    assert cluster.record(job).attempt == 1
    assert "started" not in [event.type for event in cluster.events(job)]


def test_data_beneath_a_root(cluster: Cluster, data: Path) -> None:
    (data / "rows.csv").write_text("1,2\n")
    job = cluster.shell('cat "$CYXWIZ_DATA"', dataset_uri=f"file://{data}/rows.csv")
    job.get(timeout=60)
    assert cluster.logged(job) == ["1,2"]


def test_it_gets_none_of_the_nodes_environment(cluster: Cluster) -> None:
    job = cluster.shell("env", env={"MINE": "yes"})
    job.get(timeout=60)
    lines = cluster.logged(job)
    names = {line.partition("=")[0] for line in lines}
    assert "MINE" in names
    assert not {"CYXWIZ_STATE_DIR", "CYXWIZ_REDIS_URL", "CYXWIZ_CONFIG"} & names
    assert cluster.settings.redis_url not in "".join(lines)
