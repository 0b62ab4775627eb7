"""The watch of the access file: has the node take over what changes in it, without a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from forge_consensus.config.file_reads import here
from forge_consensus.security.access import AccessList
from forge_consensus.security.access_file import read_access_file
from forge_consensus.service.file_watch import FileWatch, Take

NAME: Final = "security.access_file"


class AccessWatch(FileWatch[AccessList]):
    """Looks at one access file, from `start` to `stop`.

    Args:
        path: the file.
        take: has the node take the list that it holds, None for none, and publish an event.

    """

    def __init__(self, path: str | Path, take: Take[AccessList]) -> None:
        place = here() / path
        super().__init__("the access file", [NAME], [place], lambda: read_access_file(place), take)

    def told(self, held: AccessList) -> str:
        """Return how many the list knows."""
        return f": {len(held.by_name)} members and clients are known"
