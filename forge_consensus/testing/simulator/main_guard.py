"""The check for a main guard: a script must not simulate when it is merely imported, because its twin imports it."""

from __future__ import annotations

import ast
import linecache
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from forge_consensus.errors import InvalidConfigError


def check_main_guard(made: Callable[..., Any]) -> None:
    """Refuse a simulation that is made while the module of the machine `made` is imported or run without a guard.

    Raises `InvalidConfigError`, which names the line. A module whose source cannot be read is let through: then the
    twin itself refuses.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        at_module_level = frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == made.__module__
        if at_module_level and not guarded(frame.f_code.co_filename, frame.f_lineno):
            raise InvalidConfigError(
                f"line {frame.f_lineno} of {frame.f_code.co_filename} simulates whenever the file is imported, and the "
                f"simulation's twin, another process, imports it for {made.__qualname__}: put that line below "
                '`if __name__ == "__main__":`, or give twin=False'
            )
        frame = frame.f_back


def guarded(file: str, line: int) -> bool:
    """Whether a line of a file stands below a test of `__name__`, or the file cannot be read."""
    lines = linecache.getlines(file)
    try:
        module = ast.parse("".join(lines)) if lines else None
    except SyntaxError:
        module = None
    if module is None:
        return True
    return any(
        isinstance(node, ast.If) and names_the_module(node.test) and node.lineno <= line <= (node.end_lineno or line)
        for node in module.body
    )


def names_the_module(test: ast.expr) -> bool:
    """Whether a condition looks at `__name__`."""
    return any(isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(test))
