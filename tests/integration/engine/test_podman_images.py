"""Executor images are made for a rootless Podman through its socket, as docs/deploy.md says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_deploying import block
from tests.support import engine, podman
from tests.support.guard import REPO
from tests.support.podman import Podman

pytestmark = [pytest.mark.integration, pytest.mark.podman]


@pytest.fixture
def own() -> Iterator[Podman]:
    """A Podman whose store has the base, and none of the project's images."""
    podman.require()
    with Podman() as made:
        engine.import_base(made.socket)
        yield made


def test_the_lines_of_the_page_put_images_where_the_node_looks(own: Podman, tmp_path: Path) -> None:
    script = block("deploy.md", "sh", "CYXWIZ_DOCKER")
    script, sockets = re.subn(r"unix://.+podman\.sock", f"unix://{own.socket}", script)
    # as `make images` says it, but on the tests' base, and with one small package
    (tmp_path / "wanted").write_text("packaging\n")
    build = f"{sys.executable} {REPO}/images/build.py build --base {engine.BASE} --offline"
    made = f"{build} --requirements {tmp_path}/wanted cpu"
    script, makes = re.subn(r"^make images FLAVOURS=cpu$", made, script, flags=re.MULTILINE)
    assert (sockets, makes) == (1, 1)
    # another user's settings and store
    env = {**own.env, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(
        ["sh", "-euc", script], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    client = engine.raw(own.socket)
    found = client.inspect_image("cyxwiz/executor:cpu-latest")  # as a node asks
    client.close()
    assert "docker.io/cyxwiz/executor:cpu-latest" in found["RepoTags"]
    assert found["Config"]["Labels"]["org.cyxwiz.flavour"] == "cpu"
