"""``cyxwiz get``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import click

from worker.cli import completing
from worker.cli.exits import InTheWay, WrongState, guarded
from worker.cli.hub import hub_options, json_option, reached
from worker.cli.proof import prove, trust_option
from worker.cli.text import note, safe, say, say_json

if TYPE_CHECKING:
    from tasks.outputs import Artifact


@click.command()
@click.argument("job_id", metavar="ID", shell_complete=completing.jobs)
@click.argument(
    "directory", metavar="[DIR]", required=False, type=click.Path(path_type=Path, file_okay=False)
)
@click.option("--force", is_flag=True, help="Replace files that are there with other content.")
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="NAME=VALUE",
    help="Tell fsspec, if the files are kept at a URL: endpoint_url=https://minio.lan:9000",
)
@trust_option
@hub_options
@json_option
@guarded
def get(
    job_id: str,
    directory: Path | None,
    force: bool,
    options: tuple[str, ...],
    trust_path: Path | None,
    redis_url: str | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Bring back the files that a job left.

    To DIR, by default a directory with the job's id as its name. Each file is compared with the
    size and SHA-256 that its node noted. One that is there already is not fetched again. With
    --trust these must be signed by a trusted node. What the node did not keep (links, files beyond
    the cap…) is said on stderr, and in JSON as refused.

    Ends with 10 if the job has not succeeded, or left no files; with 6, before anything is
    fetched, if a file is there with other content; with 11 if a file cannot be fetched.
    """
    from tasks.outputs import of_record
    from worker.cli.job import left_out, read_record

    told = _options(options)
    target = Path(job_id) if directory is None else directory
    record = read_record(job_id, reached(redis_url, config_path))
    if trust_path is not None:
        prove(record, trust_path)
    listed = of_record(record)
    refused = left_out(record)
    if refused:
        note(f"not kept by the job's node: {safe(', '.join(refused))}")
    if not listed:
        kept = "no file in CYXWIZ_OUTPUT that is kept" if refused else "no files in CYXWIZ_OUTPUT"
        raise WrongState(f"job {job_id} succeeded and left {kept}")
    there = {one.name for one in listed if _is_there(one, target)}
    if not force:
        _refuse_to_replace((one for one in listed if one.name not in there), target)
    for one in listed:
        if one.name not in there:
            _fetch(one, target, told)
        if not as_json:
            how = "was there already" if one.name in there else f"{one.size} bytes"
            say(f"{safe(str(target / one.name))} ({how})")
    if as_json:
        files = [
            {
                "name": one.name,
                "size": one.size,
                "sha256": one.sha256,
                "fetched": one.name not in there,
            }
            for one in listed
        ]
        where = {"job_id": job_id, "directory": str(target.absolute())}
        say_json({**where, "files": files, "refused": refused})


def _options(given: Iterable[str]) -> dict[str, Any]:
    """``NAME=VALUE``, with values read as JSON or YAML. Raises click.UsageError."""
    from worker.cli.jobfile import scalar

    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--option {text!r}: NAME=VALUE is needed, such as anon=true")
        found[name] = scalar(value)
    return found


def _is_there(one: Artifact, directory: Path) -> bool:
    """Whether the file beneath ``directory`` is this artefact. A link never is."""
    path = _beneath(one.name, directory)
    try:
        if path is None or path.is_symlink() or path.stat().st_size != one.size:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == one.sha256
    except OSError:
        return False


def _refuse_to_replace(wanted: Iterable[Artifact], directory: Path) -> None:
    """Raises InTheWay, naming the files of ``wanted`` whose names are taken."""
    taken = [
        one.name
        for one in wanted
        if (path := _beneath(one.name, directory)) is not None and os.path.lexists(path)
    ]
    if taken:
        more = f" and {len(taken) - 3} more" if len(taken) > 3 else ""
        raise InTheWay(
            f"{safe(str(directory))}: something else is there as {safe(', '.join(taken[:3]))}{more}"
            "; name another directory, or say --force to replace files"
        )


def _beneath(name: str, directory: Path) -> Path | None:
    """Where ``name`` is beneath ``directory``.

    None: elsewhere, or by way of a link; `Artifact.fetch` says so.
    """
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or parts[0] == "/":
        return None
    path = directory
    for part in parts[:-1]:
        path = path / part
        if path.is_symlink():
            return None
    return path / parts[-1]


def _fetch(one: Artifact, directory: Path, options: Mapping[str, Any]) -> None:
    """Raises ArtifactUnavailable, which names what cannot be read or written."""
    from tasks.outputs import ArtifactUnavailable

    try:
        one.fetch(directory, options=options)
    except OSError as error:  # of the directory: the store's are told by `fetch`
        raise ArtifactUnavailable(f"{one.name}: {error}") from error
