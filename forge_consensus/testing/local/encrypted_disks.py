"""Encrypted disks for the processes of a local cluster."""

from __future__ import annotations

import secrets
from typing import Final

from forge_consensus.security.encryption import KEY_BYTES

SECURITY: Final = "FORGE_CONSENSUS_SECURITY__"


def encrypted_disks() -> dict[str, str]:
    """Return the environment by which the nodes of a `LocalCluster` encrypt their disks, all under one new key.

    The key lives as long as the cluster, in the memory of this user's processes only. It needs the extra ``crypto``.
    """
    return {f"{SECURITY}ENABLE_ENCRYPTION": "true", f"{SECURITY}ENCRYPTION_KEY": secrets.token_hex(KEY_BYTES)}
