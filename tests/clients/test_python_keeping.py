"""Queues, URL groups, schedules and flow control by the official Python client, blocking and async."""

from __future__ import annotations

import asyncio
import base64
import json
import time

import pytest
from qstash import AsyncQStash
from qstash.errors import QStashError
from qstash.schedule import ScheduleState

from tests.clients.calls import Calls, Names, empty, ended
from tests.clients.server import Site
from tests.endpoint import Endpoint
from tests.support import eventually

# -- queues --


async def test_client_keeps_queues(api: Calls, name: Names) -> None:
    """Made, changed, found, listed, deleted; deleting what is not there is no error."""
    queue = name()
    await api.queue.upsert(queue, parallelism=3)
    found = await api.queue.get(queue)
    assert (found.name, found.parallelism, found.lag, found.paused) == (queue, 3, 0, False)
    assert abs(found.created_at - time.time() * 1000) < 60_000
    assert found.updated_at >= found.created_at
    await api.queue.upsert(queue, parallelism=5, paused=True)
    found = await api.queue.get(queue)
    assert (found.parallelism, found.paused) == (5, True)
    assert queue in [one.name for one in await api.queue.list()]
    await api.queue.delete(queue)
    await api.queue.delete(queue)
    with pytest.raises(QStashError, match="404"):
        await api.queue.get(queue)
    assert queue not in [one.name for one in await api.queue.list()]


async def test_client_is_told_what_is_wrong_with_a_queue(api: Calls) -> None:
    for queue, options in (("no such/name", {}), ("fine", {"parallelism": 0})):
        with pytest.raises(QStashError, match="400.*error"):
            await api.queue.upsert(queue, **options)


async def test_client_pauses_a_queue(api: Calls, endpoint: Endpoint, path: Names, name: Names) -> None:
    """A paused queue takes messages and delivers none; resumed it delivers them in order."""
    target, queue = path(), name()
    await api.queue.upsert(queue, paused=True)  # a later pause may take a second
    await api.queue.pause(queue)
    await api.queue.pause(queue)
    assert (await api.queue.get(queue)).paused is True
    for number in range(3):
        await api.message.enqueue(queue=queue, url=endpoint.url(target), body=str(number))
    assert (await api.queue.get(queue)).lag == 3
    assert endpoint.requests(target) == []
    await api.queue.resume(queue)
    assert [one.body for one in await endpoint.until(target, 3)] == [b"0", b"1", b"2"]
    assert (await api.queue.get(queue)).paused is False
    await api.queue.pause(queue)
    assert (await api.queue.get(queue)).paused is True
    await api.queue.delete(queue)


async def test_client_limits_a_queue(api: Calls, endpoint: Endpoint, path: Names, name: Names) -> None:
    """At most so many at once as the queue's parallelism; raised, more."""
    target, queue = path(), name()
    await api.queue.upsert(queue, parallelism=2)
    with endpoint.holding(target):
        for _ in range(5):
            await api.message.enqueue(queue=queue, url=endpoint.url(target))
        await endpoint.until(target, 2)
        await api.queue.upsert(queue, parallelism=4)
        assert len(await endpoint.until(target, 4)) == 4
    assert len(await endpoint.until(target, 5)) == 5
    await empty(api, queue)
    await api.queue.delete(queue)


# -- URL groups --


async def test_client_keeps_url_groups(api: Calls, name: Names) -> None:
    group = name()
    await api.url_group.delete(group)
    await api.url_group.upsert_endpoints(
        group, [{"url": "https://a.example/x"}, {"url": "https://b.example", "name": "b"}]
    )
    found = await api.url_group.get(group)
    assert {(one.url, one.name) for one in found.endpoints} == {
        ("https://a.example/x", None),
        ("https://b.example", "b"),
    }
    assert found.name == group
    assert found.updated_at >= found.created_at > 0
    await api.url_group.upsert_endpoints(group, [{"url": "https://c.example", "name": "b"}])
    await api.url_group.remove_endpoints(group, [{"url": "https://a.example/x"}])
    found = await api.url_group.get(group)
    assert [(one.url, one.name) for one in found.endpoints] == [("https://c.example", "b")]
    assert group in [one.name for one in await api.url_group.list()]
    await api.url_group.remove_endpoints(group, [{"name": "b"}])
    with pytest.raises(QStashError, match="404"):
        await api.url_group.get(group)


# -- schedules --


