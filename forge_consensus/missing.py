"""What the command line says where its packages are not installed; it must import none of them itself."""

from __future__ import annotations

from typing import Final

CLI_MODULES: Final = frozenset({"click", "rich"})
"""What the extra ``cli`` installs."""
EXIT_NOT_INSTALLED: Final = 78


def missing_text(error: BaseException) -> str | None:
    """Return the line for a package of the extra ``cli`` that is not installed, None for any other error."""
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if package not in CLI_MODULES:
        return None
    return f"error[NOT_INSTALLED]: the command line needs the package {package}: pip install 'forge-consensus[cli]'"
