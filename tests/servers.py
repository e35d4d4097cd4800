"""Private servers: a RabbitMQ node, a cluster of them, and a PostgreSQL, started from installed programs.

Each has its own ports, data and cookie in one folder, listens on 127.0.0.1 alone, and is ended
with all its data by `stop`. Nothing here looks for a server that runs already; `services` does.
"""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

RABBIT_PROGRAMS = ("/usr/lib/rabbitmq/bin", "/opt/rabbitmq/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
ROOT_VARIABLE = "TASKQ_TEST_RABBIT_ROOT"  # a root directory with another RabbitMQ in it, see tests.another_rabbit
# Refused on 4.3 and later, for the versions after it will not do it. (A 4.0.5 that denies the last does not boot again
# after it has had exclusive queues, anybody's.)
DENIED = ("amqp_address_v1", "global_qos", "queue_master_locator", "ram_node_type", "transient_nonexcl_queues")
BOOT_TIMEOUT = 90.0  # seconds; a node needs 4 to 8 on an idle machine


class CannotStart(Exception):
    """A server did not come up; the text holds the end of its log."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses, below those from which connections get theirs: else one of these might
    have it before the server for which it is meant."""
    while True:
        port = random.SystemRandom().randrange(10_000, 32_768)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def answers(port: int, host: str = "127.0.0.1") -> bool:
    """Something listens there."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def rabbit_programs() -> Path | None:
    """The folder of RabbitMQ's own programs; Debian's wrappers on the PATH refuse other users."""
    root = os.environ.get(ROOT_VARIABLE)
    if root:
        inside = Path(RABBIT_PROGRAMS[0])
        return inside if (Path(root) / inside.relative_to("/") / "rabbitmq-server").exists() else None
    for folder in (*map(Path, RABBIT_PROGRAMS), *_folders_of("rabbitmq-server")):
        if (folder / "rabbitmq-server").exists() and (folder / "rabbitmqctl").exists() and folder != Path("/usr/sbin"):
            return folder
    return None


def postgres_programs() -> Path | None:
    """The folder of `initdb` and `postgres`, the newest version's."""
    debian = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[-2]), reverse=True)
    for folder in (*map(Path, debian), *_folders_of("initdb")):
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    return None


def _folders_of(program: str) -> list[Path]:
    found = shutil.which(program)
    return [Path(found).resolve().parent] if found else []


def in_root(command: Sequence[str]) -> list[str]:
    """The command of a RabbitMQ program, as it is called here: in the other root, if one is named."""
    root = os.environ.get(ROOT_VARIABLE)
    return ["chroot", root, *command] if root else list(command)


def another_version() -> tuple[int, ...]:
    """Of the RabbitMQ in the other root; () without one."""
    root = os.environ.get(ROOT_VARIABLE)
    found = glob.glob(f"{root}/usr/lib/rabbitmq/lib/rabbitmq_server-*") if root else []
    return tuple(int(part) for part in found[0].rpartition("-")[2].split(".")) if found else ()


def node_name(port: int) -> str:
    """What a node of ours on that AMQP port is called among Erlang's."""
    return f"taskq-{port}@localhost"


