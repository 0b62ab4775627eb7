"""The faults of disks: slow, failing, full, torn, damaged, replaced or wiped; never more than a minority is ruined.

A disk that is ruined for good counts against `SimulatedCluster.spare`, so that a majority of good disks remains;
without one no cluster could continue. The node must detect the damage, or its peers must refuse the node; then it
stays down, or comes back with the folder that it had before.
"""

from __future__ import annotations

import errno
import os
from functools import partial

import msgpack

from forge_consensus.actors.notices import TakeSnapshot
from forge_consensus.errors import StorageError
from forge_consensus.storage.backends.memory import DISK_FREE_BYTES, MemoryTable
from forge_consensus.storage.ledger.identity import BOOTS, IDENTITY, TIPS
from forge_consensus.storage.ledger.ledger import HARD
from forge_consensus.storage.ledger.tips import Tip, Tips
from forge_consensus.storage.ledger.transaction import META, unsealed
from forge_consensus.testing.faults.strike import NOBODY, Strike
from forge_consensus.testing.world.base import COMMITS, CrashAt, SimulatedBase
from forge_consensus.testing.world.cluster import DiskCopy, SimulatedNode

STEPS_MAX = 12
PUT_BACK_TRIES = 5
ERRORS = (errno.EIO, errno.ENOSPC)


def slow_disk(strike: Strike) -> str:
    """Make the commits of a disk slow, or fast again."""
    base, slowest = strike.anyone(), strike.chance.choice((0.002, 0.02, 0.2, 1.5))
    if base is None:
        return NOBODY
    base.slow_commits = (0.0001, slowest * strike.pace if slowest > 0.1 else slowest)
    return f"{base.name}: up to {base.slow_commits[1]} s a commit"


def failing_disk(strike: Strike) -> str:
    """Fail the next commit of a disk with an I/O error or as full; its data may be on the disk anyway."""
    base, number, written = strike.anyone(), strike.chance.choice(ERRORS), strike.chance.random() < 0.5
    if base is None:
        return NOBODY
    base.disk.fail_next_commit(StorageError(f"ordered: {os.strerror(number)}"), written=written)
    strike.back_later(base.name)
    return f"{base.name}: {os.strerror(number)}, {'written' if written else 'nothing is written'}"


