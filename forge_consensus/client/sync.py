"""The blocking client: reads and changes the state of a cluster from any thread, one call at a time or pipelined."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from forge_consensus.actors.messages import Located
from forge_consensus.client.access_calls import AccessCalls
from forge_consensus.client.calls import Calls, ReadDetail, listed
from forge_consensus.client.driver import Driver
from forge_consensus.client.key_calls import KeyCalls
from forge_consensus.client.member_calls import MemberCalls
from forge_consensus.client.members import ClusterMembers, MembersPlan
from forge_consensus.client.pending import Pending, PendingNodeQuery, PendingRead
from forge_consensus.client.pending_many import PendingMany
from forge_consensus.client.routes import Route
from forge_consensus.client.steps import Pause, Result, Step, Steps
from forge_consensus.errors import ConsensusError
from forge_consensus.storage.ledger.changes import Change
from forge_consensus.storage.machines.machine import Command

if TYPE_CHECKING:
    from forge_consensus.client.backup import SnapshotTaken
    from forge_consensus.client.cluster_info import ClusterInfo
    from forge_consensus.storage.restoring import SnapshotReport


class Client(Calls, KeyCalls, MemberCalls, AccessCalls):
    """A client of a cluster; safe to use from any number of threads. Close it, or use it in a ``with`` statement.

    It finds the leader, follows it, and sends again whatever is safe to send again until the call's timeout is over.
    A command is carried out at most once. The client runs one thread.

    A client that is dropped without `close` ends when its calls have. In a forked process it is a new client with a
    session of its own: its first call there makes new connections, and calls that the parent made end there with an
    error, because the parent goes on with them. Under gevent only the greenlet that called waits.

    Args:
        endpoints: where nodes answer: addresses ``host:port`` or ``ipc:///path``, as a list or a text with commas
            between them. One node that can be reached is enough, because the client learns the others.
        timeout: how many seconds a call tries where it is not told otherwise; above 0.
        cluster_id: the cluster that the nodes must belong to; "" for the cluster of the first node that answers.
        settings: the client's bounds and times; None for the defaults of `ClientSettings`.
        port: a node of this process, which is then an endpoint itself; None for none.
        deliver: takes the calls that ended, on the client's thread.
        follow: whether to go to nodes that are not in `endpoints`. If not, only those are asked, and a call that needs
            the leader raises `NotLeaderError` where none of them leads.
        prefer: the endpoint that answers ``stale`` reads while it can be reached; "" for any.
        correlate: whether a command without a correlation id gets one, which the future of `submit` tells.
        credentials: what the client shows the nodes, and by what they prove themselves; None for no encryption.

    Raises `InvalidConfigError` for endpoints or a timeout that are none. Every call raises a `ConsensusError`:

    - `CommandError` if the state machine refused the command or query;
    - `OutcomeUnknownError` (and its subclass `SessionExpiredError`) if a command was sent and no answer came, so that
      it may have been or may still be carried out: read before you repeat it;
    - `NoLeaderError`, `ConnectionFailedError`, `BusyError` or `ConsensusTimeoutError` if it was certainly not
      carried out: it can be repeated;
    - `AuthenticationFailedError` if the client may not do it, or if no node lets it in;
    - `CommandTooLargeError` for a command larger than the cluster takes;
    - `NotStartedError` after `close`;
    - `TransportUnavailableError` if the process may open no more files or threads.

    """

    def lease_driver(self) -> Driver:
        """The driver that keeps leases alive."""
        return self.driver

    def watch_client(self) -> Client:
        """The client by which a watch asks."""
        return self

    def submit(self, command: Command, timeout: float | None = None) -> Pending[Any]:
        """Hand over a command and return the future of its result at once, so that many can be under way.

        Blocks while `settings.outstanding_max` commands are outstanding.

        Args:
            command: what the state machine is to do.
            timeout: how many seconds the command tries; None for the client's timeout.

        Raises `BusyError` if no command ends within `timeout`, `CommandTooLargeError`, `NotStartedError` after
        `close`, and ValueError for what is no command. The future raises the errors of the call itself.

        """
        pending = self.command(command, timeout)
        if self.driver.full():
            self.driver.wait_for_capacity(self.timeout if timeout is None else timeout)
        self.driver.hand_over(pending)
        return pending

    def apply(self, command: Command, timeout: float | None = None) -> Any:
        """Have a command applied and return the state machine's result; arguments and errors are those of `submit`."""
        return self.submit(command, timeout).result()

    def submit_many(self, commands: Iterable[Command], timeout: float | None = None) -> PendingMany:
        """Hand over many commands at once and return one future of all their outcomes.

        It costs a fraction of as many calls of `submit`. Each one stays a command of its own: it is applied at most
        once, in the order of the list as long as nothing has to be sent again, and fails alone. The future's `result()`
        is a list with the result of each command, or the `ConsensusError` with which that command ended.

        Blocks while `settings.outstanding_max` commands are outstanding. A longer list is sent bit by bit, so that no
        more than that are on their way.

        Args:
            commands: what the state machine is to do, any number of times; they are looked at before any is sent.
            timeout: how many seconds each of the commands tries, counted from now; None for the client's timeout.

        Raises what `submit` raises; then none of the commands was sent. ValueError and `CommandTooLargeError` name the
        command by its place in the list.

        """
        parts = self.commands(listed(commands), self.deadline(timeout))
        if parts and self.driver.full():
            self.driver.wait_for_capacity(self.timeout if timeout is None else timeout)
        if parts:
            self.driver.hand_over_all(parts)
        return PendingMany(parts)

    def apply_many(self, commands: Iterable[Command], timeout: float | None = None) -> list[Any]:
        """Have many commands applied, and return for each its result or the `ConsensusError` with which it ended.

        Arguments and errors are those of `submit_many`.
        """
        return self.submit_many(commands, timeout).result()

    def ask_query(
        self,
        query: Any,
        consistency: str = "linearizable",
        timeout: float | None = None,
        *,
        read_from: str | None = None,
        max_staleness: float | None = None,
        after_index: int = 0,
    ) -> PendingRead[Any]:
        """Hand over a query and return the future of its answer at once; arguments are those of `read`."""
        pending = self.query(query, Route.of(consistency, read_from, max_staleness, after_index), timeout)
        self.driver.hand_over(pending)
        return pending

    def read(
        self,
        query: Any,
        consistency: str = "linearizable",
        timeout: float | None = None,
        *,
        read_from: str | None = None,
        max_staleness: float | None = None,
        after_index: int = 0,
    ) -> Any:
        """Return the state machine's answer to a query.

        Args:
            query: a key, or whatever else the state machine understands; anything that msgpack encodes.
            consistency: ``linearizable`` sees everything that was acknowledged before the call. ``lease`` does so
                without a round trip among the nodes, where the cluster has leases on. ``stale`` asks any node, which
                answers from its own state without a leader.
            timeout: how many seconds the query tries; None for the client's timeout.
            read_from: which node answers. "leader"; "nearest", the endpoint that the client prefers while it can be
                reached, otherwise the leader or any; "any", all that can be reached in turn; or the address of one
                node. None is "nearest" for ``stale`` reads and "leader" for the others. A node that does not lead
                asks the leader for no data, only from which log entry on its own state will do. If two nodes cannot
                answer, the leader is asked, unless one node was named.
            max_staleness: how many seconds old a ``stale`` answer may be: it has everything that was committed earlier.
                Nodes with an older state are passed over. None for any age.
            after_index: the log entry that the answer must reflect, such as `last_index`, or the `applied` of an
                outcome; a node waits for it up to an election timeout. 0 for none.

        Raises `InvalidConfigError` for arguments that cannot be, ValueError for what cannot be encoded, and
        `StaleReadError` if nobody had a state as new as was asked for until the time was over.

        """
        return self.ask_query(
            query,
            consistency,
            timeout,
            read_from=read_from,
            max_staleness=max_staleness,
            after_index=after_index,
        ).result()

    def read_detail(
        self,
        query: Any,
        consistency: str = "linearizable",
        timeout: float | None = None,
        *,
        read_from: str | None = None,
        max_staleness: float | None = None,
        after_index: int = 0,
    ) -> ReadDetail:
        """Return the answer to a query and as of when it is true; arguments are those of `read`."""
        pending = self.ask_query(
            query,
            consistency,
            timeout,
            read_from=read_from,
            max_staleness=max_staleness,
            after_index=after_index,
        )
        return ReadDetail(pending.result(), pending.applied, pending.stale_ms)

    def ask_barrier(
        self,
        consistency: str = "linearizable",
        timeout: float | None = None,
        *,
        read_from: str | None = None,
        max_staleness: float | None = None,
        after_index: int = 0,
    ) -> PendingRead[None]:
        """Begin a barrier and return its future at once; arguments are those of `read`."""
        pending = self.barrier_query(Route.of(consistency, read_from, max_staleness, after_index), timeout)
        self.driver.hand_over(pending)
        return pending

    def barrier(
        self,
        consistency: str = "linearizable",
        timeout: float | None = None,
        *,
        read_from: str | None = None,
        max_staleness: float | None = None,
        after_index: int = 0,
    ) -> ReadDetail:
        """Return once a node's state fulfils what a read with these arguments asks, and say which entry that is.

        The state machine is asked nothing, and nothing is written to the log. With ``linearizable``, everything that
        was acknowledged before the call is in the state (`Barrier` and `VerifyLeader` elsewhere); a read with the
        `applied` of the result as `after_index` sees it on whichever node. Arguments and errors are those of `read`.
        """
        pending = self.ask_barrier(
            consistency, timeout, read_from=read_from, max_staleness=max_staleness, after_index=after_index
        )
        return ReadDetail(pending.result(), pending.applied, pending.stale_ms)

    def status(self, endpoint: str | None = None, timeout: float | None = None) -> dict[str, Any]:
        """Return the status that a node reports of itself.

        Args:
            endpoint: the address of the node to ask; None for the leader, or any node where none is known.
            timeout: how many seconds to try; None for the client's timeout.

        """
        pending = self.status_query(endpoint, timeout)
        self.driver.hand_over(pending)
        return pending.result()

    def reload_config(self, endpoint: str, *, dry_run: bool = False, timeout: float | None = None) -> dict[str, Any]:
        """Have a node read its configuration again, from the files with which it was started.

        Hot settings take effect at once. The node reads its own files, and takes neither values nor paths from here.

        Args:
            endpoint: the address of the node.
            dry_run: whether only to say what would change.
            timeout: how many seconds to try; None for the client's timeout.

        Returns the fields of `forge_consensus.config.changes.ReloadReport`. Raises `InvalidConfigError` with every
        fault, or for a node that was started without a file; then nothing has changed.

        """
        pending = self.reload_query(endpoint, timeout, dry_run=dry_run)
        self.driver.hand_over(pending)
        return pending.result()

    def locate(self, timeout: float | None = None) -> Located:
        """Return who leads, in which term, and who the members are, as one node sees it.

        Waits until a node leads. Raises `NoLeaderError` if none does within `timeout` seconds (None for the client's).
        """
        pending = self.locate_query(timeout)
        self.driver.hand_over(pending)
        return pending.result()

    def members(self, endpoint: str | None = None, timeout: float | None = None) -> ClusterMembers:
        """Return the members of the cluster, the part that each has, and whether a change of them is under way.

        Args:
            endpoint: the address of the node to ask; None for the leader, or any node where none is known.
            timeout: how many seconds to try; None for the client's timeout.

        """
        pending = self.members_query(endpoint, timeout)
        self.driver.hand_over(pending)
        return ClusterMembers.of(pending.result())

    def change_members(
        self,
        *changes: Change,
        force: bool = False,
        dry_run: bool = False,
        wait: bool = True,
        timeout: float | None = None,
    ) -> MembersPlan:
        """Change the members of the cluster, and return the steps that the change takes.

        Changes that are named together are made together, by way of a joint configuration if more than one voter
        differs (dissertation 4.3). They go on under the next leader if this one fails.

        Args:
            changes: what is to be done to which member, such as ``Change(Action.ADD, "n4", "10.0.0.4:7000")``.
            force: whether to make a change although those that answer now would be no quorum.
            dry_run: whether only to return the steps, and to change nothing.
            wait: whether to wait until the change is complete: with learners that are to vote, until they do.
            timeout: how many seconds to try and to wait; None for the client's timeout.

        Raises `InvalidConfigError` for a change that is impossible or would lose the quorum, `BusyError` while another
        one is under way, `ConnectionFailedError` if a node that is to be added does not answer,
        `OutcomeUnknownError` if the change may have been begun, and `ConsensusTimeoutError` if it was begun and is not
        complete in time.

        """
        return self.carry_out(self.change_steps(changes, timeout, force=force, dry_run=dry_run, wait=wait))

    def transfer_leadership(self, target: str = "", *, wait: bool = True, timeout: float | None = None) -> str | None:
        """Hand the leadership over to another voter (dissertation 3.10; the original's `TransferLeadership`).

        The target catches up first. What is submitted meanwhile waits, and is neither lost nor refused.

        Args:
            target: the node that is to lead; "" for the best voter: it has all that is committed, then the highest
                priority, then most of the log.
            wait: whether to wait until another node leads.
            timeout: how many seconds to try and to wait; None for the client's timeout.

        Returns the node that leads then, None without `wait`. Raises `InvalidConfigError` for a node that cannot lead,
        and `ConsensusTimeoutError` if the same node still leads. A handover is given up whose target does not catch up
        within an election timeout, or then does not lead within another; one to a named node is asked for again until
        the time is over.

        """
        return self.carry_out(self.transfer_steps(target, timeout, wait=wait))

    def get_cluster_info(self, timeout: float | None = None) -> ClusterInfo:
        """Return the cluster as its leader sees it, or any node where none is known (the original's `GetClusterInfo`).

        `members` tells the part that each member has, and of a change of them that is under way.
        """
        return self.cluster_info(self.status(timeout=timeout))

    def carry_out(self, steps: Steps[Result]) -> Result:
        """Carry out the steps of a call one after the other, on this thread, and return their result."""
        answer, failed = None, None
        try:
            while True:
                step = steps.send(answer) if failed is None else steps.throw(failed)
                answer, failed = None, None
                try:
                    answer = self.step(step)
                except ConsensusError as error:
                    failed = error
        except StopIteration as done:
            return cast("Result", done.value)
        finally:
            steps.close()

    def step(self, step: Step) -> Any:
        """Carry out one step and return what it gives."""
        if isinstance(step, PendingNodeQuery | PendingRead):
            self.driver.hand_over(step)
            return step.result()
        return time.sleep(step.seconds) if isinstance(step, Pause) else step()

    def snapshot(self, endpoint: str | None = None, timeout: float | None = None) -> SnapshotTaken:
        """Have a node take a snapshot of what it has applied now, and return when the file is durable.

        Args:
            endpoint: the address of the node; None for the leader, or any node where none is known.
            timeout: how many seconds that may take; None for ten minutes.

        Raises `OperationFailedError` if the node could not take it.

        """
        return self.carry_out(self.backup(timeout).snapshot(self.endpoint_name(endpoint)))

    def snapshots(self, endpoint: str | None = None, timeout: float | None = None) -> list[SnapshotTaken]:
        """Return the snapshot files of a node, the newest first; arguments as `status`."""
        return self.carry_out(
            self.backup(self.timeout if timeout is None else timeout).list(self.endpoint_name(endpoint))
        )

    def save_snapshot(
        self,
        file: str | Path,
        endpoint: str | None = None,
        *,
        stale: bool = False,
        force: bool = False,
        timeout: float | None = None,
    ) -> SnapshotReport:
        """Save a backup of the cluster's state to a file: a snapshot, checked to its last byte, durable and complete.

        A node takes a snapshot if its newest one is not new enough, and sends the file in parts, so that neither side
        holds it in memory. It is written beside `file` and gets that name at the end. Everything that was acknowledged
        before the call began is in it. `forge_consensus.storage.restoring` makes a new cluster of it.

        Args:
            file: the file to be made; its folder exists.
            endpoint: the address of the node that takes and sends it, which need not lead; None for any.
            stale: whether what the node itself has applied is enough, so that no leader is needed.
            force: whether to replace a file that is there.
            timeout: how many seconds all of it may take; None for ten minutes.

        Raises `AlreadyExistsError` for a file that is there, `NoLeaderError` without a leader, `StorageError` if the
        file cannot be written, `CorruptionError` if it arrived damaged, and `OperationFailedError` if the node could
        not take a snapshot. Then no file is left.

        """
        backup = self.backup(timeout)
        return self.carry_out(backup.save(Path(file), self.endpoint_name(endpoint), stale=stale, force=force))

    def close(self) -> None:
        """Close all connections and end the thread; every outstanding call ends with an error. May be called twice."""
        self.driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
