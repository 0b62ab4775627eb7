"""The guard: requests that are refused at once, because a web page of somebody else may have sent them.

Nothing here authenticates anybody. A browser on the operator's machine reaches a loopback address, and runs the scripts
of every page that is open; what such a script can send must not do anything here (CSRF), and a name that its author
controls must not lead here (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from forge_consensus.admin.problems import JSON_TYPE, ProblemError
from forge_consensus.config.address import is_loopback

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
LOOPBACK_NAMES: Final = ("localhost",)
FROM_ELSEWHERE: Final = (
    "the admin API answers this machine only, and nothing that a proxy passed on, because it asks nobody who they are, "
    "or not over TLS: ask it there, use both, or allow others in a network where you trust everybody (insecure=True)"
)
PROXY_HEADERS: Final = ("forwarded", "via", "x-forwarded-for", "x-real-ip")
"""What proxies add to requests of others."""
FORM_TYPES: Final = frozenset({"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})
"""What a form of any page can send without asking first (the CORS-safelisted types of the Fetch standard)."""


class Guard:
    """Refuses requests that a page of another origin made.

    Args:
        hosts: names by which this server may be addressed besides ``localhost``, this machine's own name, and any IP
            address, which nobody else can make a name of.
        only_local: whether requests from other machines are refused.

    """

    def __init__(self, hosts: Iterable[str] = (), *, only_local: bool = False) -> None:
        self.only_local = only_local
        self.names = frozenset(name.lower() for name in (*LOOPBACK_NAMES, socket.gethostname(), *hosts))

    def check(self, method: str, headers: Mapping[str, str], client: str = "", *, protected: bool = False) -> None:
        """Raise `ProblemError` for a request that may not be answered.

        Args:
            method: its method.
            headers: by name in lower case.
            client: the address that it came from, "" if that is not known.
            protected: whether it came over TLS and somebody is asked who they are, so that it may come from anywhere.

        """
        passed_on = any(name in headers for name in PROXY_HEADERS)
        if self.only_local and not protected and (passed_on or not is_loopback(client)):
            raise ProblemError(403, "not from this machine", FROM_ELSEWHERE, "NOT_LOCAL")
        by_browser = any(name == "origin" or name.startswith("sec-fetch-") for name in headers)
        if "host" in headers or by_browser:  # HTTP/1.0 has none, as in the questions of load balancers
            self.check_host(headers.get("host", ""))
        self.check_origin(method, headers)

    def check_host(self, host: str) -> None:
        """Raise `ProblemError` for a host by which this server may not be addressed."""
        name = name_of(host)
        if name in self.names or name.endswith(".localhost") or is_address(name):
            return
        raise ProblemError(
            421,
            "misdirected request",
            f"the host {host[:80]!r} is none of this server's: use its IP address or localhost, or allow the name with "
            "admin_api.hosts (it is refused because a foreign name may have been made to lead here)",
            "MISDIRECTED",
        )

    def check_origin(self, method: str, headers: Mapping[str, str]) -> None:
        """Raise `ProblemError` for a request that a page of another origin made."""
        origin = headers.get("origin")
        place = place_of(origin or "")
        if origin is not None and (not place or place != headers.get("host", "").lower()):
            raise cross_site(f"it comes from {origin[:80]!r}")
        site, mode = headers.get("sec-fetch-site", ""), headers.get("sec-fetch-mode", "")
        followed = method in SAFE_METHODS and mode == "navigate"  # a link on another page that somebody follows
        if site in {"cross-site", "same-site"} and not followed:
            raise cross_site("a page of another origin made it")

    @staticmethod
    def check_type(method: str, media_type: str, *, has_body: bool, only_json: bool) -> None:
        """Raise `ProblemError` for a body of a type that is not taken.

        Args:
            method: the method of the request.
            media_type: the type of its body, "" for none.
            has_body: whether there is any.
            only_json: whether it must be JSON.

        """
        if not has_body:
            return
        if only_json and media_type != JSON_TYPE:
            raise ProblemError(
                415,
                "unsupported media type",
                f"the body is {media_type or 'of no type'}: send JSON with Content-Type: {JSON_TYPE}",
                "UNSUPPORTED_MEDIA_TYPE",
            )
        if method == "POST" and media_type in FORM_TYPES:
            raise cross_site(f"{media_type} is what forms of foreign pages send")


def cross_site(why: str) -> ProblemError:
    """Return the problem of a request from elsewhere."""
    text = f"the request is refused: {why}, and this API answers only its own pages and programs without a browser"
    return ProblemError(403, "cross-site request", text, "CROSS_SITE")


def place_of(origin: str) -> str:
    """Return the host and the port of an origin, in lower case; "" for none, and for what is no origin."""
    with suppress(ValueError):  # brackets that hold no address
        return urlsplit(origin).netloc.lower()
    return ""


def name_of(host: str) -> str:
    """Return the name or the address in a Host header, without port and brackets, in lower case; "" for none."""
    with suppress(ValueError):
        return (urlsplit(f"//{host}").hostname or "").lower()
    return ""


def is_address(name: str) -> bool:
    """Whether a name is an IP address."""
    with suppress(ValueError):
        ipaddress.ip_address(name.partition("%")[0])
        return True
    return False
