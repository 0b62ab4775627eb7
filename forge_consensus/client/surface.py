"""What a user sees of an object: its public names in `dir`, without what its parts use among themselves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar


class PublicSurface:
    """Hides from `dir`, and so from completion in shells and editors, what a class says is internal."""

    internal: ClassVar[frozenset[str]] = frozenset({"internal"})
    """Attributes and methods that only the package itself uses; they can change in any version."""

    def __dir__(self) -> Iterable[str]:
        """The public names."""
        return sorted(set(super().__dir__()) - self.internal)
