"""Ids of clusters: the name that operators give, and behind it a token for a cluster that was made anew from its data.

A restored or recovered cluster must not mix with what is left of the one that it was made from: nodes and sessions of
clients that know another past would contradict it. So it has an id of its own, the same name with a token. Nodes and
clients are started with the name all the same, and find the id in the folder or learn it from a node.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Final

MADE_ANEW: Final = re.compile(r"(.+)~[0-9a-f]{12}")
"""An id of a cluster that was made anew: its name, a tilde, a token of twelve digits."""


def token_of(*parts: bytes) -> str:
    """Return the token that follows from these bytes, the same wherever it is computed."""
    digest = sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8) + part)
    return digest.hexdigest()[:12]


def made_anew(cluster: str, token: str) -> str:
    """Return the id of a cluster of that name, or of the name in that id, which is made anew with this token."""
    return f"{name_of(cluster)}~{token}"


def name_of(cluster: str) -> str:
    """Return the name in the id of a cluster."""
    found = MADE_ANEW.fullmatch(cluster)
    return found[1] if found else cluster


def is_meant(given: str, cluster: str) -> bool:
    """Whether who gives this name or id means the cluster with that id. A whole id means itself only."""
    return given in (cluster, name_of(cluster))
