"""What an error of a script says: of the record, or of the server."""

from __future__ import annotations

import pytest
import redis

from tasks.errors import BrokenRecord
from tasks.scripts import Scripts

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("error", "broken"),
    [
        (redis.ResponseError("WRONGTYPE Operation … script: a, on @user_script:52."), True),
        (redis.ResponseError("attempt to compare nil script: a, on @user_script:9."), True),
        (redis.ResponseError("MISCONF Redis is configured … on @user_script:52."), False),
        (redis.exceptions.NoPermissionError("can't access … on @user_script:52."), False),
        (redis.exceptions.OutOfMemoryError("command not allowed … on @user_script:5."), False),
        (redis.exceptions.ReadOnlyError("You can't write … on @user_script:5."), False),
        (redis.ResponseError("unknown command"), False),
    ],
)
def test_what_a_server_cannot_do_is_no_fault_of_a_record(
    error: redis.ResponseError, broken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = Scripts(redis.Redis(), "cyxwiz:")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(scripts, "_send", fail)
    with pytest.raises(BrokenRecord if broken else type(error)):
        scripts.call("reap")
