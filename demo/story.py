"""The story of the demo: start, write, kill the leader, fail over, restart, catch up, prove."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from forge_consensus.demo.feed import Feed
from forge_consensus.demo.proof import DemoFailed, Proof, prove, wait_applied
from forge_consensus.demo.view import View, make_view
from forge_consensus.demo.writer import Writer
from forge_consensus.testing.local.cluster import LocalCluster
from forge_consensus.testing.local.encrypted_disks import encrypted_disks
from forge_consensus.testing.local.node_process import LOG_TAIL, uninterrupted

LEADER_SECONDS_MAX = 15.0
FAILOVER_SECONDS_MAX = 15.0
CATCH_UP_SECONDS_MAX = 20.0
ROUND_SECONDS = 15.0
"""One leader is killed per so many seconds."""
END_SECONDS = 2.5
"""About how long failover, restart, proof and end take together."""
PHASE_SECONDS_MIN = 0.3
TICK_SECONDS = 0.05
PROTECTED = (
    "protected  every connection encrypted and authenticated (CURVE), whoever asks known by the list of access, logs, "
    "states and snapshots encrypted on the disks (AES-256-GCM)"
)
"""What was on in a secure run."""


@dataclass(slots=True)
class Numbers:
    """What the demo measured: times in milliseconds, one for each kill of a leader or restart of a node."""

    election_ms: float = 0.0
    failover_ms: list[float] = field(default_factory=list)
    restart_ms: list[float] = field(default_factory=list)
    caught_up: list[tuple[int, float]] = field(default_factory=list)
    """For each restart, how many entries the node was behind and how many milliseconds it needed to catch up."""
    writing_seconds: float = 0.0


class Story:
    """One run of the demo. Raises `DemoFailed` if something that was promised does not happen."""

    def __init__(self, nodes: int, seconds: float, *, secure: bool = False) -> None:
        self.seconds = seconds
        self.began = time.monotonic()
        self.numbers = Numbers()
        disks = encrypted_disks() if secure else None
        self.cluster = LocalCluster(nodes, cluster_id="demo", secure=secure, environment=disks)
        self.writer: Writer | None = None
        self.feed: Feed | None = None
        self.view: View | None = None
        self.killed = ""
        """The node that the demo killed and has not restarted yet."""
        self.tails: dict[str, str] = {}
        """The last log lines of each node, if the demo failed."""

    def run(self) -> Proof:
        """Run the demo; nothing is left behind, however it ends."""
        try:
            return self.play()
        except Exception:
            self.tails = {name: node.log_text()[-LOG_TAIL:] for name, node in self.cluster.nodes.items()}
            raise
        finally:
            with uninterrupted():
                for part in (self.writer, self.feed):
                    if part is not None:
                        part.close()
                self.cluster.stop()
                if self.view is not None:
                    self.view.close()

    def play(self) -> Proof:
        """Start, write, lose the leader in each round, and prove."""
        self.view = make_view(self.line)
        view, cluster = self.view, self.cluster
        view.step(f"starting {len(cluster.names)} nodes{', which encrypt all' if cluster.secure else ''}")
        began = time.monotonic()
        cluster.start()
        self.feed = Feed(view.event, cluster.credentials())
        view.step(f"they keep their data in {cluster.folder}")
        for name in cluster.names:
            self.follow(name)
        leader = cluster.wait_for_leader(LEADER_SECONDS_MAX)
        self.numbers.election_ms = (time.monotonic() - began) * 1000
        view.step(f"{leader} leads {self.numbers.election_ms:.0f} ms after the first process was started; writing")
        self.writer = Writer(cluster.endpoints, credentials=cluster.credentials())
        self.writer.start()
        writing = time.monotonic()
        rounds = max(1, int(self.seconds // ROUND_SECONDS))
        for number in range(rounds):
            left = self.began + self.seconds - END_SECONDS - time.monotonic()
            self.lose_leader(max(PHASE_SECONDS_MIN, left / (rounds - number) / 3))
        self.writer.finish()
        self.numbers.writing_seconds = time.monotonic() - writing
        view.step(f"comparing {len(self.writer.acknowledged):,} acknowledged writes with what each node holds")
        return prove(cluster, self.writer.acknowledged, self.writer.uncertain)

    def lose_leader(self, phase_seconds: float) -> None:
        """Write, kill the leader, write without it, restart it, wait until it has caught up, write on."""
        assert self.view is not None, "there is a view"
        assert self.writer is not None, "there is a writer"
        view, cluster, writer = self.view, self.cluster, self.writer
        self.keep_writing(phase_seconds)
        leader = cluster.wait_for_leader(LEADER_SECONDS_MAX)
        view.step(f"SIGKILL to the leader {leader}, {len(writer.acknowledged):,} writes acknowledged so far")
        killed = time.monotonic()
        self.killed = cluster.kill(leader)
        others = len(cluster.names) - 1
        if others > len(cluster.names) // 2:
            self.see_failover(leader, killed)
            self.keep_writing(phase_seconds)
            behind = self.restart(leader)
        else:
            view.step("the others are no majority: nothing is acknowledged until it is back")
            phase_seconds *= 2  # there is no time without the leader in which writes succeed
            behind = self.restart(leader)
            self.see_failover(leader, killed)
        self.see_catch_up(leader, behind)
        self.keep_writing(phase_seconds)

    def see_failover(self, killed_node: str, killed: float) -> None:
        """Wait for the next acknowledgement of a write that was begun after the kill."""
        assert self.view is not None, "there is a view"
        assert self.writer is not None, "there is a writer"
        acknowledged = self.writer.wait_acknowledged(killed, FAILOVER_SECONDS_MAX)
        if acknowledged is None:
            raise DemoFailed(
                f"nothing was acknowledged within {FAILOVER_SECONDS_MAX:g} s after the end of {killed_node}"
            )
        took_ms = (acknowledged - killed) * 1000
        self.numbers.failover_ms.append(took_ms)
        leader = self.cluster.wait_for_leader(LEADER_SECONDS_MAX)
        self.view.step(f"failover: {leader} leads, the next write was acknowledged {took_ms:.0f} ms after the kill")

    def restart(self, name: str) -> int:
        """Restart the node; return the index that it must apply to have caught up."""
        assert self.view is not None, "there is a view"
        target = max((int(row["commit_index"]) for row in self.cluster.cluster_status().said.values()), default=0)
        began = time.monotonic()
        self.cluster.restart(name)
        took_ms = (time.monotonic() - began) * 1000
        self.numbers.restart_ms.append(took_ms)
        self.view.step(f"{name} was restarted and serves after {took_ms:.0f} ms")
        self.killed = ""
        self.follow(name)
        return target

    def see_catch_up(self, name: str, target: int) -> None:
        """Wait until the restarted node has applied what was committed when it came back."""
        assert self.view is not None, "there is a view"
        behind = max(0, target - int(self.cluster.status(name)["last_applied"]))
        took_ms = wait_applied(self.cluster, name, target, CATCH_UP_SECONDS_MAX) * 1000
        self.numbers.caught_up.append((behind, took_ms))
        self.view.step(f"{name} was {behind:,} entries behind and caught up in {took_ms:.0f} ms")

    def follow(self, name: str) -> None:
        """Show the events of a node."""
        assert self.feed is not None, "there is a feed"
        self.feed.follow(self.cluster.status(name)["events_address"], name)

    def keep_writing(self, seconds: float) -> None:
        """Let the writer write for so many seconds; a node that ends by itself ends the demo."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(TICK_SECONDS)
            for name in self.cluster.names:
                node = self.cluster.process(name)
                if not node.running and name != self.killed:
                    raise DemoFailed(f"{name} ended by itself: {node.written()}")

    def line(self) -> str:
        """Return the present numbers in one line."""
        writer = self.writer
        if writer is None:
            return "no writes yet"
        waiting = writer.submitted - writer.answered
        acknowledged, uncertain = len(writer.acknowledged), len(writer.uncertain)
        return f"{acknowledged:,} writes acknowledged, {waiting:,} waiting, {uncertain:,} uncertain"

    def summary(self, proof: Proof) -> list[str]:
        """Return the result in numbers."""
        assert self.writer is not None, "there was a writer"
        numbers, writer = self.numbers, self.writer
        rate = len(writer.acknowledged) / max(numbers.writing_seconds, 0.001)
        refused = sum(writer.refused.values())
        failovers = ", ".join(f"{took:.0f} ms" for took in numbers.failover_ms)
        restarts = ", ".join(f"{took:.0f} ms" for took in numbers.restart_ms)
        caught_up = ", ".join(f"{behind:,} entries in {took:.0f} ms" for behind, took in numbers.caught_up)
        return [
            f"writes     {len(writer.acknowledged):,} acknowledged ({rate:,.0f}/s asked for and given), "
            f"{len(writer.uncertain):,} uncertain, {refused:,} refused",
            f"failover   {failovers} from SIGKILL of the leader to the next acknowledged write",
            f"restart    {restarts} until it served; caught up {caught_up}",
            f"events     {self.feed.received if self.feed else 0:,} received",
            f"verified   {proof.writes:,} writes on each of {proof.nodes} nodes as of entry {proof.index:,}"
            + (": all there, all nodes alike" if not proof.faults else ""),
            *([PROTECTED] if self.cluster.secure else []),
        ]
