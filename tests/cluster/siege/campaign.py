"""The campaign: clusters of real nodes, one after the other, round after round of blows under load and of verdicts."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from forge_consensus.config.storage import StorageSettings
from forge_consensus.testing.local.cluster import LocalCluster
from tests.cluster.siege.blows import BLOWS
from tests.cluster.siege.callers import LANES, Caller
from tests.cluster.siege.feeds import FeedWatch
from tests.cluster.siege.key_load import KeyLoad
from tests.cluster.siege.places import DRIFTS, Place, place_of
from tests.cluster.siege.protected import WRITER
from tests.cluster.siege.registers import RegisterLoad
from tests.cluster.siege.tally import Tally

LIMITS: Final = StorageSettings(
    snapshot_entries=1500,
    snapshot_seconds_min=0.3,
    trailing_entries=200,
    checkpoint_entries=400,
    checkpoint_seconds=1.0,
    events_kept=1_000_000,
)
"""Snapshots are taken often; the journals keep all events of a cluster's life, so that none may be missing."""

CLIENTS: Final = 7
REGISTERS: Final = "registers"
KEYS: Final = "keys"
LOADS: Final = (REGISTERS, KEYS)
"""What clients do in a round: read and write single keys; or use leases, watches, locks and transactions."""
SETTLE_SECONDS: Final = 60.0
"""The time limit, in seconds, for a healed cluster to settle, on a busy machine."""


@dataclass(frozen=True, slots=True)
class Orders:
    """The limits of a siege: it ends after so many seconds or rounds, whichever comes first."""

    seed: int
    seconds: float = float("inf")
    rounds: int | None = None
    nodes: int | None = None
    """None for three and five in turn."""
    only: tuple[str, ...] = ()
    """The faults; all if there is none."""
    loads: tuple[str, ...] = LOADS
    """The loads, in turn."""
    round_seconds: tuple[float, float] = (20.0, 30.0)
    rounds_per_cluster: int = 3
    settle_seconds: float = SETTLE_SECONDS
    secure: bool = False
    """Whether the clusters are protected by everything that there is (`ProtectedCluster`)."""


class Load(Protocol):
    """What clients do in one round, and what must hold then."""

    def start(self) -> None:
        """Let the clients begin."""

    def stop(self) -> None:
        """Let the clients end."""

    def join(self) -> None:
        """Wait for the clients. Raises what went wrong with them."""

    def judge(self, seconds: float) -> str:
        """Give the verdicts on a healed cluster that settles within `seconds`; returns a short account.

        Raises `AssertionError`, and other errors for what could not be judged.
        """

    def count(self, tally: Tally) -> None:
        """Add what there was to the tally."""

    def keep(self, folder: Path) -> None:
        """Keep what explains a failure."""

    def close(self) -> None:
        """Release what the round needed."""


