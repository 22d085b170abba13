"""Signed jobs: a producer's word that a job is as it stands, until when, and under which id.

A signature is Ed25519 over the job's canonical configuration (its ``job_id`` included, the field
``signature`` left out) and over what stands in the signature itself::

    cyxwiz1.KEY.ISSUED.EXPIRES.NONCE.SIGNATURE

``KEY`` names the public key (`key_id`), the times are seconds since the epoch, ``NONCE`` is random.
So nothing of a signed job can be changed, not even its id, and a node that remembers the nonce runs
it as that one job only. What a key's jobs may do is for each node to say; see docs/security.md.

Needs the package ``cryptography`` (``pip install 'cyxwiz-worker[sign]'``); whoever does not sign
does not.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import secrets
import stat
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from tasks import jsonvalue
from tasks.errors import BadSignature, InvalidJob, KeyUnusable, UnknownKey
from tasks.job import JobConfig

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

LIFETIME_S: Final = 7 * 24 * 3600.0
"""How long a signature is good by itself: a job may wait, and each attempt is looked at again."""
MOST_LIFETIME_S: Final = 366 * 24 * 3600.0
_SKEW_S: Final = 300.0
"""How much a producer's clock may be ahead of a node's."""
JOB: Final = b"cyxwiz job signature 1\n"
"""What a signature is for begins with its kind, so none is good as one of another kind."""
_STAMP: Final = re.compile(
    r"cyxwiz1\.(?P<key>[0-9a-f]{32})\.(?P<issued>\d{1,12})\.(?P<expires>\d{1,12})"
    r"\.(?P<nonce>[0-9a-f]{32})\.(?P<signature>[A-Za-z0-9_-]{86})",
    re.ASCII,
)
_PUBLIC: Final = re.compile(r"ed25519:(?P<raw>[A-Za-z0-9+/]{43}=)", re.ASCII)
_MOST_KEY_BYTES: Final = 16 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Stamp:
    """What stands in a signature."""

    key_id: str
    issued: int
    """Seconds since the epoch, by the producer's clock."""
    expires: int
    nonce: str
    signature: bytes

    @classmethod
    def parse(cls, text: str) -> Stamp:
        """Raises BadSignature. Says nothing yet of whether it is true."""
        match = _STAMP.fullmatch(text)
        if match is None:
            raise BadSignature("signature: is not of the form that signing gives")
        return cls(
            key_id=match["key"],
            issued=int(match["issued"]),
            expires=int(match["expires"]),
            nonce=match["nonce"],
            signature=bytes_of(match["signature"]),
        )

    @property
    def header(self) -> str:
        """All but the signature proper."""
        return f"cyxwiz1.{self.key_id}.{self.issued}.{self.expires}.{self.nonce}"


class PublicKey:
    """Verifies what its private half has signed."""

    def __init__(self, raw: bytes) -> None:
        """``raw``: the 32 bytes of an Ed25519 public key. Raises KeyUnusable."""
        try:
            self._key = _ed25519().Ed25519PublicKey.from_public_bytes(raw)
        except ValueError:
            raise KeyUnusable("a public key of Ed25519 has 32 bytes") from None
        self.raw = raw

    @classmethod
    def parse(cls, text: str) -> Self:
        """From ``ed25519:BASE64``. Raises KeyUnusable."""
        match = _PUBLIC.fullmatch(text.strip())
        if match is None:
            raise KeyUnusable(
                "is no public key: ed25519: and 44 characters of base64 are needed, as "
                "`cyxwiz keys new` writes them"
            )
        return cls(base64.b64decode(match["raw"]))

    def __str__(self) -> str:
        return f"ed25519:{base64.b64encode(self.raw).decode()}"

    @property
    def key_id(self) -> str:
        """The key's name in signatures: from its bytes, so nobody can choose it."""
        return hashlib.sha256(self.raw).hexdigest()[:32]

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether ``signature`` is this key's, of ``data``."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(signature, data)
        except InvalidSignature:
            return False
        return True


