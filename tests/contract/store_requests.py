"""What a gateway asks of the store: requests, their history and answers, URL groups and signing keys."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from taskq.errors import InvalidSetting
from taskq.flow import Flow
from taskq.http.request import HTTP_TASK, PAYLOAD_TYPE, Request, Response
from taskq.message import Message
from taskq.outcome import Status
from taskq.store import check_store, open_store, schema, tables
from taskq.store.base import (
    DeadFilter,
    Retention,
    Settled,
    Store,
    Tick,
    WaitingRow,
)
from taskq.store.gateway import Accepted, Endpoint, Parcel, RequestFilter
from taskq.store.lines import make_engine
from tests.contract.store_schedules import schedule, step
from tests.contract.store_support import (
    FAILURE,
    StillClock,
    at,
    book,
    claim,
    end,
    letter,
    make,
    parked,
    row,
    settle,
    status,
    structure,
)

URL = "https://example.com/in?a=1"
EVERYTHING = RequestFilter()
GOOD = Response(200, (("Content-Type", "text/plain"),), b"thanks").encode()
BAD = Response(503, (), b"later").encode()


def asking(url: str = URL, fields: dict[str, object] | None = None, **request: object) -> Message:
    """A message for a URL; `fields` are the message's own."""
    payload = Request(url, **request).encode()  # type: ignore[arg-type]
    ours = {"task": HTTP_TASK, "payload": payload, "payload_type": PAYLOAD_TYPE, "created_at": at(0), "recorded": True}
    return make(**(ours | (fields or {})))


def parcel(message: Message, dedup: str | None = None, *, scope: str = "u", window: float = 600.0) -> Parcel:
    return Parcel(message, row(message), None if dedup is None else (scope, dedup), window)


async def accept(store: Store, *messages: Message) -> None:
    assert await store.accept([parcel(one) for one in messages]) == [Accepted(one.id) for one in messages]


async def states(store: Store, message: Message) -> list[str]:
    return [line.state for line in await store.history(message.id)]


async def listed(store: Store, which: RequestFilter = EVERYTHING) -> list[str]:
    page = await store.list_requests(which)
    assert page.cursor is None
    return [one.message.id for one in page.items]


async def told(store: Store, which: RequestFilter = EVERYTHING, **more: object) -> list[tuple[str, str]]:
    """(message id, state) of all events, page by page of two."""
    found: list[tuple[str, str]] = []
    cursor: str | None = None
    while True:
        page = await store.events(which, cursor=cursor, limit=2, **more)  # type: ignore[arg-type]
        found += [(event.entry.message_id, event.entry.state) for event in page.items]
        cursor = page.cursor
        if cursor is None:
            return found


async def outboxed(store: Store) -> list[str]:
    return [one.id for one in await store.claim_outbox(1000, 5)]


