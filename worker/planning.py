"""What an attempt needs before it can start: admission, its image, its data, its grant.

All of this may take long (an image is pulled, data is fetched), and is done under the lease.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from tasks import events
from tasks.choices import Network
from tasks.errors import BadSignature, ConfigError
from tasks.job import JobConfig
from tasks.recorded import Claimed
from tasks.state import FailureReason
from worker.admission import Admitted, HandBack, Refused, admit
from worker.audited import Audited
from worker.binding import UNBOUND, Binding
from worker.devices.pool import HeldGrant
from worker.granting import grant as grant_slot
from worker.keeping import Keeping
from worker.launchers import Asked, Launcher, Picked
from worker.parts import NATIVE, NodeParts
from worker.plan import AttemptId, LaunchPlan, SecretFiles
from worker.stream.publisher import Publisher
from worker.supplies import Supplies
from worker.trust.keyring import Standing
from worker.trust.vetting import vet
from worker.turned_away import TurnedAway

log = logging.getLogger(__name__)

_TELL_OF_A_PULL_S: Final = 5.0
_ANOTHERS: Final = (
    "checkpoints of another configuration of this job, or of another signer, are there: they are "
    "not used"
)


class Planning:
    """Of one attempt."""

    def __init__(
        self,
        parts: NodeParts,
        claim: Claimed,
        *,
        audited: Audited,
        publisher: Publisher,
        supplies: Supplies,
        keeping: Keeping | None,
        until_redis_answers: Callable[[Callable[[], Any]], Any],
        lasts: Callable[[], None],
        check: Callable[[], None],
    ) -> None:
        """``lasts``: called before what may take long. ``check``: called in between; raises to end
        it."""
        self._parts = parts
        self._claim = claim
        self._id = AttemptId(job_id=claim.lease.job_id, fence=claim.lease.fence)
        self._audited = audited
        self._publisher = publisher
        self._supplies = supplies
        self._keeping = keeping
        self._sure = until_redis_answers
        self._lasts = lasts
        self._check = check
        self._held: HeldGrant | None = None
        self._told_of_pull = 0.0
        self.admitted: Admitted | None = None
        self.launcher: Launcher | None = None
        self.picked = Picked()
        self.digest = ""
        """`JobConfig.digest`, of what is run."""
        self.bound = UNBOUND
        """`Binding.name` of its checkpoints."""

    def plan(self, job: JobConfig) -> LaunchPlan:
        """All of it. Raises TurnedAway, RuntimeUnavailable, and what ``check`` raises."""
        parts = self._parts
        standing = self._audited.standing = self._standing(job)
        secrets = self._secrets(job, standing)
        decision = admit(
            job,
            parts.config,
            parts.place.host,
            parts.engines.state(),
            standing,
            last_reason=self._claim.handed_back_everywhere,
            engine_expected=parts.place.offers_containers,
            devices=parts.place.slot_devices,
            secrets=frozenset(secrets),
        )
        match decision:
            case Refused():
                raise TurnedAway.rejected(decision.reason, decision.message)
            case HandBack():
                raise TurnedAway.handed_back(decision.reason, decision.message)
            case Admitted():
                self.admitted = decision
        self._publisher.state(
            events.Admitted(
                mode=decision.mode,
                sandbox_level=decision.level,
                why=decision.why,
                warning=decision.warning,
            )
        )
        fetches = job.dataset_uri is not None or job.code_uri is not None
        if fetches or decision.mode != NATIVE or parts.place.devices:
            self._lasts()  # who knows how long until it starts
            self._publisher.begin()
        launcher = self.launcher = parts.launcher(decision.mode, standing.images)
        before = Picked(reference=self._claim.image_reference, id=self._claim.image)
        self.picked = launcher.prepare(job, before if before.id else None, self._pulling)
        self._check()
        provided = self._supplies.get(job)
        self._check()
        signer = "" if standing.key is None else standing.key.key_id
        self.digest = job.digest()
        self._go_on_from(Binding.of(self.digest, signer))
        self._held = grant_slot(parts, self._id, job)
        grant = self._held.grant
        asked = Asked(
            job=job,
            attempt=self._id,
            number=self._claim.attempt,
            # whoever holds the grant keeps what was fetched in the cache, too
            grant=replace(grant, via=parts.place.via, fds=(*grant.fds, *provided.fds)),
            limits=decision.limits,
            checkpoints=parts.checkpoints.of(self._id.job_id, self.bound),
            data=provided.data_path,
            code=provided.code,
            secrets=self._secret_files(secrets),
            network=self._network(job, decision.mode),
        )
        return launcher.plan(asked, self.picked)

    def _go_on_from(self, binding: Binding) -> None:
        """Have here what it may go on from, and say so where there is more."""
        job_id, self.bound = self._id.job_id, binding.name
        anothers = self._parts.checkpoints.begin(job_id, binding)
        if self._keeping is not None:
            sent = self._keeping.bring(binding, self._sure, self._lasts, self._check)
            anothers = anothers or sent
        if anothers:
            log.warning("checkpoint.anothers attempt=%s signed=%s", self._id, binding.signed)
            notes = (self.picked.note, _ANOTHERS)
            self.picked = replace(self.picked, note="; ".join(filter(None, notes)))

    def _standing(self, job: JobConfig) -> Standing:
        """Whose job it is. Its signature's nonce is used for it here."""
        parts, lease = self._parts, self._claim.lease
        try:
            standing: Standing = self._sure(
                lambda: vet(job, lease, parts.keyring, parts.records.leases, time.time())
            )
        except BadSignature as error:
            raise TurnedAway.rejected(FailureReason.UNTRUSTED, str(error)) from None
        return standing

    def _secrets(self, job: JobConfig, standing: Standing) -> Mapping[str, str]:
        """Those that the job asks for, as far as the node has them; {} for an untrusted one."""
        if not job.secrets or standing.key is None:
            return {}
        try:
            return self._parts.secrets.take(job.secrets)
        except ConfigError as error:
            log.error("secrets.unusable attempt=%s error=%s", self._id, error)
            message = "secrets: the node's file of them is wrong"
            raise TurnedAway.handed_back(FailureReason.ENGINE_ERROR, message) from None

    def _network(self, job: JobConfig, mode: str) -> str:
        """The engine's network that it joins; '': none. Raises RuntimeUnavailable: no job may."""
        parts = self._parts
        name = parts.config.docker.network if job.network is not Network.NONE else ""
        if not name or mode == NATIVE:
            return ""
        self._lasts()
        parts.engines.prove_network(name)
        return name

    def _secret_files(self, values: Mapping[str, str]) -> SecretFiles | None:
        if not values:
            return None
        config = self._parts.config
        root = config.trust.secrets_root(config.node.state_dir)
        return SecretFiles(place=root / str(self._id), values=values)

    def _pulling(self, image: str, detail: str) -> None:
        """Pass on how a pull gets on; raises to end it."""
        self._check()
        now = time.monotonic()
        if now - self._told_of_pull >= _TELL_OF_A_PULL_S:
            self._told_of_pull = now
            self._publisher.state(events.Pulling(image=image, detail=detail))

    def how(self) -> dict[str, Any]:
        """How it was run, for the result."""
        admitted, picked = self.admitted, self.picked
        assert admitted is not None  # noqa: S101 - plan has set it
        return {
            "mode": admitted.mode,
            "why": admitted.why,
            **({"warning": admitted.warning} if admitted.warning else {}),
            **({"image": picked.reference, "image_id": picked.id} if picked.id else {}),
            **({"digest": picked.digest} if picked.digest else {}),
        }

    def release(self) -> None:
        """Let go of the grant, and of what was fetched: a keeper has them, or nobody needs them.
        Safe to call twice."""
        if self._held is not None:
            self._held.release()
        self._supplies.close()
