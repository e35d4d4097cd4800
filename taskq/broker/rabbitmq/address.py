"""Where brokers are: an AMQP URL, which may name several hosts."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from taskq.errors import InvalidSetting

_SHAPE = "amqp://user:password@host:5672/vhost"
_OPTIONS = ("cafile", "capath", "certfile", "keyfile", "no_verify_ssl")


@dataclass(frozen=True, slots=True)
class Address:
    """A broker's address.

    hosts     tuple of (host, port), tried in turn
    user      str
    password  str, never shown
    vhost     str
    tls       bool
    options   dict, TLS options of the URL
    """

    hosts: tuple[tuple[str, int], ...]
    user: str
    password: str = field(repr=False)
    vhost: str
    tls: bool
    options: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read a URL such as `amqp://user:password@host1:5672,host2/vhost`.

        Raises:
            InvalidSetting: it cannot be used; the password is not shown.
        """
        scheme, _, rest = url.partition("://")
        tls = scheme.lower() == "amqps"
        authority_end = min((rest.find(c) for c in "/?#" if c in rest), default=len(rest))
        authority, tail = rest[:authority_end], rest[authority_end:]
        credentials, at, hosts = authority.rpartition("@")
        user, colon, password = credentials.partition(":")
        parts = urlsplit(tail if tail.startswith("/") else "/" + tail)
        options = dict(parse_qsl(parts.query))
        if parts.fragment or "/" in parts.path[1:]:
            raise InvalidSetting(f"the broker's URL has a path {parts.path!r:.60} that is no vhost: use {_SHAPE}")
        unknown = sorted(set(options) - set(_OPTIONS))
        if unknown:
            raise InvalidSetting(f"the broker's URL has an unknown option {unknown[0]!r:.40}: known are {_OPTIONS}")
        return cls(
            hosts=tuple(_host(text, 5671 if tls else 5672) for text in hosts.split(",")),
            user=unquote(user) if at else "guest",
            password=unquote(password) if colon else ("" if at else "guest"),
            vhost=unquote(parts.path[1:]) or "/",
            tls=tls,
            options=options,
        )

    def url(self, host: str, port: int, *, heartbeat: int, name: str) -> str:
        """The URL of one host as aiormq reads it; holds the password."""
        shown = f"[{host}]" if ":" in host else host
        credentials = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        query = f"heartbeat={heartbeat}&name={quote(name, safe='')}"
        return f"amqp://{credentials}@{shown}:{port}/{quote(self.vhost, safe='')}?{query}"

    def context(self) -> ssl.SSLContext | None:
        """The TLS context that the options ask for; None without TLS.

        Raises:
            InvalidSetting: a certificate cannot be read.
        """
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.options.get("cafile"), capath=self.options.get("capath"))
            if "certfile" in self.options:
                context.load_cert_chain(self.options["certfile"], self.options.get("keyfile"))
        except (OSError, ssl.SSLError) as error:
            raise InvalidSetting(f"the broker URL's TLS options {self.options} cannot be used: {error}") from error
        if self.options.get("no_verify_ssl", "0") not in ("0", "false", "no"):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def __str__(self) -> str:
        return ", ".join(f"{host}:{port}" for host, port in self.hosts)


def _host(text: str, default_port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidSetting(f"the broker's URL has a host {text!r:.80} that cannot be: use {_SHAPE}") from error
    if not host or parts.path or parts.query or port == 0:
        raise InvalidSetting(f"the broker's URL has no host where one is expected ({text!r:.80}): use {_SHAPE}")
    return host, port or default_port
