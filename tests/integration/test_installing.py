"""What docs/deploy.md has an administrator do, done as it stands, on a copy of this host's system.

The copy is an overlay that ends with the test; nothing of this host is changed. No systemd runs
there, so `systemctl` is told to work on the files alone.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.test_deploying import block
from worker.config import load

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
TOOLS = {
    "unshare": "util-linux",
    "useradd": "passwd",
    "runuser": "util-linux",
    "systemctl": "systemd",
    "systemd-analyze": "systemd",
    "podman": "podman",
}
COPY = """
set -e
mount -t tmpfs none /mnt
mkdir /mnt/upper /mnt/work /mnt/copy
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/copy
mount --rbind /proc /mnt/copy/proc
mount --rbind /dev /mnt/copy/dev
rm -rf /mnt/copy/var/lib/cyxwiz /mnt/copy/etc/cyxwiz  # of the copy: it is a new machine
mkdir -p /mnt/copy/here /mnt/copy/opt/cyxwiz/bin /mnt/copy/run/user /mnt/copy/usr/local/bin
cp -r "$1/compose" /mnt/copy/here/
cp "$2" /mnt/copy/here/steps
printf '#!/bin/sh\\necho "cyxwiz $* as $(id -un)"\\n' > /mnt/copy/opt/cyxwiz/bin/cyxwiz
cat > /mnt/copy/usr/local/bin/sudo <<'END'
#!/bin/sh
[ "$1" = -u ] || exit 9
user=$2; shift 2
exec runuser -u "$user" -- env "$@"
END
chmod 755 /mnt/copy/opt/cyxwiz/bin/cyxwiz /mnt/copy/usr/local/bin/sudo
cd /
export SYSTEMD_OFFLINE=1 HOME=/root PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec chroot /mnt/copy sh -ec 'cd /here; . ./steps'
"""


def steps(having: str, *left_out: str) -> str:
    """A block of the page, without the lines that begin so; what it enables is not started."""
    lines = block("deploy.md", "sh", having).splitlines()
    for one in left_out:
        assert any(line.startswith(one) for line in lines), one
    text = "\n".join(line for line in lines if not line.startswith(left_out))
    assert "enable --now" in text
    return text.replace("enable --now", "enable")


def test_the_lines_that_make_a_node_a_service(tmp_path: Path) -> None:
    lacking = sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})
    if lacking or os.geteuid() != 0:
        why = f"needs root and the packages {', '.join(lacking) or 'it has'}"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why)
    # the environment takes a minute to make; a stand-in says how it is called
    service = steps("useradd", "python3 -m venv")
    # it speaks to a systemd that runs
    podman = steps("usermod", "loginctl enable-linger")
    looks = r"""
    echo "home: $(stat -c '%U %F' /var/lib/cyxwiz)"
    echo "unit: $(readlink /etc/systemd/system/multi-user.target.wants/cyxwiz-node.service)"
    echo "configuration: $(stat -c '%U %G %a' /etc/cyxwiz/server-node.yaml)"
    echo "file: $(runuser -u cyxwiz -- base64 --wrap 0 /etc/cyxwiz/server-node.yaml)"
    systemd-analyze verify /etc/systemd/system/cyxwiz-node.service && echo "verified"
    echo "subuids: $(grep ^cyxwiz: /etc/subuid)"
    echo "subgids: $(grep ^cyxwiz: /etc/subgid)"
    wants=/var/lib/cyxwiz/.config/systemd/user/sockets.target.wants
    echo "socket: $(readlink $wants/podman.socket)"
    loginctl --help | grep -q 'enable-linger' && echo "linger is known"
    """
    file = tmp_path / "steps"
    file.write_text(f"{service}\n{podman}\n{looks}")
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "bash", "-c", COPY, "-", ROOT, file],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    (file_read,) = [line.removeprefix("file: ") for line in said if line.startswith("file: ")]
    said.remove(f"file: {file_read}")
    assert said == [
        "cyxwiz doctor as cyxwiz",
        "home: cyxwiz directory",
        "unit: /etc/systemd/system/cyxwiz-node.service",
        "configuration: root cyxwiz 640",
        "verified",
        "subuids: cyxwiz:100000:65536",
        "subgids: cyxwiz:100000:65536",
        "socket: /usr/lib/systemd/user/podman.socket",
        "linger is known",
    ], done.stdout + done.stderr
    read = tmp_path / "server-node.yaml"
    read.write_bytes(base64.b64decode(file_read))
    config = load(read, {"HOME": "/var/lib/cyxwiz"})  # as the service and who is called cyxwiz
    assert config.node.state_dir == Path("/var/lib/cyxwiz")
    assert str(config.redis.url).startswith("rediss://node-a:")
