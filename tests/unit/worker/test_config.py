"""server-node.yaml: the seed's file as it stands, overrides, and errors that say where."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

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
from worker.yaml_lines import YamlFault, parse

pytestmark = pytest.mark.unit

SAMPLE = Path(__file__).parents[3] / "compose" / "server-node.yaml"


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_text(text: str | bytes) -> Path:
        path = tmp_path / "server-node.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write_text


def refusal(path: Path | None, env: dict[str, str] | None = None) -> str:
    """The message, with the file called FILE."""
    with pytest.raises(ConfigError) as caught:
        load(path, env)
    return str(caught.value).replace(str(path), "FILE")


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
    why = refusal(write(f"podman: {{runtime: {name}}}"))
    assert f"jobs get gVisor with Docker only, with docker.runtime: {name}" in why


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


def test_a_missing_file_is_an_error_only_if_it_was_asked_for(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.yaml")
    assert load(default=tmp_path / "none.yaml").docker.enabled


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "docker:\n  enabled: true\n  pul_policy: never\n",
            (
                "FILE:3: docker.pul_policy: unknown key; did you mean pull_policy? allowed: "
                "auth_file, cleanup, "
            ),
        ),
        (
            "storage: {job_mb: 3}",
            "FILE:1: storage.job_mb: is no key any more; it decided",
        ),
        (
            "gpu:\n  strategy: affinity\n",
            (
                "FILE:2: gpu.strategy: is no key any more; it decided nothing, since each slot has "
                "devices of its own: leave it out; slots.gpu says which devices a slot has"
            ),
        ),
        ("gpu: {}\n\ndokcer: {}", "FILE:3: dokcer: unknown key; did you mean docker? allowed: d"),
        ("docker:\n  enabled: true\n  enabled: false", "FILE:3: the key enabled stands twice"),
        ("docker: [1]", "FILE:1: docker: "),
        ("native", "FILE:1: sections are needed"),
        ("execution: {mode: nativ}", "FILE:1: execution.mode: must be 'auto', 'native', "),
        (
            "execution:\n  allow_untrusted_native: 'yes'",
            "FILE:2: execution.allow_untrusted_native: must be a valid boolean (got 'yes'); right:",
        ),
        (
            "docker:\n  default_limits:\n    memory_mb: '4'",
            "FILE:3: docker.default_limits.memory_mb: must be a valid integer (got '4'); right: M",
        ),
        ("docker: {default_limits: {cpu_cores: .inf}}", "must be a finite number"),
        ("docker: {default_limits: {pids: -1}}", "default_limits.pids: must be greater than"),
        (
            "docker: {default_limits: {pids: 9}, max_limits: {pids: 5}}",
            "FILE:1: docker: default_limits.pids is 9, above max_limits.pids, 5",
        ),
        ("docker: {socket: docker.sock}", "docker.socket: is no absolute path (got 'docker.sock')"),
        ("slots: {cpu: many}", "slots.cpu: "),
        ("slots: {cpu: -1}", "slots.cpu: "),
        ("slots: {cpu: true}", "slots.cpu: "),
        ("slots: {gpu: [[a], [a]]}", "slots.gpu: a set is empty, or a GPU stands in it twice"),
        ("slots: {gpu: [[]]}", "slots.gpu: a set is empty"),
        ("storage:\n  roots:\n  - /a\n  - b", "FILE:4: storage.roots.1: is no absolute path"),
        ("node: {name: Node_A}", "node.name: is not of the right form (got 'Node_A'); right: 1"),
        ("node: {pool: a.b}", "node.pool: is not of the right form"),
        ("timeouts: {stop_grace: .nan}", "timeouts.stop_grace: "),
        ("timeouts: {lease_ttl: 0}", "timeouts.lease_ttl: "),
        ("native: {env_allow: [A-B]}", "native.env_allow.0: is not of the right form"),
        ("redis: {prefix: ''}", "redis.prefix: is not of the right form"),
        ("1: 2", "FILE:1: 1: unknown key"),
        ("? [a]\n: b", "FILE:1: a key that is no text"),
        ("a: [\n", "FILE:2: not YAML"),
        ("gpu: {}\n---\ngpu: {}", "FILE:2: not YAML: but found another document"),
        ("gpu: !!python/name:os.system x", "FILE:1: not YAML: could not determine a constructor"),
        ("gpu: \x00", "FILE:1: not YAML"),
        ("docker: {a: &x [*x]}", "FILE:1: nested deeper than 32 levels"),
        ("[" * 10_000, "FILE:1: nested deeper than 32 levels"),
        (b"\xff", "FILE: is not UTF-8 text"),
        ("#" * 2**20 + "\n", "FILE:1: longer than 1048576 bytes"),
    ],
)
def test_a_wrong_file_is_refused_with_line_and_what_is_right(
    write: Any, text: str | bytes, says: str
) -> None:
    assert says in refusal(write(text))


def test_all_that_is_wrong_is_said_at_once(write: Any) -> None:
    message = refusal(write("gpu: {x: 1}\nslots: {cpu: -1}\nnode:\n  pool: A\n"))
    assert {line.split(": ")[0] for line in message.splitlines()} == {"FILE:1", "FILE:2", "FILE:4"}


def test_an_anchor_bomb_is_refused() -> None:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    for n in range(1, 9):
        lines.append(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]")
    with pytest.raises(YamlFault, match="more than 20000 values"):
        parse("\n".join(lines))


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "place", "value"),
    [
        ("EXECUTION__MODE", "native", "execution.mode", ExecutionMode.NATIVE),
        ("EXECUTION__ALLOW_UNTRUSTED_NATIVE", "true", "execution.allow_untrusted_native", True),
        ("DOCKER__DEFAULT_LIMITS__MEMORY_MB", "8192", "docker.default_limits.memory_mb", 8192),
        ("REDIS__PREFIX", "lab:", "redis.prefix", "lab:"),
        ("NODE__NAME", "12", "node.name", "12"),
        ("NODE__STATE_DIR", "/x", "node.state_dir", Path("/x")),
        ("NODE__LABELS", '{"a": "b"}', "node.labels", {"a": "b"}),
        ("SLOTS__CPU", "3", "slots.cpu", 3),
        ("SLOTS__CPU", "auto", "slots.cpu", "auto"),
        ("STORAGE__ROOTS", "[/a, /b]", "storage.roots", (Path("/a"), Path("/b"))),
        ("TIMEOUTS__STOP_GRACE", "2", "timeouts.stop_grace", 2.0),
    ],
)
def test_a_variable_overrides_the_file(
    write: Any, name: str, text: str, place: str, value: object
) -> None:
    path = write("execution: {mode: docker}\nslots: {cpu: 7}\ndocker: {pull_policy: never}\n")
    config = load(path, {f"CYXWIZ_{name}": text})
    found: Any = config
    for part in place.split("."):
        found = getattr(found, part)
    assert found == value
    assert config.docker.pull_policy is PullPolicy.NEVER


def test_a_wrong_variable_is_named(write: Any) -> None:
    path = write("execution:\n  mode: auto\n")
    for name, text, says in [
        ("EXECUTION__MODE", "x", "CYXWIZ_EXECUTION__MODE: execution.mode: must be"),
        ("DOCKER__PUL_POLICY", "x", "CYXWIZ_DOCKER__PUL_POLICY: docker.pul_policy: unknown key"),
        ("GPU__STRATEGY", "x", "CYXWIZ_GPU__STRATEGY: gpu.strategy: is no key any more; it dec"),
        ("FOO__BAR", "x", "CYXWIZ_FOO__BAR: foo: unknown key"),
        ("SLOTS__CPU", "[", "CYXWIZ_SLOTS__CPU: not YAML"),
        ("SLOTS__CPU", "", "CYXWIZ_SLOTS__CPU: slots.cpu: "),
        ("_X", "1", "CYXWIZ__X: "),
        ("SLOTS__", "1", "CYXWIZ_SLOTS__: "),
    ]:
        assert says in refusal(path, {f"CYXWIZ_{name}": text})


def test_other_variables_are_none_of_its_business(write: Any) -> None:
    env = {"CYXWIZ_REDIS_URL": "redis://x", "CYXWIZ_PREFIX": "y:", "PATH": "/bin", "A__B": "c"}
    assert load(write(""), env).redis == load(SAMPLE).redis


def test_the_password_of_redis_is_shown_nowhere(write: Any) -> None:
    url = "redis://user:hunter2@h:6379/0"
    config = load(write(f"redis: {{url: '{url}'}}"))
    assert config.redis.url == url
    assert "hunter2" not in repr(config) + str(config) + repr(config.redis)
    assert "user:***@h:6379" in repr(config)
    for text in ("redis: {url: 'http://u:hunter2@h'}", f"redis: '{url}'", f"redis: ['{url}']"):
        message = refusal(write(text))
        assert "redis" in message
        assert "hunter2" not in message
    assert "hunter2" not in refusal(write(""), {"CYXWIZ_REDIS__URI": f"[{url}"})


def test_it_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(SAMPLE).docker.enabled = False  # type: ignore[misc]  # that is what is tested


@given(st.text(max_size=200))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with contextlib.suppress(YamlFault):  # any other error fails the test
        parse(text)


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
