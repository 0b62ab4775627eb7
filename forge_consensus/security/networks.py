"""Networks: for whom an address counts where strangers are counted by where they come from."""

from __future__ import annotations

import ipaddress
from typing import Final

NETWORK_BITS: Final = 64
"""Who has one address of IPv6 has a whole network of so many bits, so it counts as one."""
TEXT_CHARS_MAX: Final = 64


def network_of(address: str) -> str:
    """Return the network that an address stands for: itself, or the network of one of IPv6."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:TEXT_CHARS_MAX]
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((int(found) >> NETWORK_BITS << NETWORK_BITS, NETWORK_BITS)))
    return str(found)
