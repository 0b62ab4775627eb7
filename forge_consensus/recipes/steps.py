"""Calls of several steps, written once for the blocking recipes and for those of asyncio.

Such a call is a generator of steps. Whoever carries them out sends back what each gives, and throws in what each
raises, so that the call decides whether to go on; a call that is interrupted or cancelled in a step can tidy up in
further ones. Here they are carried out on the calling thread, in `forge_consensus.recipes.aio` on an event loop.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from forge_consensus.client.key_records import KeyChange
from forge_consensus.errors import InvalidConfigError

Result = TypeVar("Result")


class RecipeClient(Protocol):
    """What a recipe needs of a client: a `Client`, a `ConsensusService`, or an `AsyncClient` for those of asyncio."""

    @property
    def timeout(self) -> float:
        """How many seconds a call tries."""

    @property
    def append(self) -> Callable[..., Any]:
        """Set a new key that the cluster names."""

    @property
    def cas(self) -> Callable[..., Any]:
        """Set a key if it holds a value."""

    @property
    def delete(self) -> Callable[..., Any]:
        """Remove a key."""

    @property
    def entry(self) -> Callable[..., Any]:
        """Tell of one key."""

    @property
    def get(self) -> Callable[..., Any]:
        """Give the value of a key."""

    @property
    def incr(self) -> Callable[..., Any]:
        """Add to the number at a key."""

    @property
    def lease(self) -> Callable[..., Any]:
        """Grant a lease."""

    @property
    def put(self) -> Callable[..., Any]:
        """Set a key."""

    @property
    def read(self) -> Callable[..., Any]:
        """Answer a query."""

    @property
    def read_detail(self) -> Callable[..., Any]:
        """Answer a query, and say as of which entry."""

    @property
    def transaction(self) -> Callable[..., Any]:
        """Compare, and carry out commands."""

    @property
    def watch(self) -> Callable[..., Any]:
        """Follow the changes of keys."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A step that only waits."""

    seconds: float


@dataclass(frozen=True, slots=True)
class NextChange:
    """A step that waits for a change of keys and gives it; None if none came in time."""

    watch: Callable[[], Any]
    """Begins the watch, which ends by itself after some time without a change."""
    matters: Callable[[KeyChange], bool] = lambda change: True
    """Whether a change is waited for."""


Step = Callable[[], Any] | Pause | NextChange
Steps = Generator[Step, Any, Result]


def check_client(recipe: str, client: RecipeClient, *, blocking: bool) -> RecipeClient:
    """The client, if it fits the recipe. Raises `InvalidConfigError`."""
    missing = [name for name in ("append", "lease", "read_detail", "transaction", "watch") if not hasattr(client, name)]
    if missing:
        raise InvalidConfigError(
            f"{client!r:.99} is no client with keys and leases (it has no {missing[0]}): give {recipe} a Client, a "
            "ConsensusService or, in forge_consensus.recipes.aio, an AsyncClient"
        )
    if inspect.iscoroutinefunction(client.append) == blocking:
        here, there = ("blocks", "forge_consensus.recipes.aio") if blocking else ("is for asyncio", "...recipes")
        there = there.replace("...", "forge_consensus.")
        raise InvalidConfigError(f"this {recipe} {here}, and {client!r:.99} does not: take {there}.{recipe} for it")
    return client


def carry_out(steps: Steps[Result]) -> Result:
    """Carry out the steps one after the other, on this thread, and return their result."""
    answer: Any = None
    failed: BaseException | None = None
    try:
        while True:
            step = steps.send(answer) if failed is None else steps.throw(failed)
            answer, failed = None, None
            try:
                answer = take(step)
            except BaseException as error:
                failed = error
    except StopIteration as done:
        return cast("Result", done.value)


def take(step: Step) -> Any:
    """Carry out one step and return what it gives."""
    if isinstance(step, Pause):
        return time.sleep(step.seconds)
    if isinstance(step, NextChange):
        with step.watch() as changes:
            return next((change for change in changes if step.matters(change)), None)
    return step()
