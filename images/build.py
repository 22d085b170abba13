"""Builds and pushes the executor images.

    python3 images/build.py build cpu cpu-torch          on a real base, pulled from a registry
    python3 images/build.py build --local-base cpu       on a base made of this host's Python
    python3 images/build.py node                         the image of compose/, nodes and Flower
    python3 images/build.py push registry.example:5000/team cpu

Each image gets two tags, its version and ``latest``: ``cyxwiz/executor:cpu-0.1.0`` and
``cyxwiz/executor:cpu-latest``; ``cyxwiz/base`` is built with them. Wheels are fetched here, with
the Python that runs this, when the base is this host's; else by the pip in the build, from the
network. Needs docker on the PATH, or what CYXWIZ_DOCKER names: another path, or podman. Goes to the
engine that DOCKER_HOST names, or CONTAINER_HOST for podman.
Standard library only.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPO = HERE.parent
REAL_BASE = "python:3.11-slim"
LOCAL_BASE = "cyxwiz/local-base:latest"
FLAVOURS = ("cpu", "cpu-torch", "cuda12", "cuda11", "rocm")
DOCKER = os.environ.get("CYXWIZ_DOCKER", "docker")


def version() -> str:
    """The project's, which is the images'."""
    content = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))
    return str(content["project"]["version"])


def tags(flavour: str) -> list[str]:
    """What the image of ``flavour`` is called."""
    return [f"cyxwiz/executor:{flavour}-{name}" for name in (version(), "latest")]


def base_tags() -> list[str]:
    return [f"cyxwiz/base:{name}" for name in (version(), "latest")]


def build(
    flavours: Sequence[str], *, base: str, local: bool, requirements: Path | None, pip_args: str
) -> list[str]:
    """Build ``cyxwiz/base`` and these flavours on ``base``; all their tags.

    ``local``: fetch wheels here and build without a network. ``requirements``: a file to install
    instead of each flavour's own.
    """
    made = []
    with tempfile.TemporaryDirectory(prefix="cyxwiz-images-") as place:
        context = Path(place)
        fill(context, flavours, requirements)
        fetch_pip(context / "wheels")
        if local:
            for flavour in flavours:
                fetch(context, flavour)
        network = ["--network=none"] if local else []
        arguments = ["--build-arg", f"BASE={base}", "--build-arg", f"VERSION={version()}", *network]
        docker_build(context, ["--target=base", *arguments], base_tags())
        made += base_tags()
        for flavour in flavours:
            chosen = ["--build-arg", f"FLAVOUR={flavour}"]
            if not local:
                chosen += ["--build-arg", f"PIP_ARGS={pip_args}"]
            docker_build(context, ["--target=executor", *arguments, *chosen], tags(flavour))
            made += tags(flavour)
    return made


def build_node(*, base: str, local: bool, pip_args: str, extras: Sequence[str]) -> list[str]:
    """Build ``cyxwiz/node`` on ``base``; its tags. ``local``: as for `build`. ``extras``: of the
    package, beside those that a node and a monitor need."""
    wanted = ",".join(("node", "monitor", *extras))
    names = [f"cyxwiz/node:{name}" for name in (version(), "latest")]
    with tempfile.TemporaryDirectory(prefix="cyxwiz-images-") as place:
        context = Path(place)
        wheels = context / "wheels"
        wheels.mkdir()
        shutil.copy(HERE / "Dockerfile.node", context)
        for name in ("healthy.py", "replica.py"):
            shutil.copy(REPO / "compose" / name, context)
        (context / "constraints.txt").write_text(constraints())
        fetch_pip(wheels)
        source = context / "source"
        for name in ("tasks", "worker"):
            shutil.copytree(
                REPO / name,
                source / name,
                ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
            )
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(REPO / name, source)
        run([*pip(), "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), str(source)])
        shutil.rmtree(source)
        wheel = next(wheels.glob("cyxwiz_worker-*.whl"))
        if local:
            command = [*pip(), "download", "--quiet", "--only-binary=:all:", "--dest", str(wheels)]
            command += ["-c", str(context / "constraints.txt")]
            run([*command, f"{wheel}[{wanted}]"])
        for path in [context, *context.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        arguments = ["--file", str(context / "Dockerfile.node"), "--build-arg", f"BASE={base}"]
        arguments += ["--build-arg", f"VERSION={version()}", "--build-arg", f"EXTRAS={wanted}"]
        arguments += ["--network=none"] if local else ["--build-arg", f"PIP_ARGS={pip_args}"]
        docker_build(context, arguments, names)
    return names


def fill(context: Path, flavours: Sequence[str], requirements: Path | None) -> None:
    """Recipe, runner, requirements: all that a build reads but the wheels."""
    shutil.copy(HERE / "Dockerfile", context)
    package = context / "runner" / "worker"
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(REPO / "worker" / "runner", package / "runner", ignore=ignored)
    shutil.copy(REPO / "worker" / "__init__.py", package)
    shutil.copytree(HERE / "requirements", context / "requirements")
    if requirements is not None:
        for flavour in flavours:
            shutil.copy(requirements, context / "requirements" / f"{flavour}.txt")
    (context / "requirements" / "constraints.txt").write_text(constraints())
    (context / "wheels").mkdir()
    for path in [context, *context.rglob("*")]:  # whatever the umask: the job's user reads them
        path.chmod(0o755 if path.is_dir() else 0o644)


def constraints() -> str:
    """The versions of the lock: a job in a container and a native one compute the same."""
    lock = (REPO / "requirements.lock").read_text(encoding="utf-8")
    pinned = re.findall(r"^([A-Za-z0-9._-]+==[^\\\n]+?) *\\?$", lock, re.MULTILINE)
    return "\n".join(sorted(set(pinned))) + "\n"


def fetch_pip(wheels: Path) -> None:
    """A pip for the build, as a wheel: it runs from there, so the base needs none."""
    run([*pip(), "download", "--quiet", "--no-deps", "--dest", str(wheels), "pip"])
    next(wheels.glob("pip-*.whl")).rename(wheels / "pip.whl")


def fetch(context: Path, flavour: str) -> None:
    """The wheels of a flavour, for the Python that runs this: the local base has the same."""
    wanted = context / "requirements"
    command = [*pip(), "download", "--quiet", "--only-binary=:all:"]
    command += ["--dest", str(context / "wheels"), "-c", str(wanted / "constraints.txt")]
    run([*command, "-r", str(wanted / f"{flavour}.txt")])
    for wheel in (context / "wheels").iterdir():
        wheel.chmod(0o644)


def pip() -> list[str]:
    """A pip of the Python behind a virtual environment, which may have none of its own."""
    python = Path(sys.base_prefix) / "bin" / "python3"
    return [str(python), "-m", "pip", "--disable-pip-version-check"]


def make_local_base() -> None:
    """Import the base that is made of this host's Python."""
    with tempfile.TemporaryDirectory(prefix="cyxwiz-base-") as place:
        tar = Path(place) / "base.tar"
        run([sys.executable, str(HERE / "local_base.py"), str(tar)])
        run([DOCKER, "import", str(tar), LOCAL_BASE], quiet=True)


