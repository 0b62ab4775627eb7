"""The proxy: stands before each node of a real cluster and imposes network faults on the messages.

All members know each other by the addresses of the proxy's fronts, so their lists are the same everywhere; the real
nodes listen elsewhere. A front forwards the bytes of a connection and parses them: the first message names the node
that connected, and so the directed path of all later ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from pathlib import Path as FilePath
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from forge_consensus.actors.transport.endpoint import path_of
from forge_consensus.config.address import parse_endpoint
from forge_consensus.errors import (
    AlreadyStartedError,
    ConsensusTimeoutError,
    NotStartedError,
    TransportUnavailableError,
)
from forge_consensus.testing.local.arguments import check_fronts, check_kind, pairs_of
from forge_consensus.testing.local.network_paths import CUT, WHOLE, Path, PathCounts, PathFaults
from forge_consensus.testing.local.relay import CLIENT, Relay

__all__ = ["CLIENT", "CUT", "WHOLE", "PathCounts", "PathFaults", "Proxy"]

LOOK_SECONDS: Final = 0.02
"""The interval, in seconds, at which a front checks whether its node is back."""
CALL_SECONDS_MAX: Final = 10.0
BACKLOG: Final = 128
END_SECONDS_MAX: Final = 1.0
"""How long the end of a proxy waits for connections that are being established."""
ROUNDS_TO_CLOSE: Final = 3
"""So many rounds of the loop end what was accepted or aborted in one: each side of a relay takes one of its own."""

Result = TypeVar("Result")


async def connect(make: Callable[[], asyncio.Protocol], address: str) -> asyncio.BaseTransport:
    """Connect to an address of a node. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    if (path := path_of(address)) is not None:
        transport, _ = await loop.create_unix_connection(make, path)
        return transport
    host, _, port = address.rpartition(":")
    transport, _ = await loop.create_connection(make, host.strip("[]"), int(port))
    return transport


async def listen(make: Callable[[], asyncio.Protocol], address: str) -> asyncio.Server:
    """Listen at an address. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    if (path := path_of(address)) is not None:
        return await loop.create_unix_server(make, path, backlog=BACKLOG)
    host, _, port = address.rpartition(":")
    return await loop.create_server(make, host.strip("[]"), int(port), backlog=BACKLOG, reuse_address=True)


class Watch(asyncio.Protocol):
    """A connection that sends nothing and ends when the node does."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the node has ended, or closed the silent connection."""
        self.ended.set()


