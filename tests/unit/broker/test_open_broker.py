"""From URL to broker."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from taskq.broker import open_broker
from taskq.broker.memory import MemoryBroker
from taskq.broker.rabbitmq.adapter import RabbitMQBroker
from taskq.broker.rabbitmq.address import Address
from taskq.clock import SystemClock
from taskq.errors import InvalidSetting


def opened(url: str, **changes: Any) -> object:
    settings: dict[str, Any] = {
        "prefix": "taskq",
        "publish_timeout": 5.0,
        "connect_timeout": 5.0,
        "heartbeat": 10.0,
        "clock": SystemClock(),
        "name": "unit",
    }
    return open_broker(url, **(settings | changes))


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("memory://", MemoryBroker),
        ("memory://shared-1", MemoryBroker),
        ("amqp://localhost", RabbitMQBroker),
        ("AMQPS://user:pw@a:1,b/v", RabbitMQBroker),
    ],
)
def test_schemes(url: str, kind: type) -> None:
    """The scheme picks the adapter, and nothing is connected yet."""
    broker = opened(url)
    assert isinstance(broker, kind) and not broker.health().connected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "redis://localhost",
        "://x",
        "amqp://",
        "amqp://:5672/",
        "amqp://a:b@",
        "amqp://host:notaport/",
        "amqp://host:99999/",
        "amqp://host:0/",
        "amqp://a,,b/",
        "amqp://host/v/w",
        "amqp://host/?frobnicate=1",
        "amqp://host/#x",
        "memory://a/b",
        "memory://a b",
    ],
)
def test_bad_urls(url: str) -> None:
    """A URL that cannot be used is refused with what to use instead."""
    with pytest.raises(InvalidSetting, match=r"amqp://|memory://|known are"):
        opened(url)


@pytest.mark.parametrize(
    "url", ["amqp://user:s3cr3t@host:no/", "amqp://user:s3cr3t@host/v/w", "http://user:s3cr3t@host/"]
)
def test_password_is_not_shown(url: str) -> None:
    """An error about a URL does not show its password."""
    with pytest.raises(InvalidSetting) as caught:
        opened(url)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("publish_timeout", 0), ("connect_timeout", -1), ("heartbeat", 0), ("heartbeat", 3601), ("prefix", "a b")],
)
def test_bad_settings(name: str, value: object) -> None:
    """A number or prefix that cannot be used is refused by name."""
    with pytest.raises(InvalidSetting, match=name):
        opened("amqp://localhost", **{name: value})


def test_memory_needs_no_rabbitmq() -> None:
    """Opening the memory broker loads no AMQP library."""
    code = (
        "import sys; from taskq.broker import open_broker; from taskq.clock import SystemClock\n"
        "open_broker('memory://', prefix='t', publish_timeout=1, connect_timeout=1, heartbeat=5,"
        " clock=SystemClock(), name='n')\n"
        "assert not {'aiormq', 'aio_pika', 'pamqp'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://localhost", Address((("localhost", 5672),), "guest", "guest", "/", False)),
        ("amqps://localhost/", Address((("localhost", 5671),), "guest", "guest", "/", True)),
        ("amqp://u:p@h:1/%2F", Address((("h", 1),), "u", "p", "/", False)),
        ("amqp://u%40x:p%2F%3A@h/my%2Fvhost", Address((("h", 5672),), "u@x", "p/:", "my/vhost", False)),
        ("amqp://u@a:1,b,c:3/v", Address((("a", 1), ("b", 5672), ("c", 3)), "u", "", "v", False)),
        ("amqp://[::1]:7/v", Address((("::1", 7),), "guest", "guest", "v", False)),
    ],
)
def test_address(url: str, expected: Address) -> None:
    """Hosts, ports, user, password and vhost are read as AMQP URLs have them."""
    assert Address.parse(url) == expected


def test_address_hides_its_password() -> None:
    """Neither the text nor the repr of an address shows the password."""
    address = Address.parse("amqp://user:s3cr3t@host/")
    assert "s3cr3t" not in repr(address) + str(address)


def test_tls_options() -> None:
    """`no_verify_ssl=1` turns off what TLS checks, and without it the certificate is checked."""
    lax = Address.parse("amqps://host/?no_verify_ssl=1").context()
    strict = Address.parse("amqps://host/").context()
    assert lax is not None and strict is not None
    assert not lax.check_hostname and strict.check_hostname
    assert Address.parse("amqp://host/").context() is None


def test_missing_certificate() -> None:
    """A certificate that cannot be read is a wrong setting, named."""
    with pytest.raises(InvalidSetting, match="/no/such/file"):
        Address.parse("amqps://host/?cafile=/no/such/file").context()
