"""From what a caller wants sent to messages that are accepted: recorded, published, confirmed.

Publishes that come at the same time share a transaction. What was recorded and is not confirmed in time is
published by the keeper all the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from taskq.api.errors import NotFound
from taskq.app import TaskQ
from taskq.broker.base import Broker
from taskq.dispatch import Dispatcher, control, outbox_row
from taskq.errors import BrokerUnavailable, InvalidRequest, PayloadTooLarge, StoreUnavailable, TaskqError
from taskq.group import Group
from taskq.http import publishing
from taskq.http.publishing import Destination
from taskq.http.request import HTTP_TASK, TASK_SCHEME, Headers, Request
from taskq.message import Message
from taskq.queue import DEFAULT_QUEUE, Queue, QueueRecord, check_queue_name
from taskq.store.base import Store
from taskq.store.gateway import Accepted, Endpoint, Parcel

logger = logging.getLogger("taskq.api")

REPAIR_AFTER = 10.0  # seconds beyond `publish_timeout` after which the keeper publishes what was not confirmed
KNOWN_FOR = 2.0  # seconds that a queue's row is remembered
NOTE_EVERY = 0.05  # seconds between notes of what was published, which nobody waits for
CALLBACKS = "callbacks"  # the queue of callbacks' messages
RESERVED = frozenset({HTTP_TASK, CALLBACKS})


@dataclass(frozen=True, slots=True)
class Order:
    """What a caller wants sent.

    destination     str, as it was given
    headers, query  what was said of it
    body            bytes
    queue           str | None: through this queue; None: at once, beside all others
    caller_ip       str
    """

    destination: str
    headers: Headers
    query: Headers
    body: bytes
    queue: str | None = None
    caller_ip: str = ""


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of an order: of a URL group's one message for each member, with the member's URL."""

    messages: tuple[tuple[str, Accepted], ...]
    group: bool

    @property
    def duplicate(self) -> bool:
        """It was known already, and nothing was sent."""
        return all(accepted.duplicate for _, accepted in self.messages)


@dataclass(frozen=True, slots=True)
class Planned:
    """A message that an order makes, and the queue that it goes to."""

    url: str
    parcel: Parcel
    record: QueueRecord | None