class Front:
    """The address of one node for all others. It listens only while the node does: a dead node refuses connections."""

    def __init__(self, name: str, address: str, real_address: str, proxy: Proxy) -> None:
        self.name = name
        self.address = address
        self.real_address = real_address
        self.proxy = proxy
        self.server: asyncio.Server | None = None
        self.joining: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Follow the node through its restarts, until cancelled."""
        try:
            while True:
                watch = Watch()
                try:
                    transport = await connect(lambda watch=watch: watch, self.real_address)  # type: ignore[misc]
                except OSError:
                    await self.shut()
                    await asyncio.sleep(LOOK_SECONDS)
                    continue
                try:
                    if self.server is None:
                        self.server = await listen(self.accept, self.address)
                    await watch.ended.wait()
                finally:
                    transport.close()
        finally:
            await self.shut()
            for task in self.joining:
                task.cancel()

    async def shut(self) -> None:
        """Stop listening; open connections are ended by their other side.

        Connections that were accepted in this round of the loop join the server in the next, and asyncio forgets to
        close those whose server was closed before. So nothing more is accepted first.
        """
        if self.server is None:
            return
        server, self.server = self.server, None
        loop = asyncio.get_running_loop()
        for listening in server.sockets:
            loop.remove_reader(listening.fileno())
        try:
            for _ in range(ROUNDS_TO_CLOSE):
                await asyncio.sleep(0)
        finally:
            server.close()
            if (path := path_of(self.address)) is not None:
                FilePath(path).unlink(missing_ok=True)

    def accept(self) -> asyncio.Protocol:
        """Make a relay for a new connection."""
        relay = Relay(self.name, self.proxy.path, self.proxy.relays.discard)
        self.proxy.relays.add(relay)
        task = asyncio.get_running_loop().create_task(self.join(relay))
        self.joining.add(task)
        task.add_done_callback(self.joining.discard)
        return relay.front

    async def join(self, relay: Relay) -> None:
        """Connect the relay to the real node; if that fails, end the relay."""
        try:
            await connect(lambda: relay.back, self.real_address)
        except OSError:
            relay.abort()


class Proxy:
    """Fronts for nodes, on a thread of its own. `fronts` maps each node to (its front's address, its real address).

    Addresses are HOST:PORT or ipc:///path. Nodes need not run yet, and may end and start again. Faults are drawn from
    the random seed `seed`, for each directed path separately; every sender that is no node is named ``client``. All
    methods may be called from any thread.
    """

    def __init__(self, fronts: Mapping[str, tuple[str, str]], *, seed: int = 0) -> None:
        check_fronts(fronts)
        self.seed = seed
        self.fronts = {
            name: Front(name, parse_endpoint(front), parse_endpoint(real), self)
            for name, (front, real) in fronts.items()
        }
        self.tasks: dict[str, asyncio.Task[None]] = {}
        """What runs each front."""
        self.paths: dict[tuple[str, str], Path] = {}
        self.relays: set[Relay] = set()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread: threading.Thread | None = None
        self.stopping = asyncio.Event()
        self.failure: BaseException | None = None

    def path(self, source: str, target: str) -> Path:
        """The path from `source` to `target`; only for the proxy's thread."""
        path = self.paths.get((source, target))
        if path is None:
            path = self.paths[source, target] = Path(random.Random(f"{self.seed} {source} {target}"))
        return path

    # --- the life of it ----------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Begin to forward, on a thread of its own; returns when it does.

        Raises `AlreadyStartedError`, and `ConsensusTimeoutError` if the thread does not begin in time.
        """
        if self.thread is not None:
            raise AlreadyStartedError("the proxy runs already: call start() once, or use the with statement alone")
        ready = threading.Event()
        self.thread = threading.Thread(target=self.serve, args=(ready,), name="forge-proxy", daemon=True)
        self.thread.start()
        if not ready.wait(CALL_SECONDS_MAX):
            raise ConsensusTimeoutError(f"the proxy did not start within {CALL_SECONDS_MAX:g} s")
        return self

    def serve(self, ready: threading.Event) -> None:
        """Run the event loop; the body of the proxy's thread."""
        loop = asyncio.new_event_loop()
        self.loop = loop
        loop.call_soon(ready.set)
        try:
            loop.run_until_complete(self.run())
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self.failure = error
        finally:
            self.loop = None
            loop.close()

    async def run(self) -> None:
        """Run all fronts until one fails or `stop` is called."""
        for front in self.fronts.values():
            self.begin(front)
        try:
            await self.stopping.wait()
        finally:
            for task in self.tasks.values():
                task.cancel()
            await asyncio.gather(*self.tasks.values(), return_exceptions=True)
            begun = asyncio.all_tasks() - {asyncio.current_task()}  # connections that were accepted a moment ago
            for relay in list(self.relays):
                relay.abort()
            if begun:
                await asyncio.wait(begun, timeout=END_SECONDS_MAX)
            for relay in list(self.relays):
                relay.abort()
            for _ in range(ROUNDS_TO_CLOSE):
                await asyncio.sleep(0)

    def begin(self, front: Front) -> None:
        """Run a front; its failure ends the proxy."""
        task = self.tasks[front.name] = asyncio.get_running_loop().create_task(front.run())
        task.add_done_callback(self.front_ended)

    def front_ended(self, task: asyncio.Task[None]) -> None:
        """Note that a front has failed, if it was not cancelled."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failure = error
            self.stopping.set()

    def stop(self) -> None:
        """End the proxy, with all its connections; a second call does nothing."""
        thread, loop = self.thread, self.loop
        if thread is None:
            return
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it ended by itself meanwhile
                loop.call_soon_threadsafe(self.stopping.set)
        thread.join(CALL_SECONDS_MAX)
        self.thread = None

    def __enter__(self) -> Self:
        return self if self.thread is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def call(self, act: Callable[[], Result]) -> Result:
        """Call `act` on the proxy's thread, and return its result."""

        async def acting() -> Result:
            return act()

        loop = self.loop
        if loop is None or self.failure is not None:
            reason = f": {self.failure}" if self.failure is not None else ""
            raise NotStartedError(f"the proxy does not run{reason}")
        work: Coroutine[Any, Any, Result] = acting()
        return asyncio.run_coroutine_threadsafe(work, loop).result(CALL_SECONDS_MAX)

    # --- members -----------------------------------------------------------------------------------------------------

    def add(self, name: str, front: str, real: str) -> None:
        """Put a front before a further node, or another one before a node that moved; the arguments are addresses.

        Raises `InvalidConfigError` for an address that is none.
        """
        check_fronts({name: (front, real)})
        made = Front(name, parse_endpoint(front), parse_endpoint(real), self)
        if name in self.fronts:
            self.remove(name)
        self.fronts[name] = made
        self.call(lambda: self.begin(made))

    def remove(self, name: str) -> None:
        """Remove the front of a node that left, with its connections."""
        self.check_names([name])
        front = self.fronts.pop(name)

        def act() -> None:
            self.tasks.pop(front.name).cancel()
            for relay in list(self.relays):
                if relay.target == name:
                    relay.abort()

        self.call(act)

    # --- faults ------------------------------------------------------------------------------------------------------

    def impose(self, source: str, target: str, faults: PathFaults) -> None:
        """Impose faults on the messages from one node to another, from now on; `WHOLE` ends them."""
        self.impose_all([(source, target)], faults)

    def impose_all(self, pairs: Iterable[tuple[str, str]], faults: PathFaults) -> None:
        """Impose faults on all these paths at the same moment."""
        advice = "say what is to befall the messages by PathFaults(...), such as PathFaults(drop=0.1)"
        check_kind("faults", faults, PathFaults, advice)
        pairs = pairs_of(pairs)
        self.check_names(name for pair in pairs for name in pair)
        self.call(lambda: self.set_faults(pairs, WHOLE if faults == WHOLE else faults))

    def set_faults(self, pairs: Iterable[tuple[str, str]], faults: PathFaults) -> None:
        """Set the faults of paths; only for the proxy's thread."""
        for source, target in pairs:
            self.path(source, target).faults = faults
        for relay in list(self.relays):
            relay.healed()

    def check_names(self, names: Iterable[str]) -> None:
        """Raise `TransportUnavailableError` for a name that is neither a node's nor that of clients."""
        for name in names:
            if name not in [*self.fronts, CLIENT]:
                raise TransportUnavailableError(f"{name!r} is no node of this proxy: it has {', '.join(self.fronts)}")

    def disconnect(self, one: str, other: str) -> None:
        """Break the connections between two nodes; they may connect again."""
        self.check_names((one, other))

        def act() -> None:
            for relay in list(self.relays):
                if relay.is_between(one, other):
                    relay.close()

        self.call(act)

    def heal(self) -> None:
        """End the faults of all paths, those of clients too: from now on everything is forwarded whole and at once."""
        self.call(lambda: self.set_faults(list(self.paths), WHOLE))

    def counts(self) -> dict[tuple[str, str], PathCounts]:
        """The numbers of each path that was ever used: (source, target) -> counts."""
        return self.call(lambda: {pair: replace(path.counts) for pair, path in self.paths.items()})

    def listening(self) -> set[str]:
        """The nodes that listen at their real addresses, as far as the proxy knows."""
        return self.call(lambda: {name for name, front in self.fronts.items() if front.server is not None})

    def wait_listening(self, *names: str) -> None:
        """Wait until these nodes can be reached through the proxy. Raises `ConsensusTimeoutError`."""
        self.check_names(names)
        end = time.monotonic() + CALL_SECONDS_MAX
        while missing := set(names) - self.listening():
            if time.monotonic() > end:
                raise ConsensusTimeoutError(
                    f"the proxy did not reach {', '.join(sorted(missing))} within {CALL_SECONDS_MAX:g} s: they must "
                    "listen at their real addresses"
                )
            time.sleep(LOOK_SECONDS / 4)
