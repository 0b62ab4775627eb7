"""The siege's rounds of leases, watches and locks: a short one passes, and each verdict reports what it is for."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from forge_consensus.client.key_records import KeyChange, KeyEntry
from forge_consensus.client.lease_keeper import LeaseLife
from forge_consensus.testing.histories.history import Outcome
from tests.cluster.siege.__main__ import orders
from tests.cluster.siege.campaign import KEYS, LOADS, Orders, Siege
from tests.cluster.siege.key_notes import HoldNote, KeyNotes, LeaseNote, WriteNote
from tests.cluster.siege.key_users import LeaseUser, longest_gap
from tests.cluster.siege.key_verdicts import judge_holds, judge_leases, judge_story, judge_told, judge_writes
from tests.cluster.siege.key_watchers import KeyWatcher, Segment, State

SEED = int(os.environ.get("FORGE_SIEGE_SEED", "0")) or int.from_bytes(os.urandom(4))
LOCK = "r0-a"
LINE = f"locks/{LOCK}#"


@pytest.mark.timeout(240)
def test_leases_watches_and_locks_withstand_a_short_siege(capsys: pytest.CaptureFixture[str]) -> None:
    kinds = ("kill-one", "kill-leader", "pause", "part-leader")
    siege = Siege(Orders(SEED, rounds=2, nodes=3, only=kinds, loads=(KEYS,), round_seconds=(6.0, 7.0)))
    well = siege.run()
    said = capsys.readouterr().out
    assert well, f"FORGE_SIEGE_SEED={SEED}: {said}"
    assert siege.tally.blows.total() >= 2
    for what in ("changes", "expired", "leases", "holds", "writes"):
        assert siege.tally.told[what] > 0, siege.tally.told
    assert "leases     changes" in "\n".join(siege.tally.lines(siege.passed))


def test_a_load_is_chosen_like_a_fault() -> None:
    assert orders(["--only", "keys", "--only", "pause"]).only == ("pause",)
    assert orders(["--only", "keys"]).loads == (KEYS,)
    assert orders([]).loads == LOADS


# --- the story of the changes -----------------------------------------------------------------------------------------


def put(index: int, key: str, value: Any, created: int = 0, lease: int = 0) -> KeyChange:
    """A write; it makes the key unless `created` is given."""
    return KeyChange(index, key, value, "put", created or index, lease)


def gone(index: int, key: str, lease: int = 0, *, expired: bool = False) -> KeyChange:
    """A deletion."""
    return KeyChange(index, key, None, "expire" if expired else "delete", 0, lease)


def story() -> list[KeyChange]:
    """A round in which all is well."""
    money = [put(10, f"r0/account/{number}", [100, "start"]) for number in range(4)]
    return [
        *money,
        put(11, "r0/lease/5/0", "u-1", lease=5),
        put(11, "r0/lease/5/1", "u-1", lease=5),
        put(12, f"{LINE}0012", "one", lease=6),
        put(13, f"r0/guarded/{LOCK}", [LOCK, 12, "l-1"]),
        put(14, f"{LINE}0014", "two", lease=7),
        put(15, "r0/account/0", [95, "p-1"], 10),
        put(15, "r0/account/1", [105, "p-1"], 10),
        put(16, f"r0/guarded/{LOCK}", [LOCK, 12, "l-2"], 13),
        gone(17, f"{LINE}0012", 6),
        put(18, f"r0/guarded/{LOCK}", [LOCK, 14, "l-3"], 13),
        gone(19, "r0/lease/5/0", 5, expired=True),
        gone(19, "r0/lease/5/1", 5, expired=True),
        put(20, f"r0/queue/{20:016}", "q-1"),
        gone(21, f"r0/queue/{20:016}"),
    ]


def final() -> State:
    """The state behind the story."""
    state = {
        "r0/account/0": (95, 10, 15),
        "r0/account/1": (105, 10, 15),
        "r0/account/2": (100, 10, 10),
        "r0/account/3": (100, 10, 10),
    }
    entries = {
        key: KeyEntry(key, [funds, "p-1" if modified == 15 else "start"], created, modified)
        for key, (funds, created, modified) in state.items()
    }
    entries[f"r0/guarded/{LOCK}"] = KeyEntry(f"r0/guarded/{LOCK}", [LOCK, 14, "l-3"], 13, 18)
    entries[f"{LINE}0014"] = KeyEntry(f"{LINE}0014", "two", 14, 14, 7)
    return entries


def watcher(*segments: Segment, text: str = "", exact: bool = False) -> KeyWatcher:
    """A watcher that has seen this."""
    made = KeyWatcher(lambda: None, random.Random(1), KeyNotes("r0/"), text, exact=exact)  # type: ignore[arg-type, return-value]
    made.segments = list(segments)
    return made


def seen(changes: list[KeyChange]) -> KeyWatcher:
    """A watcher of everything that has seen these changes from the beginning."""
    return watcher(Segment(10, {}, changes, 30))


def test_a_story_without_faults_passes() -> None:
    judge_story("r0/", seen(story()), final())


def test_a_story_goes_on_behind_a_gap() -> None:
    told = story()
    later = [change for change in told if change.index > 16]
    base = dict(final())
    base[f"r0/guarded/{LOCK}"] = KeyEntry(f"r0/guarded/{LOCK}", [LOCK, 12, "l-2"], 13, 16)
    base[f"{LINE}0012"] = KeyEntry(f"{LINE}0012", "one", 12, 12, 6)
    base |= {f"r0/lease/5/{n}": KeyEntry(f"r0/lease/5/{n}", "u-1", 11, 11, 5) for n in range(2)}
    first = [change for change in told if change.index < 13]
    judge_story("r0/", watcher(Segment(10, {}, first, 13), Segment(17, base, later, 30)), final())


def without(index: int, key: str = "") -> Callable[[list[KeyChange]], list[KeyChange]]:
    """Leave out the changes of an entry, of that key or of all."""
    return lambda told: [change for change in told if change.index != index or key not in change.key]


def with_other(entry: int, **fields: Any) -> Callable[[list[KeyChange]], list[KeyChange]]:
    """Change the last change of an entry."""

    def spoilt(told: list[KeyChange]) -> list[KeyChange]:
        place = max(n for n, change in enumerate(told) if change.index == entry)
        return [*told[:place], replace(told[place], **fields), *told[place + 1 :]]

    return spoilt


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (without(18), "really"),
        (without(20), "the key does not exist"),
        (without(13), "the key exists since entry 16"),
        (without(19, "5/1"), r"lease 5 has expired without \['r0/lease/5/1'\]"),
        (without(15, "account/1"), r"the accounts hold \[95, 100, 100, 100\]"),
        (without(17), "the lock was held with token 12"),
        (with_other(16, value=[LOCK, 14, "l-2"]), "the lock was held with token 12"),
        (with_other(17, kind="expire", lease=0), "the key hangs on lease 6"),
        (with_other(21, kind="expire"), "the key hangs on lease 0"),
        (with_other(15, created=15), "the key exists since entry 10"),
        (with_other(20, index=22), "an appended key has the number of its entry"),
        (lambda told: [*told[:6], *told[7:8], told[6], *told[8:]], "entry 12 is told behind entry 13"),
        (lambda told: [*told, told[-1]], "entry 21 is told 2 times to change"),
        (lambda told: [*told, put(30, "r0/later", "u-2")], "entry 30 is told before the watch was there"),
    ],
)
def test_a_story_that_cannot_be_is_reported(spoil: Callable[[list[KeyChange]], list[KeyChange]], text: str) -> None:
    with pytest.raises(AssertionError, match=text):
        judge_story("r0/", seen(spoil(story())), final())


def test_what_a_watcher_was_told_is_compared_where_it_could_be_had() -> None:
    real = story()
    leases = [change for change in real if change.key.startswith("r0/lease/")]
    assert judge_told(seen(real), "n1", 10, 30, real) == len(real)
    assert judge_told(seen(real), "n1", 12, 30, [change for change in real if change.index >= 12]) == len(real) - 6
    narrow = Segment(12, {}, leases[2:], 30)
    assert judge_told(watcher(narrow, text="r0/lease/"), "n1", 10, 30, real) == 2
    one = Segment(10, {}, [real[0], real[9]], 30)
    assert judge_told(watcher(one, text="r0/account/0", exact=True), "n1", 10, 30, real) == 2


@pytest.mark.parametrize(
    "spoil",
    [
        without(20),
        with_other(16, value=[LOCK, 12, "other"]),
        lambda told: [*told, told[-1]],
        lambda told: [*told[:6], *told[7:8], told[6], *told[8:]],
        lambda told: [*told, put(29, "r0/made/up", "u-2")],
    ],
)
def test_a_watcher_that_was_told_something_else_is_reported(
    spoil: Callable[[list[KeyChange]], list[KeyChange]],
) -> None:
    with pytest.raises(AssertionError, match=r"was told .* by n1 there are"):
        judge_told(seen(spoil(story())), "n1", 10, 30, story())


# --- what users were answered -----------------------------------------------------------------------------------------


def written() -> KeyNotes:
    """The notes of the story's writes."""
    notes = KeyNotes("r0/")
    for mark, keys, ttl in (
        ("start", 4, 0.0),
        ("u-1", 2, 0.0),
        ("l-1", 1, 0.0),
        ("l-2", 1, 0.0),
        ("l-3", 1, 0.0),
        ("p-1", 2, 0.0),
        ("q-1", 1, 0.0),
    ):
        notes.writes[mark] = WriteNote(mark, keys, 100.0, ttl, Outcome.OK)
    return notes


