"""Names: resolves the host of an address on a thread of its own, so that a silent name server harms nobody else.

ZeroMQ would resolve a name on its only I/O thread, where one question that nobody answers stops every connection of the
process, and it would try the first address alone. Therefore it is only given numbers.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from itertools import chain, zip_longest
from math import inf
from typing import Any, Final

from forge_consensus.actors.transport.endpoint import is_number, url_of
from forge_consensus.config.address import IPC
from forge_consensus.errors import TransportUnavailableError
from forge_consensus.process.green import original_getaddrinfo
from forge_consensus.process.threads import ForgeThread

LOOK_AGAIN_SECONDS: Final = 1.0
"""The shortest time between two questions for one name."""
SILENT_SECONDS: Final = 2.0
"""A name server that has not answered for so long is told of; its answer still counts when it comes."""
LOOK_SECONDS_FIRST: Final = 0.002
LOOK_SECONDS: Final = 0.05
"""How often to look whether an answer has come; a question answered from this machine's own files takes 1 ms."""

Ask = Callable[..., Any]


def urls_of(host: str, port: str, ask: Ask) -> list[str]:
    """Ask for the addresses of a host, as URLs with numbers: both families in turn, the preferred one first.

    Raises OSError if the name does not resolve, and UnicodeError for what cannot be a name.
    """
    found: dict[Any, list[str]] = {}
    for family, _, _, _, place in ask(host, int(port), type=socket.SOCK_STREAM):
        number = f"[{place[0]}]" if family == socket.AF_INET6 else place[0]
        if family in (socket.AF_INET, socket.AF_INET6):
            found.setdefault(family, []).append(f"tcp://{number}:{port}")
    turns = chain.from_iterable(zip_longest(*found.values()))
    return list(dict.fromkeys(url for url in turns if url is not None))


class Question:
    """One question to the resolver, asked on a thread of its own; `urls` is None until it is answered."""

    def __init__(self, host: str, port: str, ask: Ask) -> None:
        self.urls: list[str] | None = None
        self.error = ""
        self.began = time.monotonic()

        def work() -> None:
            try:
                urls = urls_of(host, port, ask)
                self.error = "" if urls else "it has no address"
            except (OSError, UnicodeError) as error:
                urls, self.error = [], getattr(error, "strerror", None) or str(error)
            self.urls = urls

        try:
            ForgeThread(target=work, name="forge-names").start()
        except TransportUnavailableError as error:  # no more threads: ask again later
            self.urls, self.error = [], str(error)


class Name:
    """The host of one address and the URLs that it stands for; a number or a path stands for itself.

    Nothing here waits. At most one question is under way, however long it takes, and the URLs known before stay in use.
    """

    def __init__(self, address: str, ask: Ask | None = None) -> None:
        self.ask: Ask = ask or original_getaddrinfo()
        self.host, _, self.port = address.rpartition(":")
        self.fixed = address.startswith(IPC) or is_number(self.host)
        self.urls: list[str] = [url_of(address)] if self.fixed else []
        self.question: Question | None = None
        self.asked_at = -inf
        self.problem = ""
        """Why the name does not resolve, for people; "" while it does."""

    def look_up(self, now: float) -> None:
        """Ask for the addresses (again), unless a question is under way or the last one was just asked."""
        if not self.fixed and self.question is None and now - self.asked_at >= LOOK_AGAIN_SECONDS:
            self.asked_at = now
            self.question = Question(self.host, self.port, self.ask)

    def settle(self, now: float) -> bool:
        """Take the answer if it has come; returns whether it changed the URLs."""
        question = self.question
        if question is None:
            return False
        if question.urls is None:
            if now - self.asked_at > SILENT_SECONDS:
                self.problem = f"the name {self.host} does not resolve: the name server does not answer"
            return False
        self.question = None
        if question.error:
            self.problem = f"the name {self.host} does not resolve: {question.error}"
            return False
        self.problem = ""
        changed = question.urls != self.urls
        self.urls = question.urls
        return changed

    def wake_at(self, now: float) -> float:
        """When to call `settle` again; infinity while no question is under way."""
        if self.question is None:
            return inf
        return now + (LOOK_SECONDS_FIRST if now - self.asked_at < LOOK_SECONDS else LOOK_SECONDS)
