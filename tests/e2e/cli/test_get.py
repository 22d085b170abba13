"""``cyxwiz get``: what a job left comes back, whole, and nowhere else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.cli import Cli
from tests.support.cli_jobs import Busy, python, submitted
from tests.support.cluster import Cluster
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.e2e

FILES = {
    "model.bin": b"weights" * 100_000,
    "deep/er/notes.txt": "ä\n".encode(),
    "empty": b"",
}
LEAVES = """
import json, os, pathlib
out = pathlib.Path(os.environ["CYXWIZ_OUTPUT"])
(out / "deep/er").mkdir(parents=True)
(out / "model.bin").write_bytes(b"weights" * 100_000)
(out / "deep/er/notes.txt").write_bytes("ä\\n".encode())
(out / "empty").touch()
"""


@pytest.fixture(scope="module")
def job_id(cli: Cli) -> str:
    """A job that left files; no test changes what the node keeps of it."""
    job_id = submitted(cli, python(LEAVES))
    assert cli("follow", job_id).code == 0
    return job_id


def content(directory: Path) -> dict[str, bytes]:
    """Everything beneath ``directory``, links and left-overs too."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


def kept(cli: Cli, job_id: str) -> Path:
    """Where the node keeps what the job left."""
    result: dict[str, Any] = cli("job", job_id, "--json").json["result"]
    return Path(result["artifacts_dir"])


def test_every_file_comes_and_is_what_the_node_kept(cli: Cli, job_id: str, tmp_path: Path) -> None:
    target = tmp_path / "new" / "results"
    done = cli("get", job_id, str(target), "--json")
    assert done.code == 0, done
    assert content(target) == FILES
    said = done.json
    assert (said["refused"], done.err) == ([], "")
    assert (said["job_id"], said["directory"]) == (job_id, str(target))
    assert {one["name"]: (one["size"], one["sha256"], one["fetched"]) for one in said["files"]} == {
        name: (len(data), hashlib.sha256(data).hexdigest(), True) for name, data in FILES.items()
    }


def test_without_a_directory_they_go_to_one_of_the_jobs_name(cli: Cli, job_id: str) -> None:
    done = cli("get", job_id)
    assert done.code == 0, done
    assert content(cli.cwd / job_id) == FILES
    assert sorted(done.out.splitlines()) == sorted(
        f"{job_id}/{name} ({len(data)} bytes)" for name, data in FILES.items()
    )