def test_writes_that_are_found_as_they_were_answered_pass() -> None:
    notes = written()
    notes.writes["q-1"].outcome = Outcome.OPEN
    notes.writes["u-2"] = WriteNote("u-2", 1, 100.0)
    notes.writes["u-3"] = WriteNote("u-3", 1, 100.0, 0.0, Outcome.REFUSED)
    judge_writes(notes, seen(story()))


@pytest.mark.parametrize(
    ("mark", "fields", "text"),
    [
        ("p-1", {"outcome": Outcome.REFUSED}, "was refused, and there is"),
        ("p-1", {"keys": 3}, "made"),
        ("u-9", {"outcome": Outcome.OK}, "was acknowledged, and there is nothing of it"),
    ],
)
def test_a_write_that_happened_otherwise_is_reported(mark: str, fields: dict[str, Any], text: str) -> None:
    notes = written()
    note = notes.writes.setdefault(mark, WriteNote(mark, 1, 100.0))
    notes.writes[mark] = replace(note, **fields)
    with pytest.raises(AssertionError, match=text):
        judge_writes(notes, seen(story()))


def test_a_write_that_nobody_made_or_that_happened_twice_is_reported() -> None:
    notes = written()
    with pytest.raises(AssertionError, match="made"):
        judge_writes(notes, seen([*story(), put(22, "r0/queue/again", "q-1")]))
    del notes.writes["q-1"]
    with pytest.raises(AssertionError, match="nobody made"):
        judge_writes(notes, seen(story()))