def docker_build(context: Path, arguments: Sequence[str], names: Sequence[str]) -> None:
    # whole names: Docker means the same without the host, Podman would say localhost/ before them
    tagged = [part for name in names for part in ("--tag", f"docker.io/{name}")]
    run([DOCKER, "build", "--quiet", *arguments, *tagged, str(context)], quiet=True)
    print(f"built {', '.join(names)}", flush=True)


def push(registry: str, flavours: Sequence[str]) -> list[str]:
    """Push ``cyxwiz/base`` and these flavours to ``registry``, in place of ``cyxwiz/``."""
    pushed = []
    for tag in [*base_tags(), *(tag for flavour in flavours for tag in tags(flavour))]:
        there = f"{registry.rstrip('/')}/{tag.removeprefix('cyxwiz/')}"
        run([DOCKER, "tag", f"docker.io/{tag}", there], quiet=True)
        run([DOCKER, "push", "--quiet", there], quiet=True)
        print(f"pushed {there}", flush=True)
        pushed.append(there)
    return pushed


def run(command: Sequence[str], *, quiet: bool = False) -> None:
    """Run a command; what it said is shown if it fails."""
    env = {**os.environ, "DOCKER_BUILDKIT": os.environ.get("DOCKER_BUILDKIT", "0")}
    done = subprocess.run(command, env=env, capture_output=quiet, text=True, check=False)
    if done.returncode:
        said = f"\n{done.stdout}{done.stderr}" if quiet else ""
        sys.exit(f"failed ({done.returncode}): {' '.join(command)}{said}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    building = verbs.add_parser("build")
    building.add_argument("--base", default=REAL_BASE, help=f"default: {REAL_BASE}")
    building.add_argument("--local-base", action="store_true", help="a base of this host's Python")
    building.add_argument(
        "--offline", action="store_true", help="BASE has this host's Python: wheels from here"
    )
    building.add_argument("--requirements", type=Path, help="instead of the flavours' own")
    building.add_argument("--pip-args", default="", help="such as an index for a GPU's builds")
    building.add_argument("flavours", nargs="*", metavar="FLAVOUR", help=", ".join(FLAVOURS))
    node = verbs.add_parser("node")
    node.add_argument("--base", default=REAL_BASE, help=f"default: {REAL_BASE}")
    node.add_argument("--local-base", action="store_true", help="a base of this host's Python")
    node.add_argument("--offline", action="store_true", help="BASE has this host's Python")
    node.add_argument(
        "--extra", action="append", default=[], dest="extras", help="such as runner; again for more"
    )
    node.add_argument("--pip-args", default="", help="more for the pip in the build")
    pushing = verbs.add_parser("push")
    pushing.add_argument("registry", help="such as registry.example:5000/team")
    pushing.add_argument("flavours", nargs="*", metavar="FLAVOUR", help=", ".join(FLAVOURS))
    given = parser.parse_args()
    if given.verb == "node":
        if given.local_base:
            make_local_base()
        build_node(
            base=LOCAL_BASE if given.local_base else given.base,
            local=given.local_base or given.offline,
            pip_args=given.pip_args,
            extras=given.extras,
        )
        return
    flavours = given.flavours or ["cpu"]
    unknown = sorted(set(flavours) - set(FLAVOURS))
    if unknown:
        parser.error(f"no flavour {', '.join(unknown)}; there are {', '.join(FLAVOURS)}")
    if given.verb == "push":
        push(given.registry, flavours)
        return
    if given.local_base:
        make_local_base()
    build(
        flavours,
        base=LOCAL_BASE if given.local_base else given.base,
        local=given.local_base or given.offline,
        requirements=given.requirements,
        pip_args=given.pip_args,
    )


if __name__ == "__main__":
    main()
