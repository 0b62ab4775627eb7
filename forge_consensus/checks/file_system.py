"""On which file system a folder lies, as the kernel lists what is mounted."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

MOUNTS: Final = Path("/proc/self/mountinfo")
ESCAPED: Final = re.compile(r"\\([0-7]{3})")
VOLATILE: Final = frozenset({"tmpfs", "ramfs", "rootfs"})
"""File systems in memory: what is on them is gone when the machine stops."""
NETWORKED: Final = frozenset(
    {"9p", "afs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3"}
)
"""File systems of other machines, on which the locks of the store do not work."""
UNKNOWN: Final = "unknown"


def file_system_of(folder: Path, mounts: Path = MOUNTS) -> str:
    """Return the type of the file system that a folder lies on, such as ext4; "unknown" where nobody tells."""
    path = os.path.realpath(folder)
    best, kind = -1, UNKNOWN
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return UNKNOWN
    for line in lines:
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = ESCAPED.sub(lambda found: chr(int(found[1], 8)), fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:  # of two at one place the later one hides the earlier
            best, kind = len(point), after.split(" ")[0]
    return kind
