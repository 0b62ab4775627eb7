"""The list of access in force: that of a node's file and that of the cluster's log, put together."""

from __future__ import annotations

from dataclasses import replace

from forge_consensus.security.access import AccessList, Principal


def in_force(of_file: AccessList, of_log: AccessList) -> AccessList:
    """Return the list that counts: everybody of both, without the keys and tokens that either of them revoked.

    Where both name one principal, or list one key or token under two names, that of the log counts, because all nodes
    have it. So there is a list whatever the two say, and it is the same for the same two.
    """
    revoked = of_file.revoked | of_log.revoked
    taken = {*of_log.by_key, *of_log.by_token}
    found = [without(one, revoked) for one in of_log.by_name.values()]
    found += [without(one, revoked | taken) for name, one in of_file.by_name.items() if name not in of_log.by_name]
    return AccessList(found, revoked)


def without(principal: Principal, gone: frozenset[str] | set[str]) -> Principal:
    """Return a principal without these keys, and without the tokens of these ids."""
    keys = tuple(key for key in principal.keys if key not in gone)
    tokens = tuple(token for token in principal.tokens if token.id not in gone)
    if keys == principal.keys and tokens == principal.tokens:
        return principal
    return replace(principal, keys=keys, tokens=tokens)
