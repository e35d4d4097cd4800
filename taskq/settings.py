"""Settings: every knob once, with its unit; where each value came from; what is wrong with it.

Keyword arguments win over `TASKQ_*` variables, those over a TOML file (`taskq.toml`, or
`[tool.taskq]` of pyproject.toml, in the working directory; `TASKQ_CONFIG` names another file),
that over the defaults. A broker's URL alone is enough. Nothing is read when this module is
imported, only by `load_settings`.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import quote

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, ValidationError

from taskq.errors import InvalidSetting

PREFIX = "TASKQ_"
RESERVED = ("TASKQ_TEST_", "TASKQ_BENCH_")
CONFIG_VARIABLE = "TASKQ_CONFIG"
DAY = 86400.0

logger = logging.getLogger("taskq.settings")


def default_store() -> str:
    """A SQLite file in the user's state folder: where a producer and a worker of one user meet."""
    import platformdirs  # here: who names a store needs no folder

    path = Path(platformdirs.user_state_dir("taskq")) / "taskq.db"
    return "sqlite:///" + quote(str(path))


def _host_and_port(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not colon or not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:8081")
    return value


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", value):
        raise ValueError("must be 1 to 64 letters, digits, '.', '-' or '_'")
    return value


def _networks(value: str) -> str:
    for network in value.split(","):
        try:
            ipaddress.ip_network(network.strip())
        except ValueError as error:
            raise ValueError(f"must be networks with commas, such as 127.0.0.0/8,::1 ({error})") from None
    return value


def _url(value: str) -> str:
    if "://" not in value:
        raise ValueError("must be a URL, such as amqp://user:password@host/ or sqlite:///taskq.db")
    return value


Seconds = Annotated[float, Field(gt=0, le=100 * 366 * DAY, allow_inf_nan=False)]
Name = Annotated[str, AfterValidator(_name)]
URL = Annotated[str, AfterValidator(_url)]


class Settings(BaseModel):
    """All settings, checked; frozen. Made by `load_settings`; `Settings(...)` itself looks at its arguments alone."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)

    broker: URL = Field(
        "amqp://guest:guest@localhost/",
        description="URL of the broker: amqp://user:password@host:port/vhost, several hosts with commas, or memory://",
    )
    store: URL = Field(
        default_factory=default_store,
        description="URL of the store: sqlite:///file.db (one machine) or postgresql://user:password@host/database",
    )
    prefix: Name = Field("taskq", description="begins every name on the broker; one store serves one broker and prefix")
    name: Name = Field("taskq", description="the app's name, shown by the broker's tools and kept with its schedules")
    publish_timeout: Seconds = Field(5.0, description="seconds after which an enqueue has returned or raised")
    connect_timeout: Seconds = Field(5.0, description="seconds that one attempt to reach the broker may take")
    heartbeat: float = Field(30.0, ge=1, le=3600, description="seconds of silence after which a connection is dead")
    concurrency: int = Field(16, ge=1, le=10_000, description="runs at once in a worker process, all kinds together")
    processes: int = Field(1, ge=1, le=1024, description="worker processes under one supervisor")
    grace: float = Field(30.0, ge=0, le=7 * DAY, description="seconds that running tasks get to finish at a stop")
    max_payload_bytes: int = Field(2**20, ge=1, le=2**27, description="bytes that the encoded arguments may have")
    record_enqueue: bool = Field(
        False, description="write the message's row at enqueue, so that its status is never UNKNOWN"
    )
    result_retention: Seconds | None = Field(
        7 * DAY, description="seconds that outcomes and results are kept; none: for ever"
    )
    dead_letter_retention: Seconds | None = Field(
        None, description="seconds that dead letters are kept; none: for ever"
    )
    log_retention: Seconds | None = Field(
        7 * DAY, description="seconds that a message's history is kept; none: for ever"
    )
    max_crashes: int = Field(
        3,
        ge=1,
        le=1000,
        description="claimed runs that ended with their process before a message is dead; a first run is not claimed",
    )
    unknown_task_limit: int = Field(
        10,
        ge=1,
        le=100_000,
        description="workers that may not know a message's task before it goes to the dead letters",
    )
    health: Annotated[str, AfterValidator(_host_and_port)] | None = Field(
        None, description="HOST:PORT where workers answer /health and /ready; none: nowhere"
    )
    health_limit: Seconds = Field(30.0, description="seconds without proof of life after which /health says 503")
    exit_after: Seconds | None = Field(
        120.0, description="seconds of ill health after which a worker exits; none: never"
    )
    api_token: SecretStr | None = Field(
        None, description="the HTTP API's token; none: it needs no token, and listens on loopback only"
    )
    api_readonly_token: SecretStr | None = Field(
        None, description="a second token of the HTTP API, which may only read"
    )
    api_rate_limit: int | None = Field(
        None, ge=1, description="requests a second that one client of the HTTP API may make; none: no limit"
    )
    delivery_allow: Annotated[str, AfterValidator(_networks)] | None = Field(
        None, description="private networks that HTTP deliveries may reach, with commas: 127.0.0.0/8,::1; none: none"
    )
    delivery_timeout: Seconds = Field(
        900.0, description="seconds that one attempt of an HTTP delivery may take at most"
    )
    flow_parallelism: int | None = Field(
        None, ge=1, description="messages with flow keys that run at once, over all keys and processes; none: no limit"
    )
    llm_url: URL | None = Field(
        None, description="URL of an OpenAI-compatible server, to which messages for api/llm go; none: refused"
    )
    llm_token: SecretStr | None = Field(None, description="token sent to llm_url, where the sender gives none")
    recycle_after_tasks: int | None = Field(None, ge=1, description="attempts after which a worker process is replaced")
    recycle_after_seconds: Seconds | None = Field(None, description="seconds after which a worker process is replaced")
    recycle_after_memory_mb: int | None = Field(
        None, ge=1, description="megabytes of resident memory above which a worker process is replaced"
    )
    broker_ack_timeout: Seconds = Field(
        1800.0,
        description="seconds of consumer_timeout in the broker's own configuration; matters on RabbitMQ before 3.12",
    )
    loop: Literal["auto", "uvloop", "asyncio"] = Field(
        "auto", description="the event loop of workers and of sync callers; auto takes uvloop where it is installed"
    )

    _sources: Mapping[str, str] = PrivateAttr(default_factory=dict)


_FIELDS = Settings.model_fields
_SECRETS = frozenset(name for name, field in _FIELDS.items() if SecretStr in get_args(field.annotation))
_OPTIONAL = frozenset(name for name, field in _FIELDS.items() if type(None) in get_args(field.annotation))


def load_settings(**keywords: Any) -> Settings:
    """The settings of this process: keywords over variables over the file over the defaults.

    An unknown `TASKQ_` variable is a logged warning (Kubernetes injects such names), an empty one
    counts as unset. The text `none` in a variable or a file means None.

    Raises:
        InvalidSetting: an unknown keyword or key in the file, a value that cannot be used, or a
            file that cannot be read; the text names setting, value, source and mend.
    """
    given: dict[str, tuple[Any, str]] = {}
    for layer in (_from_file(os.environ), _from_variables(os.environ)):
        given |= layer
    for name, value in keywords.items():
        if name not in _FIELDS:
            raise InvalidSetting(f"there is no setting {name!r}{_nearest(name)}")
        given[name] = (value, f"keyword argument {name}")
    try:
        settings = Settings(**{name: _plain(name, value) for name, (value, _) in given.items()})
    except ValidationError as error:
        raise InvalidSetting("; ".join(_complaints(error, given))) from None  # pydantic's text may quote a password
    settings._sources = {name: source for name, (_, source) in given.items()}
    return settings


def explain(settings: Settings) -> list[tuple[str, str, str, str]]:
    """(name, value without secrets, source, description) of every setting, in the order of their declaration."""
    return [
        (name, _shown(getattr(settings, name)), settings._sources.get(name, "default"), field.description or "")
        for name, field in _FIELDS.items()
    ]


def redact_url(url: str) -> str:
    """The URL with `***` for every password: of the user, of further hosts, of the query."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return re.sub(r":[^:@/]*@", ":***@", url)
    # A password may itself hold '/', '?' or '@' that nobody escaped: all up to the last '@' is suspect.
    secret, at, host = rest.rpartition("@")
    if at:
        rest = ",".join(_user(part) for part in secret.split("@")) if "," in secret else _user(secret)
        rest = f"{rest}@{host}"
    rest = re.sub(r"(?i)([?&][a-z_]*(?:password|secret|token|key)=)[^&#]*", r"\1***", rest)
    return f"{scheme}://{rest}"


def _user(credentials: str) -> str:
    user, colon, _ = credentials.partition(":")
    return f"{user}:***" if colon else user


def _from_variables(environ: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    found: dict[str, tuple[Any, str]] = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable == CONFIG_VARIABLE or variable.startswith(RESERVED):
            continue
        name = variable[len(PREFIX) :].lower()
        if name not in _FIELDS:
            logger.warning("variable %s is no setting of taskq%s", variable, _nearest(name, PREFIX))
        elif value:
            found[name] = (value, f"variable {variable}")
    return found


def _from_file(environ: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    named = environ.get(CONFIG_VARIABLE)
    for path in [Path(named)] if named else [Path("taskq.toml"), Path("pyproject.toml")]:
        try:
            text = path.read_text(encoding="utf-8")
            import tomllib  # here, and difflib below: few processes have a file, fewer a wrong name

            content = tomllib.loads(text)
        except FileNotFoundError:
            if named:
                raise InvalidSetting(f"{CONFIG_VARIABLE} names {named!r}, and there is no such file") from None
            continue
        except (OSError, ValueError) as error:
            raise InvalidSetting(f"configuration file {str(path)!r} cannot be read: {error}") from error
        table = content.get("tool", {}).get("taskq") if path.name == "pyproject.toml" else content
        if table is None:
            continue
        if not isinstance(table, dict):
            raise InvalidSetting(f"{path}: tool.taskq must be a table")
        for name in table:
            if name not in _FIELDS:
                raise InvalidSetting(f"{path}: there is no setting {name!r}{_nearest(name)}")
        return {name: (value, f"file {path}") for name, value in table.items()}
    return {}


def _plain(name: str, value: Any) -> Any:
    """None for the text `none`, where the setting may be None."""
    if isinstance(value, str) and value.lower() == "none" and name in _OPTIONAL:
        return None
    return value


def _nearest(name: str, prefix: str = "") -> str:
    import difflib

    close = difflib.get_close_matches(name.lower(), _FIELDS, n=1, cutoff=0.5)
    if not close:
        return "; `taskq config --explain` lists them all"
    return f"; did you mean {prefix}{close[0].upper() if prefix else close[0]}?"


def _complaints(error: ValidationError, given: Mapping[str, tuple[Any, str]]) -> list[str]:
    texts: dict[str, str] = {}
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        name = str(problem["loc"][0])
        value, source = given.get(name, (None, "default"))
        value = "***" if name in _SECRETS else value
        said = problem["msg"].removeprefix("Value error, ")
        said = said.replace("Input should be", "must be", 1) if said.startswith("Input should") else said
        texts.setdefault(
            name, f"setting {name}: {said}, got {_shown(value)!r:.200} from {source} ({_FIELDS[name].description})"
        )
    return list(texts.values())


def _shown(value: Any) -> str:
    if isinstance(value, SecretStr):
        return "***"
    if isinstance(value, str):
        return redact_url(value)
    return "none" if value is None else str(value)
