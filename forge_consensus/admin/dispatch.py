"""Dispatch: a request from its head to its answer. Every wait has a limit; a client that leaves frees what it held."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterable, Mapping, MutableMapping
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from starlette.convertors import Convertor, register_url_convertor
from starlette.responses import Response
from starlette.routing import Route, Router

from forge_consensus.actors.runtime.audit import Outcome
from forge_consensus.admin.auditing import UNKNOWN_ROUTE, asker_of, is_act, is_denial, record
from forge_consensus.admin.caller import Caller
from forge_consensus.admin.operation import Argument, Call, Operation, fields_of, json_of, query_of
from forge_consensus.admin.problems import ProblemError, invalid, problem_of
from forge_consensus.admin.shared import Shared
from forge_consensus.client.asked_by import ASKED_BY, AskedBy
from forge_consensus.errors import ConsensusError, OutcomeUnknownError
from forge_consensus.middleware.asgi import Receive, Scope, Sender
from forge_consensus.middleware.request import READS
from forge_consensus.middleware.verdict import PROBLEM_TYPE, contact_headers, standing_headers
from forge_consensus.process.log import LogLines
from forge_consensus.service.leadership import Standing

LINES = LogLines(__name__)

BODY_BYTES_MAX: Final = 2 << 20
"""A command has at most a mebibyte of values; its JSON may be longer."""
DISCARD_BYTES_MAX: Final = 16 << 20
"""A larger body than that is not even read to its end, and its client may find its connection reset."""
SIZE_DIGITS_MAX: Final = 19
"""Of a longer Content-Length only the beginning is read, because Python reads no integer of many thousand digits."""
BODY_SECONDS_MAX: Final = 10.0
"""Whoever takes longer to send a body is answered with 408."""
SLACK_SECONDS: Final = 2.0
"""So much later than its own limit a handler that hangs is ended."""
REQUEST_ID_CHARS_MAX: Final = 128
TAKEN_AT_ROOT: Final = ("/leader", "/metrics")
"""What a load balancer and Prometheus ask for at the root is something else in the Go original."""
ADMITTED_SECONDS: Final = 0.25
"""So often it is looked whether somebody may still have an answer that takes long, such as a stream."""
PATIENCE_SECONDS: Final = 0.05
"""Only a request that takes longer is watched for a client that leaves, because watching costs as much as answering."""
SECURITY_HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class RestOfPath(Convertor[str]):
    """The rest of a path, line ends included, which Starlette's own convertor takes for the end."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        """Return the text as it is."""
        return value

    def to_string(self, value: str) -> str:
        """Return the text as it is."""
        return value


register_url_convertor("rest", RestOfPath())


class Endpoint:
    """One path with the operations that it has, by method."""

    def __init__(self, api: Shared, operations: Mapping[str, Operation]) -> None:
        self.api = api
        self.operations = operations

    async def __call__(self, scope: Scope, receive: Receive, send: Sender) -> None:
        """Answer one request."""
        exchange = Exchange(self.api, scope, receive)
        try:
            response = await exchange.answered(self.operations)
            if response is not None:
                await exchange.send(response, send)
        finally:
            if exchange.gone is not None:
                exchange.gone.cancel()


