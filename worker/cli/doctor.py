"""``cyxwiz doctor``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from worker.cli.exits import ExitCode, guarded
from worker.cli.hub import hub_options, json_option
from worker.cli.text import note, on_terminal, safe, say, say_json

if TYPE_CHECKING:
    from worker.cli.checks.base import Check
    from worker.sandbox.engine_report import ExecutionCapabilities

_MARKS = {"ok": ("ok", "green"), "missing": ("--", "yellow"), "blocks": ("NO", "red")}


@click.command()
@hub_options
@json_option
@click.option(
    "--probe", is_flag=True, help="Probe the container engines anew, whatever is known of them."
)
@guarded
def doctor(redis_url: str | None, config_path: Path | None, as_json: bool, probe: bool) -> None:
    """Say what this host can do as a node.

    For each thing that it cannot: why, and what to do. Looks and tries, and leaves nothing
    behind, but in an existing state directory what a probe of an engine has shown. Ends with 1 if
    no job can run here.
    """
    found: list[Check] = []
    known: list[ExecutionCapabilities] = []
    for check in _checks(redis_url, config_path, probe, known):
        found.append(check)
        if not as_json:
            _show(check)  # as it is found: some take seconds
    blocked = [check for check in found if check.verdict == "blocks"]
    if as_json:
        said = {"ok": not blocked, "checks": [asdict(check) for check in found]}
        say_json({**said, "capabilities": _capabilities(known)})
    elif blocked:
        note("\nno job can run here: " + ", ".join(check.name for check in blocked))
    else:
        say("\njobs can run here")
    sys.exit(ExitCode.FAILED if blocked else ExitCode.OK)


def _checks(
    redis_url: str | None,
    config_path: Path | None,
    probe: bool,
    known: list[ExecutionCapabilities],
) -> Iterator[Check]:
    """``known``: takes what the engines are good for."""
    from worker.cli.checks import host
    from worker.cli.checks.base import Situation, Verdict

    on_platform = host.check_platform()
    yield on_platform
    yield host.check_python()
    if on_platform.verdict is Verdict.BLOCKS:
        return  # the others would only say the same in other words
    from worker.cli.checks import engines, frameworks, gpus, hub, jobs, native, trust

    config, read = host.read_config(config_path, os.environ)
    situation = Situation(
        config=config,
        config_path=config_path,
        redis_url=redis_url,
        env=os.environ,
        probe=probe,
        known=known,
    )
    yield read
    yield host.check_size(config)
    yield host.check_state_dir(situation)
    yield hub.check_redis(situation)
    yield hub.check_server()
    yield native.check_native(situation)
    yield frameworks.check_runner(situation)
    yield engines.check_docker(situation)
    yield engines.check_podman(situation)
    yield gpus.check_nvidia(situation)
    written = gpus.check_written(situation)
    if written is not None:
        yield written
    yield trust.check_trust(situation)
    yield jobs.check_jobs(situation)


def _capabilities(known: list[ExecutionCapabilities]) -> dict[str, Any]:
    from worker.sandbox.engine_report import to_json

    if not known:
        return {}
    one = known[0]
    return {
        "docker_available": one.docker_available,
        "podman_available": one.podman_available,
        "nvidia_toolkit": one.nvidia_toolkit,
        "max_sandbox_level": one.max_sandbox_level.name.lower(),
        "available_images": list(one.available_images),
        "engines": [to_json(report) for report in one.engines],
    }


def _show(check: Check) -> None:
    mark, colour = _MARKS[check.verdict]
    head = click.style(f"[{mark}]", fg=colour) if on_terminal() else f"[{mark}]"
    say(f"{head} {check.name}: {safe(check.found)}")
    for label, text in (("why", check.why), ("do", check.todo)):
        for line in text.splitlines():
            say(f"       {label}: {safe(line)}")
    width = max((len(item["name"]) for item in check.items), default=0)
    for item in check.items:
        say(f"       {item['name']:<{width}}  {item['keeping']}: {safe(item['seen'])}")
        for label in ("why", "todo"):
            if item[label]:
                say(f"       {'':<{width}}  {'do' if label == 'todo' else label}: {item[label]}")
