"""From a URL to the broker behind it: `open_broker` picks the adapter and loads only that one."""

from __future__ import annotations

from taskq.broker.base import Broker
from taskq.broker.topology import check_prefix
from taskq.clock import Clock
from taskq.errors import InvalidSetting

_MEND = "use amqp://user:password@host:5672/vhost, amqps://… for TLS, or memory:// for one process"


def open_broker(
    url: str,
    *,
    prefix: str,
    publish_timeout: float,
    connect_timeout: float,
    heartbeat: float,
    clock: Clock,
    name: str,
) -> Broker:
    """The broker that the URL names; not yet connected, that is `Broker.open`.

    Args:
        url: `amqp://user:password@host:port/vhost` (several hosts separated by commas, tried in turn;
            TLS options as query parameters: `cafile`, `certfile`, `keyfile`, `no_verify_ssl=1`),
            `amqps://…`, `memory://` or `memory://name` (one broker a name within this process).
        prefix: begins every name on the broker.
        publish_timeout: seconds until a publish has been confirmed or raises.
        connect_timeout: seconds for the first connection, and for each later attempt.
        heartbeat: seconds of silence after which a connection is taken for dead, from 1 to 3600.
        name: shown by the broker's own tools beside our connections.

    Raises:
        InvalidSetting: a URL, prefix or number that cannot be used; a password is not shown.
    """
    check_prefix(prefix)
    for label, seconds in (("publish_timeout", publish_timeout), ("connect_timeout", connect_timeout)):
        if not seconds > 0:
            raise InvalidSetting(f"{label} must be seconds above 0, got {seconds!r}")
    if not 1 <= heartbeat <= 3600:
        raise InvalidSetting(f"heartbeat must be seconds from 1 to 3600, got {heartbeat!r}")
    scheme, separator, _ = url.partition("://")
    match scheme.lower() if separator else "":
        case "memory":
            from taskq.broker.memory import MemoryBroker

            return MemoryBroker(url, prefix=prefix, publish_timeout=publish_timeout, clock=clock)
        case "amqp" | "amqps":
            from taskq.broker.rabbitmq.adapter import RabbitMQBroker
            from taskq.broker.rabbitmq.address import Address

            return RabbitMQBroker(
                Address.parse(url),
                prefix=prefix,
                publish_timeout=publish_timeout,
                connect_timeout=connect_timeout,
                heartbeat=heartbeat,
                clock=clock,
                name=name,
            )
    shown = f"scheme {scheme!r:.20}" if separator else "no scheme"
    raise InvalidSetting(f"the broker's URL has {shown}: {_MEND}")
