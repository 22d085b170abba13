"""The Celery app. `celery -A tasks …` and Flower find it as ``tasks.app``.

The settings are those that jobs of days need on Redis; each says what it prevents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery import Celery

from tasks import keys
from tasks.fitness import TASKS_OPTION
from tasks.publishing import TRAIN, JobAMQP, JobCelery, route_task
from tasks.remote import JobControl
from tasks.settings import Settings

__all__ = ["TRAIN", "app", "make_app"]

_VISIBILITY_TIMEOUT_S = 300
"""After it kombu delivers an unacknowledged message again. A claim acknowledges in milliseconds,
so only messages that nobody claimed are meant; the lowest value of any worker counts for all."""


def make_app(settings: Settings, *, include: Sequence[str] = ("tasks.training",)) -> Celery:
    """A Celery app on the Redis of ``settings``. Connects to nothing yet."""
    made = JobCelery(
        "tasks", amqp=JobAMQP, control=JobControl, include=list(include), set_as_current=False
    )
    made.hub = settings
    made.conf.update(celery_config(settings))
    return made


def celery_config(settings: Settings) -> dict[str, Any]:
    """Celery's configuration for ``settings``."""
    transport = {
        "global_keyprefix": settings.prefix,
        "visibility_timeout": _VISIBILITY_TIMEOUT_S,
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
        "socket_timeout": 30,
        "socket_connect_timeout": 5,
        "health_check_interval": 25,
        "priority_steps": list(keys.PRIORITY_STEPS),
        "sep": keys.PRIORITY_SEPARATOR,
        "queue_order_strategy": "sorted",
        # all else is put aside: Celery would store a failure for whatever id it names
        TASKS_OPTION: (TRAIN,),
    }
    if not settings.on_socket:
        transport["socket_keepalive"] = True
    sentinel = settings.sentinel
    of_sentinel = {} if sentinel is None else sentinel.transport_options
    transport |= of_sentinel
    return {
        "broker_url": settings.celery_url,
        "result_backend": settings.backend_url,
        "broker_transport_options": transport,
        "result_backend_transport_options": {
            "global_keyprefix": settings.prefix,
            **of_sentinel,
            # of one try to store a result; more of them follow, by result_backend_always_retry
            "retry_policy": {"max_retries": 3, "interval_start": 0, "interval_step": 0.2},
        },
        "redis_socket_connect_timeout": 3,
        "redis_socket_timeout": 30,
        "redis_backend_health_check_interval": 25,
        "redis_socket_keepalive": not settings.on_socket,
        # JSON only, both ways: a pickle in Redis would be code for every node
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        # a message that nobody claimed goes back; one that was claimed is acknowledged by then
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_retry_on_worker_lost": False,
        "worker_prefetch_multiplier": 1,
        "worker_concurrency": 1,
        "worker_pool": "prefork",
        # True would kill trainings at each blip of the network
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_soft_shutdown_timeout": 30,
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # else a finished job is stored as a FAILURE when Redis is away for a moment
        "result_backend_always_retry": True,
        "result_expires": settings.result_ttl_s,
        "result_extended": True,
        "task_default_queue": "unrouted",
        "task_default_priority": keys.PRIORITY_STEPS[2],
        "task_inherit_parent_priority": False,
        "task_routes": (route_task,),
        "task_send_sent_event": True,
        "worker_send_task_events": True,
        # STARTED is written after the claim: before it, a duplicate would overwrite a FAILURE
        "task_track_started": False,
        "task_time_limit": None,
        "worker_hijack_root_logger": False,
        "timezone": "UTC",
        "enable_utc": True,
    }


app = make_app(Settings.from_env())
app.set_default()
