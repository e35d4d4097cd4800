"""A long run: mixed load, a random fault every few seconds, and a ledger at the end.

    python -m tests.soak MINUTES [--seed N]

RabbitMQ and PostgreSQL are private; two workers live through everything (their memory is watched),
others are killed. Exits 0 only if every promise held; prints what it did as it goes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from taskq.worker.process import EXIT_RECYCLE, EXIT_UNAVAILABLE
from taskq.worker.watchdog import EXIT_UNHEALTHY
from tests.chaos.stream import BACK_WITHIN, QUEUES, Ledger, Stream
from tests.integration.harness import Station, WorkerProcess
from tests.integration.outcomes import Outcomes
from tests.proxy import Proxy
from tests.servers import PostgresServer, RabbitNode
from tests.services import make_node, make_postgres

SAMPLE_EVERY = 5.0  # seconds between looks at memory and outcomes
WARM_UP = 60.0  # seconds after which a worker's memory counts
ENDED = (EXIT_UNHEALTHY, EXIT_UNAVAILABLE, EXIT_RECYCLE)  # exit codes with which a process asks for another
NAMES = [queue.name for queue in QUEUES]


def resident_mb(pid: int) -> float:
    """Memory of a process, in megabytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def said_exit(worker: WorkerProcess) -> float | None:
    """When a process ended itself, by its log: what it ran ran no longer then. None: it had nothing in hand."""
    last = [line for line in worker.said().splitlines() if line.endswith("exiting")][-1:]
    return time.mktime(time.strptime(last[0][:19], "%Y-%m-%d %H:%M:%S")) + int(last[0][20:23]) / 1000 if last else None


def slope(samples: list[tuple[float, float]]) -> float:
    """Of the straight line nearest to (seconds, megabytes): megabytes an hour."""
    n = len(samples)
    mean_t, mean_y = sum(t for t, _ in samples) / n, sum(y for _, y in samples) / n
    spread = sum((t - mean_t) ** 2 for t, _ in samples)
    return 3600 * sum((t - mean_t) * (y - mean_y) for t, y in samples) / spread if spread else 0.0


@dataclass
class Soak:
    """The parts of one run, and the faults that it knows."""

    node: RabbitNode
    postgres: PostgresServer
    proxy: Proxy
    station: Station
    stream: Stream
    rng: random.Random
    stable: list[WorkerProcess]
    mortal: list[WorkerProcess]
    settings: dict[str, object]
    did: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    ended: int = 0  # processes that ended themselves
    memory: dict[int, list[tuple[float, float]]] = field(default_factory=dict)

    # -- faults: each returns when its cause is mended ----------------------------------------

    async def worker_killed(self) -> None:
        victim = self.rng.choice(self.mortal)
        victim.kill()
        self._replace(victim)

    async def worker_stopped(self) -> None:
        victim = self.rng.choice(self.mortal)
        victim.terminate()
        assert await victim.ended(40) == 0, victim.said()[-2000:]
        self._replace(victim)

    async def worker_suspended(self) -> None:
        victim = self.rng.choice(self.mortal)
        victim.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(self.rng.uniform(1, 5))  # at times more than the broker needs to give up on it
        victim.process.send_signal(signal.SIGCONT)

    def _replace(self, victim: WorkerProcess) -> None:
        for crew in (self.mortal, self.stable):
            if victim in crew:
                crew[crew.index(victim)] = self.station.start(NAMES, **self.settings)

    def _replace_the_ended(self) -> None:
        """Whose loop stood still for too long, or who found no broker at its start, has ended: a supervisor starts
        another."""
        for worker in [*self.mortal, *self.stable]:
            if not worker.running:
                assert worker.process.returncode in ENDED, (worker.process.returncode, worker.said()[-3000:])
                worker.breaks_down = True
                worker.killed_at = said_exit(worker)
                self.ended += 1
                self._replace(worker)

    async def broker_killed(self) -> None:
        await asyncio.to_thread(self.node.kill)
        await asyncio.to_thread(self.node.start)

    async def broker_stopped(self) -> None:
        await asyncio.to_thread(self.node.ctl, "stop_app")
        await asyncio.to_thread(self.node.ctl, "start_app")

    async def connections_closed(self) -> None:
        await asyncio.to_thread(self.node.ctl, "close_all_connections", "soak")

    async def network_cut(self) -> None:
        self.proxy.cut()

    async def network_silent(self) -> None:
        self.proxy.silence()
        await asyncio.sleep(self.rng.uniform(1, 12))
        self.proxy.heal()

    async def store_killed(self) -> None:
        await asyncio.to_thread(self.postgres.kill)
        await asyncio.sleep(self.rng.uniform(0, 5))
        await asyncio.to_thread(self.postgres.start)

    async def store_connections_cut(self) -> None:
        def cut() -> None:
            with psycopg.connect(self.postgres.url, autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
                )

        await asyncio.to_thread(cut)

    def faults(self) -> list[Callable[[], Awaitable[None]]]:
        return [
            self.worker_killed,
            self.worker_killed,  # the commonest of all
            self.worker_stopped,
            self.worker_suspended,
            self.broker_killed,
            self.broker_stopped,
            self.connections_closed,
            self.network_cut,
            self.network_silent,
            self.store_killed,
            self.store_connections_cut,
        ]

    # -- the run ------------------------------------------------------------------------------

    async def run(self, until: float) -> None:
        """Fault after fault, each survived before the next."""
        watching = asyncio.create_task(self._watch())
        try:
            while time.monotonic() < until:
                fault = self.rng.choice(self.faults())
                name = fault.__name__.replace("_", " ")
                print(f"{time.strftime('%X')} {name}", end="", flush=True)
                await fault()
                self._replace_the_ended()
                back = await self.stream.mended()
                self.did[name] += 1
                self.slowest = max(self.slowest, back)
                print(f": back after {back:.1f} s", flush=True)
                await asyncio.sleep(self.rng.uniform(0, 8))
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self) -> None:
        began = time.monotonic()
        while True:
            await asyncio.sleep(SAMPLE_EVERY)
            at = time.monotonic() - began
            if at > WARM_UP:
                for worker in (worker for worker in self.stable if worker.running):
                    self.memory.setdefault(worker.pid, []).append((at, resident_mb(worker.pid)))
            with contextlib.suppress(Exception):  # the store may be what is broken just now; the end checks all
                await self.stream.sweep()