class Acceptance:
    async def test_accept(self, store: Store) -> None:
        """The message's row, its request, its publish and the first line of its history are there at once."""
        message = asking(labels=("a", "b"), fields={"flow": Flow("k", 3)})
        await accept(store, message)
        found = await store.get_request(message.id)
        assert found is not None and found.message == message and found.record is not None
        assert (found.record.status, found.record.queue, found.record.task) == (Status.QUEUED, "q", "http")
        assert await outboxed(store) == [f"{message.id}/send"]
        [line] = await store.history(message.id)
        assert (line.state, line.at) == ("CREATED", message.created_at)
        assert await store.get_request("none") is None
        assert await store.accept([]) == []

    async def test_accept_of_one_to_wait(self, store: Store) -> None:
        """A message whose time is ahead reads WAITING."""
        message = asking(fields={"not_before": at(60)})
        await accept(store, message)
        found = await store.get_request(message.id)
        assert found is not None and found.record is not None
        assert (found.record.status, found.record.not_before) == (Status.WAITING, at(60))

    async def test_accept_with_a_flow_key(self, store: Store) -> None:
        """The key is there at once, with the newest message's limits; a duplicate's do not count."""
        first, second, other = (asking(fields={"flow": Flow("k", parallelism)}) for parallelism in (3, 5, 7))
        await accept(store, first)
        found = await store.get_flow("k")
        assert found is not None and (found.parallelism, found.waiting, found.running) == (3, 0, 0)
        await store.accept([parcel(second, "d")])
        await store.accept([parcel(other, "d")])
        found = await store.get_flow("k")
        assert found is not None and found.parallelism == 5

    async def test_accept_many(self, store: Store) -> None:
        """A group is accepted in the order in which it was given, whatever its ids are."""
        messages = [asking() for _ in range(200)][::-1]
        await accept(store, *messages)
        assert len(await outboxed(store)) == 200
        assert (await store.table_sizes())["taskq_requests"] == 200

    async def test_accept_again(self, store: Store) -> None:
        """Repeated it answers the same and writes nothing, not even the publish of what has been published since."""
        first, second, other = asking(), asking(), asking()
        parcels = [parcel(first, "d"), parcel(second, "d"), parcel(other)]
        answer = [Accepted(first.id), Accepted(first.id, duplicate=True), Accepted(other.id)]
        assert await store.accept(parcels) == answer
        await store.published(await outboxed(store))
        await settle(store, end(other, response=GOOD))
        sizes = await store.table_sizes()
        assert await store.accept(parcels) == answer
        assert await store.table_sizes() == sizes
        assert await status(store, other) is Status.SUCCEEDED
        assert sizes["taskq_outbox"] == 0 and await store.get_request(second.id) is None

    async def test_duplicates(self, store: Store, clock: StillClock) -> None:
        """Within its window an id is one message's, also after that has ended; ids of other scopes are others."""
        first, later, elsewhere, after = (asking() for _ in range(4))
        [one] = await store.accept([parcel(first, "d", window=10)])
        assert one == Accepted(first.id)
        await settle(store, end(first, response=GOOD))
        clock.move(9.999)
        assert await store.accept([parcel(later, "d"), parcel(elsewhere, "d", scope="v")]) == [
            Accepted(first.id, duplicate=True),
            Accepted(elsewhere.id),
        ]
        assert await store.get(later.id) is None
        assert len(await outboxed(store)) == 2
        clock.move(0.001)
        assert await store.accept([parcel(after, "d")]) == [Accepted(after.id)]

    async def test_ids_of_queues_are_others(self, store: Store) -> None:
        """A message of a queue that claims the same id is no duplicate."""
        task, request = make(dedup_id="d", queue="u"), asking()
        await store.deduplicate(task, window=600, replace=False, row=row(task))
        assert await store.accept([parcel(request, "d")]) == [Accepted(request.id)]

    async def test_accepted_together(self, stores: list[Store]) -> None:
        """Of groups that come at the same moment with the same ids, in any order, each id has one winner."""
        for attempt in range(4):
            ids = [f"{attempt}-{n}" for n in range(12)]
            groups = [[parcel(asking(), one) for one in ids[n * 3 :] + ids[: n * 3]] for n in range(len(stores))]
            answers = await asyncio.gather(*(one.accept(group) for one, group in zip(stores, groups, strict=True)))
            winners = Counter(
                (given.dedup, found.message_id)
                for group, answer in zip(groups, answers, strict=True)
                for given, found in zip(group, answer, strict=True)
            )
            assert sorted(winners.values()) == [4] * 12
            assert sum(not found.duplicate for answer in answers for found in answer) == 12
        assert (await stores[0].table_sizes())["taskq_requests"] == 48

    async def test_a_damaged_request_is_an_ordinary_message(self, store: Store) -> None:
        """Its transaction does not fail; nothing is known to look for."""
        damaged, good = asking(fields={"payload": b"\xc1"}), asking()
        await accept(store, damaged, good)
        assert await status(store, damaged) is Status.QUEUED
        assert await store.get_request(damaged.id) is None
        assert await listed(store) == [good.id]
        assert await settle(store, end(damaged, Status.FAILED, failure=FAILURE)) is Settled.APPLIED

    async def test_texts_that_cannot_be_stored(self, store: Store) -> None:
        """NUL and lone surrogates in what is looked for do not keep a request out; the message comes back as it was."""
        message = asking("https://h/\ud800", labels=("a\0b",), caller_ip="\0", topic="\udfff")
        await accept(store, message)
        found = await store.get_request(message.id)
        assert found is not None and found.message == message
        assert await listed(store, RequestFilter(labels=["a\0b"])) == [message.id]

    async def test_recorded_otherwise(self, store: Store) -> None:
        """Whoever records a request: `record`, a schedule's tick, a run out of turn, a dead letter that is revived."""
        recorded, fired, run, revived = (asking(fields={"recorded": False}) for _ in range(4))
        await store.record([recorded])
        record = await store.put_schedule(schedule(), next_at=at(1), origin="operator")
        await store.fire([step(record, Tick(at(1), "", fired, row(fired)), to=1)])
        assert await store.run_schedule("app", "s", Tick(at(2), run.id, run, row(run)))
        dead = letter(1)
        await store.archive([dead])
        assert await store.revive([dead.id, "gone"], [row(revived), row(asking())]) == 1
        assert await listed(store) == [one.id for one in (revived, run, fired, recorded)]
        for message in (recorded, fired, run, revived):
            assert (await status(store, message), await states(store, message)) == (Status.QUEUED, ["CREATED"])


