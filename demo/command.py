"""``forge-consensus demo``: the story as a command, with its exit code."""

from __future__ import annotations

import signal
from types import FrameType

import click

from forge_consensus.demo.proof import DemoFailed
from forge_consensus.demo.story import Story
from forge_consensus.errors import ConsensusError
from forge_consensus.finite_range import FiniteRange
from forge_consensus.testing.local.node_process import ENDING

NODES = 3
SECONDS = 15.0
NODES_MAX = 9


def interrupted(number: int, frame: FrameType | None) -> None:
    """End the demo at the first signal; further signals are ignored while it cleans up."""
    for other in ENDING:
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt


@click.command()
@click.option("--nodes", type=click.IntRange(1, NODES_MAX), default=NODES, show_default=True, help="How many nodes.")
@click.option(
    "--seconds",
    type=FiniteRange(2, 3600),
    default=SECONDS,
    show_default=True,
    help="About how long the demo runs; it kills a leader every 15 s, at least once.",
)
@click.option("--secure", is_flag=True, help="Encrypt and authenticate every connection, and encrypt the disks.")
@click.pass_context
def demo(ctx: click.Context, nodes: int, seconds: float, secure: bool) -> None:
    """Start a cluster, kill its leader, and watch the cluster continue.

    The nodes are real processes in a temporary folder and receive writes all the time. At the end every acknowledged
    write must be on every node: exit code 0 only if it is, else 1. Nothing is left behind.
    """
    before = {number: signal.signal(number, interrupted) for number in ENDING}
    story = Story(nodes, seconds, secure=secure)
    try:
        proof = story.run()
        for line in story.summary(proof):
            click.echo(line)
        faults = proof.faults
    except (DemoFailed, ConsensusError) as error:
        faults = [str(error)]
        for name, tail in story.tails.items():
            click.echo(f"--- the log of {name} ends with\n{tail}", err=True)
    except KeyboardInterrupt:
        click.echo("interrupted; everything was cleaned up", err=True)
        ctx.exit(130)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for fault in faults:
        click.echo(f"FAILED: {fault}", err=True)
    if faults:
        ctx.exit(1)
    click.echo("OK")
