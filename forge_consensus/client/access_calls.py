"""The calls that read and change the list of access in the log, for a class that has `apply` and `read`."""

from __future__ import annotations

from collections.abc import Iterable

from forge_consensus.client.access_commands import (
    QUERY,
    add_key_command,
    forget_command,
    put_command,
    remove_command,
    revoke_key_command,
    revoke_token_command,
    rotated_token,
    token_command,
)
from forge_consensus.client.access_records import AccessInfo
from forge_consensus.client.machine_calls import MachineCalls


class AccessCalls(MachineCalls):
    """The list of access that is in the log: who is known, by which keys and tokens, and what each may do.

    All nodes go by it, beside the access file that each has of its own; where security is off it is only kept. They
    need the role admin. They raise what `apply` and `read` raise: `CommandError` for a change that the cluster refused,
    with the reason, and besides `InvalidConfigError` for arguments that cannot be.
    """

    def access(self, consistency: str = "linearizable", timeout: float | None = None) -> AccessInfo:
        """Return the list, without what proves a token.

        Args:
            consistency: how new the answer is; see `Client.read`.
            timeout: how many seconds the query tries; None for the client's timeout.

        """
        return AccessInfo.of_answer(self.read(QUERY, consistency, timeout))

    def add_principal(
        self,
        name: str,
        *,
        roles: Iterable[str] = (),
        rules: Iterable[str] = (),
        keys: Iterable[str] | None = None,
        force: bool = False,
        timeout: float | None = None,
    ) -> bool:
        """Add a member or a client, or give one that is there other roles, rules and keys; its tokens stay.

        Args:
            name: the id of a node, or the name of a client, of ASCII characters.
            roles: of admin, write, read and metrics; or peer alone, for a member.
            rules: what it may do with some keys only, such as ``write app/*``.
            keys: its public keys, at most two, and none of another one. Those that it loses are revoked. None leaves
                what it has.
            force: whether to do it although nobody with the role admin is left then.
            timeout: how many seconds the command tries; None for the client's timeout.

        Returns whether the list was another one before.

        """
        return bool(self.apply(put_command(name, roles, rules, keys, force), timeout))

    def remove_principal(self, name: str, *, force: bool = False, timeout: float | None = None) -> None:
        """Remove a member or a client, and revoke all of its keys and tokens.

        Args:
            name: who is removed.
            force: whether to do it although nobody with the role admin is left then.
            timeout: how many seconds the command tries; None for the client's timeout.

        """
        self.apply(remove_command(name, force), timeout)

    def add_key(self, name: str, key: str, *, timeout: float | None = None) -> bool:
        """Give somebody one more public key, while the one that is there still counts, so that they can be exchanged.

        Args:
            name: whose key it is.
            key: the public key, of 40 characters.
            timeout: how many seconds the command tries; None for the client's timeout.

        Returns whether it is new.

        """
        return bool(self.apply(add_key_command(name, key), timeout))

    def revoke_key(self, key: str, *, force: bool = False, timeout: float | None = None) -> bool:
        """Have every node refuse a public key, also one that only a node's access file lists.

        Args:
            key: the public key, of 40 characters.
            force: whether to do it although nobody with the role admin is left then.
            timeout: how many seconds the command tries; None for the client's timeout.

        Returns whether it was not revoked before.

        """
        return bool(self.apply(revoke_key_command(key, force), timeout))

    def create_token(
        self,
        name: str,
        *,
        roles: Iterable[str] = (),
        rules: Iterable[str] = (),
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> str:
        """Make a token and return its text, which is stored nowhere: the cluster keeps a digest only.

        Args:
            name: whose token it is. A client that is not there is added.
            roles: the roles of a client that is to be added; see `add_principal`.
            rules: its rules.
            ttl: the seconds after which it ends; None for never.
            timeout: how many seconds the command tries; None for the client's timeout.

        After an `OutcomeUnknownError` there may be a token that nobody knows: look with `access`, and revoke it.

        """
        command, text = token_command(name, roles, rules, ttl)
        self.apply(command, timeout)
        return text

    def rotate_token(
        self, token_id: str, *, ttl: float | None = None, overlap: float = 0.0, timeout: float | None = None
    ) -> str:
        """Put a new token in the place of another one, and return its text.

        Args:
            token_id: the public part of the token that is replaced.
            ttl: the seconds after which the new one ends; None for never, where the old one never does.
            overlap: for how many seconds the old one still counts; 0 revokes it at once.
            timeout: how many seconds each of the two calls tries; None for the client's timeout.

        """
        command, text = rotated_token(self.access(timeout=timeout), token_id, ttl, overlap)
        self.apply(command, timeout)
        return text

    def revoke_token(self, token_id: str, *, force: bool = False, timeout: float | None = None) -> bool:
        """Have every node refuse a token.

        Args:
            token_id: its public part.
            force: whether to do it although nobody with the role admin is left then.
            timeout: how many seconds the command tries; None for the client's timeout.

        Returns whether it was not revoked before.

        """
        return bool(self.apply(revoke_token_command(token_id, force), timeout))

    def forget_revoked(self, revoked: str, *, timeout: float | None = None) -> None:
        """Note no longer that a key or token was revoked, which makes room in the list.

        Args:
            revoked: the public key, or the id of the token. Be sure that no node's access file lists it any more,
                because it would be admitted again.
            timeout: how many seconds the command tries; None for the client's timeout.

        """
        self.apply(forget_command(revoked), timeout)
