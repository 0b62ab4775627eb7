"""The permissions: what each role may do, and which permission each message and each route of the admin API needs.

This is the one table. The gate looks up each message of a client here, the admin API each route; what has no row is
refused, and a test finds it. It also says which messages and routes are acts of an administrator, which are audited,
and which are ordinary.
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

Needed = Permission | Literal["nothing"]
"""What a route asks for: a permission, or nothing, so that strangers are answered too."""

ROUTES: Final[dict[str, Needed]] = {
    # --- the dashboard and the description of the API, which tell nothing of the cluster; probes and load balancers
    **dict.fromkeys(
        (
            "get", "get_original", "get_ui_name", "get_docs", "get_openapijson", "get_v1", "get_livez", "get_readyz",
            "get_startupz", "get_leader", "get_follower", "get_voter",
        ),
        "nothing",
    ),
    # --- how the cluster fares
    **dict.fromkeys(("get_v1_leader", "get_v1_members", "get_v1_members_id", "get_v1_events_kinds"), "anyone"),
    **dict.fromkeys(
        (
            "get_metrics", "get_original_metrics", "get_health", "get_health_detailed", "get_v1_checks_quorum_critical",
            "get_v1_checks_quorum", "get_v1_cluster", "get_v1_node", "get_v1_log", "get_original_status",
            "get_original_nodes",
        ),
        "metrics",
    ),
    # --- data; a rule suffices where the request names its keys
    **dict.fromkeys(
        (
            "get_v1_kv", "get_v1_kv_key", "get_v1_watch", "get_v1_leases", "get_v1_leases_id", "post_v1_read",
            "get_v1_events",
        ),
        "read",
    ),
    **dict.fromkeys(
        (
            "put_v1_kv_key", "delete_v1_kv_key", "post_v1_apply", "post_v1_transaction", "post_v1_leases",
            "delete_v1_leases_id", "post_v1_leases_id_keep_alive",
        ),
        "write",
    ),
    # --- what changes the cluster or a node, or tells everything that is in it
    **dict.fromkeys(
        (
            "post_v1_members", "patch_v1_members_id", "delete_v1_members_id", "post_v1_leader_transfer",
            "post_v1_leader_stepdown", "get_v1_log_entries", "get_v1_snapshots", "post_v1_snapshots", "get_v1_backup",
            "get_v1_config", "post_v1_config_reload", "post_original_add_node", "post_original_remove_node",
            "post_original_transfer_leadership", "get_v1_access_users", "put_v1_access_users_name",
            "delete_v1_access_users_name", "get_v1_access_keys", "post_v1_access_keys", "delete_v1_access_keys_key",
            "get_v1_access_tokens", "post_v1_access_tokens", "post_v1_access_tokens_id_rotate",
            "delete_v1_access_tokens_id",
        ),
        "admin",
    ),
}  # fmt: skip
"""What each operation of the admin API needs, by its name in the OpenAPI document. Commands and queries whose name or
field is reserved need `admin` besides."""

# --- the audit -------------------------------------------------------------------------------------------------------

ACTS: Final = frozenset(
    {"ChangeMembers", "TransferLeadership", "MakeSnapshot", "ReadSnapshot", "ReadLog", "ReloadConfig"}
)
"""The messages that are acts of an administrator: the node that carries one out records it under this name. So it does
with each command whose type is `RESERVED`, under the type and what is to be done."""
ORDINARY: Final = frozenset(
    {"Locate", "GetMembers", "GetStatus", "OpenSession", "Submit", "Read", "ReadEvents", "ListSnapshots"}
)
"""The messages of clients of which only denials are recorded: what they change is in the log, and what they read leaves
nothing behind. Messages between members are neither."""

Audited = Literal["by the node", "by the API", "ordinary"]
"""Who records that a route was used: the node that its request reaches, in the words of `ACTS`; the admin API, because
no node is asked; or nobody."""

ROUTE_ACTS: Final[dict[str, Audited]] = {
    **dict.fromkeys(
        (
            "post_v1_members", "patch_v1_members_id", "delete_v1_members_id", "post_v1_leader_transfer",
            "post_v1_leader_stepdown", "get_v1_log_entries", "post_v1_snapshots", "post_original_add_node",
            "post_original_remove_node", "post_original_transfer_leadership", "post_v1_apply",
            "put_v1_access_users_name", "delete_v1_access_users_name", "post_v1_access_keys",
            "delete_v1_access_keys_key", "post_v1_access_tokens", "post_v1_access_tokens_id_rotate",
            "delete_v1_access_tokens_id",
        ),
        "by the node",
    ),
    **dict.fromkeys(("get_v1_backup", "post_v1_config_reload"), "by the API"),
    **dict.fromkeys(
        (
            "get", "get_original", "get_ui_name", "get_docs", "get_openapijson", "get_v1", "get_livez", "get_readyz",
            "get_startupz", "get_leader", "get_follower", "get_voter", "get_v1_leader", "get_v1_members",
            "get_v1_members_id", "get_v1_events_kinds", "get_metrics", "get_original_metrics", "get_health",
            "get_health_detailed", "get_v1_checks_quorum_critical", "get_v1_checks_quorum", "get_v1_cluster",
            "get_v1_node", "get_v1_log", "get_original_status", "get_original_nodes", "get_v1_kv", "get_v1_kv_key",
            "get_v1_watch", "get_v1_leases", "get_v1_leases_id", "post_v1_read", "get_v1_events", "put_v1_kv_key",
            "delete_v1_kv_key", "post_v1_transaction", "post_v1_leases", "delete_v1_leases_id",
            "post_v1_leases_id_keep_alive", "get_v1_snapshots", "get_v1_config", "get_v1_access_users",
            "get_v1_access_keys", "get_v1_access_tokens",
        ),
        "ordinary",
    ),
}  # fmt: skip
"""Whether each route of `ROUTES` is an act. A route without a row is recorded by the API."""
