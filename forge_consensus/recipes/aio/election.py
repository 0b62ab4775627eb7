"""Elections among clients for asyncio: one leads at a time, and all can see who."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from typing import Any, Self

from forge_consensus.errors import ConsensusError
from forge_consensus.recipes.aio.steps import carry_out, take
from forge_consensus.recipes.election import ElectionCore, Leader, LeadershipCore, Seen
from forge_consensus.recipes.patience import NotYetError
from forge_consensus.recipes.steps import Step


class Leadership(LeadershipCore):
    """The leadership that was won, until it is resigned; in an ``async with`` statement until its end."""

    async def proclaim(self, value: Any) -> None:
        """Change the value that others see of this leader; errors as those of the blocking `Leadership.proclaim`."""
        await carry_out(self.proclaiming(value))

    async def resign(self) -> None:
        """Lead no longer, so that the next candidate leads at once; errors as the blocking `Leadership.resign`."""
        await carry_out(self.letting_go(self.withdrawn()))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Resign. An error of the body stays the one that is raised, with a note of what went wrong here."""
        try:
            await self.resign()
        except ConsensusError as failed:
            if error is None:
                raise
            error.add_note(f"{type(failed).__name__}: {failed}")


class Election(ElectionCore):
    """A `forge_consensus.recipes.Election` for asyncio; arguments, results and errors are the same.

        async with await Election(client, "scheduler").campaign("10.0.0.1:80") as leadership:
            while leadership.is_held:
                await schedule(leadership.token)

    Any number of tasks may share one object. `on_lost` is called on the event loop.
    """

    blocking = False

    async def campaign(self, value: Any, timeout: float | None = None) -> Leadership:
        """Stand for election with a value that others see, and return the leadership when it is won."""
        leadership = Leadership(self.line, self.on_lost)
        await carry_out(leadership.taking(value, self.line.patience(timeout)))
        return leadership

    async def try_campaign(self, value: Any) -> Leadership | None:
        """Stand for election, and return the leadership if nobody leads; None otherwise."""
        try:
            return await self.campaign(value, 0)
        except NotYetError:
            return None

    async def leader(self, timeout: float | None = None) -> Leader | None:
        """Return who leads; None if nobody does."""
        return (await carry_out(self.seeing(timeout)))[0]

    def observe(self, timeout: float | None = None) -> AsyncIterator[Leader | None]:
        """Yield who leads, at once and whenever that or its value changes; None while nobody does.

        Use it in ``async for``; `timeout` and errors are those of the blocking `Election.observe`.
        """
        return self.views(self.observing(self.line.patience(timeout).timeout))

    async def views(self, steps: Generator[Step | Seen, Any, None]) -> AsyncIterator[Leader | None]:
        """Carry out the steps of an observer and yield what it sees."""
        answer: Any = None
        failed: Exception | None = None
        while True:
            try:
                step = steps.send(answer) if failed is None else steps.throw(failed)
            except StopIteration:
                return
            answer, failed = None, None
            if isinstance(step, Seen):
                yield step.leader
                continue
            try:
                answer = await take(step)
            except Exception as error:
                failed = error