@dataclass(slots=True)
class Siege:
    """One run of the campaign; `run` returns whether all checks passed."""

    orders: Orders
    tally: Tally = field(default_factory=Tally)
    began: float = field(default_factory=time.monotonic)
    load: Load | None = None
    """That of the present or the last round."""
    struck: list[str] = field(default_factory=list)
    """The blows of the round."""
    at: str = "before the first round"

    @property
    def passed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began

    @property
    def over(self) -> bool:
        """Whether the limit of seconds or rounds is reached."""
        rounds = self.orders.rounds
        return self.passed >= self.orders.seconds or (rounds is not None and self.tally.rounds >= rounds)

    def run(self) -> bool:
        """Besiege clusters until a limit is reached or a check fails; a failure is printed and kept."""
        while not self.over:
            folder = Path(tempfile.mkdtemp(prefix="forge-siege-"))
            kept = False
            try:
                self.besiege(folder)
            except Exception:
                kept = True
                self.keep(folder, traceback.format_exc())
                return False
            finally:
                if not kept:
                    shutil.rmtree(folder, ignore_errors=True)
        return True

    def keep(self, folder: Path, text: str) -> None:
        """Keep the data that explains a failure, and print where it is."""
        account = f"{self.at}, --seed {self.orders.seed}, after {', '.join(self.struck) or 'nothing'}\n{text}"
        (folder / "failure.txt").write_text(account, encoding="utf-8")
        if self.load is not None:
            self.load.keep(folder)
        print(f"FAILED in {account}\nhistory, logs and data of the nodes are in {folder}", flush=True)

    def besiege(self, folder: Path) -> None:
        """Run a few rounds on a cluster of its own."""
        orders, number = self.orders, self.tally.clusters
        dice = random.Random(f"{orders.seed} cluster {number}")
        place = place_of(number, orders.only, orders.nodes, secure=orders.secure)
        self.tally.clusters += 1
        self.at = f"cluster {number} ({place}), before its first round"
        with (
            place.cluster(seed=orders.seed, folder=folder, storage=LIMITS) as cluster,
            FeedWatch(cluster) as watch,
        ):
            callers = [self.caller(number, index, cluster, place) for index in range(CLIENTS)]
            try:
                for _ in range(orders.rounds_per_cluster):
                    if not self.over:
                        self.round(place, cluster, watch, callers, dice)
            finally:
                self.tally.note_events(watch.numbers)

    def caller(self, number: int, index: int, cluster: LocalCluster, place: Place) -> Caller:
        """Make a client; the first two make several calls concurrently."""
        dice = random.Random(f"{self.orders.seed} {number} {index}")
        at_once = len(LANES) if index < 2 else 1
        return Caller(
            f"c{index}",
            cluster.client(credentials=cluster.credentials(WRITER)),
            dice,
            leases=place.leases,
            at_once=at_once,
        )

    def load_of(
        self, cluster: LocalCluster, place: Place, callers: list[Caller], dice: random.Random
    ) -> tuple[Load, list[str]]:
        """The load of the next round, and the faults that can be struck under it."""
        number = self.tally.rounds
        faults = place.possible(self.orders.only or list(BLOWS))
        if self.orders.loads[number % len(self.orders.loads)] == REGISTERS:
            return RegisterLoad(cluster, number, dice, callers), faults
        return KeyLoad(cluster, number, dice), [name for name in faults if name != DRIFTS]

    def round(
        self, place: Place, cluster: LocalCluster, watch: FeedWatch, callers: list[Caller], dice: random.Random
    ) -> None:
        """Run blows under load, then heal and give the verdicts."""
        self.at = f"round {self.tally.rounds} ({place})"
        load, faults = self.load_of(cluster, place, callers, dice)
        self.load = load
        load.start()
        try:
            self.strike(cluster, faults, dice)
        finally:
            load.stop()
        load.join()
        account = load.judge(self.orders.settle_seconds)
        watch.check(cluster)
        load.count(self.tally)
        load.close()
        self.tally.rounds += 1
        print(
            f"{self.passed:6.0f} s  {self.at}: {', '.join(self.struck)}; {account}, {watch.leaders} elections",
            flush=True,
        )

    def strike(self, cluster: LocalCluster, names: list[str], dice: random.Random) -> None:
        """Strike one blow after the other until the round is over, then heal under load."""
        end = time.monotonic() + dice.uniform(*self.orders.round_seconds)
        self.struck = []
        bag: list[str] = []
        while time.monotonic() < end:
            bag = bag or dice.sample(names, len(names))
            time.sleep(dice.uniform(0.2, 1.5))
            name = bag.pop()
            self.tally.blows[name] += 1
            self.struck.append(name)
            if told := BLOWS[name](cluster, dice):
                self.struck[-1] = f"{name} ({told})"
        if not self.orders.secure:  # else there is nothing that could be cut
            cluster.heal()
        cluster.wait_for_leader(self.orders.settle_seconds)
        time.sleep(dice.uniform(0.2, 1.0))
