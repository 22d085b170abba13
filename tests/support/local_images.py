"""Images of Redis and Prometheus made of this host's own: for an engine that pulls nothing."""

from __future__ import annotations

import shutil
import sys
import tarfile
from pathlib import Path

import docker

from tests.support.guard import REPO

sys.path.insert(0, str(REPO / "images"))
import local_base

REDIS = "cyxwiz/local-redis:latest"
PROMETHEUS = "cyxwiz/local-prometheus:latest"


def import_redis(client: docker.APIClient, directory: Path) -> str:
    """An image with the layout of the official one: /data is user 999's."""
    return _import(client, directory, REDIS, ("redis-server", "redis-cli"), "data", (999, 1000))


def import_prometheus(client: docker.APIClient, directory: Path) -> str:
    """As `import_redis`: programs in /bin, /prometheus is user 65534's."""
    programs = ("prometheus", "promtool")
    return _import(client, directory, PROMETHEUS, programs, "prometheus", (65534, 65534))


def _import(
    client: docker.APIClient,
    directory: Path,
    image: str,
    programs: tuple[str, ...],
    data: str,
    owner: tuple[int, int],
) -> str:
    path = directory / f"{data}.tar"
    with tarfile.open(path, "w") as tar:
        base = local_base.Base(tar)
        for name in ("proc", "sys", "dev", "etc", "run"):
            base.directory(name)
        base.directory("tmp", 0o1777)
        base.add("/bin/sh", binary=True)
        for tool in local_base.TOOLS:
            base.add(tool, binary=True)
        for name in programs:
            found = shutil.which(name)
            assert found, f"{name} is not on PATH"
            real = str(Path(found).resolve())
            base.add(real, binary=True)
            if real != f"/bin/{name}":
                base.link(f"bin/{name}", real)
        base.add_libraries()
        own = tarfile.TarInfo(data)
        own.type, own.mode = tarfile.DIRTYPE, 0o755
        own.uid, own.gid = owner
        tar.addfile(own)
    repository, tag = image.split(":")
    client.import_image(src=str(path), repository=repository, tag=tag)
    path.unlink()
    return image