@pytest.mark.parametrize(("gone_at", "right"), [(101.0, True), (100.9, False)])
def test_a_key_with_a_time_to_live_that_goes_early_is_reported(gone_at: float, right: bool) -> None:
    notes = written()
    notes.writes["t-1"] = WriteNote("t-1", 1, 100.0, 1.0, Outcome.OK)
    notes.seen[22] = gone_at
    told = [*story(), put(22, "r0/short", "t-1", lease=22), gone(25, "r0/short", 22, expired=True)]
    if right:
        judge_writes(notes, seen(told))
    else:
        with pytest.raises(AssertionError, match=r"was gone 0\.900 s after it was sent"):
            judge_writes(notes, seen(told))


def test_a_lease_that_ends_before_its_time_is_reported() -> None:
    notes = KeyNotes("r0/", leases=[LeaseNote("u", LeaseLife(5, 2.0, 100.0)), LeaseNote("u", LeaseLife(6, 2.0, 100.0))])
    notes.seen = {5: 102.0, 7: 1.0}
    judge_leases(notes)
    notes.leases[0].life.kept(101.0)
    with pytest.raises(AssertionError, match=r"lease 5 of u ended 1\.000 s before its time"):
        judge_leases(notes)


def test_two_holders_at_once_are_reported() -> None:
    notes = KeyNotes("r0/", holds=[HoldNote("a", 7, 3.0, 4.0), HoldNote("a", 5, 1.0, 2.0), HoldNote("b", 6, 1.0, 9.0)])
    judge_holds(notes)
    for more in (HoldNote("a", 6, 1.9, 1.95), HoldNote("a", 7, 5.0, 6.0), HoldNote("a", 8, 2.5, 2.6)):
        with pytest.raises(AssertionError, match="at once"):
            judge_holds(replace(notes, holds=[*notes.holds, more]))


def test_a_lease_may_be_lost_only_if_the_cluster_was_out_of_reach_or_its_time_is_over() -> None:
    life = LeaseLife(5, 3.0, 100.0)
    assert longest_gap([], life) == 3.0
    assert longest_gap([90.0, 101.0, 102.5, 104.0], life) == 1.5
    notes = KeyNotes("r0/")
    user = LeaseUser("u", None, random.Random(1), notes)  # type: ignore[arg-type]
    user.lost(LeaseNote("u", life, []), "lease 5")  # type: ignore[arg-type]
    assert notes.wrong == []
    user.lost(LeaseNote("u", life, [100.9, 101.8, 102.5]), "lease 5")  # type: ignore[arg-type]
    assert "writes were never in vain for more than 0.900 s" in notes.wrong.pop()
    life.lost.until = float("inf")
    user.lost(LeaseNote("u", life, []), "lease 5")  # type: ignore[arg-type]
    assert "before its time" in notes.wrong[0]