class RabbitNode:
    """A RabbitMQ node of one's own.

    Args:
        folder: made if it is not there; holds everything of the node.
        port: AMQP; picked when None.
        config: further lines of rabbitmq.conf, such as `{"consumer_timeout": "10000"}` (milliseconds).
        beside: a node whose cookie and port mapper it shares, so that the two can form a cluster.
        ticktime: seconds after which a node of the cluster that says nothing is taken for dead; None: Erlang's 60.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        config: Mapping[str, str] | None = None,
        beside: RabbitNode | None = None,
        ticktime: int | None = None,
    ) -> None:
        programs = rabbit_programs()
        if programs is None:
            raise CannotStart("no programs of RabbitMQ are installed")
        self.folder, self.programs = folder, programs
        self.port = port or free_port()
        self.dist_port, self.epmd_port = free_port(), beside.epmd_port if beside else free_port()
        self.name = node_name(self.port)
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._cookie = beside._cookie if beside else os.urandom(16).hex().upper()
        self._config = dict(config or {})
        # An idle scheduler that spins takes a core from the tests.
        self._erlang = "+sbwt none +sbwtdcpu none +sbwtdio none"
        if ticktime is not None:
            self._erlang += f" -kernel net_ticktime {ticktime}"
        self._lay_out()

    def _lay_out(self) -> None:
        for part in ("home", "data", "log"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        cookie = self.folder / "home" / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(self._cookie)
            cookie.chmod(0o400)
        lines = {
            "loopback_users": "none",
            "listeners.tcp.default": f"127.0.0.1:{self.port}",
            "disk_free_limit.absolute": "50MB",
            "raft.wal_max_size_bytes": "67108864",
            "log.file.level": "warning",
        } | self._config
        if another_version() >= (4, 3):
            lines |= {f"deprecated_features.permit.{name}": "false" for name in DENIED}
        (self.folder / "rabbitmq.conf").write_text("".join(f"{key} = {value}\n" for key, value in lines.items()))
        (self.folder / "enabled_plugins").write_text("[].\n")

    @property
    def environment(self) -> dict[str, str]:
        """What its programs need to see."""
        folder = self.folder
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))},
            "HOME": str(folder / "home"),
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.dist_port),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none.conf"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": self._erlang,
        }

    @property
    def pids(self) -> list[int]:
        """Of every process that belongs to the node."""
        return [process.pid for process in self._processes]

    @property
    def alive(self) -> bool:
        """Its process is there; it may be booting, or hang."""
        server = in_root([str(self.programs / "rabbitmq-server")])
        return any(process.args == server and process.poll() is None for process in self._processes)

    @property
    def running(self) -> bool:
        """It lets clients in."""
        return _speaks_amqp(self.port)

    def start(self) -> None:
        """Boot it, again after a `kill` with all its data; returns when clients are let in.

        Raises:
            CannotStart: it did not boot.
        """
        self.start_port_mapper()
        server = self._run([str(self.programs / "rabbitmq-server")], "stdout.log")
        _await(lambda: _speaks_amqp(self.port), server, self.folder / "stdout.log", BOOT_TIMEOUT)

    def start_port_mapper(self) -> None:
        """The first part of `start`, for nodes that share one; nothing if it runs."""
        if not answers(self.epmd_port):
            self._run([_epmd(), "-port", str(self.epmd_port), "-address", "127.0.0.1"], "epmd.log")
            _await(lambda: answers(self.epmd_port), self._processes[-1], self.folder / "epmd.log", 10)

    def _run(self, command: list[str], log: str) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("ab") as output:
            process = subprocess.Popen(
                in_root(command),
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def ctl(self, *arguments: str, timeout: float = 60) -> str:
        """What `rabbitmqctl` says to these arguments."""
        command = [str(self.programs / "rabbitmqctl"), "-q", "-n", self.name, *arguments]
        return subprocess.run(
            in_root(command), env=self.environment, check=True, capture_output=True, text=True, timeout=timeout
        ).stdout

    def kill(self, *, forgetful: bool = False) -> None:
        """SIGKILL to the node, as a machine that fails; its data stay.

        RabbitMQ writes the names of new quorum queues down half a second later or more, and forgets those queues,
        with what they hold, if it is killed before. A test that is not about this has it write them first.
        """
        if not forgetful:
            self.ctl("eval", "[dets:sync(Table) || Table <- dets:all()].")
        server = self._processes.pop()
        _end(server, signal.SIGKILL)

    def shut_down(self) -> None:
        """Have it stop in good order, as for an upgrade; its data stay."""
        self.ctl("shutdown")
        _end(self._processes.pop(), signal.SIGTERM)

    def hang(self) -> None:
        """Stop it where it stands: its sockets stay open and nobody answers, until `go_on`."""
        os.killpg(self._processes[-1].pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """After `hang`."""
        os.killpg(self._processes[-1].pid, signal.SIGCONT)

    def lose_data(self) -> None:
        """Of a node that does not run: what remains is a new machine under the old name."""
        shutil.rmtree(self.folder / "data")
        self._lay_out()

    def stop(self) -> None:
        """End it, its port mapper, and its data. Idempotent."""
        for process in reversed(self._processes):
            _end(process, signal.SIGKILL)
        self._processes.clear()
        shutil.rmtree(self.folder, ignore_errors=True)


class RabbitCluster:
    """RabbitMQ nodes that find each other at their first start; a node that is cut off from the majority pauses.

    Args:
        folder: made if it is not there; holds everything of the cluster.
        size: how many nodes.
        ticktime: seconds after which the others take a silent node for dead.
    """

    def __init__(self, folder: Path, *, size: int = 3, ticktime: int = 8) -> None:
        ports = [free_port() for _ in range(size)]
        discovery = "cluster_formation.peer_discovery_backend"
        lines = {discovery: "classic_config", "cluster_partition_handling": "pause_minority"}
        lines |= {f"cluster_formation.classic_config.nodes.{i}": node_name(port) for i, port in enumerate(ports, 1)}
        self.folder = folder
        self.nodes: list[RabbitNode] = []
        for port in ports:
            beside = self.nodes[0] if self.nodes else None
            node = RabbitNode(folder / str(port), port=port, config=lines, beside=beside, ticktime=ticktime)
            self.nodes.append(node)

    def start(self) -> None:
        """Boot all nodes side by side; returns when each lets clients in and knows the others.

        Raises:
            CannotStart: one did not boot.
        """
        self.nodes[0].start_port_mapper()
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(RabbitNode.start, self.nodes))

    def url(self, nodes: Sequence[RabbitNode] | None = None) -> str:
        """A broker URL with these nodes as its hosts, in this order; None: all."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in nodes or self.nodes)
        return f"amqp://guest:guest@{hosts}/"

    def leader(self, queue: str) -> RabbitNode:
        """The node that leads a quorum queue of the default vhost, by what a running node says."""
        node = next(node for node in self.nodes if node.running)
        for line in node.ctl("list_queues", "name", "leader").splitlines():
            name, _, leader = line.partition("\t")
            if name == queue:
                return next(node for node in self.nodes if node.name == leader)
        raise LookupError(queue)

    def stop(self) -> None:
        """End all nodes and their data. Idempotent."""
        for node in reversed(self.nodes):
            node.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class PostgresServer:
    """A PostgreSQL of one's own; every local user may log in as `postgres`.

    Args:
        folder: made if it is not there; holds everything of the server.
        port: picked when None.
        durable: whether it waits for the disk. Tests may do without: they never pull the plug.
    """

    def __init__(self, folder: Path, *, port: int | None = None, durable: bool = False) -> None:
        programs = postgres_programs()
        if programs is None:
            raise CannotStart("no programs of PostgreSQL are installed")
        self.folder, self.programs, self.durable = folder, programs, durable
        self.port = port or free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pids(self) -> list[int]:
        return [self._process.pid] if self._process else []

    def start(self) -> None:
        """Make the data folder if there is none, and start; returns when clients are let in.

        Raises:
            CannotStart: it did not start.
        """
        data, log = self.folder / "data", self.folder / "log"
        self.folder.mkdir(parents=True, exist_ok=True)
        account = _server_account()
        if account is not None:  # PostgreSQL refuses to run as root
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        if not data.exists():
            initdb = [str(self.programs / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8"]
            made = subprocess.run(
                [*initdb, "--locale=C.UTF-8", "--no-sync"], capture_output=True, text=True, **_as(account)
            )
            if made.returncode:
                raise CannotStart(f"initdb failed: {made.stderr[-2000:]}")
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "max_connections": "300"}
        if not self.durable:
            settings["fsync"] = "off"  # what the system has been given outlives the death of the processes
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        command = [str(self.programs / "postgres"), "-D", str(data), "-p", str(self.port), *options]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd="/",
                **_as(account),
            )
        _await(lambda: _accepts(self.url), self._process, log, 60)

    def shut_down(self) -> None:
        """Stop it in good order: sessions are ended, transactions rolled back ("fast"); its data stay."""
        assert self._process is not None
        _end(self._process, signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL to all its processes, as a machine that fails; its data stay."""
        assert self._process is not None
        # A session that is forked after the look would live on, and write beside the next server.
        os.kill(self._process.pid, signal.SIGSTOP)
        sessions = _children(self._process.pid)  # each in a process group of its own
        _end(self._process, signal.SIGKILL)
        for pid in sessions:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while any(map(_runs, sessions)):  # else they hold the memory that the next start needs
            time.sleep(0.01)
        with contextlib.suppress(FileNotFoundError):
            (self.folder / "data" / "postmaster.pid").unlink()

    def stop(self) -> None:
        """End it and its data. Idempotent."""
        if self._process is not None:
            _end(self._process, signal.SIGINT)  # "fast": its own children go with it
            self._process = None
        shutil.rmtree(self.folder, ignore_errors=True)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _server_account() -> pwd.struct_passwd | None:
    """Whom to run PostgreSQL as: None is ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise CannotStart("PostgreSQL does not run as root, and there is no user postgres or nobody")


def _as(account: pwd.struct_passwd | None) -> dict[str, object]:
    return {} if account is None else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _epmd() -> str:
    if os.environ.get(ROOT_VARIABLE):
        return "/usr/bin/epmd"
    found = shutil.which("epmd") or next(iter(sorted(glob.glob("/usr/lib/erlang/erts-*/bin/epmd"))), None)
    if found is None:
        raise CannotStart("no epmd: Erlang is not installed as RabbitMQ needs it")
    return found


def _speaks_amqp(port: int) -> bool:
    """A node opens its port late, but answers a client's greeting only when it is ready."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"
    except OSError:
        return False


def _accepts(url: str) -> bool:
    import psycopg

    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _await(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            what = "ended" if process.poll() is not None else f"was not ready after {timeout:g} s"
            _end(process, signal.SIGKILL)
            raise CannotStart(f"{process.args[0]} {what}; the end of its log:\n{log.read_text()[-2000:]}")  # type: ignore[index]
        time.sleep(0.05)


def _end(process: subprocess.Popen[bytes], how: signal.Signals, timeout: float = 60) -> None:
    """Signal the process and its session, and reap it."""
    for step in (how, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, step)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout)
            return