class RequestBook:
    async def test_request_filters(self, store: Store) -> None:
        """Any of the values of a condition, and all conditions."""
        one = asking(
            "https://Example.com:8080/a/b?c=d",
            topic="t", endpoint="e", schedule_id="s", queue_name="Q", caller_ip="1.2.3.4", labels=("x", "yy"),
            fields={"flow": Flow("k")},
        )  # fmt: skip
        other = asking("task://Sum", labels=("xy",), fields={"created_at": at(1)})
        await accept(store, one, other)
        first = [one.id]
        for which in (
            RequestFilter(ids=[one.id, "none"]),
            RequestFilter(topics=["t"]),
            RequestFilter(queues=["Q"]),
            RequestFilter(urls=["https://Example.com:8080/a/b?c=d"]),
            RequestFilter(hosts=["example.com:8080"]),
            RequestFilter(paths=["/a/b"]),
            RequestFilter(labels=["yy"]),
            RequestFilter(labels=["x", "none"]),
            RequestFilter(flow_keys=["k"]),
            RequestFilter(schedule_ids=["s"]),
            RequestFilter(caller_ips=["1.2.3.4"]),
            RequestFilter(topics=["u", "t"], labels=["x"]),
            RequestFilter(since=one.created_at, until=one.created_at),
        ):
            assert await listed(store, which) == first, which
            assert await told(store, which) == [(one.id, "CREATED")], which
        assert await listed(store, RequestFilter(hosts=["Sum"])) == [other.id]
        for which in (
            RequestFilter(labels=["y"]),
            RequestFilter(topics=["t"], labels=["xy"]),
            RequestFilter(ids=["-"]),
        ):
            assert await listed(store, which) == [] and await told(store, which) == [], which

    async def test_unfinished(self, store: Store) -> None:
        """Those that are queued, waiting or running, and no others."""
        queued, waiting, running, done, failed, gone = messages = [asking() for _ in range(6)]
        await accept(store, *messages)
        await store.book([WaitingRow(replace(one, not_before=at(99)), at(99)) for one in (waiting, gone)])
        assert await store.running(running, worker="w", epoch=0, attempt=1, started_at=at(1))
        await store.settle([end(done, response=GOOD), end(failed, Status.FAILED, failure=FAILURE, response=BAD)])
        assert await store.cancel(gone.id) == "done"
        assert await listed(store, RequestFilter(unfinished=True)) == [running.id, waiting.id, queued.id]
        assert await listed(store, RequestFilter(unfinished=True, ids=[done.id, queued.id])) == [queued.id]
        await store.cancel(queued.id)
        assert await listed(store, RequestFilter(unfinished=True, uncancelled=True)) == [running.id, waiting.id]
        assert len(await listed(store)) == 6

    async def test_request_pages(self, store: Store) -> None:
        """Newest first, each once, though new ones come between two pages."""
        messages = [asking(fields={"created_at": at(n // 3)}) for n in range(8)]
        await accept(store, *messages)
        found, cursor = [], None
        while True:
            page = await store.list_requests(EVERYTHING, cursor=cursor, limit=3)
            found += [one.message.id for one in page.items]
            cursor = page.cursor
            if cursor is None:
                break
            await accept(store, asking(fields={"created_at": at(100)}))
        assert found == [one.id for one in messages[::-1]]

    async def test_cursors_are_checked(self, store: Store) -> None:
        """A cursor that no listing gave is an error that names it."""
        for cursor in ("", "x", "[1]", "[1,2]", '["a","b"]', '[1,"a"]', '[1,"a","b"]', '[1,"\\ud800",1]'):
            with pytest.raises(InvalidSetting, match="cursor"):
                await store.events(EVERYTHING, cursor=cursor)
        for cursor in ("x", '[1,"a",1]', f'[{2**70},"a"]'):
            with pytest.raises(InvalidSetting, match="cursor"):
                await store.list_requests(EVERYTHING, cursor=cursor)

    async def test_callbacks(self, store: Store) -> None:
        """A message's callbacks are unfinished until all of them have their outcomes."""
        source = asking()
        answers = [asking(callback_of=source.id) for _ in range(2)]
        await accept(store, source, asking(callback_of="another"))
        assert not await store.unfinished_callbacks(source.id)
        await accept(store, *answers)
        await settle(store, end(answers[0], response=GOOD))
        assert await store.unfinished_callbacks(source.id)
        await settle(store, end(answers[1], Status.FAILED, failure=FAILURE, response=BAD))
        assert not await store.unfinished_callbacks(source.id)

    async def test_lag(self, store: Store) -> None:
        """Recorded messages without an outcome, of each queue that was asked for."""
        messages = [asking(fields={"queue": queue}) for queue in "aaab"]
        await accept(store, *messages)
        await settle(store, end(messages[0], response=GOOD))
        await book(store, messages[1], 60)
        assert await store.lag(["a", "b", "none"]) == {"a": 2, "b": 1, "none": 0}
        assert await store.lag([]) == {}


class RequestHistory:
    async def test_success(self, store: Store) -> None:
        """A request's lines are written, each once, though its row tells them too."""
        message = asking()
        await accept(store, message)
        assert await store.running(message, worker="worker", epoch=0, attempt=1, started_at=at(10))
        assert await states(store, message) == ["CREATED", "ACTIVE"]
        assert await settle(store, end(message, response=GOOD)) is Settled.APPLIED
        lines = await store.history(message.id)
        assert [(line.state, line.at, line.response) for line in lines] == [
            ("CREATED", message.created_at, None),
            ("ACTIVE", at(10), None),
            ("DELIVERED", at(11), GOOD),
        ]
        assert [(line.attempt, line.worker) for line in lines[1:]] == [(1, "worker"), (1, "worker")]
        page = await store.events(EVERYTHING, oldest_first=True)
        assert [event.entry for event in page.items] == lines
        assert [event.message for event in page.items] == [message] * 3

    async def test_failures(self, store: Store) -> None:
        """The answer of each attempt lies with its error, and a retry says when."""
        message = asking()
        await accept(store, message)
        assert await settle(store, parked(message, 60, response=BAD)) is Settled.APPLIED
        copy = message.next_attempt(at(60)).released()
        claimed = await claim(store, copy)
        last = end(copy, Status.FAILED, failure=FAILURE, epoch=claimed.epoch, attempt=2, reason="failed", response=GOOD)
        assert await settle(store, replace(last, started_at=at(60), ended_at=at(61))) is Settled.APPLIED
        lines = await store.history(message.id)
        assert [(line.state, line.response, line.next_at) for line in lines] == [
            ("CREATED", None, None),
            ("ACTIVE", None, None),
            ("ERROR", BAD, None),
            ("RETRY", None, at(60)),
            ("ACTIVE", None, None),
            ("ERROR", GOOD, None),
            ("FAILED", None, None),
        ]

    async def test_an_end_before_the_beginning(self, store: Store) -> None:
        """What ended before it could begin was never active; a wait for a key leaves no line at all."""
        dropped, held = asking(), asking()
        await accept(store, dropped, held)
        await settle(store, end(dropped, Status.CANCELLED, started_at=at(11)))
        await settle(store, end(held, Status.WAITING, started_at=at(11), parked=held.held(at(11))))
        assert await states(store, dropped) == ["CREATED", "CANCELED"]
        assert await states(store, held) == ["CREATED"]

    async def test_cancel(self, store: Store) -> None:
        """Asked for, and at once or later obeyed; asked twice it is one line."""
        waiting, running = asking(), asking()
        await accept(store, waiting, running)
        await book(store, waiting, 60)
        assert await store.cancel(waiting.id) == "done"
        assert await states(store, waiting) == ["CREATED", "CANCEL_REQUESTED", "CANCELED"]
        assert await store.cancel(running.id) == "asked"
        assert await store.cancel(running.id) == "asked"
        assert await states(store, running) == ["CREATED", "CANCEL_REQUESTED"]
        await settle(store, end(running, Status.CANCELLED))
        assert await states(store, running) == ["CREATED", "CANCEL_REQUESTED", "ACTIVE", "CANCELED"]
        events = [state for _, state in await told(store, RequestFilter(ids=[waiting.id]))]
        assert events == ["CANCELED", "CANCEL_REQUESTED", "CREATED"]

    async def test_cancelled_by_several(self, stores: list[Store], clock: StillClock) -> None:
        """Of several who cancel many while they fall due, one ends each; each is asked for in one line."""
        messages = [asking() for _ in range(40)]
        await accept(stores[0], *messages)
        for one in messages[::2]:
            await book(stores[0], one, 1)
        clock.move(2)
        ids = [one.id for one in messages]

        async def release() -> None:
            while due := await stores[2].claim_due(5, 60):
                await stores[2].released([(one.message.id, one.message.hop) for one in due])

        first, second, _ = await asyncio.gather(stores[0].cancel_many(ids), stores[1].cancel_many(ids[::-1]), release())
        for one, effects in zip(messages, zip(first, second[::-1], strict=True), strict=True):
            seen = await states(stores[0], one)
            assert seen.count("CANCEL_REQUESTED") <= 1
            assert effects.count("done") <= 1
            if "done" in effects:
                assert seen == ["CREATED", "CANCEL_REQUESTED", "CANCELED"]
                assert set(effects) == {"done", "finished"} or set(effects) == {"done", "asked"}

    async def test_tasks_are_no_requests(self, store: Store) -> None:
        """A Python task's lines are not among the events, and stay as few as they were."""
        task = make()
        await store.record([task])
        await settle(store, end(task))
        failed = make()
        await settle(store, end(failed, Status.FAILED, failure=FAILURE))
        assert await store.cancel(make().id) == "asked"
        assert await told(store) == []
        assert await states(store, task) == ["CREATED", "ACTIVE", "DELIVERED"]
        assert (await store.table_sizes())["taskq_log"] == 3

    async def test_events(self, store: Store) -> None:
        """Either way through all lines, of some states, and between two instants, both included."""
        one, other = asking(fields={"created_at": at(0)}), asking(fields={"created_at": at(0)})
        await accept(store, one, other)
        await store.settle([end(other, response=GOOD), end(one, Status.FAILED, failure=FAILURE, response=BAD)])
        order = [
            (one.id, "CREATED"),
            (other.id, "CREATED"),
            (one.id, "ACTIVE"),
            (other.id, "ACTIVE"),
            (one.id, "ERROR"),
            (one.id, "FAILED"),
            (other.id, "DELIVERED"),
        ]
        assert await told(store, oldest_first=True) == order
        assert await told(store) == order[::-1]
        ends = [(one.id, "FAILED"), (other.id, "DELIVERED")]
        assert await told(store, states=["DELIVERED", "FAILED"], oldest_first=True) == ends
        assert await told(store, RequestFilter(since=at(10), until=at(10)), oldest_first=True) == order[2:4]
        assert await told(store, RequestFilter(since=at(12))) == []

    async def test_pages_while_lines_come(self, store: Store) -> None:
        """New lines do not shift the pages that go back in time."""
        messages = [asking(fields={"created_at": at(n)}) for n in range(6)]
        await accept(store, *messages)
        found, cursor = [], None
        while True:
            page = await store.events(EVERYTHING, cursor=cursor, limit=2)
            found += [event.entry.message_id for event in page.items]
            cursor = page.cursor
            if cursor is None:
                break
            await accept(store, asking(fields={"created_at": at(50)}))
        assert found == [one.id for one in messages[::-1]]

    async def test_events_outlive_their_requests(self, store: Store, clock: StillClock) -> None:
        """A line whose request has been pruned is told without its message, and no filter finds it by one."""
        message = asking()
        await accept(store, message)
        await settle(store, end(message, response=GOOD))
        clock.move(100)
        assert await store.prune(Retention(results=10, dead_letters=None, log=None)) == 1
        assert await store.get_request(message.id) is None
        [event, *_] = (await store.events(EVERYTHING)).items
        assert (event.entry.state, event.message) == ("DELIVERED", None)
        assert await told(store, RequestFilter(urls=[URL])) == []


class Births:
    async def test_born(self, store: Store) -> None:
        """What follows from a run is recorded with its end, once, though the end is told again."""
        source = asking()
        now, later = asking(callback_of=source.id), asking(callback_of=source.id, fields={"not_before": at(500)})
        await accept(store, source)
        await store.published(await outboxed(store))
        one = end(source, response=GOOD, born=(now, later), outbox=(row(now), row(later)))
        assert await settle(store, one) is Settled.APPLIED
        assert (await status(store, now), await status(store, later)) == (Status.QUEUED, Status.WAITING)
        assert await store.unfinished_callbacks(source.id)
        assert len(await outboxed(store)) == 2
        await store.published([row(now).id, row(later).id])
        await settle(store, end(now, response=GOOD))
        sizes = await store.table_sizes()
        assert await settle(store, one) is Settled.APPLIED
        assert await store.table_sizes() == sizes and sizes["taskq_outbox"] == 0
        assert await status(store, now) is Status.SUCCEEDED

    async def test_born_of_a_task(self, store: Store) -> None:
        """A success of which something is born is more than a row, and one that is fenced bears nothing."""
        task, born, late = make(hop=1), asking(), asking()
        assert await settle(store, end(task, born=(born,), outbox=(row(born),))) is Settled.APPLIED
        assert await status(store, born) is Status.QUEUED
        again = end(task, worker="other", born=(late,), outbox=(row(late),))
        assert await settle(store, again) is Settled.FENCED
        assert await store.get_request(late.id) is None and len(await outboxed(store)) == 1

    async def test_born_and_known(self, store: Store) -> None:
        """One that has a row already stays as it is, and so does its request."""
        source, known = asking(), asking()
        await accept(store, known)
        await settle(store, end(known, response=GOOD))
        changed = replace(known, payload=Request("https://elsewhere").encode())
        assert await settle(store, end(source, response=GOOD, born=(changed,))) is Settled.APPLIED
        found = await store.get_request(known.id)
        assert found is not None and found.message == known and found.record is not None
        assert found.record.status is Status.SUCCEEDED

    async def test_born_in_a_group(self, store: Store) -> None:
        """A group that has a bad row in it keeps what follows from the good ones."""
        good, bad, born = asking(), asking(), asking()
        group = [end(good, response=GOOD, born=(born,)), end(bad, attempt=2**70)]
        assert await store.settle(group) == [Settled.APPLIED, Settled.REFUSED]
        assert await status(store, born) is Status.QUEUED


class DeadRequests:
    async def test_responses(self, store: Store) -> None:
        """The last answer lies with the letter, and its status can be looked for; 0: none came."""
        answered = letter(1, asking(), response=BAD)
        silent, damaged, task = letter(2, asking()), letter(3, asking(), response=b"?"), letter(5)
        absurd = letter(4, asking(), response=Response(2**40).encode())
        await store.archive([answered, silent, damaged, absurd, task])
        page = await store.dead(DeadFilter())
        assert [one.response for one in page.items] == [None, absurd.response, b"?", None, BAD]
        without = [silent, damaged, absurd]
        for statuses, found in (([503], [answered]), ([0], without), ([503, 0], [answered, *without])):
            page = await store.dead(DeadFilter(statuses=statuses), oldest_first=True)
            assert [one.id for one in page.items] == [one.id for one in found]

    async def test_filter_by_request(self, store: Store) -> None:
        """Letters of the requests that fit; their ids are messages', their instants those of the deaths."""
        one, other, task = asking(labels=("x",)), asking("https://other/", topic="t"), make()
        await accept(store, one, other)
        await store.archive([letter(1, one), letter(2, other), letter(3, task)])
        for which, numbers in (
            (RequestFilter(), [1, 2]),
            (RequestFilter(labels=["x"]), [1]),
            (RequestFilter(hosts=["other"], topics=["t"]), [2]),
            (RequestFilter(ids=[other.id, task.id]), [2]),
            (RequestFilter(since=at(1), until=at(1)), [1]),
            (RequestFilter(since=at(2)), [2]),
            (RequestFilter(labels=["none"]), []),
        ):
            found = DeadFilter(request=which)
            page = await store.dead(found, oldest_first=True)
            assert [one.id for one in page.items] == [letter(number).id for number in numbers], which
            assert await store.count_dead(found) == len(numbers)
        assert await store.delete_dead(DeadFilter(request=RequestFilter(labels=["x"]))) == 1
        assert await store.count_dead(DeadFilter()) == 2

    async def test_oldest_first(self, store: Store) -> None:
        """Page by page, either way."""
        letters = [letter(number // 2, id=f"{number}-x") for number in range(7)]
        await store.archive(letters)
        for oldest_first in (True, False):
            found, cursor = [], None
            while True:
                page = await store.dead(DeadFilter(), cursor=cursor, limit=3, oldest_first=oldest_first)
                found += [one.id for one in page.items]
                cursor = page.cursor
                if cursor is None:
                    break
            assert found == [one.id for one in (letters if oldest_first else letters[::-1])]

    async def test_requests_stay_as_long_as_anything_of_theirs(self, store: Store, clock: StillClock) -> None:
        """A request goes with the later one of its message's row and its dead letter, whichever way that goes."""
        pruned, deleted, revived, first, live = messages = [asking() for _ in range(5)]
        await accept(store, *messages)
        ended = [end(one, Status.FAILED, failure=FAILURE, response=BAD) for one in messages[:4]]
        await store.settle(ended)
        letters = [letter(50, one, id=f"{one.id}-x") for one in messages[:4]]
        await store.archive(letters)
        assert await store.delete_dead(DeadFilter(ids=[letters[3].id])) == 1
        assert len(await listed(store)) == 5
        clock.move(100)
        rows = Retention(results=60, dead_letters=None, log=None)
        assert await store.prune(rows) == 4
        assert set(await listed(store)) == {one.id for one in (pruned, deleted, revived, live)}
        found = await store.get_request(pruned.id)
        assert found is not None and (found.message, found.record) == (pruned, None)
        again = asking()
        assert await store.revive([letters[2].id], [row(again)]) == 1
        assert await store.delete_dead(DeadFilter(ids=[letters[1].id])) == 1
        assert set(await listed(store)) == {one.id for one in (pruned, live, again)}
        assert await store.prune(Retention(results=None, dead_letters=40, log=None)) == 1
        assert set(await listed(store)) == {live.id, again.id}

    async def test_a_letter_that_comes_late(self, store: Store, clock: StillClock) -> None:
        """A letter whose message's row was pruned before it came is found by its request all the same."""
        message = asking(labels=("x",))
        await accept(store, message)
        await settle(store, end(message, Status.FAILED, failure=FAILURE, response=BAD))
        clock.move(100)
        assert await store.prune(Retention(results=10, dead_letters=None, log=10)) == 5
        assert await listed(store) == []
        for _ in range(2):
            await store.archive([letter(100, message, response=BAD)])
        assert await store.count_dead(DeadFilter(request=RequestFilter(labels=["x"]))) == 1
        assert await listed(store) == [message.id] and await states(store, message) == []
        assert await store.delete_dead(DeadFilter()) == 1
        assert await listed(store) == []

    async def test_the_last_two_go_together(self, stores: list[Store], clock: StillClock) -> None:
        """A message's row and its letter that go at the same moment leave no request behind."""
        messages = [asking() for _ in range(60)]
        await accept(stores[0], *messages)
        await stores[0].settle([end(one, Status.FAILED, failure=FAILURE) for one in messages])
        letters = [letter(50, one, id=f"{one.id}-x") for one in messages]
        await stores[0].archive(letters)
        clock.move(100)
        await asyncio.gather(
            stores[1].prune(Retention(results=60, dead_letters=None, log=None)),
            *(stores[2 + n % 2].delete_dead(DeadFilter(ids=[one.id])) for n, one in enumerate(letters)),
        )
        await stores[1].prune(Retention(results=60, dead_letters=None, log=None))
        sizes = await stores[0].table_sizes()
        assert [sizes[f"taskq_{name}"] for name in ("messages", "dead_letters", "requests")] == [0, 0, 0]


class GroupBook:
    async def test_members(self, store: Store, clock: StillClock) -> None:
        """A group is made by its first member, keeps their order, and goes with its last."""
        a, b = Endpoint("https://a/"), Endpoint("https://b/", "b")
        assert await store.get_group("g") is None
        made = await store.add_endpoints("g", [a, b])
        assert (made.name, made.endpoints, made.headers) == ("g", (a, b), ())
        assert (made.created_at, made.updated_at) == (at(0), at(0))
        clock.move(5)
        assert await store.add_endpoints("g", [a]) == made
        c = Endpoint("https://c/", "c")
        grown = await store.add_endpoints("g", [c])
        assert grown.endpoints == (a, b, c) and (grown.created_at, grown.updated_at) == (at(0), at(5))
        assert await store.get_group("g") == grown
        left = await store.remove_endpoints("g", [(None, "b"), ("https://a/", None), ("https://c/", "x"), (None, None)])
        assert left is not None and left.endpoints == (c,)
        assert await store.remove_endpoints("g", [("https://c/", "c")]) is None
        assert await store.get_group("g") is None
        assert await store.remove_endpoints("g", [("https://c/", None)]) is None

    async def test_members_are_changed_in_their_place(self, store: Store) -> None:
        """One per url and one per name: a known url takes the new name, a known name the new url."""
        await store.add_endpoints(
            "g", [Endpoint("https://a/", "a"), Endpoint("https://b/", "b"), Endpoint("https://c/")]
        )
        named = await store.add_endpoints("g", [Endpoint("https://c/", "c")])
        assert named.endpoints[2] == Endpoint("https://c/", "c")
        moved = await store.add_endpoints("g", [Endpoint("https://d/", "b")])
        assert [one.url for one in moved.endpoints] == ["https://a/", "https://d/", "https://c/"]
        joined = await store.add_endpoints("g", [Endpoint("https://c/", "a")])
        assert joined.endpoints == (Endpoint("https://c/", "a"), Endpoint("https://d/", "b"))

    async def test_headers_and_names(self, store: Store) -> None:
        """Headers stay with the group while members change; groups are listed by name and deleted by it."""
        headers = (("X-A", "1"), ("X-A", "2"), ("X-B", "\xfc\0"))
        assert await store.set_group_headers("g", headers) is None
        await store.add_endpoints("g", [Endpoint("https://a/")])
        await store.add_endpoints("f", [Endpoint("https://a/")])
        changed = await store.set_group_headers("g", headers)
        assert changed is not None and changed.headers == headers
        grown = await store.add_endpoints("g", [Endpoint("https://b/")])
        assert grown.headers == headers and len(grown.endpoints) == 2
        assert [one.name for one in await store.list_groups()] == ["f", "g"]
        assert await store.delete_group("g") is True
        assert await store.delete_group("g") is False
        assert [one.name for one in await store.list_groups()] == ["f"]

    async def test_changed_together(self, stores: list[Store]) -> None:
        """Members added by many at the same moment are all there."""
        groups = [[Endpoint(f"https://{n}.{m}/") for m in range(5)] for n in range(8)]
        await asyncio.gather(*(stores[n % 4].add_endpoints("g", group) for n, group in enumerate(groups)))
        found = await stores[0].get_group("g")
        assert found is not None
        assert {one.url for one in found.endpoints} == {one.url for group in groups for one in group}
        gone = [(one.url, None) for group in groups[1:] for one in group]
        await asyncio.gather(*(stores[n % 4].remove_endpoints("g", gone[n::4]) for n in range(4)))
        found = await stores[0].get_group("g")
        assert found is not None and set(found.endpoints) == set(groups[0])


class KeyRing:
    async def test_keys(self, stores: list[Store]) -> None:
        """Made once, whoever asks first; kept; never shown."""
        asked = await asyncio.gather(*(one.signing_keys() for one in stores))
        assert len(set(asked)) == 1
        keys = asked[0]
        for key in (keys.current, keys.next):
            assert key.startswith("sig_") and len(key) == 47 and key not in repr(keys)
        assert keys.current != keys.next
        assert await stores[1].signing_keys() == keys

    async def test_rotation(self, store: Store) -> None:
        """The next becomes the current one, and there is a new next."""
        before = await store.signing_keys()
        after = await store.rotate_signing_keys()
        assert after.current == before.next and after.next not in (before.current, before.next)
        assert await store.signing_keys() == after

    async def test_rotated_before_anybody_asked(self, store: Store) -> None:
        """There are keys then, too."""
        keys = await store.rotate_signing_keys()
        assert await store.signing_keys() == keys

    async def test_rotated_together(self, stores: list[Store]) -> None:
        """Whoever rotates at the same moment hears of a key that follows the one before."""
        before = await stores[0].signing_keys()
        after = await asyncio.gather(*(one.rotate_signing_keys() for one in stores))
        now = await stores[0].signing_keys()
        assert before.next in {keys.current for keys in after} and now in after


class Upgrading:
    async def test_same_as_made_at_once(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A store that went through every revision has the columns and indexes of one that was made today."""
        engine = make_engine(check_store(url))
        found = []
        for way in (schema.make, schema.upgrade):
            monkeypatch.setattr(schema, "make", way)
            store = open_store(url)
            await store.open()
            await store.close()
            found.append(structure(engine))
            with engine.begin() as connection:
                tables.metadata.drop_all(connection)
                connection.exec_driver_sql(f"DROP TABLE {schema.VERSION_TABLE}")
        engine.dispose()
        made, upgraded = found
        assert made == upgraded and len(made) == len(tables.TABLES) + 1

    async def test_rows_of_before(
        self, url: str, clock: StillClock, spoil: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was stored before there were requests reads as it did."""
        with monkeypatch.context() as patch:
            patch.setattr(schema, "REVISIONS", schema.REVISIONS[: schema.REVISIONS.index("0003") + 1])
            patch.setattr(schema, "make", schema.upgrade)
            before = open_store(url, clock=clock)
            await before.open()
            await before.close()
        spoil(
            "INSERT INTO taskq_messages"
            " (id, task, queue, status, attempt, epoch, hop, created_at, started_at, ended_at)"
            " VALUES ('m', 't', 'q', 'FAILED', 1, 0, 0, 1000, 2000, 3000)"
        )
        spoil("INSERT INTO taskq_log VALUES ('m', 3000, 'FAILED', 1, 'w', 'so it was')")
        spoil(
            "INSERT INTO taskq_dead_letters (id, message_id, queue, task, reason, attempts, died_at, body)"
            " VALUES ('1-x', 'm', 'q', 't', 'failed', 1, 3000, '')"
        )
        store = open_store(url, clock=clock)
        await store.open()
        lines = await store.history("m")
        assert [line.state for line in lines] == ["CREATED", "ACTIVE", "FAILED"]
        assert (lines[-1].detail, lines[-1].response, lines[-1].next_at) == ("so it was", None, None)
        [dead] = (await store.dead(DeadFilter())).items
        assert (dead.id, dead.response) == ("1-x", None)
        assert await store.count_dead(DeadFilter(statuses=[0])) == 0
        assert await told(store) == [] and await listed(store) == []
        await store.close()


class Gateways(
    Acceptance,
    RequestBook,
    RequestHistory,
    Births,
    DeadRequests,
    GroupBook,
    KeyRing,
    Upgrading,
):
    """All of it."""
