"""The expectations of a story: an `expect` that is not met fails, also while the story is regenerated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.worlds.story.script import StoryError
from tests.worlds.story.stage import Stage, command
from tests.worlds.story.time import leading_of
from tests.worlds.story.views import entries_of, records_of, state_of, terms_of
from tests.worlds.story.words import point_of, told, told_configuration, told_entry

NONE = "none"
Found = Callable[[Stage, list[str]], tuple[Any, Any]]
EXPECTATIONS: dict[str, Found] = {}
"""Each expectation by its word; it returns the expected and the actual value."""


def expectation(word: str) -> Callable[[Found], Found]:
    """Register a function as an expectation."""

    def enter(found: Found) -> Found:
        EXPECTATIONS[word] = found
        return found

    return enter


@command("expect")
def expect(stage: Stage, words: list[str]) -> None:
    """`expect` with a word and its arguments: fail unless the expectation is met."""
    found = EXPECTATIONS.get(words[0])
    if found is None:
        raise StoryError(f"nothing can be expected of {words[0]!r}; there are {', '.join(sorted(EXPECTATIONS))}")
    wanted, actual = found(stage, words[1:])
    if wanted != actual:
        raise StoryError(f"expected {wanted}, there is {actual}")


# --- elections -------------------------------------------------------------------------------------------------------


@expectation("leader")
def of_leader(stage: Stage, words: list[str]) -> tuple[Any, Any]:
    """`leader n1`, `leader n1 n3`, `leader none`: exactly these running nodes lead, in whatever terms."""
    leading = [base.name for base in stage.cluster.running() if base.engine.ledger.leading_term is not None]
    return [] if words == [NONE] else words, leading


@expectation("role")
def of_role(stage: Stage, words: list[str]) -> tuple[Any, Any]:
    """`role n1 follower`: the role of n1."""
    return words[1], str(stage.node(words[0]).engine.shared.role)


@expectation("follows")
def of_follows(stage: Stage, words: list[str]) -> tuple[Any, Any]:
    """`follows n2 n1`, `follows n2 none`: the node that n2 considers the leader."""
    return words[1], stage.node(words[0]).engine.shared.leader or NONE


@expectation("term")
def of_term(stage: Stage, words: list[str]) -> tuple[Any, Any]:
    """`term 3 [n1 ...]`: the term of these nodes, or of all that run."""
    names = words[1:] or [base.name for base in stage.cluster.running()]
    return dict.fromkeys(names, int(words[0])), {name: stage.node(name).engine.ledger.term for name in names}


@expectation("vote")
def of_vote(stage: Stage, words: list[str]) -> tuple[Any, Any]:
    """`vote n1 n2`, `vote n1 none`: the node that n1 voted for in its term."""
    return words[1], stage.node(words[0]).engine.ledger.vote or NONE


@expectation("elections")
def of_elections(stage: Stage, words: list[str]) -> tuple[Any, Any]:
    """`elections n1 2`: how many times the present process of n1 was a candidate."""
    return int(words[1]), stage.node(words[0]).engine.totals.elections


# --- logs ------------------------------------------------------------------------------------------------------------


@expectation("last")
def of_last(stage: Stage, words: list[str]) -> tuple[Any, Any]:
    """`last n1 5/2`: index and term of the last entry of n1."""
    log = stage.node(words[0]).engine.ledger.log
    return point_of(words[1]), (log.last, log.last_term)


@expectation("terms")
def of_terms(stage: Stage, words: list[str]) -> tuple[Any, Any]:
    """`terms n1 0 1 1 4`: the terms of the log of n1."""
    return [int(word) for word in words[1:]], terms_of(stage.node(words[0]))


@expectation("entry")
def of_entry(stage: Stage, words: list[str]) -> tuple[Any, Any]:
    """`entry n1 5/2 a`: that entry is in the log of n1."""
    index = point_of(words[1])[0]
    return " ".join(words[1:]), told_entry(index, stage.node(words[0]).engine.ledger.log.get(index))


@expectation("same-logs")
def of_same_logs(stage: Stage, words: list[str]) -> tuple[Any, Any]:
    """`same-logs [n1 ...]`: the logs of these nodes, or of all, are equal byte for byte."""
    names = stage.names(words)
    first = records_of(stage.node(names[0]))
    differing = [name for name in names if records_of(stage.node(name)) != first]
    wanted = entries_of(stage.node(names[0]))
    return dict.fromkeys(differing, wanted), {name: entries_of(stage.node(name)) for name in differing}


@expectation("commit")
def of_commit(stage: Stage, words: list[str]) -> tuple[Any, Any]:
    """`commit 5 [n1 ...]`: the commit index of these nodes, or of all that run."""
    names = words[1:] or [base.name for base in stage.cluster.running()]
    return dict.fromkeys(names, int(words[0])), {n: stage.node(n).engine.ledger.commit_index for n in names}


@expectation("applied")
def of_applied(stage: Stage, words: list[str]) -> tuple[Any, Any]:
    """`applied 5 [n1 ...]`: the applied index of these nodes, or of all that run."""
    names = words[1:] or [base.name for base in stage.cluster.running()]
    return dict.fromkeys(names, int(words[0])), {name: stage.node(name).engine.ledger.applied for name in names}


@expectation("begins")
def of_begins(stage: Stage, words: list[str]) -> tuple[Any, Any]:
    """`begins n1 4`: the first index in the log of n1."""
    return int(words[1]), stage.node(words[0]).engine.ledger.log.base_index + 1


@expectation("state")
def of_state(stage: Stage, words: list[str]) -> tuple[Any, Any]:
    """`state n1 a=a b=5 c=none`: the values of these keys in the machine of n1."""
    known = state_of(stage.node(words[0]))
    pairs = [word.partition("=") for word in words[1:]]
    return {k: value for k, _, value in pairs}, {k: str(known.get(k, NONE)) for k, _, _ in pairs}


@expectation("configuration")
def of_configuration(stage: Stage, words: list[str]) -> tuple[Any, Any]:
    """`configuration n1 voters n1 n2 learners n3`: the configuration in force on n1, as its trace line says it."""
    found = told_configuration(stage.node(words[0]).engine.ledger.configuration)
    return " ".join(words[1:]), found.replace(",", "")


# --- leading, frames, processes, answers -----------------------------------------------------------------------------


@expectation("progress")
def of_progress(stage: Stage, words: list[str]) -> tuple[Any, Any]:
    """`progress n1 n2 probe match=3 next=4 inflight=0`: the progress of n2 at its leader n1; any of these."""
    progress = leading_of(stage.node(words[0])).progress[words[1]]
    known = {"match": progress.match, "next": progress.next, "inflight": len(progress.inflight)}
    wanted: dict[str, Any] = {}
    for word in words[2:]:
        name, equals, value = word.partition("=")
        wanted[name if equals else "phase"] = int(value) if equals else name
    return wanted, {name: known.get(name, progress.phase.value) for name in wanted}


@expectation("pending")
def of_pending(stage: Stage, words: list[str]) -> tuple[Any, Any]:
    """`pending n1->n2 2 [AppendEntries]`: the number of held frames, of that kind."""
    frames = stage.cluster.network.between(*stage.pair(words[0]))
    kinds = [type(held.frame.message).__name__ for held in frames]
    return int(words[1]), len([kind for kind in kinds if kind in words[2:] or len(words) == 2])


@expectation("says")
def of_says(stage: Stage, words: list[str]) -> tuple[Any, Any]:
    """`says n1->n2 refused`: the newest held frame from n1 to n2 ends with these words."""
    frames = stage.cluster.network.between(*stage.pair(words[0]))
    said = told(frames[-1].frame.message).split() if frames else []
    return words[1:], said[-len(words[1:]) :]


@expectation("down")
def of_down(stage: Stage, words: list[str]) -> tuple[Any, Any]:
    """`down n1 ...`, `down none`: exactly these nodes do not run."""
    running = [base.name for base in stage.cluster.running()]
    return [] if words == [NONE] else words, [name for name in stage.cluster.names if name not in running]


@expectation("refused")
def of_refused(stage: Stage, words: list[str]) -> tuple[Any, Any]:
    """`refused n1 2 stranger`: how many frames the gate of n1 refused for that reason since its process started."""
    reason = " ".join(words[2:])
    return int(words[1]), stage.node(words[0]).engine.refusals.counts[reason]


@expectation("answer")
def of_answer(stage: Stage, words: list[str]) -> tuple[Any, Any]:
    """`answer ok a b`, `answer none a`, `answer CONSENSUS_BUSY c`: each of these commands had exactly this answer."""
    wanted = [] if words[0] == NONE else [words[0]]
    return dict.fromkeys(words[1:], wanted), {word: stage.client.answers.get(word, []) for word in words[1:]}