@contextlib.asynccontextmanager
async def prepared(seed: int) -> AsyncIterator[Soak]:
    """Everything that a run needs, ended with it."""
    node, postgres = make_node(), make_postgres()
    folder = Path(tempfile.mkdtemp(prefix="taskq-soak-"))
    try:
        await asyncio.gather(asyncio.to_thread(node.start), asyncio.to_thread(postgres.start))
        async with Proxy("127.0.0.1", node.port) as proxy:
            through = f"amqp://guest:guest@127.0.0.1:{proxy.port}/"
            station = Station(broker=node.url, store=postgres.url, prefix="soak", folder=folder)
            await station.store()
            outcomes = Outcomes(postgres.url)
            outcomes.watch()
            stream = Stream(station, outcomes, "soak")
            settings: dict[str, object] = {"broker": through, "exit_after": 120}
            async with stream.flowing(workers=4, **settings):
                stable, mortal = station.workers[:2], station.workers[2:]
                quick = {"heartbeat": 4, "health_limit": 5} | settings
                yield Soak(node, postgres, proxy, station, stream, random.Random(seed), stable, mortal, quick)
            await station.close()
    finally:
        await asyncio.gather(asyncio.to_thread(node.stop), asyncio.to_thread(postgres.stop))
        shutil.rmtree(folder)


async def soak(minutes: float, seed: int) -> None:
    """Run, check, and print the ledger."""
    print(f"{minutes:g} minutes, seed {seed}", flush=True)
    async with prepared(seed) as run:
        await run.run(time.monotonic() + minutes * 60)
        run._replace_the_ended()
        ledger = await run.stream.checked(back=run.slowest, within=120)
        show(minutes, run, ledger)


def show(minutes: float, run: Soak, ledger: Ledger) -> None:
    """The ledger, as a table."""
    print("\n| | |\n|---|---|")
    rows: dict[str, object] = {
        "minutes": f"{minutes:g}",
        "faults": sum(run.did.values()),
        "sent and confirmed": ledger.confirmed,
        "enqueues that raised": ledger.unconfirmed,
        "done": ledger.done,
        "dead letters": ledger.dead,
        "lost": ledger.lost,
        "recorded twice": ledger.recorded_twice,
        "attempts that ran again": ledger.runs_again,
        "out of order": ledger.out_of_order,
        "most at once, of 3": ledger.most_at_once,
        "processes that ended themselves": run.ended,
        "longest stall": f"{ledger.longest_stall:.1f} s",
        "slowest recovery": f"{run.slowest:.1f} s (promised: {BACK_WITHIN:g})",
    }
    for number, samples in enumerate([one for one in run.memory.values() if len(one) > 10], 1):
        first, last = samples[0][1], samples[-1][1]
        rows[f"memory of worker {number}"] = f"{first:.1f} to {last:.1f} MB, {slope(samples):+.1f} MB an hour"
    rows |= {f"fault: {name}": times for name, times in sorted(run.did.items())}
    for name, value in rows.items():
        print(f"| {name} | {value} |")


def main() -> None:
    parser = argparse.ArgumentParser(description="mixed load under random faults")
    parser.add_argument("minutes", type=float)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args()
    asyncio.run(soak(options.minutes, options.seed))


if __name__ == "__main__":
    sys.exit(main())
