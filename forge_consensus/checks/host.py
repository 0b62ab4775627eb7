"""Checks of the host and its interpreter, which need neither a folder nor a cluster."""

from __future__ import annotations

import resource
import sys
import sysconfig
from typing import Final

from forge_consensus.checks.finding import Finding, ok, problem, warning
from forge_consensus.config.raft import RaftSettings
from forge_consensus.service.node import DESCRIPTORS, DESCRIPTORS_EACH

DISTRIBUTION: Final = "/usr"
"""The interpreter of the system, which distributions optimize by means that its configuration does not tell."""
OPTIMIZES: Final = "--enable-optimizations"
SLOW_FLAGS: Final = frozenset({"-O0", "-Og", "-O1"})
PEERS_USUAL: Final = 4
"""How many peers a node is taken to have where nobody says."""
CLIENTS_FEW: Final = 100
"""A limit with room for fewer clients is told of."""


def host_findings(peers: int = PEERS_USUAL) -> list[Finding]:
    """Check the interpreter and the limits of this process, for a node with so many peers."""
    return [interpreter(), open_file_limit(peers, *resource.getrlimit(resource.RLIMIT_NOFILE))]


def interpreter() -> Finding:
    """Check which Python runs this, and how it was built."""
    name = f"{sys.implementation.name} {sys.version.split()[0]} at {sys.executable or 'an unknown place'}"
    slow = slow_build_here()
    advice = "take one of a distribution or of python.org, or build it with --enable-optimizations --with-lto"
    return warning("interpreter", f"{name}: {slow}", advice) if slow else ok("interpreter", name)


def slow_build_here() -> str:
    """Return why the interpreter of this process is slower than it could be; empty if nothing shows it."""
    return slow_build(
        str(sysconfig.get_config_var("CONFIG_ARGS") or ""),
        f"{sysconfig.get_config_var('PY_CFLAGS') or ''} {sysconfig.get_config_var('OPT') or ''}",
        sys.base_prefix,
        debug=hasattr(sys, "gettotalrefcount"),
    )


def slow_build(arguments: str, flags: str, prefix: str, *, debug: bool) -> str:
    """Return why an interpreter is slower than it could be; empty if nothing shows it.

    Args:
        arguments: what its build was configured with; empty if that is not known.
        flags: the flags of its compiler.
        prefix: where it is installed.
        debug: whether it is a build for debugging.

    """
    levels = [flag for flag in flags.split() if flag.startswith("-O")]
    if debug:
        return "it is a build for debugging, which takes several times as long for everything"
    if levels and levels[-1] in SLOW_FLAGS:
        return f"it was compiled with {levels[-1]}, so it takes several times as long for everything"
    if arguments and OPTIMIZES not in arguments and prefix != DISTRIBUTION:
        return (
            f"it was compiled without {OPTIMIZES}, so a node takes 1.2 to 1.5 times as long for everything that it "
            "computes"
        )
    return ""


def open_file_limit(peers: int, soft: int, hard: int) -> Finding:
    """Check whether a node with so many peers may open enough files, within the two limits of this process."""
    check, needed = "open files", DESCRIPTORS + DESCRIPTORS_EACH * peers
    if hard == resource.RLIM_INFINITY:
        hard = sys.maxsize
    if soft == resource.RLIM_INFINITY:
        soft = sys.maxsize
    advice = "allow more: ulimit -n, or LimitNOFILE of the service"
    who = f"a node with {peers} peer{'' if peers == 1 else 's'} takes {needed}"
    if hard < needed:
        return problem(check, f"a process may open {hard:,} files, and {who}", advice)
    room = min(hard - needed, RaftSettings().connections_max)
    if room < CLIENTS_FEW:
        return warning(check, f"a process may open {hard:,} files, so a node has room for {room} clients", advice)
    if soft < needed + CLIENTS_FEW:
        return warning(
            check,
            f"a node that a program embeds may open {soft:,} files, and takes {needed} and one for each client",
            "raise the soft limit there (ulimit -S -n); the command forge-consensus node does so by itself",
        )
    shown = "any number of" if hard == sys.maxsize else f"{hard:,}"
    return ok(check, f"a process may open {shown} files, and {who}")
