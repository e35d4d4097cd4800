"""`taskq schedules` and `taskq beat`, against a real RabbitMQ."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from datetime import datetime
from typing import Any

from tests.acceptance.command_line import CommandLine
from tests.servers import free_port
from tests.support import eventually, pulse


async def asked(port: int, path: str) -> tuple[int, dict[str, Any]]:
    """Status and body of an answer; 0 for none."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return 0, {}
    writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return int(answer.split(b" ", 2)[1]), json.loads(answer.rpartition(b"\r\n")[2])


async def test_schedules_are_listed_and_looked_after(cli_everywhere: CommandLine) -> None:
    """Listed, looked ahead, paused, resumed, run, deleted; what they send is sent by a worker with a beat."""
    cli = cli_everywhere
    assert cli.run("schedules", "list").out == "no schedules yet\n"
    async with cli.sender() as app:
        await app.schedules.upsert_async("daily", "note", cron="0 9 * * *", timezone="Europe/Paris", args=["daily"])
        await app.schedules.upsert_async("often", "note", every=1, args=["often"], max_runs=2)
    doctor = cli.run("doctor").out
    assert "no beat runs" in doctor and "taskq beat APP" in doctor
    header, daily, often = cli.run("schedules", "list").out.splitlines()
    assert header.split()[:3] == ["ID", "WHEN", "TASK"]
    assert daily.startswith("daily") and "0 9 * * *" in daily and often.startswith("often")
    upcoming = [datetime.fromisoformat(one) for one in cli.json("schedules", "next", "daily", "-n", "3")]
    assert [(one.minute, one.hour in (7, 8)) for one in upcoming] == [(0, True)] * 3
    assert cli.run("schedules", "pause", "daily").out == "daily: paused\n"
    with cli.worker("--beat"):
        await cli.noted("often", "often")
        (shown,) = [one for one in cli.json("schedules", "list") if one["id"] == "often"]
        assert (shown["fired"], shown["next_at"]) == (2, None)
        assert cli.run("schedules", "run", "daily").out.startswith("daily: sent msg_")
        await cli.noted("often", "often", "daily")

        def ended() -> bool:
            (ran,) = cli.json("schedules", "history", "daily")
            return bool(ran["by_hand"]) and ran["status"] == "SUCCEEDED"

        await eventually(ended)
        overview = cli.json("status")
        assert overview["beat"] == overview["workers"][0]["id"]
        assert "no beat runs" not in cli.run("doctor").out
    assert cli.run("schedules", "resume", "daily").out == "daily: resumed\n"
    assert cli.run("schedules", "delete", "daily", "often").out == "daily: deleted\noften: deleted\n"
    for verb in ("next", "pause", "resume", "run", "delete"):
        assert "no schedule 'daily'" in cli.run("schedules", verb, "daily", code=1).err


async def test_beats_say_who_leads_and_end_at_once(cli: CommandLine) -> None:
    """One leads, the other stands by, both are healthy and ready; SIGTERM ends the leader within a second or so."""
    ports = [free_port(), free_port()]
    async with cli.sender() as app:
        await app.schedules.upsert_async("often", "note", every=1, args=["often"])
    with cli.beat("--health", f"127.0.0.1:{ports[0]}") as first:
        await eventually(lambda: _says(ports[0], "leads"))
        with cli.beat("--health", f"127.0.0.1:{ports[1]}"):
            await eventually(lambda: _says(ports[1], "stands by"))
            for port in ports:
                assert (await asked(port, "/ready"))[0] == 200
            began = time.monotonic()
            first.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(first.wait, 60) == 0
            took = time.monotonic() - began
            await eventually(lambda: _says(ports[1], "leads"))
            first.poll = lambda: None  # type: ignore[method-assign]  # it has ended as it should
    assert took < 5 + pulse.lost()


async def _says(port: int, standing: str) -> bool:
    status, health = await asked(port, "/health")
    return status == 200 and health.get("beat") == standing
