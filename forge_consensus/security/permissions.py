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

MESSAGES: Final[dict[str, Permission]] = {
    # --- between members
    **dict.fromkeys(
        (
            "Hello", "HelloReply", "RequestPreVote", "PreVoteReply", "RequestVote", "VoteReply", "AppendEntries",
            "AppendReply", "InstallSnapshot", "SnapshotReply", "TimeoutNow", "RequestReadIndex", "ReadIndexReply",
            "CheckPeer", "CheckPeerReply",
        ),
        "peer",
    ),
    # --- of clients; a node that joins asks the first two as well
    "Locate": "anyone",
    "GetMembers": "anyone",
    "GetStatus": "metrics",
    "OpenSession": "write",
    "Submit": "write",
    "Read": "read",
    "ReadEvents": "read",
    "ChangeMembers": "admin",
    "TransferLeadership": "admin",
    "MakeSnapshot": "admin",
    "ReadSnapshot": "admin",
    "ListSnapshots": "admin",
    "ReadLog": "admin",
    "ReloadConfig": "admin",
    # --- answers to clients; no node takes them from anybody
    **dict.fromkeys(
        (
            "Located", "SessionOpened", "Results", "ReadResults", "Status", "Refused", "EventPage", "MembersPlanned",
            "Members", "TransferStarted", "SnapshotMade", "SnapshotPart", "SnapshotList", "LogPage", "ConfigReport",
        ),
        "peer",
    ),
}  # fmt: skip
"""Which permission the sender of each message needs, by the name of its class. Commands and queries of the built-in
machine are looked into besides: rules may allow a part of the keys, and what is reserved needs `admin`."""
RESERVED: Final = "@"
"""Commands whose type begins so, and queries with such a field alone, are about the cluster itself and need `admin`."""
