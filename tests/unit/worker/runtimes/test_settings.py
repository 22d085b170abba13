"""What each key of ``server-node.yaml`` makes of a container runtime."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import ConfigError
from worker.config import NodeConfig, load
from worker.engine_sections import PullPolicy
from worker.plan import AttemptId
from worker.runtimes import engine_runtime
from worker.runtimes.engine.settings import EngineSettings, container_name

pytestmark = pytest.mark.unit


@pytest.fixture
def config(tmp_path: Path) -> Any:
    """From sections to a node's configuration."""

    def make(**sections: Any) -> NodeConfig:
        path = tmp_path / "server-node.yaml"
        node = {"name": "here", "state_dir": str(tmp_path / "state")}
        path.write_text(json.dumps({"node": node, **sections}))  # JSON is YAML
        return load(path, {})

    return make


def settings(config: NodeConfig) -> EngineSettings:
    return EngineSettings.of(config, socket=config.docker.socket, abandon_after=75)


def test_the_defaults_are_the_whole_sandbox(config: Any) -> None:
    made = settings(config())
    assert made.profile.loosened == ()
    assert made.profile.tmp_mb == 1024
    assert made.profile.user[0] == (1000 if os.geteuid() == 0 else os.geteuid())
    assert made.rules.policy is PullPolicy.IF_NOT_PRESENT
    assert made.rules.allow == ("cyxwiz/*",)
    assert made.rules.registry == "docker.io/cyxwiz"
    assert (made.remove_containers, made.keep_logs_hours) == (True, 24)
    assert str(made.socket) == "/var/run/docker.sock"
    assert made.node == "here"


@pytest.mark.parametrize(
    "item", ["read_only_root", "no_network", "drop_capabilities", "tmp_noexec"]
)
def test_security_is_loosened_by_the_items_name(config: Any, item: str) -> None:
    assert settings(config(docker={"security": {item: False}})).profile.loosened == (item,)


def test_the_other_keys_arrive(config: Any, tmp_path: Path) -> None:
    logins = tmp_path / "auth.json"
    logins.write_text('{"auths": {"r.example": {"auth": "dTpw"}}}')
    logins.chmod(0o600)
    made = settings(
        config(
            docker={
                "socket": "/run/other.sock",
                "registry": "r.example/team",
                "pull_policy": "never",
                "auth_file": str(logins),
                "security": {"tmp_mb": 7},
                "cleanup": {"remove_containers": False, "keep_logs_hours": 3},
            },
            images={"allow": ["python:*"]},
        )
    )
    assert str(made.socket) == "/run/other.sock"
    assert made.rules.registry == "r.example/team"
    assert made.rules.policy is PullPolicy.NEVER
    assert made.rules.allow == ("python:*",)
    assert made.credentials.of("r.example")["username"] == "u"
    assert made.profile.tmp_mb == 7
    assert (made.remove_containers, made.keep_logs_hours) == (False, 3)


def test_a_disabled_engine_is_as_if_there_were_none(config: Any) -> None:
    with pytest.raises(ConfigError, match=r"docker.enabled is false"):
        engine_runtime("docker", config(docker={"enabled": False}), abandon_after=75)
    with pytest.raises(ConfigError, match="no container engine is called 'lxc'"):
        engine_runtime("lxc", config(), abandon_after=75)


def test_an_engine_that_is_not_there_is_no_error_until_it_is_asked_for(
    config: Any, tmp_path: Path
) -> None:
    made = engine_runtime(
        "docker", config(docker={"socket": str(tmp_path / "none.sock")}), abandon_after=75
    )
    found = made.capabilities()
    assert (found.name, found.available) == ("docker", False)
    assert "no such socket" in found.reason
    made.close()


def test_names_of_containers_are_one_attempts_alone() -> None:
    one = AttemptId(job_id="job", fence=1)
    names = {
        container_name(one, Path("/a/attempts/job~1")),
        container_name(one, Path("/b/attempts/job~1")),
        container_name(AttemptId(job_id="job", fence=2), Path("/a/attempts/job~2")),
    }
    assert len(names) == 3
    assert container_name(one, Path("/a/x")) == container_name(one, Path("/a/x"))
