"""Checks of files with secrets, and of secrets in files: who may read them, how old and how strong they are."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from math import log2
from pathlib import Path
from string import ascii_letters, ascii_lowercase, ascii_uppercase, digits, hexdigits
from typing import Final, NamedTuple

from forge_consensus.checks.finding import Finding, ok, problem, warning
from forge_consensus.config.file_reads import OTHERS, text_of_file
from forge_consensus.errors import InvalidConfigError
from forge_consensus.security.access import TOKEN_ID_CHARS, TOKEN_MARK

SECRETS: Final = "secrets"
KEY_AGE: Final = "key age"
DAY_SECONDS: Final = 86_400.0
KEY_DAYS: Final = 365
"""Keys and tokens that are older should be exchanged: the longer one is in use, the more copies of it there may be."""
TOKEN_BITS: Final = 256
"""So many random bits a token must have, as those have that the program makes."""
KINDS_OF_CHARACTERS: Final = (
    (10, frozenset(digits)),
    (16, frozenset(hexdigits) - frozenset(ascii_uppercase)),
    (16, frozenset(hexdigits) - frozenset(ascii_lowercase)),
    (64, frozenset(f"{ascii_letters}{digits}+/-_=")),
)
"""How many characters an alphabet has, and which may stand in a text of it."""
ANY_CHARACTERS: Final = 95
DISTINCT_FEW: Final = 10
"""A random text of 256 bits has more different characters than these; one with fewer was typed or repeated."""


class SecretFile(NamedTuple):
    """A file that holds a key or a token alone."""

    setting: str
    """What names it."""
    path: Path


def private_findings(files: Iterable[SecretFile]) -> list[Finding]:
    """Check that each file is there, and that its owner alone may read it."""
    found, good = [], 0
    for name, path in files:
        fault = unreadable(path)
        if fault:
            advice = "correct the path, or run this as the node's user"
            found.append(problem(SECRETS, f"{name}: {path} cannot be read: {fault}", advice))
            continue
        mode = path.stat().st_mode
        if mode & OTHERS:
            text = f"{name}: {path} has mode {stat.S_IMODE(mode):04o}, so others may read it, and it is refused"
            advice = f"chmod 600 {path}, and replace what it holds if others could have read it"
            found.append(problem(SECRETS, text, advice))
        else:
            good += 1
    if good:
        found.append(ok(SECRETS, f"{good} file{'s' * (good > 1)} with keys or tokens: only the owner may read them"))
    return found


def unreadable(path: Path) -> str:
    """Return why a file cannot be read by this user; "" if it can."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "it is no regular file"
    except OSError as error:
        return error.strerror or str(error)
    return "" if os.access(path, os.R_OK) else "this user may not"


def age_findings(files: Iterable[SecretFile], days_max: float, now: float) -> list[Finding]:
    """Check how old keys and tokens are, by the times of their files.

    Args:
        files: those that hold one each; what cannot be looked at is passed over, because another check tells.
        days_max: from how many days on one is old.
        now: seconds since 1970.

    """
    ages = {(name, path): (now - path.stat().st_mtime) / DAY_SECONDS for name, path in files if not unreadable(path)}
    found = [
        warning(
            KEY_AGE,
            f"{name}: {path} is {age:.0f} days old by the time of the file, and more than {days_max:g} are many "
            "(--key-days)",
            "exchange it: the longer it is in use, the more copies of it there may be; see docs/security.md",
        )
        for (name, path), age in ages.items()
        if age > days_max
    ]
    if ages and not found:
        oldest = max(0.0, *ages.values())
        return [ok(KEY_AGE, f"no key or token is older than {oldest:.0f} days by the times of their files")]
    return found


def writable_findings(files: Mapping[Path, str]) -> list[Finding]:
    """Check that nobody but the owner may write to files by which a node goes.

    Args:
        files: each with what whoever writes to it can do.

    """
    found = []
    for path, what in files.items():
        if unreadable(path):
            continue
        mode = path.stat().st_mode
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            text = f"{path} has mode {stat.S_IMODE(mode):04o}: whoever may write to it {what}"
            found.append(warning(SECRETS, text, f"chmod go-w {path}"))
    return found


def configuration_findings(files: Iterable[Path], secrets: Mapping[str, str]) -> list[Finding]:
    """Check whether secrets stand in files of a configuration as they are, and whether others may read those.

    Args:
        files: the files of the configuration.
        secrets: name of a setting -> its value, for those that must not be shown.

    """
    found = []
    for path in files:
        if unreadable(path):
            continue
        try:
            text = text_of_file(path)
        except InvalidConfigError:  # the check of the configuration tells
            continue
        names = sorted(name for name, value in secrets.items() if value and stands_in(value, text))
        for name in names:
            told = f"{name} stands in {path} as it is, so it goes wherever that file is copied"
            advice = f"put it into a file of mode 0600 and write {name.rpartition('.')[2]}: ${{file:/PATH}}"
            found.append(warning(SECRETS, told, f"{advice}, or name that file if there is such a setting"))
        mode = path.stat().st_mode
        if names and mode & OTHERS:
            told = f"{path} holds {' and '.join(names)} and has mode {stat.S_IMODE(mode):04o}, so others may read it"
            advice = f"chmod 600 {path}, and replace the secret if others could have read it"
            found.append(warning(SECRETS, told, advice))
    return found


def stands_in(value: str, text: str) -> bool:
    """Whether a value stands in the text of a configuration, where ``$${`` is written for ``${``."""
    return value in text or value.replace("${", "$${") in text


def included_findings(files: Iterable[Path]) -> list[Finding]:
    """Check that only their owner may read the files that a configuration names by ``${file:...}``."""
    found = []
    for path in files:
        if unreadable(path):
            continue
        mode = path.stat().st_mode
        if mode & OTHERS:
            text = f"{path} has mode {stat.S_IMODE(mode):04o}, and the configuration takes a value from it as a secret"
            found.append(warning(SECRETS, text, f"chmod 600 {path}, unless what it holds is none"))
    return found


# --- strength ---------------------------------------------------------------------------------------------------------


def strength_findings(tokens: Mapping[str, str]) -> list[Finding]:
    """Check whether tokens can be guessed; `tokens` are by the names of their settings."""
    check, found = "tokens", []
    for name, text in tokens.items():
        bits = bits_of(text)
        if bits < TOKEN_BITS:
            told = f"{name} has at most {bits:.0f} random bits, and {TOKEN_BITS} are needed so that nobody guesses it"
            advice = "make one with forge-consensus auth token create, or openssl rand -base64 32"
            found.append(warning(check, told, advice))
        else:
            found.append(ok(check, f"{name} is long enough for {TOKEN_BITS} random bits"))
    return found


def bits_of(text: str) -> float:
    """Return how many random bits a token can have at most, by its length and the kinds of its characters."""
    if text.startswith(TOKEN_MARK):  # then comes its id, which is no secret
        text = text[len(TOKEN_MARK) + TOKEN_ID_CHARS + 1 :]
    text = text.rstrip("=")
    different = len(set(text))
    size = next((size for size, kind in KINDS_OF_CHARACTERS if kind.issuperset(text)), ANY_CHARACTERS)
    return (different if different < DISTINCT_FEW else len(text)) * log2(size)
