"""Keys of flow control, and signing keys, over HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from qstash.flow_control_api import FlowControlInfo, parse_flow_control_info

from tests.endpoint import Endpoint
from tests.integration.api.served import Served, calling
from tests.support import eventually

FLOW = {"Upstash-Flow-Control-Key": "tenant/1", "Upstash-Flow-Control-Value": "parallelism=2, rate=10, period=1m"}
KEY = "/v2/flowControl/tenant%2F1"


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


async def shown(served: Served) -> FlowControlInfo:
    return parse_flow_control_info(await served.answer("GET", KEY))


async def test_a_key_tells_what_waits_and_runs(anywhere: Served, endpoint: Endpoint) -> None:
    """While it is paused all wait; resumed, so many run as it allows, and starts are counted."""
    await anywhere.answer("POST", f"{KEY}/pause")
    for _ in range(3):
        await anywhere.answer("POST", f"/v2/publish/{endpoint.url('/in')}", headers=FLOW)
    await anywhere.worker()

    async def waiting() -> bool:
        found = await shown(anywhere)
        assert (found.wait_list_size, found.is_paused) == (3, True), found
        return True

    await eventually(waiting)
    found = await shown(anywhere)
    assert (found.key, found.parallelism_max, found.rate_max, found.rate_period) == ("tenant/1", 2, 10, 60)
    started = time.time()
    with endpoint.holding("/in"):
        await anywhere.answer("POST", f"{KEY}/resume")
        await endpoint.until("/in", 2)
        found = await shown(anywhere)
        assert (found.parallelism_count, found.wait_list_size, found.rate_count) == (2, 1, 2)
        assert started - 2 <= found.rate_period_start <= time.time() + 2
        everywhere = await anywhere.answer("GET", "/v2/globalParallelism")
        assert everywhere["parallelismCount"] == 2 < everywhere["parallelismMax"]
    await endpoint.until("/in", 3)
    await anywhere.answer("POST", f"{KEY}/resetRate")
    assert (await shown(anywhere)).rate_count == 0


async def test_pinned_limits_stand_against_messages(served: Served, endpoint: Endpoint) -> None:
    """Each part alone; unpinned, the limits stay until a message brings others."""
    await served.answer("POST", f"{KEY}/pin?parallelism=5")
    await served.answer("POST", f"/v2/publish/{endpoint.url('/in')}", headers=FLOW | {"Upstash-Delay": "1h"})
    found = await served.answer("GET", KEY)
    assert (found["isPinnedParallelism"], found["isPinnedRate"], found["parallelismMax"]) == (True, False, 5)
    await served.answer("POST", f"{KEY}/pin?rate=3&period=2m")
    await served.answer("POST", f"{KEY}/pin?rate=4")
    found = await served.answer("GET", KEY)
    assert (found["rateMax"], found["ratePeriod"], found["isPinnedRate"]) == (4, 120, True)
    await served.answer("POST", f"{KEY}/unpin?parallelism=true")
    found = await served.answer("GET", KEY)
    assert (found["parallelismMax"], found["isPinnedParallelism"], found["isPinnedRate"]) == (5, False, True)


async def test_keys_are_listed_by_what_they_contain(served: Served) -> None:
    """Limits that a key has not are absent."""
    for key in ("a-one", "b-one", "b-two"):
        await served.answer("POST", f"/v2/flowControl/{key}/resume")
    found: list[dict[str, Any]] = await served.answer("GET", "/v2/flowControl?search=one")
    assert [one["flowControlKey"] for one in found] == ["a-one", "b-one"]
    assert not {"parallelismMax", "rateMax", "ratePeriod", "ratePeriodStart"} & found[0].keys()
    assert len(await served.answer("GET", "/v2/flowControl")) == 3


async def test_the_global_limit_is_the_settings(served: Served) -> None:
    """As `flow_parallelism` says."""
    async with calling(served.room.twin(flow_parallelism=7)) as http:
        answer = (await http.get("/v2/globalParallelism")).json()
    assert answer == {"parallelismMax": 7, "parallelismCount": 0}


async def test_signing_keys_rotate(anywhere: Served, endpoint: Endpoint) -> None:
    """What was next is current, and workers sign with it from then on."""
    from qstash import Receiver

    first = await anywhere.answer("GET", "/v2/keys")
    assert first["current"] != first["next"]
    await anywhere.worker()
    await anywhere.answer("POST", f"/v2/publish/{endpoint.url('/in')}", content=b"one")
    await endpoint.until("/in")
    second = await anywhere.answer("POST", "/v2/keys/rotate")
    assert second["current"] == first["next"] and second["next"] not in first.values()
    assert await anywhere.answer("GET", "/v2/keys") == second

    async def signed_anew() -> bool:
        await anywhere.answer("POST", f"/v2/publish/{endpoint.url('/in')}", content=b"two")
        last = (await endpoint.until("/in", len(endpoint.requests("/in")) + 1))[-1]
        receiver = Receiver(current_signing_key=second["current"], next_signing_key=second["current"])
        signature = last.header("upstash-signature")
        assert signature is not None
        receiver.verify(signature=signature, body=last.body.decode(), url=endpoint.url("/in"))
        return True

    await eventually(signed_anew)