async def test_client_keeps_schedules(api: Calls, endpoint: Endpoint, name: Names) -> None:
    url, queue, key = endpoint.url("/never?a=b"), name(), name()
    schedule_id = await api.schedule.create_json(
        destination=url, cron="1 1 1 1 *", body={"a": 1}, method="PUT", headers={"X-One": "1"}, retries=2,
        retry_delay="5000 * retried", callback=endpoint.url("/c"), failure_callback=endpoint.url("/f"),
        callback_headers={"Forward-X-C": "c"}, failure_callback_headers={"Forward-X-F": "f"}, delay="1m30s", timeout=20,
        queue=queue, flow_control={"key": key, "parallelism": 2}, label="labelled",
    )  # fmt: skip
    found = await api.schedule.get(schedule_id)
    assert (found.schedule_id, found.destination, found.cron) == (schedule_id, url, "1 1 1 1 *")
    assert (json.loads(found.body), found.method, found.headers["X-One"]) == ({"a": 1}, "PUT", ["1"])
    assert found.headers["Content-Type"] == ["application/json"]
    assert (found.retries, found.retry_delay_expression) == (2, "5000 * retried")
    assert (found.callback, found.failure_callback) == (endpoint.url("/c"), endpoint.url("/f"))
    assert (found.callback_headers["X-C"], found.failure_callback_headers["X-F"]) == (["c"], ["f"])
    assert (found.delay, found.timeout, found.queue, found.label) == (90, 20, queue, "labelled")
    assert (found.paused, found.caller_ip) == (False, "127.0.0.1")
    flow = found.flow_control
    assert (flow.key, flow.parallelism, flow.rate, flow.period) == (key, 2, None, 1)
    assert abs(found.created_at - time.time() * 1000) < 60_000
    assert found.next_schedule_time > time.time() * 1000
    assert schedule_id in [one.schedule_id for one in await api.schedule.list()]
    await api.schedule.delete(schedule_id)
    with pytest.raises(QStashError, match="404"):
        await api.schedule.get(schedule_id)
    assert schedule_id not in [one.schedule_id for one in await api.schedule.list()]


async def test_client_overwrites_a_schedule(api: Calls, endpoint: Endpoint, name: Names) -> None:
    """An id of one's own creates or overwrites."""
    own = name()
    first = await api.schedule.create(destination=endpoint.url("/a"), cron="0 5 * * *", schedule_id=own, body="1")
    second = await api.schedule.create(
        destination=endpoint.url("/b"), cron="CRON_TZ=Europe/Berlin 30 6 * * 1", schedule_id=own, body=b"\xff"
    )
    assert first == second == own
    found = await api.schedule.get(own)
    assert (found.destination, found.cron) == (endpoint.url("/b"), "CRON_TZ=Europe/Berlin 30 6 * * 1")
    assert (found.body, base64.b64decode(found.body_base64)) == (None, b"\xff")
    assert found.method == "POST"
    await api.schedule.delete(own)


async def test_client_pauses_a_schedule(api: Calls, endpoint: Endpoint) -> None:
    schedule_id = await api.schedule.create(destination=endpoint.url("/never"), cron="1 1 1 1 1")
    for paused in (True, True, False, False):
        await (api.schedule.pause if paused else api.schedule.resume)(schedule_id)
        assert (await api.schedule.get(schedule_id)).paused is paused
    await api.schedule.delete(schedule_id)


async def test_client_is_told_what_is_wrong_with_a_schedule(api: Calls, endpoint: Endpoint) -> None:
    for options in ({"cron": "every day"}, {"cron": "61 * * * *"}, {"cron": "* * * * *", "schedule_id": "a/b"}):
        with pytest.raises(QStashError, match="400.*error"):
            await api.schedule.create(destination=endpoint.url("/never"), **options)


async def test_schedule_fires(running: Site, api: Calls, endpoint: Endpoint, path: Names, name: Names) -> None:
    """A tick is an ordinary message that carries its schedule; run now, by an operator, it is the same."""
    target, queue = path(), name()
    schedule_id = await api.schedule.create_json(
        destination=endpoint.url(target), cron="1 1 1 1 *", body={"tick": True}, queue=queue, headers={"X-T": "1"}
    )
    await asyncio.to_thread(running.taskq, "schedules", "run", schedule_id)
    [seen] = await endpoint.until(target)
    assert (seen.json(), seen.header("upstash-schedule-id"), seen.header("x-t")) == ({"tick": True}, schedule_id, "1")
    message_id = seen.header("upstash-message-id")
    message = await api.message.get(message_id)
    assert (message.schedule_id, message.queue) == (schedule_id, queue)
    await ended(api, message_id)
    logs = await api.log.list(filter={"schedule_id": schedule_id})
    assert {log.message_id for log in logs.logs} == {message_id}
    await api.schedule.delete(schedule_id)
    await api.queue.delete(queue)