def test_what_is_there_already_is_not_fetched_again(cli: Cli, job_id: str, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(FILES["model.bin"])
    before = (tmp_path / "model.bin").stat()
    done = cli("get", job_id, str(tmp_path), "--json")
    assert done.code == 0, done
    fetched = {one["name"]: one["fetched"] for one in done.json["files"]}
    assert fetched == {"model.bin": False, "deep/er/notes.txt": True, "empty": True}
    after = (tmp_path / "model.bin").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert "model.bin (was there already)" in cli("get", job_id, str(tmp_path)).out


@pytest.mark.parametrize("same_size", [True, False])
def test_a_file_with_other_content_is_replaced_only_by_force(
    cli: Cli, job_id: str, tmp_path: Path, same_size: bool
) -> None:
    mine = b"W" * len(FILES["model.bin"]) if same_size else b"mine"
    (tmp_path / "model.bin").write_bytes(mine)
    refused = cli("get", job_id, str(tmp_path))
    assert refused.code == 6
    assert "model.bin" in refused.err
    assert "--force" in refused.err
    assert content(tmp_path) == {"model.bin": mine}, "nothing else was fetched either"
    assert cli("get", job_id, str(tmp_path), "--force").code == 0
    assert content(tmp_path) == FILES


def test_a_link_leads_nothing_out_of_the_directory(cli: Cli, job_id: str, tmp_path: Path) -> None:
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    target.mkdir()
    (target / "deep").symlink_to(outside)
    done = cli("get", job_id, str(target), "--force")
    assert done.code == 11
    assert "is a link" in done.err
    assert content(outside) == {}


def test_a_link_in_place_of_a_file_is_replaced_and_not_followed(
    cli: Cli, job_id: str, tmp_path: Path
) -> None:
    precious, target = tmp_path / "precious", tmp_path / "target"
    precious.write_bytes(FILES["model.bin"])
    target.mkdir()
    (target / "model.bin").symlink_to(precious)
    assert cli("get", job_id, str(target)).code == 6
    assert cli("get", job_id, str(target), "--force").code == 0
    assert not (target / "model.bin").is_symlink()
    assert precious.read_bytes() == FILES["model.bin"]
    assert content(target) == FILES


def test_a_directory_in_place_of_a_file_stays(cli: Cli, job_id: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert cli("get", job_id, str(tmp_path)).code == 6
    done = cli("get", job_id, str(tmp_path), "--force")
    assert done.code == 11
    assert "is a directory" in done.err


def test_a_file_in_place_of_a_directory_stays(cli: Cli, job_id: str, tmp_path: Path) -> None:
    (tmp_path / "deep").write_text("mine")
    done = cli("get", job_id, str(tmp_path), "--force")
    assert done.code == 11
    assert "deep" in done.err
    assert (tmp_path / "deep").read_text() == "mine"
    assert cli("get", job_id, str(tmp_path / "deep")).code == 2


def test_a_changed_file_does_not_get_its_name(cli: Cli, tmp_path: Path) -> None:
    job_id = submitted(cli, python(LEAVES))
    assert cli("follow", job_id).code == 0
    (kept(cli, job_id) / "model.bin").write_bytes(b"W" * len(FILES["model.bin"]))
    done = cli("get", job_id, str(tmp_path))
    assert done.code == 11
    assert "is not what the node kept" in done.err
    assert "model.bin" not in content(tmp_path)
    assert not [name for name in content(tmp_path) if name.endswith(".partial")]


def test_a_store_that_cannot_be_reached_is_named(cli: Cli, tmp_path: Path) -> None:
    job_id = submitted(cli, python(LEAVES))
    assert cli("follow", job_id).code == 0
    place = kept(cli, job_id)
    place.rename(place.with_name("elsewhere"))
    done = cli("get", job_id, str(tmp_path))
    assert done.code == 11
    assert f"node-a at {place}" in done.err
    assert "storage.artifacts" in done.err
    assert done.out == ""


def test_a_job_that_has_not_ended_has_none_yet(cli: Cli, busy: Busy, tmp_path: Path) -> None:
    done = cli("get", busy.job_id, str(tmp_path / "x"))
    assert done.code == 10
    assert "is running" in done.err
    assert not (tmp_path / "x").exists()


def test_a_job_that_failed_or_left_nothing_has_none(cli: Cli, tmp_path: Path) -> None:
    failed = submitted(cli, python(LEAVES + "raise SystemExit(1)"))
    assert cli("follow", failed).code == 1
    done = cli("get", failed, str(tmp_path))
    assert done.code == 10
    assert "is failed" in done.err
    idle = submitted(cli, python("pass"))
    assert cli("follow", idle).code == 0
    done = cli("get", idle, str(tmp_path))
    assert done.code == 10
    assert "left no files" in done.err
    assert content(tmp_path) == {}


def test_what_was_not_kept_is_said(cli: Cli, tmp_path: Path) -> None:
    links = "import os\nos.symlink('model.bin', os.environ['CYXWIZ_OUTPUT'] + '/latest.bin')\n"
    why = "latest.bin: a link or special file"
    job_id = submitted(cli, python(LEAVES + links))
    assert cli("follow", job_id).code == 0
    assert cli("job", job_id, "--json").json["result"]["refused"] == [why]
    assert f"left out   {why}" in cli("job", job_id).out
    done = cli("get", job_id, str(tmp_path / "a"))
    assert done.code == 0
    assert f"not kept by the job's node: {why}" in done.err
    assert content(tmp_path / "a") == FILES
    assert cli("get", job_id, str(tmp_path / "b"), "--json").json["refused"] == [why]
    alone = submitted(cli, python(links))
    assert cli("follow", alone).code == 0
    done = cli("get", alone, str(tmp_path / "c"))
    assert done.code == 10
    assert "left no file in CYXWIZ_OUTPUT that is kept" in done.err
    assert why in done.err


def test_an_unknown_job_and_a_wrong_option_are_said(cli: Cli, job_id: str) -> None:
    done = cli("get", "no-such-job")
    assert done.code == 5
    assert "no-such-job" in done.err
    done = cli("get", job_id, "--option", "endpoint_url")
    assert done.code == 2
    assert "NAME=VALUE" in done.err


@pytest.mark.parametrize("name", ["../escaped", "/{dir}/escaped", "a/../../escaped"])
def test_a_record_cannot_name_a_file_elsewhere(
    cli: Cli, hub: RedisServer, tmp_path: Path, name: str
) -> None:
    job_id = submitted(cli, python(LEAVES))
    assert cli("follow", job_id).code == 0
    with redis.Redis.from_url(hub.url) as client:
        key = f"cyxwiz:job:{job_id}"
        result = json.loads(client.hget(key, "result") or "")
        result["artifacts"][0]["name"] = name.replace("{dir}", str(tmp_path).lstrip("/"))
        client.hset(key, "result", json.dumps(result))
    (tmp_path / "escaped").write_bytes(b"mine")
    done = cli("get", job_id, str(tmp_path / "target"), "--force")
    assert done.code == 11
    assert "is no name" in done.err
    assert (tmp_path / "escaped").read_bytes() == b"mine"


def test_from_a_store_at_a_url(
    start_cluster: Callable[..., Cluster], cli: Cli, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    cluster = start_cluster(extra={"storage": {"artifacts": f"local://{store}"}})
    job = cluster.command(LEAVES)
    job.get(timeout=30)
    hub_is = ("--redis", cluster.settings.redis_url)
    target = tmp_path / "target"
    assert cli("get", job.id, str(target), "--option", "auto_mkdir=true", *hub_is).code == 0
    assert content(target) == FILES
    store.rename(tmp_path / "away")
    assert cli("get", job.id, str(target), *hub_is).code == 0, "all of it is there"
    away = cli("get", job.id, str(tmp_path / "other"), *hub_is)
    assert away.code == 11
    assert f"{store}/{job.id}/1/" in away.err
