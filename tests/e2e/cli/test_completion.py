"""Shell completion, in a real bash on a terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tasks.keys import Keys
from tests.support.cli import Cli
from tests.support.cli_jobs import python, submitted
from tests.support.fleet import node
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.e2e

PROMPT = "ready> "
DOCUMENTED = 'eval "$(_CYXWIZ_COMPLETE=bash_source cyxwiz)"'


class Bash:
    """One that a person would type into."""

    def __init__(self, cli: Cli) -> None:
        bash = shutil.which("bash")
        if bash is None:
            pytest.skip("there is no bash")
        command = Path(sys.executable).with_name("cyxwiz")
        assert command.exists(), "the environment has no cyxwiz: make env"
        env = cli.environment()
        env |= {"PATH": f"{command.parent}:{env['PATH']}", "TERM": "dumb", "PS1": PROMPT}
        self._fd, theirs = pty.openpty()
        self._process = subprocess.Popen(
            [bash, "--noprofile", "--norc", "-i"],
            stdin=theirs, stdout=theirs, stderr=theirs, env=env, cwd=cli.cwd,
            start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self.until(PROMPT)

    def until(self, text: str, timeout: float = 30) -> str:
        """What is shown until it has ``text`` in it."""
        said, end = "", time.monotonic() + timeout
        while text not in said:
            left = end - time.monotonic()
            assert left > 0, f"waited for {text!r}; shown: {said!r}"
            if select.select([self._fd], [], [], left)[0]:
                said += os.read(self._fd, 65536).decode(errors="replace")
        return said

    def do(self, line: str) -> None:
        os.write(self._fd, f"{line}\n".encode())
        self.until(f"\n{PROMPT}")

    def tab(self, line: str, times: int = 1) -> str:
        """The line as it stands after Tab; it is not run."""
        typed = line + "\t" * times + "@@"  # what is typed next stands behind it
        os.write(self._fd, typed.encode())
        shown = self.until("@@")
        os.write(self._fd, b"\x15\n")  # nothing of it is left
        self.until(f"\n{PROMPT}")
        return re.sub(r"[\r\x07]", "", shown).partition("@@")[0]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._fd)


@pytest.fixture
def bash(cli: Cli) -> Iterator[Bash]:
    made = Bash(cli)
    yield made
    made.close()


def test_bash_completes_commands_options_jobs_and_nodes(
    bash: Bash, cli: Cli, hub: RedisServer
) -> None:
    client: redis.Redis = hub.client()
    node(client, Keys(), "somewhere-else")
    client.close()
    job_id = submitted(cli, python("pass", job_id="unmistakable-7", pool="none"))
    bash.do(DOCUMENTED)
    assert bash.tab("cyxwiz unc") == "cyxwiz uncordon "
    assert bash.tab("cyxwiz explain --js") == "cyxwiz explain --json "
    assert bash.tab("cyxwiz explain unmis") == f"cyxwiz explain {job_id} "
    assert bash.tab(f"cyxwiz follow {job_id} unmis").endswith(f" {job_id} ")
    assert bash.tab("cyxwiz drain some") == "cyxwiz drain somewhere-else "
    assert bash.tab("cyxwiz submit --node some") == "cyxwiz submit --node somewhere-else "
    assert bash.tab("cyxwiz drain nobody-") == "cyxwiz drain nobody-"
    both = bash.tab("cyxwiz cordon ", times=2)
    assert {"node-a", "somewhere-else"} <= set(both.split())
    assert cli("cancel", job_id).code == 0


def test_a_redis_that_is_away_completes_nothing_and_says_nothing(bash: Bash) -> None:
    bash.do(DOCUMENTED)
    bash.do("export CYXWIZ_REDIS_URL=redis://127.0.0.1:1/0")
    assert bash.tab("cyxwiz drain node") == "cyxwiz drain node"
    assert bash.tab("cyxwiz explain unmis") == "cyxwiz explain unmis"
    bash.do("export CYXWIZ_REDIS_URL=nonsense")
    assert bash.tab("cyxwiz explain unmis") == "cyxwiz explain unmis"
