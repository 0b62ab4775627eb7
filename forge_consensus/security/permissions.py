"""The permissions: what each role may do, and which permission each message and each route of the admin API needs.

This is the one table. The gate looks up each message of a client here, the admin API each route; what has no row is
refused, and a test finds it.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

Permission = Literal["peer", "admin", "write", "read", "metrics", "anyone"]
"""What is asked of somebody: to be a member, to administer, to change keys, to read them, to see measures;
`anyone` must only be known."""
Role = Literal["peer", "admin", "write", "read", "metrics"]

ROLES: Final[tuple[Role, ...]] = get_args(Role)

GRANTED: Final[dict[Role, frozenset[Permission]]] = {
    "peer": frozenset({"peer", "anyone"}),
    "admin": frozenset({"admin", "write", "read", "metrics", "anyone"}),
    "write": frozenset({"write", "read", "metrics", "anyone"}),
    "read": frozenset({"read", "metrics", "anyone"}),
    "metrics": frozenset({"metrics", "anyone"}),
}
"""What each role may do. `peer` is no role for people: it is that of the cluster's members."""

BY_KEY: Final = frozenset({"write", "read"})
"""The permissions that a rule may give for a part of the keys."""
