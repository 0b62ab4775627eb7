"""The commands of a story that print the state of nodes."""

from __future__ import annotations

from forge_consensus.storage.ledger.record import term_of
from tests.worlds.story.stage import Stage, command
from tests.worlds.story.time import leading_of
from tests.worlds.story.words import told_configuration, told_entry
from tests.worlds.story.world import StoryNode

ALL_KEYS = 10_000


def records_of(node: StoryNode) -> list[tuple[int, bytes]]:
    """The entries of a node's log after its start."""
    log = node.engine.ledger.log
    return [(index, log.get(index)) for index in range(log.base_index + 1, log.last + 1)]


def terms_of(node: StoryNode) -> list[int]:
    """The terms of a node's log."""
    return [term_of(record) for _, record in records_of(node)]


def entries_of(node: StoryNode) -> list[str]:
    """A node's log in words."""
    return [told_entry(index, record) for index, record in records_of(node)]


def state_of(node: StoryNode) -> dict[str, object]:
    """All keys of a node's machine with their values."""
    rows = node.engine.ledger.applier.query({"scan": "", "limit": ALL_KEYS})
    return dict(rows)


@command("logs")
def logs(stage: Stage, words: list[str]) -> None:
    """`logs [n1 ...]`: the terms of the logs by index, as in the paper's figure 7, with commit and applied index.

    If a configuration in force is not the founding one, each row ends with that of its node.
    """
    names = stage.names(words)
    running = [base for base in stage.cluster.running() if base.name in names]
    configurations = [told_configuration(base.engine.ledger.configuration) for base in running]
    founded = told_configuration(stage.cluster.configuration)
    shown = any(configuration != founded for configuration in configurations)
    last = max((base.engine.ledger.log.last for base in running), default=0)
    width = len(str(last)) + 1
    stage.trace.write("   " + "".join(f"{index:>{width}}" for index in range(1, last + 1)))
    for base, configuration in zip(running, configurations, strict=True):
        ledger = base.engine.ledger
        cells = [""] * ledger.log.base_index + [str(term) for term in terms_of(base)]
        cells += [""] * (last - len(cells))
        row = "".join(f"{cell:>{width}}" for cell in cells)
        end = f" | {configuration}" if shown else ""
        stage.trace.write(f"{base.name} {row} | commit {ledger.commit_index}, applied {ledger.applied}{end}")


@command("log")
def log(stage: Stage, words: list[str]) -> None:
    """`log n1 ...`: the entries of these nodes."""
    for name in stage.names(words):
        stage.trace.write(f"{name} " + ", ".join(entries_of(stage.node(name))))


@command("status")
def status(stage: Stage, words: list[str]) -> None:
    """`status [n1 ...]`: role, term, vote, leader and log of each node."""
    for name in stage.names(words):
        base = stage.cluster.hosts[name].base
        if base is None or not base.alive:
            stage.trace.write(f"{name} does not run")
            continue
        ledger, shared = base.engine.ledger, base.engine.shared
        leads = f"{shared.role} term {ledger.term} vote {ledger.vote or 'none'} leader {shared.leader or 'none'}"
        log_of = f"last {ledger.log.last}/{ledger.log.last_term} commit {ledger.commit_index} applied {ledger.applied}"
        stage.trace.write(f"{name} {leads} {log_of}")


@command("progress")
def progress(stage: Stage, words: list[str]) -> None:
    """`progress n1 [n2 ...]`: the progress of these followers, or of all, at the leader n1."""
    leading = leading_of(stage.node(words[0]))
    for name, of in leading.progress.items():
        if name in stage.names(words[1:]):
            sent = f", {len(of.inflight)} frames under way" if of.inflight else ""
            waits = ", waits for an answer" if of.probe_sent else ""
            stage.trace.write(f"{name} {of.phase.value} match {of.match} next {of.next}{sent}{waits}")


@command("state")
def state(stage: Stage, words: list[str]) -> None:
    """`state [n1 ...]`: keys and values of the machines."""
    for name in stage.names(words):
        rows = ", ".join(f"{key}={value}" for key, value in sorted(state_of(stage.node(name)).items()))
        stage.trace.write(f"{name} {rows or 'nothing'}")


@command("answers")
def answers(stage: Stage, words: list[str]) -> None:
    """`answers`: the answers to the client, by command."""
    for word, said in stage.client.answers.items():
        stage.trace.write(f"{word}: {', '.join(said)}")
    if unanswered := [word for word in stage.client.numbers if word not in stage.client.answers]:
        stage.trace.write(f"no answer: {' '.join(unanswered)}")
