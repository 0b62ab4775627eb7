"""The steps of recipes, carried out on an event loop."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any, cast

from forge_consensus.recipes.steps import NextChange, Pause, Result, Step, Steps


async def carry_out(steps: Steps[Result]) -> Result:
    """Carry out the steps one after the other and return their result."""
    answer: Any = None
    failed: BaseException | None = None
    try:
        while True:
            step = steps.send(answer) if failed is None else steps.throw(failed)
            answer, failed = None, None
            try:
                answer = await take(step)
            except BaseException as error:
                failed = error
    except StopIteration as done:
        return cast("Result", done.value)


async def take(step: Step) -> Any:
    """Carry out one step and return what it gives."""
    if isinstance(step, Pause):
        return await asyncio.sleep(step.seconds)
    if isinstance(step, NextChange):
        async with step.watch() as changes:
            async for change in changes:
                if step.matters(change):
                    return change
        return None
    given = step()
    return await given if inspect.isawaitable(given) else given
