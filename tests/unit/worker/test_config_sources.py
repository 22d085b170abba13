"""Where a node's configuration comes from: a file, variables over it, and errors that say where."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import ConfigError
from worker.config import ExecutionMode, NodeConfig, PullPolicy, load
from worker.yaml_lines import YamlFault, parse

pytestmark = pytest.mark.unit


def refusal(path: Path | None, env: dict[str, str] | None = None) -> str:
    """The message, with the file called FILE."""
    with pytest.raises(ConfigError) as caught:
        load(path, env)
    return str(caught.value).replace(str(path), "FILE")


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
    assert load(write(""), env).redis == NodeConfig().redis


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


@given(st.text(max_size=200))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with contextlib.suppress(YamlFault):  # any other error fails the test
        parse(text)
