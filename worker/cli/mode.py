"""``cyxwiz mode``: how a node runs jobs."""

from __future__ import annotations

import os
import re
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from worker.cli.exits import guarded
from worker.cli.hub import config_option, json_option
from worker.cli.text import note, say, say_json

if TYPE_CHECKING:
    from worker.config import NodeConfig

_MODES = ("auto", "native", "docker", "podman")


@click.group()
def mode() -> None:
    """Show or set how a node runs jobs: auto, native, docker or podman."""


@mode.command("get")
@config_option
@json_option
@guarded
def get(config_path: Path | None, as_json: bool) -> None:
    """Say what is configured, and what that comes to on this host now."""
    from worker.config import load
    from worker.engines import Engines

    config = load(config_path, os.environ)
    engines = Engines(config, abandon_after=0.0)
    try:
        state = engines.state()
    finally:
        engines.close()
    used = state.name if state.usable else "native" if _may_natively(config) else "nothing"
    found = {
        "mode": str(config.execution.mode),
        "uses": used,
        "level": state.level.name.lower(),
        "why": state.reason,
    }
    if as_json:
        say_json(found)
        return
    say(f"mode {found['mode']}: jobs run {_how(used)}")
    if state.reason:
        note(state.reason)


@mode.command("set")
@click.argument("wanted", metavar="MODE", type=click.Choice(_MODES))
@config_option
@guarded
def set_(wanted: str, config_path: Path | None) -> None:
    """Write execution.mode into the configuration, and have a running node take it up.

    The file is checked before it is replaced, and the rest of it stays as it is. Jobs in progress
    are not touched.
    """
    from tasks.errors import ConfigError
    from worker.config import DEFAULT_PATH, load
    from worker.node.identity import agent_pid
    from worker.node.paths import NodePaths

    path = (config_path or DEFAULT_PATH).resolve()  # of a link, what it leads to
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    after = with_mode(before, wanted)
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".yaml", dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(after)
        config = load(partial, {})
        if config.execution.mode != wanted:
            raise ConfigError(f"{path}: execution.mode cannot be set in a file of this form")
        _as_before(path, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    if os.environ.get("CYXWIZ_EXECUTION__MODE"):
        note("CYXWIZ_EXECUTION__MODE is set, and overrides the file where a node has it too")
    config = load(path, os.environ)
    pid = agent_pid(NodePaths(state_dir=config.node.state_dir))
    if pid is None:
        say(f"mode {wanted}: written to {path}; no node runs here")
        return
    os.kill(pid, signal.SIGHUP)
    say(f"mode {wanted}: written to {path}; the node with pid {pid} reads it now")


def _as_before(path: Path, fresh: Path) -> None:
    """Whoever could read the file can read the new one: a node's user, mostly, is not root."""
    if not path.exists():
        fresh.chmod(0o644)  # nothing is in it but the mode
        return
    seen, made = path.stat(), fresh.stat()
    if (seen.st_uid, seen.st_gid) != (made.st_uid, made.st_gid):
        os.chown(fresh, seen.st_uid, seen.st_gid)
    fresh.chmod(seen.st_mode & 0o777)


def with_mode(text: str, wanted: str) -> str:
    """The configuration with this mode; all else as it is."""
    section = re.search(r"^execution:[^\n]*\n?(?:[ \t]+[^\n]*\n?)*", text, re.MULTILINE)
    if section is None:
        gap = "" if not text or text.endswith("\n") else "\n"
        return f"{text}{gap}execution: {{mode: {wanted}}}\n"
    old = section.group()
    new, count = re.subn(r"(\bmode:[ \t]*)[^\s,}#]+", rf"\g<1>{wanted}", old, count=1)
    if not count:
        flow = re.sub(r"^execution:([ \t]*)\{", rf"execution:\1{{mode: {wanted}, ", old, count=1)
        new = flow
        if flow == old:
            new = re.sub(r"^execution:[^\n]*\n", rf"\g<0>  mode: {wanted}\n", old, count=1)
        new = new.replace(f"mode: {wanted}, }}", f"mode: {wanted}}}")
    return text.replace(old, new, 1)


def _may_natively(config: NodeConfig) -> bool:
    return config.execution.allow_untrusted_native or bool(config.trust.keys)


def _how(used: str) -> str:
    match used:
        case "native":
            return "natively, where the policy allows it"
        case "nothing":
            return "nowhere: see cyxwiz doctor"
        case _:
            return f"in containers of {used}"
