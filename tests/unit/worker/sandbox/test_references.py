"""Image references and the allow-list."""

from __future__ import annotations

import pytest

from worker.sandbox.references import BadReference, allowed, parse, placed

pytestmark = pytest.mark.unit

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "shown", "whole"),
    [
        ("python", "python:latest", "docker.io/library/python:latest"),
        ("python:3.11", "python:3.11", "docker.io/library/python:3.11"),
        ("cyxwiz/x:1", "cyxwiz/x:1", "docker.io/cyxwiz/x:1"),
        ("docker.io/cyxwiz/x:1", "cyxwiz/x:1", "docker.io/cyxwiz/x:1"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        ("r.example:5000/a/b:c", "r.example:5000/a/b:c", "r.example:5000/a/b:c"),
        (f"a/b@{DIGEST}", f"a/b@{DIGEST}", f"docker.io/a/b@{DIGEST}"),
        (f"a/b:1@{DIGEST}", f"a/b:1@{DIGEST}", f"docker.io/a/b:1@{DIGEST}"),
    ],
)
def test_what_a_reference_means(text: str, shown: str, whole: str) -> None:
    assert (str(parse(text)), parse(text).whole) == (shown, whole)
    assert parse(parse(text).whole) == parse(text)


@pytest.mark.parametrize(
    "text",
    ["", " ", "A/b", "a//b", "a/../b", "../b", "a:b:c", "a@sha256:12", "a b", "a\n", "-a", "a/b:",
     "http://a/b", "x" * 600, "a;rm", "$(x)"],
)  # fmt: skip
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(BadReference, match=r"image reference|neither a host"):
        parse(text)


@pytest.mark.parametrize(
    ("registry", "text", "where"),
    [
        ("docker.io/cyxwiz", "cyxwiz/executor:cpu-latest", "docker.io/cyxwiz/executor:cpu-latest"),
        ("r.example:5000/team", "cyxwiz/executor:1", "r.example:5000/team/executor:1"),
        ("r.example:5000/team/", "cyxwiz/executor:1", "r.example:5000/team/executor:1"),
        ("r.example/team", "python:3.11", "docker.io/library/python:3.11"),
        ("r.example/team", "docker.io/cyxwiz/executor:1", "docker.io/cyxwiz/executor:1"),
    ],
)
def test_the_projects_images_are_where_the_registry_is(
    registry: str, text: str, where: str
) -> None:
    assert placed(text, registry).whole == where


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("cyxwiz/*", "cyxwiz/executor:cpu-1", True),
        ("cyxwiz/*", f"cyxwiz/executor@{DIGEST}", True),
        ("cyxwiz/*", f"cyxwiz/executor:cpu-1@{DIGEST}", True),
        # by name only, not by what the name means elsewhere
        ("cyxwiz/*", "docker.io/cyxwiz/executor", False),
        ("cyxwiz/*", "evil.example/cyxwiz/executor", False),
        ("cyxwiz/*", "cyxwizard/executor", False),
        ("cyxwiz/*", "python", False),
        ("docker.io/cyxwiz/*", "docker.io/cyxwiz/x", True),
        ("docker.io/cyxwiz/*", "cyxwiz/x", False),
        ("python", "python:3.11", True),
        ("python", "library/python:3.11", True),
        ("python", "evil.example/python", False),
        ("python:3.*", "python:3.11", True),
        ("python:3.*", "python:2.7", False),
        ("python:3.*", f"python@{DIGEST}", False),
        ("pytorch/*", "pytorch/pytorch:2", True),
        ("r.example:5000/*", "r.example:5000/a/b:1", True),
        ("r.example:5000/*", "r.example:5001/a/b:1", False),
        (f"cyxwiz/executor@{DIGEST}", f"cyxwiz/executor:x@{DIGEST}", True),
        (f"cyxwiz/executor@{DIGEST}", "cyxwiz/executor:x", False),
        (DIGEST, f"any.example/x@{DIGEST}", True),
        (DIGEST, "any.example/x", False),
        ("*", "any.example/x", True),
        ("*", "cyxwiz/x", True),
    ],
)
def test_the_allow_list(pattern: str, text: str, fits: bool) -> None:
    assert allowed(text, [pattern]) is fits
    assert allowed(text, []) is False
