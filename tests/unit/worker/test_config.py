"""server-node.yaml: the seed's file as it stands, every key of it, and what a host gives."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.errors import ConfigError, PlatformError
from worker.config import (
    ExecutionMode,
    GpuAllocation,
    LimitsSection,
    NodeConfig,
    PullPolicy,
    default_node_name,
    default_state_dir,
    ensure_supported_platform,
    load,
)

pytestmark = pytest.mark.unit

SAMPLE = Path(__file__).parents[3] / "compose" / "server-node.yaml"


def test_the_sample_is_the_defaults(tmp_path: Path) -> None:
    config = load(SAMPLE)
    assert config == load(default=tmp_path / "none.yaml")
    assert config.execution.mode is ExecutionMode.AUTO
    assert not config.execution.allow_untrusted_native
    docker = config.docker
    assert docker.enabled
    assert docker.socket == Path("/var/run/docker.sock")
    assert docker.registry == "docker.io/cyxwiz"
    assert docker.pull_policy is PullPolicy.IF_NOT_PRESENT
    assert docker.preload_images == (
        "cyxwiz/executor:cuda12-latest",
        "cyxwiz/executor:cpu-latest",
    )
    assert docker.default_limits == LimitsSection(
        memory_mb=16384, cpu_cores=4, shm_size_mb=2048, pids=1024
    )
    assert docker.max_limits == LimitsSection()
    assert docker.security.model_dump() == {
        "read_only_root": True,
        "no_network": True,
        "drop_capabilities": True,
        "tmp_noexec": True,
        "tmp_mb": 1024,
    }
    assert docker.auth_file is None
    assert docker.cleanup.model_dump() == {"remove_containers": True, "keep_logs_hours": 24}
    assert config.gpu.allocation is GpuAllocation.EXCLUSIVE
    assert config.gpu.memory_limit_mb == 0


KEY = re.compile(r"(?P<mark># )?(?P<indent> *)(?P<key>[a-z_]+):(?: |$)")
ITEM = re.compile(r"# +- ")
EXAMPLES = {
    *("docker.runtime", "docker.network", "docker.auth_file", "gpu.devices", "podman.socket"),
    *("podman.runtime", "podman.accept_unenforced", "redis.url", "node.name", "node.labels"),
    *("storage.artifacts", "storage.checkpoints", "storage.cache"),
    "native.interpreter",
}
"""Keys of the sample that show another value than the default."""


def sample(uncommented: Iterable[int]) -> str:
    """The sample without the mark of a comment on these lines."""
    lines = SAMPLE.read_text().splitlines()
    return "\n".join(
        line.removeprefix("# ") if number in uncommented else line
        for number, line in enumerate(lines)
    )


def commented() -> Iterator[tuple[str, str, set[int]]]:
    """The keys of the sample that are comments: section, key, and the lines to be uncommented."""
    lines = SAMPLE.read_text().splitlines()
    section, head = "", set[int]()
    for number, line in enumerate(lines):
        if (found := KEY.match(line)) is None:
            continue
        if not found["indent"]:
            section, head = found["key"], {number} if found["mark"] else set()
        elif found["mark"]:
            items = {number + 1} if ITEM.match("".join(lines[number + 1 : number + 2])) else set()
            yield section, found["key"], head | {number} | items


def test_each_key_of_the_sample_can_be_uncommented_where_it_stands(write: Any) -> None:
    found = list(commented())
    assert len(found) > 50
    for section, key, lines in found:
        text = sample(lines)
        assert key in yaml.safe_load(text)[section], f"{section}.{key}: stands elsewhere"
        assert section in load(write(text)).model_fields_set


def test_all_keys_of_the_sample_are_all_there_are(write: Any) -> None:
    text = sample({number for _, _, lines in commented() for number in lines})
    load(write(text))
    value, default = yaml.safe_load(text), NodeConfig().model_dump(mode="json")
    places = {(section, key) for section, keys in value.items() for key in keys}
    assert places == {(section, key) for section, keys in default.items() for key in keys}
    assert set(value["docker"]["security"]) == set(default["docker"]["security"])
    others = {
        f"{section}.{key}"
        for section, key in places
        if value[section][key] != default[section][key]
    }
    assert others - {"node.state_dir"} == EXAMPLES  # root's default is what the sample shows


@pytest.mark.parametrize("name", ["runsc", "runsc-kvm"])
def test_jobs_get_gvisor_with_docker_alone(write: Any, name: str) -> None:
    assert load(write(f"docker: {{runtime: {name}}}")).docker.runtime == name
    why = f"jobs get gVisor with Docker only, with docker.runtime: {name}"
    with pytest.raises(ConfigError, match=why):
        load(write(f"podman: {{runtime: {name}}}"))


def test_every_key_of_the_file_is_read(write: Any) -> None:
    """Each key is set to something that is not its default, and comes back."""
    other: dict[str, dict[str, Any]] = {
        "execution": {"mode": "native", "allow_untrusted_native": True},
        "docker": {
            "enabled": False,
            "socket": "/x.sock",
            "registry": "r.example/y",
            "pull_policy": "never",
            "runtime": "runsc",
            "network": "n",
            "auth_file": "/a.json",
            "preload_images": ["a:b"],
            "default_limits": {"memory_mb": 1, "cpu_cores": 1.5, "shm_size_mb": 2, "pids": 3},
            "max_limits": {"memory_mb": 4, "cpu_cores": 5.0, "shm_size_mb": 6, "pids": 7},
            "security": {
                "read_only_root": False,
                "no_network": False,
                "drop_capabilities": False,
                "tmp_noexec": False,
                "tmp_mb": 8,
            },
            "cleanup": {"remove_containers": False, "keep_logs_hours": 0},
        },
        "podman": {
            "enabled": False,
            "socket": "/p.sock",
            "runtime": "runc",
            "accept_unenforced": ["memory", "cpu"],
        },
        "gpu": {
            "allocation": "shared",
            "memory_limit_mb": 9,
            "min_available_memory_mb": 10,
            "max_jobs_per_device": 4,
            "devices": [
                {
                    "uuid": "GPU-4f",
                    "kind": "rocm",
                    "name": "MI210",
                    "memory_mb": 65536,
                    "nodes": ["/dev/dri/renderD128"],
                }
            ],
        },
        "redis": {"url": "rediss://h:1/2", "prefix": "p:"},
        "node": {"name": "n-1", "pool": "lab", "labels": {"a": "b"}, "state_dir": "/s"},
        "slots": {"cpu": 0, "gpu": [["GPU-a", "GPU-b"], [2]]},
        "storage": {
            "roots": ["/d"],
            "schemes": ["s3"],
            "hosts": ["*.example.org"],
            "options": {"s3": {"endpoint_url": "https://e.example.org"}},
            "artifacts": "s3://b/c",
            "keep_artifacts_days": 9,
            "checkpoints": "/k",
            "checkpoints_every": 7.0,
            "cache": "/c",
            "cache_mb": 1,
            "keep_free_mb": 4,
            "code_mb": 5,
            "code_files": 6,
            "output_mb": 2,
        },
        "trust": {
            "keys": ["/k.pub"],
            "require_patched": True,
            "allow_exec": True,
            "sign_results": False,
            "sign_events": False,
            "enrolment": "/n.cert",
            "secrets": "/s.yaml",
            "secrets_dir": "/run/s",
        },
        "images": {"allow": ["x/*"], "keep_days": 7, "keep_free_mb": 8},
        "timeouts": {
            "stop_grace": 1.0,
            "lease_ttl": 2.0,
            "lease_grace": 3.0,
            "away": 6.0,
            "job": 4.0,
            "transfer": 5.0,
        },
        "metrics": {"enabled": False, "address": "0.0.0.0", "port": 1},
        "native": {"interpreter": "/py", "env_allow": ["A"], "nofile": 100},
    }
    config = load(write(yaml.safe_dump(other)))
    assert config.model_dump(mode="json") == other
    assert set(other) == set(NodeConfig.model_fields)
    for name, section in other.items():
        assert set(section) == set(getattr(config, name).model_fields_set)
        assert section.keys() == type(getattr(config, name)).model_fields.keys()


def test_one_limit_leaves_the_others(write: Any) -> None:
    limits = load(write("docker: {default_limits: {memory_mb: 100}}")).docker.default_limits
    assert limits == LimitsSection(memory_mb=100, cpu_cores=4, shm_size_mb=2048, pids=1024)


def test_an_empty_file_and_empty_sections_are_defaults(write: Any) -> None:
    assert load(write("")) == load(write("docker:\nslots:\n")) == load(SAMPLE)


def test_it_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(SAMPLE).docker.enabled = False  # type: ignore[misc]  # that is what is tested


def test_a_node_on_windows_is_refused_and_told_of_wsl2() -> None:
    with pytest.raises(PlatformError, match="WSL2"):
        ensure_supported_platform("win32")
    ensure_supported_platform("linux")
    ensure_supported_platform("darwin")


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("gpu-box", "gpu-box"),
        ("GPU_Box.lab.example", "gpu-box-lab-example"),
        ("-x-", "x"),
        ("日本", "node"),
        ("a" * 62 + ".b", "a" * 62),
    ],
)
def test_the_hosts_name_becomes_a_nodes_name(host: str, name: str) -> None:
    assert default_node_name(host) == name


def test_the_state_directory(write: Any) -> None:
    assert default_state_dir({}, root=True) == Path("/var/lib/cyxwiz")
    assert default_state_dir({"XDG_STATE_HOME": "/s"}, root=False) == Path("/s/cyxwiz")
    home = {"HOME": "/h", "XDG_STATE_HOME": "relative"}
    assert default_state_dir(home, root=False) == Path("/h/.local/state/cyxwiz")
    env = {"XDG_STATE_HOME": "/s"}
    assert load(write(""), env).node.state_dir == default_state_dir(env)


def test_cpu_slots() -> None:
    slots = load(SAMPLE).slots
    assert [slots.cpu_slots(cores) for cores in (1, 2, 3, 16)] == [1, 1, 1, 8]
    fixed = NodeConfig.model_validate({"slots": {"cpu": 5}})
    assert fixed.slots.cpu_slots(2) == 5
