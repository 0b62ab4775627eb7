"""Pages: the dashboard and its files, the API's own documents, and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.resources import files
from typing import Any, Final

from starlette.responses import RedirectResponse, Response

from forge_consensus.admin.operation import OBJECT, Argument, Call, Operation, answer
from forge_consensus.admin.problems import ProblemError
from forge_consensus.version import __version__

TAG: Final = "pages"
STATIC: Final = "static"
TYPES: Final = {
    "html": "text/html",
    "js": "text/javascript",
    "css": "text/css",
    "svg": "image/svg+xml",
}
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing from another host, nothing inline: what a page of this server may load (CSP level 3)."""
PAGE_HEADERS: Final = {"Content-Security-Policy": POLICY, "X-Frame-Options": "DENY", "Cache-Control": "no-cache"}
PROMETHEUS: Final = ("text/plain", "application/openmetrics-text", "application/vnd.google.protobuf")
"""What Prometheus asks for by its Accept header."""
LATEST: Final = "text/plain; version=0.0.4; charset=utf-8"
ORIGINAL_METRICS: Final = {
    "current_term": "term",
    "commit_index": "commit_index",
    "last_applied": "last_applied",
    "log_size": "log_entries",
    "current_role": "role",
    "elections": "elections_total",
    "snapshots": "snapshots_total",
    "has_quorum": "has_quorum",
    "operations_total": "operations_total",
    "operations_failed": "operations_failed",
}
"""Name in the Go original's metrics -> name in a node's status."""


def static_file(name: str) -> Response:
    """Return a file of the dashboard. Raises `ProblemError` if there is none of that name."""
    place = files("forge_consensus.admin").joinpath(STATIC, name)
    kind = TYPES.get(name.rpartition(".")[2])
    if kind is None or "/" in name or "\\" in name or not place.is_file():
        raise ProblemError(404, "not found", f"there is no file {name[:80]!r} of the dashboard", "NOT_FOUND")
    return Response(place.read_bytes(), headers=dict(PAGE_HEADERS), media_type=kind)


async def dashboard(call: Call) -> Response:
    """Return the page of the dashboard."""
    return static_file("index.html")


async def dashboard_file(call: Call) -> Response:
    """Return a file that the page needs."""
    return static_file(call["name"])


async def reading_page(call: Call) -> Response:
    """Return the page on which the API's document can be read."""
    return static_file("docs.html")


async def into_folder(call: Call) -> Response:
    """Send a browser to the same address with a slash, from which the page's relative addresses count."""
    return RedirectResponse(f"{call.api.prefix}/", 308)


async def show_document(call: Call) -> Response:
    """Return the OpenAPI document."""
    return answer(call.api.document)


async def show_index(call: Call) -> Response:
    """Return what the API has."""
    paths = sorted(f"{method.upper()} {path}" for path, found in call.api.document["paths"].items() for method in found)
    links = {"document": "openapi.json", "page": "docs", "dashboard": "./"}
    return answer({"program": "forge-consensus", "version": __version__, "links": links, "operations": paths})


async def prometheus(call: Call) -> Response:
    """Return the metrics in the text format of Prometheus. Raises `ProblemError` where nothing is counted."""
    metrics = call.subject.seat.metrics()
    if metrics is None:
        text = "no metrics are counted here: a service serves them where its `metrics` says"
        raise ProblemError(404, "no metrics", text, "NO_METRICS")
    from prometheus_client import generate_latest

    content = await asyncio.to_thread(lambda: generate_latest(metrics.registry))
    return Response(content, headers={"Content-Type": LATEST})


async def original_metrics(call: Call) -> Response:
    """Return the numbers that the Go original tells as JSON; to Prometheus its own format."""
    accepted = call.headers.get("accept", "")
    if any(kind in accepted for kind in PROMETHEUS):
        return await prometheus(call)
    status = await call.subject.status()
    found: dict[str, Any] = {name: getattr(status, own) for name, own in ORIGINAL_METRICS.items()}
    found |= {
        "cluster_size": len(status.nodes),
        "healthy_nodes": sum(row.status == "active" for row in status.nodes),
        "is_leader": status.role == "leader",
    }
    return answer(found)


def page(
    path: str, summary: str, handler: Callable[[Call], Any], kind: str, missing: str = "", **rest: Any
) -> Operation:
    """Return an operation that answers with a page, or says that it is missing; it needs no node."""
    answers: dict[int, tuple[str, None]] = {200: ("The page.", None)}
    if missing:
        answers[404] = (missing, None)
    return Operation("GET", path, TAG, summary, handler, answers=answers, media_type=kind, while_starting=True, **rest)


INTO_FOLDER: Final = page("~", "The dashboard.", into_folder, "text/html")
"""For an API with a prefix: the prefix without a slash."""
OPERATIONS: Final = (
    page("/", "The dashboard.", dashboard, "text/html"),
    page(
        "/ui/{name}",
        "A file of the dashboard.",
        dashboard_file,
        "text/css",
        missing="There is no such file.",
        arguments=(Argument("name", "The file's name.", where="path", minimum=1, maximum=64, example="style.css"),),
    ),
    page("/docs", "The page on which this document can be read.", reading_page, "text/html"),
    Operation(
        "GET",
        "/openapi.json",
        TAG,
        "This document.",
        show_document,
        answers={200: ("It.", OBJECT)},
        while_starting=True,
    ),
    Operation("GET", "/v1", TAG, "What there is.", show_index, answers={200: ("It.", OBJECT)}, while_starting=True),
    Operation(
        "GET",
        "=/metrics",
        "health",
        "The metrics in the text format of Prometheus.",
        prometheus,
        answers={200: ("The metrics.", None), 404: ("Nothing is counted.", None)},
        media_type="text/plain",
    ),
    Operation(
        "GET",
        "~/metrics",
        "as the Go original",
        "The numbers that the Go original tells; to Prometheus its own format.",
        original_metrics,
        answers={200: ("The numbers.", OBJECT)},
    ),
)