class Publisher:
    """Accepts orders, for an app whose tasks destinations may name."""

    def __init__(self, *, app: TaskQ, store: Store, broker: Broker, dispatcher: Dispatcher) -> None:
        self._app = app
        self._settings = app.settings
        self._clock = app.clock
        self._store = store
        self._broker = broker
        self._dispatcher = dispatcher
        self._accepting: Group[Parcel, Accepted | Exception] = Group(
            self._accept, clock=app.clock, what="accepting messages"
        )
        self._noting: Group[str, None] = Group(self._note, clock=app.clock, what="noting what was published")
        self._queues: dict[str, tuple[float, QueueRecord]] = {}
        self._jobs = [asyncio.create_task(group.run()) for group in (self._accepting, self._noting)]

    async def prepare(self) -> None:
        """Make the queues that messages without one, and callbacks, go by, so that workers serve them."""
        for name in (HTTP_TASK, CALLBACKS):
            await self._queue(Queue(name))

    async def close(self) -> None:
        """End, when it is noted what was published. What is not is published again, and found to be known."""
        try:
            async with asyncio.timeout(self._settings.publish_timeout):
                await self._noting.drained()
        except TimeoutError:
            logger.warning("the store did not answer: the keeper will repeat publishes that were made")
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)

    async def send(self, order: Order) -> Sent:
        """Record, publish, and wait for the confirms.

        Raises:
            InvalidRequest, InvalidArguments, UnknownTask, PayloadTooLarge, NotFound: nothing was accepted.
            BrokerUnavailable, StoreUnavailable: it may be sent later all the same.
        """
        [sent] = await self.send_many([order])
        if isinstance(sent, TaskqError):
            raise sent
        return sent

    async def send_many(self, orders: Sequence[Order]) -> list[Sent | TaskqError]:
        """For each what became of it; they share a transaction, and do not share their fates."""
        plans = [await self._planned(order) for order in orders]
        planned = [one for plan in plans if not isinstance(plan, TaskqError) for one in plan]
        accepted = await self._accepted(planned)
        fresh = [one for one, known in zip(planned, accepted, strict=True) if not known.duplicate]
        problems = await self._published(fresh)
        results = iter(zip(planned, accepted, strict=True))
        found: list[Sent | TaskqError] = []
        for order, plan in zip(orders, plans, strict=True):
            if isinstance(plan, TaskqError):
                found.append(plan)
                continue
            mine = [next(results) for _ in plan]
            problem = next((problems[one.parcel.message.id] for one in plan if one.parcel.message.id in problems), None)
            group = publishing.destination(order.destination).kind == "group"
            found.append(problem or Sent(tuple((one.url, known) for one, known in mine), group))
        return found

    async def template(self, order: Order, schedule_id: str) -> Message:
        """The message that a schedule of this order sends again and again. For a URL group it has no URL: each tick
        finds out who its members are then.

        Raises:
            InvalidRequest, InvalidArguments, UnknownTask, PayloadTooLarge, NotFound: as `send`.
        """
        [first, *_] = await self._plan(order)
        message = first.parcel.message
        request = Request.decode(message.payload)
        said = publishing.read(order.headers, order.query)
        if request.topic is not None:  # without the defaults of the group, which may change
            request = replace(request, url="", endpoint=None, headers=said.headers)
        not_before = None if said.delay is None else message.created_at + timedelta(seconds=said.delay)
        request = replace(request, schedule_id=schedule_id, not_before=None)
        return replace(message, payload=request.encode(), not_before=not_before)

    # -- planning ---------------------------------------------------------------------------

    async def _planned(self, order: Order) -> list[Planned] | TaskqError:
        try:
            return await self._plan(order)
        except TaskqError as error:
            return error

    async def _plan(self, order: Order) -> list[Planned]:
        if len(order.body) > self._settings.max_payload_bytes:
            raise PayloadTooLarge(
                f"the body has {len(order.body)} bytes, {self._settings.max_payload_bytes} are allowed: "
                "send a link to it instead",
                size_bytes=len(order.body),
                limit_bytes=self._settings.max_payload_bytes,
            )
        destination = publishing.destination(order.destination)
        queue = None if order.queue is None else Queue(check_own_queue(order.queue), parallelism=1)
        defaults, members = await self._members(destination)
        said = publishing.read(order.headers, order.query, defaults=defaults)
        if destination.kind == "llm" and said.callback is None:
            raise InvalidRequest("destination api/llm needs Upstash-Callback: that is where the answer goes")
        due_at = self._clock.now() + timedelta(seconds=self._settings.publish_timeout + REPAIR_AFTER)
        group = destination.kind == "group"
        parcels = []
        for member in members:
            message = publishing.compose(
                said,
                member.url,
                order.body,
                now=self._clock.now(),
                queue=self._queue_name(member.url) if queue is None else queue.name,
                queue_name=order.queue,
                caller_ip=order.caller_ip,
                topic=destination.value if group else None,
                endpoint=member.name,
            )
            self._check_task(message)
            dedup = publishing.dedup_key(said, destination.text, order.body, member=member.url if group else None)
            parcels.append(Parcel(message, outbox_row(message, "enqueue", due_at), dedup))
        record = None if queue is None else await self._queue(queue)  # last: what is refused makes no queue
        return [Planned(member.url, parcel, record) for member, parcel in zip(members, parcels, strict=True)]

    async def _members(self, destination: Destination) -> tuple[Headers, Sequence[Endpoint]]:
        """The headers that go with a destination by default, and the URLs that it means."""
        match destination.kind:
            case "group":
                group = await self._store.get_group(destination.value)
                if group is None:
                    raise NotFound(f"no URL group is named {destination.value!r}")
                return group.headers, group.endpoints
            case "llm":
                return self._model()
        return (), [Endpoint(destination.text)]

    def _model(self) -> tuple[Headers, Sequence[Endpoint]]:
        settings = self._settings
        if settings.llm_url is None:
            raise InvalidRequest("destination api/llm: this server has no model; its setting TASKQ_LLM_URL names one")
        headers: Headers = ()
        if settings.llm_token is not None:
            headers = (
                ("Authorization", f"Bearer {settings.llm_token.get_secret_value()}"),
                ("Upstash-Redact-Fields", "header[Authorization]"),
            )
        return headers, [Endpoint(f"{settings.llm_url.rstrip('/')}/v1/chat/completions")]

    def _queue_name(self, url: str) -> str:
        if not url.startswith(TASK_SCHEME):
            return HTTP_TASK
        task = self._app.tasks.get(url.removeprefix(TASK_SCHEME))
        return DEFAULT_QUEUE if task is None else task.definition.queue.name

    def _check_task(self, message: Message) -> None:
        """That the task which a message names is there, and takes what it is given."""
        if message.task != HTTP_TASK:
            args, kwargs = Request.decode(message.payload).arguments()
            self._app.get_task(message.task).validate(tuple(args), kwargs)

    async def _queue(self, queue: Queue) -> QueueRecord:
        now = self._clock.monotonic()
        known = self._queues.get(queue.name)
        if known is None or now - known[0] > KNOWN_FOR:
            if queue.parallelism is not None:
                queue = replace(queue, retry_in_place=True)
            record = await self._store.get_queue(queue.name)
            if record is None:
                record = await self._store.ensure_queue(queue, origin="gateway")
                self._broker.broadcast(control({"changed": queue.name}))
            known = self._queues[queue.name] = (now, record)
        return known[1]

    def forget(self, name: str) -> None:
        """The queue has been changed or deleted."""
        self._queues.pop(name, None)

    # -- accepting --------------------------------------------------------------------------

    async def _accepted(self, planned: Sequence[Planned]) -> Sequence[Accepted]:
        try:
            async with asyncio.timeout(self._settings.publish_timeout):
                found = await self._accepting.call_many([one.parcel for one in planned])
        except TimeoutError as error:
            raise StoreUnavailable("the store did not answer: the message may be sent later all the same") from error
        accepted = []
        for one in found:
            if isinstance(one, Exception):
                raise one
            accepted.append(one)
        return accepted

    async def _accept(self, parcels: list[Parcel]) -> list[Accepted | Exception]:
        """Each alone, where they cannot be accepted together: one that the store refuses stops no other."""
        try:
            return list(await self._store.accept(parcels))
        except StoreUnavailable:
            raise
        except Exception as error:  # whatever it is, it is that message's alone
            if len(parcels) == 1:
                return [error]
            return [found for parcel in parcels for found in await self._accept([parcel])]

    async def _published(self, planned: Sequence[Planned]) -> dict[str, TaskqError]:
        """Publish, and tell of the messages that were not confirmed."""
        try:
            async with asyncio.timeout(self._settings.publish_timeout):
                pairs = [(one.parcel.message, one.record) for one in planned]
                results: Sequence[TaskqError | None] = await self._dispatcher.send_many(pairs)
        except (TimeoutError, BrokerUnavailable) as error:
            late = BrokerUnavailable(f"not confirmed by the broker ({error}): the message may be sent later")
            results = [late] * len(planned)
        problems = {}
        for one, result in zip(planned, results, strict=True):
            if result is None:
                self._noting.submit(one.parcel.outbox.id, lambda _: None)
            else:
                problems[one.parcel.message.id] = result
        return problems

    async def _note(self, ids: list[str]) -> list[None]:
        await self._store.published(ids)
        await self._clock.sleep(NOTE_EVERY)
        return [None] * len(ids)


def check_own_queue(name: str) -> str:
    """The name, if a caller's queue can have it.

    Raises:
        InvalidQueue, InvalidRequest: it cannot.
    """
    if check_queue_name(name) in RESERVED:
        raise InvalidRequest(f"queue {name!r} is taskq's own: choose another name")
    return name
