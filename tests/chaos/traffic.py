"""Requests to the HTTP API without pause while something breaks, and the ledger of what became of them.

`Traffic` posts to a `Front` from this process, over a connection for each of its senders; workers are processes of a
`Station`, destinations paths of an `Endpoint`, whose receipts are what is checked. A message counts as *accepted*
only if the answer that told its id was 2xx and came; of every other nothing is known, and nothing promised but that
it does no harm.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx

from taskq.errors import TaskqError
from taskq.outcome import Status
from taskq.store.gateway import RequestFilter
from tests.chaos.stream import BACK_WITHIN, QUICK, Ledger
from tests.endpoint import Answer, Endpoint, Seen
from tests.integration.front import LOOPBACK, Front
from tests.integration.harness import Span, Station, WorkerProcess, levels
from tests.integration.outcomes import Outcomes
from tests.support import eventually

QUEUES = ("http", "callbacks", "line")
PLAIN, FLAKY, DIES, LINE, KEYED, MEMBERS = "/plain", "/flaky", "/dies", "/line", "/keyed", ("/first", "/second")
PATHS = (PLAIN, FLAKY, DIES, LINE, KEYED, *MEMBERS)
KEY_PARALLELISM = 3
KEYED_TAKES = 0.05  # seconds
ANSWERED_WITHIN = 15.0  # seconds: twice `publish_timeout`, and a busy machine; an answer that is later fails the test
AGAIN_AFTER = 0.2  # seconds, while requests are refused
Given = tuple[str, str, bool]  # message id, the path that it is for, whether a callback is to tell of it


@dataclass(frozen=True, slots=True)
class Accepted:
    """What was asked for by a request whose answer was 2xx."""

    path: str
    number: int
    told: bool


class Traffic:
    """See the module.

    Args:
        pace: seconds between two requests of one sender.
    """

    def __init__(
        self, station: Station, front: Front, endpoint: Endpoint, outcomes: Outcomes, fault: str, *, pace: float = 0.05
    ) -> None:
        self.station = station
        self.front = front
        self.endpoint = endpoint
        self.fault = fault
        self.accepted: dict[str, Accepted] = {}
        self.refused = 0
        self._outcomes = outcomes
        self._pace = pace
        self._slowest = 0.0
        self._flowing = False
        self._senders: list[asyncio.Task[None]] = []
        endpoint.answer(FLAKY, *[500, 200] * 5000)
        endpoint.answer(DIES, 500)
        endpoint.answer(LINE, *[200, 200, 200, 200, 500] * 2000)
        endpoint.answer(KEYED, Answer(delay=KEYED_TAKES))

    @contextlib.asynccontextmanager
    async def flowing(self, workers: int) -> AsyncIterator[Traffic]:
        """Start the API, so many workers and all senders; enter once something has come to every path."""
        self.front.start()
        await self.front.ready()
        async with self._client() as http:
            (await http.post("/v2/queues", json={"queueName": LINE[1:]})).raise_for_status()
            members = [{"url": self.endpoint.url(path)} for path in MEMBERS]
            (await http.post("/v2/topics/members/endpoints", json={"endpoints": members})).raise_for_status()
        await self.join(workers)
        self._flowing = True
        kinds = (self._plain, self._plain, self._line, self._keyed, self._batch, self._group)
        self._senders = [asyncio.create_task(self._send(kind)) for kind in kinds]
        try:
            await self.came_everywhere(time.time())
            yield self
        finally:
            await self.stopped()

    async def join(self, workers: int = 1) -> list[WorkerProcess]:
        """Start so many workers, and return when they are ready."""
        return await self.station.start_ready(workers, QUEUES, **(QUICK | LOOPBACK))

    async def stopped(self) -> None:
        """End the senders; each has its last answer then."""
        self._flowing = False
        await asyncio.gather(*self._senders)
        self._senders = []

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.front.url, timeout=ANSWERED_WITHIN)

    # -- senders ------------------------------------------------------------------------------

    async def _send(self, post: Callable[[httpx.AsyncClient, int], Any]) -> None:
        number = 0
        async with self._client() as http:
            while self._flowing:
                began, refused = time.monotonic(), self.refused
                try:
                    given: list[Given] = await post(http, number)
                    self.accepted |= {id: Accepted(path, number, told) for id, path, told in given}
                except (httpx.NetworkError, httpx.RemoteProtocolError):
                    self.refused += 1
                self._slowest = max(self._slowest, time.monotonic() - began)
                number += 1
                await asyncio.sleep(self._pace if self.refused == refused else AGAIN_AFTER)

    def _headers(self, told: bool) -> dict[str, str]:
        headers = {"Upstash-Retry-Delay": "100"}
        if told:
            headers |= {"Upstash-Callback": self.endpoint.url("/cb"), "Upstash-Callback-Retry-Delay": "100"}
        return headers

    async def _post(self, http: httpx.AsyncClient, route: str, **call: Any) -> Any:
        """The JSON of the answer; None: it was refused."""
        answer = await http.post(route, **call)
        if answer.status_code == 503:
            self.refused += 1
            return None
        assert answer.status_code == 200, f"{answer.text}\n{self.front.said()[-3000:]}"
        return answer.json()

    async def _one(
        self, http: httpx.AsyncClient, route: str, path: str, number: int, told: bool, **more: str
    ) -> list[Given]:
        destination = f"{route}/{self.endpoint.url(path)}"
        answer = await self._post(http, destination, content=str(number), headers=self._headers(told) | more)
        return [] if answer is None else [(answer["messageId"], path, told)]

    async def _plain(self, http: httpx.AsyncClient, number: int) -> list[Given]:
        told = number % 3 == 0
        if number % 20 == 7:
            more = {"Upstash-Retries": "1", "Upstash-Failure-Callback": self.endpoint.url("/fcb")}
            return await self._one(http, "/v2/publish", DIES, number, told, **more)
        return await self._one(http, "/v2/publish", FLAKY if number % 5 == 1 else PLAIN, number, told)

    async def _line(self, http: httpx.AsyncClient, number: int) -> list[Given]:
        given = await self._one(http, "/v2/enqueue/line", LINE, number, number % 4 == 0)
        await asyncio.sleep(2 * self._pace)
        return given

    async def _keyed(self, http: httpx.AsyncClient, number: int) -> list[Given]:
        flow = {"Upstash-Flow-Control-Key": "k", "Upstash-Flow-Control-Value": f"parallelism={KEY_PARALLELISM}"}
        return await self._one(http, "/v2/publish", KEYED, number, False, **flow)

    async def _group(self, http: httpx.AsyncClient, number: int) -> list[Given]:
        answer = await self._post(http, "/v2/publish/members", content=str(number), headers=self._headers(False))
        return self._members(answer or [])

    async def _batch(self, http: httpx.AsyncClient, number: int) -> list[Given]:
        items: list[dict[str, Any]] = [
            {"destination": self.endpoint.url(PLAIN), "headers": self._headers(told), "body": str(number)}
            for told in (True, False, False)
        ]
        items.append({"destination": "members", "body": str(number)})
        answer = await self._post(http, "/v2/batch", json=items)
        if answer is None:
            return []
        *singles, members = answer
        given = []
        for told, one in zip((True, False, False), singles, strict=True):
            if "messageId" in one:
                given.append((one["messageId"], PLAIN, told))
        if isinstance(members, list):
            given += self._members(members)
        self.refused += len(given) < 5
        return given

    def _members(self, answer: list[dict[str, str]]) -> list[Given]:
        paths = {self.endpoint.url(path): path for path in MEMBERS}
        return [(one["messageId"], paths[one["url"]], False) for one in answer]

    # -- facts to wait for ----------------------------------------------------------------------

    async def came_everywhere(self, since: float) -> float:
        """Wait until something has come to every path after an instant; the seconds since then."""

        def check() -> bool:
            missing = set(PATHS) - {seen.path for seen in self.endpoint.requests() if seen.at > since}
            assert not missing, f"nothing has come to {sorted(missing)} since"
            return True

        await eventually(check, BACK_WITHIN)
        return time.time() - since

    async def _all_ended(self, within: float) -> dict[str, Status]:
        """Wait until nothing is unfinished, accepted or not, and nothing is left to publish; accepted id -> status."""
        store = await self.station.store()
        statuses: dict[str, Status] = {}

        async def check() -> bool:
            try:
                left = [id for id in self.accepted if id not in statuses]
                rows = await store.get_many(left)
                statuses.update({id: row.status for id, row in rows.items() if row.status.final})
                lost = [(id, self.accepted[id], rows.get(id)) for id in left if id not in statuses]
                assert not lost, f"{len(lost)} accepted messages have no outcome, such as {lost[:3]}"
                unfinished = (await store.list_requests(RequestFilter(unfinished=True))).items
                assert not unfinished, f"{len(unfinished)} others are not finished, such as {unfinished[:3]}"
                assert (await store.table_sizes())["taskq_outbox"] == 0
            except TaskqError as error:
                raise AssertionError(f"the store does not answer: {error}") from error
            return True

        await eventually(check, within)
        return statuses

    async def _dead(self) -> dict[str, str]:
        """Message id -> id of its dead letter, as the API tells them."""
        found: dict[str, str] = {}
        query: dict[str, str] | None = {}
        async with self._client() as http:
            while query is not None:
                page = (await http.get("/v2/dlq", params=query)).raise_for_status().json()
                found |= {one["messageId"]: one["dlqId"] for one in page["messages"]}
                query = {"cursor": page["cursor"]} if page.get("cursor") else None
        return found

    # -- the ledger -----------------------------------------------------------------------------

    async def checked(self, *, back: float, within: float = 60.0) -> Ledger:
        """Stop sending, wait until everything has ended, and check every promise."""
        await self.stopped()
        statuses = await self._all_ended(within)
        recorded, seen = self._outcomes.recorded(), self.endpoint.requests()
        attempts = Counter((one.header("upstash-message-id"), one.header("upstash-retried")) for one in seen)
        delivered = {(one.header("upstash-message-id"), one.path) for one in seen}
        dead = await self._dead()
        lost = [
            (id, one, statuses[id])
            for id, one in self.accepted.items()
            if (id, one.path) not in delivered or (id in dead) != (statuses[id] is Status.FAILED)
        ]
        instants = sorted(one.at for one in seen)
        ledger = Ledger(
            self.fault,
            confirmed=len(self.accepted),
            unconfirmed=self.refused,
            done=sum(status is Status.SUCCEEDED for status in statuses.values()),
            dead=sum(status is Status.FAILED for status in statuses.values()),
            lost=len(lost),
            recorded_twice=sum(times > 1 for times in recorded.values()),
            runs_again=sum(times - 1 for times in attempts.values()),
            out_of_order=self._out_of_order(seen),
            most_at_once=self._most_at_once(seen),
            longest_stall=max(later - earlier for earlier, later in zip(instants, instants[1:], strict=False)),
            back=back,
            slowest=self._slowest,
        )
        print(ledger)
        assert ledger.confirmed == ledger.done + ledger.dead, ledger
        assert ledger.confirmed > 0 and not lost, lost[:5]
        assert {one.path for one in self.accepted.values()} == set(PATHS)
        assert ledger.recorded_twice == 0 and self.accepted.keys() <= recorded.keys(), ledger
        assert ledger.out_of_order == 0, ledger
        assert ledger.most_at_once <= KEY_PARALLELISM, ledger
        assert ledger.back <= BACK_WITHIN, ledger
        self._check_callbacks(seen, statuses, dead)
        return ledger

    def _check_callbacks(self, seen: list[Seen], statuses: dict[str, Status], dead: dict[str, str]) -> None:
        """Each accepted message that was to be told of was, and so was each that died."""
        told = {(body["sourceMessageId"], body["status"]) for body in self._bodies(seen, "/cb")}
        wanted = {
            (id, 200 if statuses[id] is Status.SUCCEEDED else 500) for id, one in self.accepted.items() if one.told
        }
        assert wanted and wanted <= told, wanted - told
        failed = {body["sourceMessageId"]: body["dlqId"] for body in self._bodies(seen, "/fcb")}
        died = {id for id, one in self.accepted.items() if one.path == DIES}
        assert died and {id: dead[id] for id in died} == {id: failed.get(id) for id in died}
        numbers = {base64.b64decode(body["sourceBody"]).decode() for body in self._bodies(seen, "/fcb")}
        assert {str(self.accepted[id].number) for id in died} <= numbers

    def _bodies(self, seen: list[Seen], path: str) -> list[dict[str, Any]]:
        return [one.json() for one in seen if one.path == path]

    def _out_of_order(self, seen: list[Seen]) -> int:
        """Receipts of the FIFO queue that came before their turn, or before the callback of the one before."""
        numbers = {id: one.number for id, one in self.accepted.items() if one.path == LINE}
        place = {number: index for index, number in enumerate(sorted(numbers.values()))}
        told: dict[str, float] = {}
        for one in seen:
            if one.path == "/cb" and one.json()["status"] == 200:
                told.setdefault(one.json()["sourceMessageId"], one.at)
        line = [one for one in seen if one.path == LINE and one.header("upstash-message-id") in numbers]
        wrong = 0
        for before, after in zip(line, line[1:], strict=False):
            first, second = before.header("upstash-message-id") or "", after.header("upstash-message-id") or ""
            step = place[numbers[second]] - place[numbers[first]]
            early = step == 1 and self.accepted[first].told and told.get(first, float("inf")) > after.at
            if step not in (0, 1) or early:
                print(f"{after} came after {before}")
                wrong += 1
        return wrong

    def _most_at_once(self, seen: list[Seen]) -> int:
        """How many messages of the key were held at once, at most; one that came twice is one."""
        changes: dict[str, list[tuple[float, float]]] = {}
        for one in (one for one in seen if one.path == KEYED):
            mine = changes.setdefault(one.header("upstash-message-id") or "", [])
            if mine and mine[-1][1] > one.at:
                mine[-1] = (mine[-1][0], one.at + KEYED_TAKES)
            else:
                mine.append((one.at, one.at + KEYED_TAKES))
        event: Any = None
        spans = [Span(start, end, event) for mine in changes.values() for start, end in mine]
        return max((level for _, level in levels(spans)), default=0)
