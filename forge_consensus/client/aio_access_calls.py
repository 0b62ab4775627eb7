"""The calls that read and change the list of access in the log, as coroutines."""

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
from forge_consensus.client.machine_calls import AsyncMachineCalls


class AsyncAccessCalls(AsyncMachineCalls):
    """The list of access that is in the log, as coroutines; see `AccessCalls`."""

    async def access(self, consistency: str = "linearizable", timeout: float | None = None) -> AccessInfo:
        """Return the list, without what proves a token.

        Arguments, result and errors are those of `AccessCalls.access`.
        """
        return AccessInfo.of_answer(await self.read(QUERY, consistency, timeout))

    async def add_principal(
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

        Arguments, result and errors are those of `AccessCalls.add_principal`.
        """
        return bool(await self.apply(put_command(name, roles, rules, keys, force), timeout))

    async def remove_principal(self, name: str, *, force: bool = False, timeout: float | None = None) -> None:
        """Remove a member or a client, and revoke all of its keys and tokens.

        Arguments, result and errors are those of `AccessCalls.remove_principal`.
        """
        await self.apply(remove_command(name, force), timeout)

    async def add_key(self, name: str, key: str, *, timeout: float | None = None) -> bool:
        """Give somebody one more public key, while the one that is there still counts, so that they can be exchanged.

        Arguments, result and errors are those of `AccessCalls.add_key`.
        """
        return bool(await self.apply(add_key_command(name, key), timeout))

    async def revoke_key(self, key: str, *, force: bool = False, timeout: float | None = None) -> bool:
        """Have every node refuse a public key, also one that only a node's access file lists.

        Arguments, result and errors are those of `AccessCalls.revoke_key`.
        """
        return bool(await self.apply(revoke_key_command(key, force), timeout))

    async def create_token(
        self,
        name: str,
        *,
        roles: Iterable[str] = (),
        rules: Iterable[str] = (),
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> str:
        """Make a token and return its text, which is stored nowhere: the cluster keeps a digest only.

        Arguments, result and errors are those of `AccessCalls.create_token`.
        """
        command, text = token_command(name, roles, rules, ttl)
        await self.apply(command, timeout)
        return text

    async def rotate_token(
        self, token_id: str, *, ttl: float | None = None, overlap: float = 0.0, timeout: float | None = None
    ) -> str:
        """Put a new token in the place of another one, and return its text.

        Arguments, result and errors are those of `AccessCalls.rotate_token`.
        """
        command, text = rotated_token(await self.access(timeout=timeout), token_id, ttl, overlap)
        await self.apply(command, timeout)
        return text

    async def revoke_token(self, token_id: str, *, force: bool = False, timeout: float | None = None) -> bool:
        """Have every node refuse a token.

        Arguments, result and errors are those of `AccessCalls.revoke_token`.
        """
        return bool(await self.apply(revoke_token_command(token_id, force), timeout))

    async def forget_revoked(self, revoked: str, *, timeout: float | None = None) -> None:
        """Note no longer that a key or token was revoked, which makes room in the list.

        Arguments, result and errors are those of `AccessCalls.forget_revoked`.
        """
        await self.apply(forget_command(revoked), timeout)
