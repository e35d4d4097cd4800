"""A schedule: a message that is sent again and again, and its stored form. `beat` performs what it says."""

from __future__ import annotations

import enum
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, TypedDict

from taskq.clock import to_ms
from taskq.errors import InvalidMessage, InvalidRequest, InvalidSchedule
from taskq.http.publishing import check_url, compose, read
from taskq.http.request import HTTP_TASK, request_of
from taskq.message import CONTENT_TYPE, Message, decode, new_id
from taskq.store.base import OutboxRow, ScheduleRow, Tick
from taskq.store.gateway import GroupRecord
from taskq.timetable import EPOCH, Cron, Every, Once, Plan, Timetable

SCHEDULE_HEADER, INSTANT_HEADER = "taskq-schedule-id", "taskq-scheduled-for"
_ID = re.compile(r"[A-Za-z0-9_.:<>-]{1,200}")

# Options of a task that make no sense where it is sent again and again.
ONE_MESSAGE_ONLY = {
    "id": "is the id of one message: each tick has its own",
    "not_before": "is one instant: use delay, which counts from the tick, or starts_at",
    "dedup_id": "would stop all of its messages but one: use overlap='skip'",
}


class Overlap(enum.StrEnum):
    """What is done when the message before has no outcome yet."""

    ALLOW = "allow"  # send all the same
    SKIP = "skip"  # leave this one out
    QUEUE = "queue"  # send once it has one; those that come due meanwhile wait as one


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is sent, and when.

    id       str, 1 to 200 letters, digits, '_', '.', ':' or '-'
    plan     Plan: its instants, and what is done about those that were missed
    message  Message to send, as of the epoch: its own instants count from the tick
    overlap  Overlap
    """

    id: str
    plan: Plan
    message: Message
    overlap: Overlap = Overlap.ALLOW

    def first_after(self, now: datetime, *, runs: int = 0) -> datetime | None:
        """When a beat is to look first, after an instant and so many messages; None: never."""
        instant = self.plan.next_after(now, runs=runs)
        return None if instant is None else self.plan.fires_at(self.id, instant)

    def to_row(self, app: str) -> ScheduleRow:
        """As the store keeps it."""
        return ScheduleRow(
            app=app,
            id=self.id,
            timing=json.dumps(_timing(self.plan.timetable), sort_keys=True),
            policy=json.dumps(_policy(self), sort_keys=True),
            task=self.message.task,
            queue=self.message.queue,
            template=self.message.encode(),
        )

    @classmethod
    def of(cls, row: ScheduleRow) -> Schedule:
        """As the store kept it.

        Raises:
            InvalidSchedule: a newer taskq wrote it.
        """
        try:
            policy = json.loads(row.policy)
            overlap = Overlap(policy.pop("overlap", Overlap.ALLOW))
            for name in ("starts_at", "ends_at"):
                if name in policy:
                    policy[name] = datetime.fromisoformat(policy[name])
            plan = Plan(_timetable(json.loads(row.timing)), **policy)
            return cls(row.id, plan, decode(row.template, CONTENT_TYPE), overlap)
        except (TypeError, ValueError, KeyError, AttributeError, InvalidMessage) as error:
            raise InvalidSchedule(f"schedule {row.id!r} cannot be read: {error}") from error


_POLICIES = {field.name: field.default for field in fields(Plan) if field.name != "timetable"}


def _policy(schedule: Schedule) -> dict[str, Any]:
    """What is not as by default."""
    given: dict[str, Any] = {name: getattr(schedule.plan, name) for name in _POLICIES}
    given = {name: value for name, value in given.items() if value != _POLICIES[name]}
    if schedule.overlap is not Overlap.ALLOW:
        given["overlap"] = schedule.overlap
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in given.items()}


def describe(timetable: Timetable) -> str:
    """For people: the cron with its zone, `every 30 s`, or the single instant."""
    match timetable:
        case Every():
            return f"every {timetable.seconds:g} s"
        case Once():
            return f"once, at {timetable.at.isoformat()}"
    return str(timetable)


def _timing(timetable: Timetable) -> dict[str, Any]:
    match timetable:
        case Cron():
            return {"cron": timetable.text, "zone": timetable.zone}
        case Every():
            return {"every": timetable.seconds, "start": timetable.start.isoformat()}
        case Once():
            return {"at": timetable.at.isoformat()}
    raise TypeError(f"no timetable of ours: {timetable!r}")


def _timetable(timing: Mapping[str, Any]) -> Timetable:
    match timing:
        case {"cron": text, "zone": zone}:
            return Cron(text, zone)
        case {"every": seconds, "start": start}:
            return Every(seconds, datetime.fromisoformat(start))
        case {"at": at}:
            return Once(datetime.fromisoformat(at))
    raise ValueError(f"no timing of ours: {timing!r}")


class ScheduleOptions(TypedDict, total=False):
    """What can be said of a schedule: one of cron, every and at, and more.

    cron        str: minute, hour, day, month, weekday, or six fields with the second leading; `@daily` and kin
    every       float, seconds between two ticks, counted from the epoch
    at          aware datetime: once, then
    timezone    str, IANA name: what cron's times are of; UTC by default. `CRON_TZ=Zone ` before the cron says the same
    args, kwargs  the task's arguments, checked when the schedule is made
    catch_up    "last" (default), "skip" or "all": what is sent for ticks that no beat was there for
    catch_up_limit  int, 1 to 10,000, 100 by default: of more ticks than that, the newest are sent
    overlap     "allow" (default), "skip" or "queue": what is done when the message before has no outcome yet
    jitter      float, seconds: each tick is put off by its own share of them
    starts_at, ends_at  aware datetimes: no ticks before, or after
    max_runs    int: how many messages it sends in all
    headers     text -> text, for a URL: what is sent, and settings, as the HTTP API takes them (`Upstash-Method: PUT`)
    body        text or bytes, for a URL
    """

    cron: str | None
    every: float | None
    at: datetime | None
    timezone: str | None
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    catch_up: str
    catch_up_limit: int
    overlap: str
    jitter: float
    starts_at: datetime | None
    ends_at: datetime | None
    max_runs: int | None
    headers: Mapping[str, str]
    body: str | bytes


def plan_of(id: str, options: ScheduleOptions) -> Plan:
    """The plan that the options ask for.

    Raises:
        InvalidSchedule: naming the schedule, the value and what is allowed.
    """
    if not isinstance(id, str) or not _ID.fullmatch(id):
        shown = repr(id) if len(repr(id)) <= 80 else repr(id)[:77] + "..."
        raise InvalidSchedule(f"schedule id {shown} is not allowed: use 1 to 200 letters, digits, '_', '.', ':' or '-'")
    try:
        return _plan_of(options)
    except InvalidSchedule as error:
        raise InvalidSchedule(f"schedule {id}: {error}") from None


def _plan_of(options: ScheduleOptions) -> Plan:
    unknown = options.keys() - ScheduleOptions.__annotations__.keys()
    if unknown:
        known = ", ".join(ScheduleOptions.__annotations__)
        raise InvalidSchedule(f"unknown option {min(unknown)!r}; there are: {known}")
    args, kwargs = options.get("args", ()), options.get("kwargs", {})
    if isinstance(args, str | bytes) or not isinstance(args, Sequence):
        raise InvalidSchedule(f"args is a list of arguments, got {args!r:.80}")
    if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
        raise InvalidSchedule(f"kwargs is a map from names to arguments, got {kwargs!r:.80}")
    cron, every, at = options.get("cron"), options.get("every"), options.get("at")
    zone = options.get("timezone")
    if [cron, every, at].count(None) != 2:
        raise InvalidSchedule("say one of cron=, every= and at=")
    if zone is not None and cron is None:
        raise InvalidSchedule(f"timezone={zone!r} goes with cron; every and at are of no zone")
    timetable: Timetable
    if cron is not None:
        timetable = Cron(cron, zone)
    elif every is not None:
        timetable = Every(every, EPOCH)
    else:
        assert at is not None
        timetable = Once(at)
    policies = {name: value for name, value in options.items() if name in _POLICIES}
    return Plan(timetable, **policies)  # type: ignore[arg-type]


def request_template(id: str, url: str, options: ScheduleOptions, *, now: datetime) -> Message:
    """The message of a schedule that calls a URL.

    Raises:
        InvalidSchedule: naming the header or value, and what is allowed.
    """
    if options.get("args") or options.get("kwargs"):
        raise InvalidSchedule(f"schedule {id}: args and kwargs go with a task; a URL takes headers and body")
    headers, body = options.get("headers", {}), options.get("body", b"")
    if not isinstance(headers, Mapping) or not all(isinstance(text, str) for pair in headers.items() for text in pair):
        raise InvalidSchedule(f"schedule {id}: headers is a map from text to text, got {headers!r:.80}")
    if not isinstance(body, str | bytes):
        raise InvalidSchedule(f"schedule {id}: body is text or bytes, got {body!r:.80}")
    try:
        url = check_url("url", url)
        said = read(tuple(headers.items()))
    except InvalidRequest as error:
        raise InvalidSchedule(f"schedule {id}: {error}") from None
    data = body.encode() if isinstance(body, str) else body
    return compose(said, url, data, now=now, queue=HTTP_TASK, schedule_id=id)


def make_schedule(id: str, plan: Plan, message: Message, overlap: str) -> Schedule:
    """A schedule of what a user said.

    Args:
        message: as it would be sent now; its own instants are kept as spans.

    Raises:
        InvalidSchedule: naming the value and what is allowed.
    """
    if overlap not in list(Overlap):
        raise InvalidSchedule(f"schedule {id}: overlap is one of {', '.join(Overlap)}; got {overlap!r}")
    return Schedule(id, plan, _as_of_the_epoch(message), Overlap(overlap))


def _as_of_the_epoch(message: Message) -> Message:
    return replace(_moved(message, EPOCH), id="template", reply_to=None)


def _moved(message: Message, to: datetime) -> Message:
    """The same message, sent at another instant."""
    by = to - message.created_at
    return replace(
        message,
        created_at=to,
        not_before=None if message.not_before is None else message.not_before + by,
        expires_at=None if message.expires_at is None else message.expires_at + by,
    )


def group_of(schedule: Schedule) -> str | None:
    """The URL group whose members its messages go to; None: its message is one."""
    request = request_of(schedule.message)
    return None if request is None or request.url else request.topic


def ticks_of(
    schedule: Schedule,
    instant: datetime,
    now: datetime,
    *,
    repair_at: datetime,
    group: GroupRecord | None = None,
    by_hand: bool = False,
) -> list[Tick]:
    """The message of an instant, or one for each member of its URL group, with what makes sure that it is published.

    Args:
        now: by the store's clock.
        repair_at: when the keeper publishes it, should its sender not have done so.
        group: the URL group of `group_of`, as it is now.
        by_hand: out of turn.

    Raises:
        InvalidSchedule: the group is gone.
    """
    name = group_of(schedule)
    if name is None:
        return [_tick(schedule, schedule.message, "", instant, now, repair_at, by_hand)]
    if group is None:
        raise InvalidSchedule(f"there is no URL group {name!r}: make it, or delete the schedule")
    request = request_of(schedule.message)
    assert request is not None
    said = {header.lower() for header, _ in request.headers}
    defaults = read((), defaults=group.headers).headers  # settings among them counted when the schedule was made
    headers = request.headers + tuple(pair for pair in defaults if pair[0].lower() not in said)
    ticks = []
    for endpoint in group.endpoints:
        mine = replace(request, url=endpoint.url, endpoint=endpoint.name, headers=headers)
        message = replace(schedule.message, payload=mine.encode())
        member = hashlib.blake2b(endpoint.url.encode(), digest_size=16).hexdigest()
        ticks.append(_tick(schedule, message, member, instant, now, repair_at, by_hand))
    return ticks


def _tick(
    schedule: Schedule,
    template: Message,
    member: str,
    instant: datetime,
    now: datetime,
    repair_at: datetime,
    by_hand: bool,
) -> Tick:
    headers = {SCHEDULE_HEADER: schedule.id, INSTANT_HEADER: instant.isoformat()}
    request = request_of(template)
    if request is not None and template.not_before is not None:
        start = to_ms(now + (template.not_before - template.created_at))
        template = replace(template, payload=replace(request, not_before=start).encode())
    message = replace(
        _moved(template, now),
        id=new_id(now),
        headers={**template.headers, **headers},
        recorded=template.recorded or schedule.overlap is not Overlap.ALLOW,
        # It may be published twice: a leader that was cut off still has it on the way when another repeats it.
        repeated=True,
    )
    row = OutboxRow(
        id=f"{message.id}/fire/0",
        target="queue" if message.not_before is None else "waiting",
        queue=message.queue,
        body=message.encode(),
        content_type=CONTENT_TYPE,
        message_id=message.id,
        due_at=repair_at,
    )
    return Tick(instant, message.id if by_hand else member, message, row)