async def test_schedule_fires_by_itself(running: Site, endpoint: Endpoint, path: Names) -> None:
    """On the minute; what became of the tick's message is shown with the schedule."""
    target, made = path(), time.time()
    api = Calls(AsyncQStash(running.token, base_url=running.url, retry=False))
    schedule_id = await api.schedule.create(destination=endpoint.url(target), cron="* * * * *", delay=1)
    [seen] = await endpoint.until(target, timeout=75)
    tick = seen.at // 60 * 60
    assert tick > made and seen.at >= tick + 1

    async def told() -> bool:
        found = await api.schedule.get(schedule_id)
        assert found.last_schedule_states == {seen.header("upstash-message-id"): ScheduleState.SUCCESS}
        assert found.last_schedule_time == tick * 1000
        assert found.next_schedule_time >= (tick + 60) * 1000
        return True

    await eventually(told)
    await api.schedule.delete(schedule_id)
    await api.close()


# -- flow control --


async def test_client_controls_the_flow(api: Calls, endpoint: Endpoint, path: Names, name: Names) -> None:
    """One at a time by its key, wherever they go; what waits is counted."""
    key, first, second = name(), path(), path()
    limit = {"key": key, "parallelism": 1}
    with endpoint.holding(first):
        await api.message.publish(url=endpoint.url(first), flow_control=limit)
        await endpoint.until(first)
        for _ in range(2):
            await api.message.publish(url=endpoint.url(second), flow_control=limit)

        async def check() -> bool:
            info = await api.flow_control.get(key)
            assert (info.parallelism_max, info.parallelism_count, info.wait_list_size) == (1, 1, 2)
            return True

        await eventually(check)
        assert (await api.flow_control.get_global_parallelism()).parallelism_count >= 1
        assert endpoint.requests(second) == []
    assert len(await endpoint.until(second, 2)) == 2
    with pytest.raises(QStashError, match="404"):
        await api.flow_control.get(name())


async def test_client_pauses_a_flow_key(api: Calls, endpoint: Endpoint, path: Names, name: Names) -> None:
    key, target = name(), path()
    limit = {"key": key, "parallelism": 5}
    await api.message.publish(url=endpoint.url(target), flow_control=limit)
    assert (await api.flow_control.get(key)).parallelism_max == 5  # it is there as soon as it was named
    await endpoint.until(target)
    await api.flow_control.pause(key)
    await api.message.publish(url=endpoint.url(target), flow_control=limit)

    async def waits() -> bool:
        info = await api.flow_control.get(key)
        return bool(info.is_paused and info.wait_list_size == 1)

    await eventually(waits)
    assert len(endpoint.requests(target)) == 1
    await api.flow_control.resume(key)
    await endpoint.until(target, 2)
    assert (await api.flow_control.get(key)).is_paused is False


async def test_client_pins_a_flow_key(api: Calls, endpoint: Endpoint, path: Names, name: Names) -> None:
    """What is pinned stands over what messages say, until it is unpinned and a message brings others."""
    key, target = name(), path()
    await api.message.publish(url=endpoint.url(target), flow_control={"key": key, "rate": 50, "parallelism": 9})
    await endpoint.until(target)
    await api.flow_control.pin(key, {"parallelism": 2, "rate": 7, "period": 30})
    await api.message.publish(url=endpoint.url(target), flow_control={"key": key, "rate": 60, "parallelism": 8})
    await endpoint.until(target, 2)
    info = await api.flow_control.get(key)
    assert (info.parallelism_max, info.rate_max, info.rate_period) == (2, 7, 30)
    assert (info.is_pinned_parallelism, info.is_pinned_rate) == (True, True)
    await api.flow_control.unpin(key, {"parallelism": True})
    info = await api.flow_control.get(key)
    assert (info.is_pinned_parallelism, info.is_pinned_rate) == (False, True)
    await api.flow_control.unpin(key, {"rate": True})
    await api.message.publish(url=endpoint.url(target), flow_control={"key": key, "rate": 60, "parallelism": 8})
    await endpoint.until(target, 3)
    info = await api.flow_control.get(key)
    assert (info.parallelism_max, info.rate_max, info.rate_period) == (8, 60, 1)
    with pytest.raises(QStashError, match="400"):
        await api.flow_control.pin(key, {"parallelism": -1})


async def test_client_resets_a_rate(api: Calls, endpoint: Endpoint, path: Names, name: Names) -> None:
    """Over the rate messages wait for the next period; a reset begins it now."""
    key, target = name(), path()
    limit = {"key": key, "rate": 1, "period": "1h"}
    for _ in range(2):
        await api.message.publish(url=endpoint.url(target), flow_control=limit)
    await endpoint.until(target)
    info = await api.flow_control.get(key)
    assert (info.rate_max, info.rate_period, info.rate_count) == (1, 3600, 1)
    assert abs(info.rate_period_start - time.time()) < 60
    await api.flow_control.reset_rate(key)
    assert len(await endpoint.until(target, 2)) == 2
