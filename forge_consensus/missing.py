"""What the command line says where its packages are not installed; it must import none of them itself."""

from __future__ import annotations

import importlib
import sys
from typing import Any, Final

CLI_MODULES: Final = frozenset({"click", "rich"})
"""What the extra ``cli`` installs."""
EXIT_NOT_INSTALLED: Final = 78


def missing_text(error: BaseException) -> str | None:
    """Return the line for a package of the extra ``cli`` that is not installed, None for any other error."""
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if package not in CLI_MODULES:
        return None
    return f"error[NOT_INSTALLED]: the command line needs the package {package}: pip install 'forge-consensus[cli]'"


def missing_extra(error: ModuleNotFoundError, extra: str, what: str) -> str:
    """Return what to say of a package that is not installed, of the extra that installs it."""
    package = (error.name or "a package").partition(".")[0]
    return f"{what} needs the package {package}: pip install 'forge-consensus[{extra}]'"


def command_line(module: str, name: str) -> Any:
    """Return a function of the command line; without its packages, say how they are installed and exit with 78."""
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        text = missing_text(error)
        if text is None:
            raise
        print(text, file=sys.stderr)
        sys.exit(EXIT_NOT_INSTALLED)