class Exchange:
    """One request and its answer."""

    def __init__(self, api: Shared, scope: Scope, receive: Receive) -> None:
        self.api = api
        self.scope = scope
        self.receive_next = receive
        self.method: str = scope["method"]
        self.headers = {name.decode("latin-1"): text.decode("latin-1") for name, text in scope["headers"]}
        told = self.headers.get("x-request-id", "")
        fits = 0 < len(told) <= REQUEST_ID_CHARS_MAX and told.isascii() and told.isprintable()
        self.request_id = told if fits else f"{random.getrandbits(64):016x}"
        self.gone: asyncio.Task[None] | None = None
        self.caller: Caller | None = None
        """Who asks, where somebody is asked who they are."""
        self.operation = UNKNOWN_ROUTE
        """The name of what is asked for."""
        self.acts = False
        """Whether the API records what comes of it."""

    @property
    def address(self) -> str:
        """Where the request came from, "" if that is not known."""
        return str((self.scope.get("client") or ("",))[0])

    async def send(self, response: Response, send: Sender) -> None:
        """Send the answer, and break it off when whoever asked for it is not allowed to get it any more."""
        if self.caller is None:
            await response(self.scope, self.receive, send)
            return
        work = asyncio.ensure_future(response(self.scope, self.receive, send))
        try:
            await asyncio.wait({work}, timeout=PATIENCE_SECONDS)
            while not work.done() and self.caller.may_still:
                await asyncio.wait({work}, timeout=ADMITTED_SECONDS)
            if work.done():
                work.result()
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def receive(self) -> MutableMapping[str, Any]:
        """Return what the client does next: it leaves, because its body was read."""
        await asyncio.wait({self.watched()})
        return {"type": "http.disconnect"}

    async def answered(self, operations: Mapping[str, Operation]) -> Response | None:
        """Return the answer; None if the client left."""
        standing: Standing | None = None
        try:
            standing = await self.api.standing()
            response = await self.handled(operations)
            self.note_end("done")
        except ProblemError as problem:
            self.note_problem(problem)
            response = self.told(problem, self.of_friends(standing))
        except ConsensusError as error:
            self.note_end("failed", error.code)
            response = self.told(problem_of(error), self.of_friends(standing))
        except Exception as error:
            LINES.error("{} {} failed", self.method, self.scope["path"], error=error)
            self.note_end("failed", "INTERNAL")
            text = f"the request failed by a fault of this program ({type(error).__name__}): see the node's log"
            response = self.told(ProblemError(500, "internal error", text, "INTERNAL"), self.of_friends(standing))
        if response is not None:
            self.add_headers(response, self.of_friends(standing))
        return response

    @property
    def asker(self) -> AskedBy:
        """Who asks, as the audit has it."""
        return asker_of(self.caller, self.address, asks_all=self.api.admission is not None)

    def note_problem(self, problem: ProblemError) -> None:
        """Have a denial recorded, or that an act failed."""
        if is_denial(problem):
            needed = self.caller.asked[-1][0] if self.caller is not None and self.caller.asked else problem.title
            self.api.audit(record(self.asker, self.operation, "denied", problem.code, needed))
        else:
            self.note_end("failed", problem.code)

    def note_end(self, outcome: Outcome, code: str = "") -> None:
        """Have it recorded what came of an act, if it is one that no node records."""
        if self.acts:
            self.acts = False
            self.api.audit(record(self.asker, self.operation, outcome, code))

    def of_friends(self, standing: Standing | None) -> Standing | None:
        """Return who leads for those who may know it, None for strangers."""
        return standing if self.api.admission is None or self.caller is not None else None

    def told(self, problem: ProblemError, standing: Standing | None) -> Response:
        """Return the answer that tells of a problem."""
        body = problem.body(standing, self.request_id)
        return Response(body, problem.status, problem.headers, PROBLEM_TYPE)

    def add_headers(self, response: Response, standing: Standing | None) -> None:
        """Add what every answer has: who answers, who leads, and what a browser may do with it."""
        had = {name for name, _ in response.raw_headers}
        found = [*SECURITY_HEADERS, (b"x-request-id", self.request_id.encode())]
        if standing is not None:
            found += raw_standing_headers(standing)
            found += [(name.lower().encode(), text.encode()) for name, text in contact_headers(standing)]
        response.raw_headers += [pair for pair in found if pair[0] not in had]

    async def handled(self, operations: Mapping[str, Operation]) -> Response | None:
        """Check the request and have it carried out. Raises `ProblemError` and `ConsensusError`."""
        admission = self.api.admission
        protected = admission is not None and self.scope.get("scheme") == "https"
        self.api.guard.check(self.method, self.headers, self.address, protected=protected)
        if not operations:
            text = f"there is no {self.scope['path'][:200]!r} here: GET /v1 lists what there is, and /docs explains it"
            raise ProblemError(404, "not found", text, "NOT_FOUND")
        operation = operations.get("GET" if self.method in {"HEAD", "OPTIONS"} else self.method)
        if operation is None or (self.method == "OPTIONS" and not operation.by_options):
            return self.of_other_method(operations)
        self.operation = operation.name
        if admission is not None:
            self.caller = Caller.of(admission, operation, self.headers, self.scope.get("state") or {}, self.address)
        if self.api.subject is None and not operation.while_starting:
            text = "the node is starting: try again in a moment"
            raise ProblemError(503, "starting", text, "STARTING", retryable=True, headers={"Retry-After": "1"})
        arguments = {**self.of_path(operation), **self.of_query(operation)}
        if self.caller is not None:
            self.caller.check(operation, arguments, of_keys=self.api.keeps_keys)
        body, media_type = await self.body_of(operation)
        seconds = arguments.pop("timeout", operation.seconds)
        if operation.body == "object":
            arguments |= fields_of(operation, body)
        call = Call(self.api, arguments, self.headers, body, media_type, seconds)
        if self.caller is not None:
            self.caller.check_call(operation, call)
        if operation.endless and self.method == "HEAD":
            return Response(media_type=operation.media_type)
        self.acts = is_act(operation, arguments)
        token = ASKED_BY.set(self.asker)
        try:
            return await self.carried_out(operation, call)
        finally:
            ASKED_BY.reset(token)

    def of_other_method(self, operations: Mapping[str, Operation]) -> Response:
        """Return the answer to OPTIONS. Raises `ProblemError` for a method that the path does not have."""
        allowed = sorted({*operations, "OPTIONS", *({"HEAD"} if "GET" in operations else ())})
        headers = {"Allow": ", ".join(allowed)}
        if self.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
        text = f"{self.method} is not possible here: there are {', '.join(allowed)}"
        raise ProblemError(405, "method not allowed", text, headers=headers)

    def of_query(self, operation: Operation) -> dict[str, Any]:
        """Return the arguments in the query, and in the headers that say the same. Raises `ProblemError`."""
        return query_of(operation, self.scope.get("query_string", b""), self.headers)

    def of_path(self, operation: Operation) -> dict[str, Any]:
        """Return the arguments in the path. Raises `ProblemError`, also for one that is not UTF-8."""
        raw = self.scope.get("raw_path") or self.scope["path"].encode()
        try:
            unquote_to_bytes(raw.partition(b"?")[0]).decode()
        except UnicodeDecodeError:
            raise invalid("the path is not percent-encoded UTF-8") from None
        found = self.scope.get("path_params", {})
        described: dict[str, Argument] = {each.name: each for each in operation.fields("path")}
        return {name: each.of_text(found[name]) for name, each in described.items()}

    # --- the body ----------------------------------------------------------------------------------------------------

    async def body_of(self, operation: Operation) -> tuple[Any, str]:
        """Return the value of the body, or its bytes, and its media type. Raises `ProblemError`."""
        media_type = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            async with asyncio.timeout(BODY_SECONDS_MAX):
                data = await self.read_body()
        except TimeoutError:
            text = f"the body did not arrive within {BODY_SECONDS_MAX:g} s: send it faster"
            raise ProblemError(408, "request timeout", text, "REQUEST_TIMEOUT", retryable=True) from None
        only_json = operation.body in {"object", "any"}
        self.api.guard.check_type(self.method, media_type, has_body=bool(data), only_json=only_json)
        if operation.body == "none":
            if data and self.method not in READS and data.strip() != b"{}":
                raise invalid("this request takes no body: send none, or {}")
            return None, media_type
        if operation.body == "value":
            return data, media_type
        if not data and operation.body == "object" and not any(each.required for each in operation.fields("body")):
            return {}, media_type
        return json_of(data), media_type

    async def read_body(self) -> bytes:
        """Return the bytes of the body. Raises `ProblemError` for too many."""
        told = self.headers.get("content-length", "0")
        size = int(told[:SIZE_DIGITS_MAX]) if told.isascii() and told.isdigit() else 0
        parts: list[bytes] = []
        length, more = 0, True
        while more and max(size, length) <= DISCARD_BYTES_MAX:
            message = await self.receive_next()
            if message["type"] == "http.disconnect":
                raise invalid("the client left before its request was complete")
            part: bytes = message.get("body", b"")
            length += len(part)
            if max(size, length) <= BODY_BYTES_MAX:
                parts.append(part)
            more = message.get("more_body", False)
        if max(size, length) > BODY_BYTES_MAX:
            text = f"the body has more than {BODY_BYTES_MAX:,} bytes: send less in one request"
            raise ProblemError(413, "too large", text, "TOO_LARGE", headers={"Connection": "close"})
        return b"".join(parts)

    # --- carrying it out ---------------------------------------------------------------------------------------------

    async def carried_out(self, operation: Operation, call: Call) -> Response | None:
        """Return the handler's answer; None if the client left meanwhile. Raises what the handler raises."""
        work = asyncio.ensure_future(operation.handler(call))
        limit = None if operation.endless else call.seconds_max + SLACK_SECONDS
        try:
            await asyncio.wait({work}, timeout=PATIENCE_SECONDS)
            if not work.done():
                await asyncio.wait({work, self.watched()}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
                if self.caller is not None and self.method in READS:  # what became of a change is told anyway
                    self.caller.check_again()
            if work.done():
                return work.result()
            if self.watched().done():
                return None
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        text = f"there was no answer within {call.seconds_max:g} s: "
        if self.method in READS:
            raise ProblemError(503, "timed out", text + "try again", "CONSENSUS_TIMEOUT", retryable=True)
        raise problem_of(OutcomeUnknownError(text + "it may have been carried out; look before you repeat it"))

    def watched(self) -> asyncio.Task[None]:
        """Return the task that ends when the client leaves."""
        if self.gone is None:
            self.gone = asyncio.ensure_future(self.leaves())
        return self.gone

    async def leaves(self) -> None:
        """Wait until the client has left."""
        while (await self.receive_next())["type"] != "http.disconnect":
            pass


@lru_cache(maxsize=64)
def raw_standing_headers(standing: Standing) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers that tell who answers and who leads, as ASGI has them."""
    return tuple((name.lower().encode(), text.encode("latin-1")) for name, text in standing_headers(standing))


class WholeRoute(Route):
    """A route for whole paths; Starlette's own one also takes the path with a line end behind it."""

    def __init__(self, path: str, endpoint: Endpoint) -> None:
        super().__init__(path, endpoint)
        self.path_regex = re.compile(self.path_regex.pattern.removesuffix("$") + r"\Z", self.path_regex.flags)


class Unknown:
    """Answers requests for paths that the API does not have."""

    def __init__(self, api: Shared) -> None:
        self.endpoint = Endpoint(api, {})

    async def __call__(self, scope: Scope, receive: Receive, send: Sender) -> None:
        """Answer with 404, or as the guard says."""
        if scope["type"] == "http":
            await self.endpoint(scope, receive, send)


class Routes(Router):
    """The paths of the API; one without arguments is found at once."""

    def __init__(self, endpoints: Mapping[str, Endpoint], unknown: Unknown) -> None:
        super().__init__(
            [WholeRoute(path, each) for path, each in endpoints.items()], redirect_slashes=False, default=unknown
        )
        self.exact = {path: each for path, each in endpoints.items() if "{" not in path}

    async def __call__(self, scope: Scope, receive: Receive, send: Sender) -> None:
        """Answer one request."""
        endpoint = self.exact.get(scope["path"]) if scope["type"] == "http" and not scope.get("root_path") else None
        if endpoint is not None:
            await endpoint(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def router_of(api: Shared, operations: Iterable[Operation], prefix: str) -> Routes:
    """Return the routes of these operations: at their own paths, and below the prefix if there is one."""
    tables: dict[str, dict[str, Operation]] = {}
    for operation in operations:
        for path in places_of(operation, prefix, mounted=api.mounted):
            tables.setdefault(path, {})[operation.method] = operation
    return Routes({path: Endpoint(api, table) for path, table in tables.items()}, Unknown(api))


def places_of(operation: Operation, prefix: str, *, mounted: bool) -> list[str]:
    """Return the paths of an operation; see `Operation.also_at`.

    In an application, whose own prefix is before it, it is as below a prefix. A server without a prefix has the root
    only.
    """
    found: list[str] = []
    for path in (operation.path, *operation.also_at):
        mark, rest = path[0], path.lstrip("~=")
        at_root = bool(prefix) or not mounted
        if mark != "~" and at_root:
            found.append(rest)
        if mark != "=" and (prefix or mounted):
            found.append(f"{prefix}{rest}")
        elif mark == "~" and rest not in TAKEN_AT_ROOT:
            found.append(rest)
    return found
