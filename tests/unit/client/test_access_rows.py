"""What is shown of users, keys and tokens: whether each lets its holder in, and which list says so."""

from __future__ import annotations

from forge_consensus.client.access_records import AccessInfo, PrincipalInfo, TokenInfo
from forge_consensus.client.access_rows import EXPIRED, LOG_COUNTS, REVOKED, VALID, key_rows, token_rows

NOW = 1000.0


def client(name: str, *tokens: TokenInfo, keys: tuple[str, ...] = ()) -> PrincipalInfo:
    return PrincipalInfo(name, is_member=False, roles=("read",), keys=keys, tokens=tokens)


ACCESS = AccessInfo(
    9,
    (client("both", TokenInfo("in-the-log-1", None)), client("log", TokenInfo("is-over-now1", NOW), keys=("K1",))),
    ("K-revoked", "gone-by-log1"),
    in_file=(
        client("both", TokenInfo("only-in-file", None), keys=("K2",)),
        client(
            "file",
            TokenInfo("of-the-file1", NOW + 1),
            TokenInfo("gone-by-log1", None),
            TokenInfo("gone-by-file", NOW - 1),
            TokenInfo("in-the-log-1", None),
            keys=("K1", "K-revoked", "K3"),
        ),
    ),
    revoked_in_file=("gone-by-file",),
)


def test_each_token_has_its_state_and_its_list() -> None:
    assert [(row["name"], row["id"], row["from"], row["state"]) for row in token_rows(ACCESS, NOW)] == [
        ("both", "in-the-log-1", "log", VALID),
        ("log", "is-over-now1", "log", EXPIRED),
        ("both", "only-in-file", "file", LOG_COUNTS),
        ("file", "of-the-file1", "file", VALID),
        ("file", "gone-by-log1", "file", REVOKED),
        ("file", "gone-by-file", "file", REVOKED),
        ("file", "in-the-log-1", "file", LOG_COUNTS),
    ]
    assert all(row["in_force"] == (row["state"] == VALID) for row in token_rows(ACCESS, NOW))


def test_each_key_has_its_state_and_its_list() -> None:
    assert [(row["name"], row["key"], row["from"], row["state"]) for row in key_rows(ACCESS)] == [
        ("log", "K1", "log", VALID),
        ("both", "K2", "file", LOG_COUNTS),
        ("file", "K1", "file", LOG_COUNTS),
        ("file", "K-revoked", "file", REVOKED),
        ("file", "K3", "file", VALID),
    ]