def full_disk(strike: Strike) -> str:
    """Leave a disk no free space for new proposals, for a while."""
    base, seconds = strike.anyone(), strike.seconds(0.1, 3.0)
    free_bytes = strike.chance.choice((0, strike.cluster.storage.reserve_bytes // 2))
    if base is None:
        return NOBODY
    base.disk.disk_free_bytes = free_bytes
    strike.after(seconds, partial(setattr, base.disk, "disk_free_bytes", DISK_FREE_BYTES))
    return f"{base.name}: {free_bytes} bytes free for {seconds:.3f} s"


def full_disk_for_long(strike: Strike) -> str:
    """Leave a disk no free space, also for snapshots and for its next process: for long, or until the faults end."""
    leads, order = strike.chance.random() < 0.6, strike.victims()
    seconds = strike.chance.choice((strike.seconds(4.0, 10.0), 0.0))
    leader = strike.leader()
    names = [leader.name] if leads and leader is not None else order
    full = [node for node in strike.cluster.nodes.values() if node.full]
    if not names or 2 * (len(full) + 1) >= strike.cluster.voters_least():
        return NOBODY  # a majority has room, and can serve
    node = strike.cluster.nodes[names[0]]
    fill(node, full=True)
    if seconds:
        strike.after(seconds, partial(fill, node, full=False))
    return f"{node.name}: " + (f"for {seconds:.3f} s" if seconds else "until the faults end")


def fill(node: SimulatedNode, *, full: bool) -> None:
    """Fill a node's disk, or make room on it, for its running process and for the next ones."""
    node.full = full
    if node.running is not None:
        node.running.disk.disk_free_bytes = 0 if full else DISK_FREE_BYTES


def slow_disk_for_long(strike: Strike) -> str:
    """Make every commit of a disk slow until the faults end, also for its next processes."""
    leads, order = strike.chance.random() < 0.5, strike.victims()
    slowest = strike.chance.choice((0.1, 0.4, 0.8)) * strike.pace
    leader = strike.leader()
    names = [leader.name] if leads and leader is not None else order
    if not names:
        return NOBODY
    node = strike.cluster.nodes[names[0]]
    node.slow_commits = (slowest / 2, slowest)
    if node.running is not None:
        node.running.slow_commits = node.slow_commits
    return f"{node.name}: up to {slowest:.3f} s a commit"


def failing_file(strike: Strike) -> str:
    """Fail one step of writing a snapshot file; only that snapshot may fail."""
    base, steps, number = strike.anyone(), strike.chance.randrange(STEPS_MAX), strike.chance.choice(ERRORS)
    if base is None:
        return NOBODY
    files = strike.cluster.nodes[base.name].files
    files.error_in, files.error = steps, partial(OSError, number, os.strerror(number))
    base.tell(base.engine.actor("snapshot"), TakeSnapshot())
    return f"{base.name}: {os.strerror(number)} in file step {steps}"


# --- crashes where snapshots are made and installed -------------------------------------------------------------------


def crash_in_file_step(strike: Strike) -> str:
    """End a process while it writes, flushes or renames a snapshot file."""
    base, steps = strike.anyone(), strike.chance.randrange(STEPS_MAX)
    if base is None:
        return NOBODY
    strike.cluster.nodes[base.name].files.stop_in = steps
    base.tell(base.engine.actor("snapshot"), TakeSnapshot())
    strike.back_later(base.name)
    return f"{base.name} in file step {steps}"


def crash_in_switch(strike: Strike) -> str:
    """End a process at a commit that moves the start of the log, takes a checkpoint or deletes a slice of the log."""
    base, commit = strike.anyone(), strike.chance.choice([name for name in COMMITS if name != "any commit"])
    at = strike.chance.choice((CrashAt.BEFORE_COMMIT, CrashAt.AFTER_COMMIT))
    if base is None:
        return NOBODY
    base.crash(at, commit=commit)
    base.tell(base.engine.actor("snapshot"), TakeSnapshot())
    strike.back_later(base.name)
    return f"{base.name} {at.value}: {commit}"


def crash_while_opening(strike: Strike) -> str:
    """End a process, and end the next one as soon as it has opened its ledger."""
    base = strike.anyone()
    if base is None:
        return NOBODY
    strike.cluster.nodes[base.name].crash_opening = True
    strike.cluster.crash(base.name)
    strike.back_later(base.name)
    strike.after(strike.seconds(3.0, 4.0), partial(strike.bring_back, base.name))
    return base.name


# --- disks that are ruined --------------------------------------------------------------------------------------------


def may_ruin(strike: Strike, name: str) -> bool:
    """Return whether this node's disk may be ruined: it is already, or a majority of good disks would remain."""
    if name in strike.cluster.core or name not in strike.cluster.members():
        return False
    return name not in strike.cluster.gone and (name in strike.cluster.suspect or strike.cluster.spare)


def flip_record(strike: Strike) -> str:
    """Flip a bit of a log entry or of one of the ledger's own records on the disk."""
    name, chance = strike.shuffled()[0], strike.chance
    table, place, at, bit = chance.choice(("log", "log", META)), chance.random(), chance.random(), chance.randrange(8)
    rows = strike.cluster.nodes[name].disk[table]
    if not may_ruin(strike, name) or not rows.keys:
        return NOBODY
    key = rows.keys[int(place * len(rows.keys))]
    strike.cluster.flip_record(name, table, key, int(at * len(rows.values[key])), bit)
    return f"{name}: bit {bit} of {table} {key.hex() if table == 'log' else key.decode()}"


def flip_file(strike: Strike) -> str:
    """Flip a bit of a finished snapshot file."""
    name, chance = strike.shuffled()[0], strike.chance
    place, at, bit = chance.random(), chance.random(), chance.randrange(8)
    files = strike.cluster.nodes[name].files
    finished = [file for file in files.durable if files.bytes_of(file)]
    if not may_ruin(strike, name) or not finished:
        return NOBODY
    file = finished[int(place * len(finished))]
    strike.cluster.flip_file(name, file, int(at * len(files.bytes_of(file))), bit)
    return f"{name}: bit {bit} of {file}"


def put_copy_back(strike: Strike) -> str:
    """Copy the folder of a stopped node, and put the copy back when all other nodes have met a later boot of it."""
    base = strike.anyone()
    if base is None or base.name in strike.cluster.suspect or decides_alone(base):
        return NOBODY
    name = base.name
    strike.cluster.crash(name)
    copy = strike.cluster.copy_of(name)
    strike.back_later(name)

    def put_back(tries: int) -> None:
        if may_ruin(strike, name) and known_since(strike, name, boot_in(copy.disk) + 1):
            strike.cluster.crash(name)
            strike.cluster.put_back(name, copy, "an older copy")
            strike.back_later(name)
        elif tries:
            strike.after(strike.seconds(0.5, 2.0), partial(put_back, tries - 1))

    strike.after(strike.seconds(0.5, 4.0), partial(put_back, PUT_BACK_TRIES))
    return f"{name}: of boot {boot_in(copy.disk)}"


def decides_alone(base: SimulatedBase) -> bool:
    """Return whether the node may need nobody else to lead, so that a copy of its folder asks nobody who knows better.

    The committed configuration counts too, because a copy may lack the newest one.
    """
    ledger = base.engine.ledger
    in_doubt = ledger.configurations.in_doubt(ledger.commit_index)
    return any(configuration.quorum.has((base.name,)) for configuration in in_doubt)


def put_running_copy_back(strike: Strike) -> str:
    """Copy the folder of a running node, put the copy in its place when that must be noticed, and later the true one.

    It must be noticed when all other nodes know more of the disk than the copy has, durably. The node is refused then,
    and is admitted again with its true folder.
    """
    base = strike.anyone()
    if base is None or base.name in strike.cluster.suspect or decides_alone(base):
        return NOBODY
    name, copy = base.name, strike.cluster.copy_of(base.name)
    tip = tip_in(copy.disk)

    def put_back(tries: int) -> None:
        good = name not in strike.cluster.suspect and may_ruin(strike, name)
        if good and all(refuses(strike, other, name, tip) for other in strike.members_besides(name)):
            strike.cluster.crash(name)
            whole = strike.cluster.copy_of(name)
            strike.cluster.put_back(name, copy, "a copy of a running folder")
            strike.back_later(name)
            strike.after(strike.seconds(4.0, 8.0), partial(bring_back, whole))
        elif tries:
            strike.after(strike.seconds(0.5, 2.0), partial(put_back, tries - 1))

    def bring_back(whole: DiskCopy) -> None:
        strike.cluster.crash(name)
        strike.cluster.restore(name, whole)
        strike.back_later(name)

    strike.after(strike.seconds(0.5, 4.0), partial(put_back, PUT_BACK_TRIES))
    return f"{name}: in term {tip.term} with {tip.last_index} entries"


def tip_in(disk: dict[str, MemoryTable]) -> Tip:
    """Return the term, and the index of the last entry, that are stored on a disk."""
    term, _, _, last = msgpack.unpackb(unsealed(HARD, disk[META].values[HARD]))
    return Tip(term, 0, last)


def refuses(strike: Strike, other: str, name: str, tip: Tip) -> bool:
    """Return whether a node, started on its disk as it is, must refuse a later boot of another that tells this tip."""
    disk = strike.cluster.nodes[other].disk[META].values
    if other in strike.cluster.suspect or BOOTS not in disk or TIPS not in disk:
        return False
    tips = Tips()
    tips.load(msgpack.unpackb(unsealed(TIPS, disk[TIPS])))
    return name in msgpack.unpackb(unsealed(BOOTS, disk[BOOTS])) and tips.went_back(name, tip) != ""


def wipe_folder(strike: Strike) -> str:
    """Empty the folder of a node that all other nodes have met, and that cannot found a cluster by itself."""
    name = strike.shuffled()[0]
    if founds_alone(strike, name) or not may_ruin(strike, name) or not known_since(strike, name, 1):
        return NOBODY
    strike.cluster.crash(name)
    strike.cluster.wipe(name)
    strike.back_later(name)
    return name


def founds_alone(strike: Strike, name: str) -> bool:
    """Return whether the node, on an empty folder, founds a cluster of itself and leads it before anybody is asked.

    That is what its command line says, also after the cluster has grown; only an operator can know better.
    """
    cluster = strike.cluster
    return not cluster.nodes[name].joins and cluster.configuration.quorum.has((name,))


def boot_in(disk: dict[str, MemoryTable]) -> int:
    """Return the boot counter that is stored on a disk."""
    stored = disk[META].values.get(IDENTITY)
    return 0 if stored is None else int(msgpack.unpackb(unsealed(IDENTITY, stored))[4])


def known_since(strike: Strike, name: str, boot: int) -> bool:
    """Return whether the good disks of all other nodes record this boot of the node, or a later one.

    Only then must they refuse a folder with a lower boot. If a folder is put back while some node, with which it forms
    a majority, has not yet met its later boot, that node takes it for the member that it was, because it cannot know
    better. That would be a lost disk together with the absence of all nodes that knew, which no cluster has to survive.
    """
    for other in strike.members_besides(name):
        if other in strike.cluster.suspect:
            continue
        stored = strike.cluster.nodes[other].disk[META].values.get(BOOTS)
        known = msgpack.unpackb(unsealed(BOOTS, stored)) if stored else {}
        if known.get(name, ("", 0))[1] < boot:
            return False
    return True


DISK_FAULTS = (
    slow_disk,
    failing_disk,
    full_disk,
    full_disk_for_long,
    slow_disk_for_long,
    failing_file,
    crash_in_file_step,
    crash_in_switch,
    crash_while_opening,
    flip_record,
    flip_file,
    put_copy_back,
    put_running_copy_back,
    wipe_folder,
)