class SigningKey:
    """A private key. Shown nowhere: its repr is the public key's id."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"SigningKey({self.public.key_id})"

    @classmethod
    def generate(cls) -> Self:
        """A new one. Raises KeyUnusable: the package is missing."""
        return cls(_ed25519().Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """From a PEM file (PKCS #8) that only its owner may read. Raises KeyUnusable."""
        _ed25519()
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            with Path(path).open("rb") as file:
                open_to = stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077
                pem = file.read(_MOST_KEY_BYTES)
        except OSError as error:
            raise KeyUnusable(f"key {path}: cannot be read: {error.strerror}") from None
        if os.name == "posix" and open_to:
            raise KeyUnusable(f"key {path}: others may read it; say chmod 600 {path}")
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyUnusable(
                f"key {path}: is no private key of Ed25519 in PEM, without a password; make one "
                "with `cyxwiz keys new`"
            )
        return cls(key)

    def save(self, path: Path) -> None:
        """Into a new file of mode 0600. Raises KeyUnusable: there is one, or it cannot be made."""
        from cryptography.hazmat.primitives import serialization as form

        pem = self._key.private_bytes(
            form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()
        )
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise KeyUnusable(f"key {path}: cannot be made: {error.strerror}") from None
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(pem)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:  # half a key is none
            path.unlink(missing_ok=True)
            raise KeyUnusable(f"key {path}: cannot be written: {error.strerror}") from None

    def sign(self, data: bytes) -> bytes:
        """The signature of ``data``."""
        return self._key.sign(data)


def sign(
    job: object,
    key: SigningKey | str | os.PathLike[str],
    *,
    lifetime: float = LIFETIME_S,
    now: float | None = None,
) -> JobConfig:
    """The job, signed; under an id of its own if it had none.

    ``job``: whatever `JobConfig.parse` takes. ``key``: one, or the path of one. ``lifetime``:
    seconds from ``now`` (default: from now) in which an attempt of it may begin.

    Raises InvalidJob, KeyUnusable.
    """
    if not 1 <= lifetime <= MOST_LIFETIME_S:
        raise InvalidJob(
            f"lifetime: {lifetime:g} s; a signature is good for 1 s to 366 days ({_lifetimes()})"
        )
    key = key if isinstance(key, SigningKey) else SigningKey.load(key)
    config = JobConfig.parse(job)
    wire = {**config.to_wire(), "job_id": config.job_id or str(uuid.uuid4())}
    begin = int(time.time() if now is None else now)
    return JobConfig.parse({**wire, "signature": seal(JOB, wire, key, begin, int(lifetime))})


def seal(kind: bytes, wire: Mapping[str, Any], key: SigningKey, issued: int, lifetime: int) -> str:
    """The text of a signature over ``wire``, a JSON object; its ``signature`` is left out.

    ``issued``: seconds since the epoch; ``lifetime``: seconds from then.
    """
    stamp = Stamp(
        key_id=key.public.key_id,
        issued=issued,
        expires=issued + lifetime,
        nonce=secrets.token_hex(16),
        signature=b"",
    )
    return f"{stamp.header}.{base64_of(key.sign(_signed_bytes(kind, stamp, wire)))}"


def opened(
    kind: bytes, wire: Mapping[str, Any], keys: Mapping[str, PublicKey], now: float
) -> Stamp | None:
    """What `seal` put into ``wire``; None: it is not the signature of this. See `verify`.

    Raises UnknownKey; BadSignature: it is of no form, or not good at ``now``.
    """
    stamp = Stamp.parse(str(wire.get("signature")))
    key = keys.get(stamp.key_id)
    if key is None:
        raise UnknownKey(f"signature: by the key {stamp.key_id}, which is not known here")
    if not key.verifies(stamp.signature, _signed_bytes(kind, stamp, wire)):
        return None
    if stamp.issued > now + _SKEW_S or stamp.expires - stamp.issued > MOST_LIFETIME_S:
        raise BadSignature(
            "signature: begins in the future, or is good for more than 366 days: look at the "
            "clocks of both, and sign it again"
        )
    return stamp


def verify(job: JobConfig, keys: Mapping[str, PublicKey], now: float) -> Stamp:
    """Whose word a signed job is. ``keys``: by `key_id`; ``now``: seconds since the epoch.

    Raises UnknownKey: none of ``keys`` has signed it; BadSignature: it was changed, or is not good
    now, or has no signature at all.
    """
    if job.signature is None:
        raise BadSignature("signature: the job is not signed")
    stamp = opened(JOB, job.to_wire(), keys, now)
    if stamp is None:
        raise BadSignature(
            "signature: is not that of this job: the job was changed after it was signed (its "
            "job_id counts too), or the signature is another job's"
        )
    if now >= stamp.expires:
        raise BadSignature(
            f"signature: has expired ({now - stamp.expires:.0f} s ago): sign the job again, with "
            "a lifetime that covers its time in the queue and its attempts"
        )
    return stamp


def _signed_bytes(kind: bytes, stamp: Stamp, wire: Mapping[str, Any]) -> bytes:
    spec = {name: value for name, value in wire.items() if name != "signature"}
    return kind + f"{stamp.header}\n{jsonvalue.canonical(spec)}".encode()


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise KeyUnusable(
            "signing and verifying need the package cryptography: pip install 'cyxwiz-worker[sign]'"
        ) from None
    return ed25519


def _lifetimes() -> str:
    return f"{LIFETIME_S:.0f} by itself, at most {MOST_LIFETIME_S:.0f}"


def base64_of(data: bytes) -> str:
    """As signatures are written."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def bytes_of(text: str) -> bytes:
    """What `base64_of` wrote. Raises BadSignature."""
    try:
        found = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):  # the latter: characters beyond ASCII
        raise BadSignature("signature: is no base64") from None
    if base64_of(found) != text:  # the last character has bits to spare: one spelling only
        raise BadSignature("signature: is not of the form that signing gives")
    return found
