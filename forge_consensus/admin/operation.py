"""Operations: what the API can be asked, each described once. Requests are checked, and documented, by that."""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, Literal
from urllib.parse import parse_qsl

from starlette.responses import Response

from forge_consensus.admin.problems import JSON_TYPE, invalid
from forge_consensus.admin.shared import Shared
from forge_consensus.admin.subject import Subject
from forge_consensus.client.aio import AsyncClient
from forge_consensus.config.rows import parse
from forge_consensus.config.secret_text import NOT_TOLD, looks_like_secret
from forge_consensus.config.setting import Described, Setting
from forge_consensus.errors import InvalidConfigError, NotStartedError
from forge_consensus.output import json_text, load_json
from forge_consensus.security.permissions import ROUTES, Needed
from forge_consensus.storage.machines.kv_reach import Reaches
from forge_consensus.storage.machines.machine import DEPTH_MAX, nests_too_deep

Kind = Literal["text", "integer", "boolean", "seconds", "any", "object", "list"]
Where = Literal["path", "query", "body"]
Body = Literal["none", "object", "any", "value"]
"""What the body of a request is: nothing, a JSON object of described fields, any JSON, or a value of any media type."""
Schema = Mapping[str, Any]
"""A JSON schema."""

PARAMETERS_MAX: Final = 100
NESTED_MAX: Final = DEPTH_MAX + 2
"""How deep JSON bodies nest: the values of a command's payload, which is in an object that is a field of the body, nest
as deep as the state machine takes them. Whatever looks at a value by recursion would fail at some depth."""
NAME_CHARS_TOLD_MAX: Final = 80
SINCE: Final = "index"
WAIT: Final = "wait"
"""The arguments that say since when something must have changed, and for how long a request is kept until it has."""
NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
SECONDS_MIN: Final = 0.1
"""A shorter time would be over before a healthy node can answer."""
FLOAT_MAX: Final = sys.float_info.max
"""An integer of JSON may be larger; Python compares it with this one exactly, and cannot make a double of it."""
WHOLE: Final = re.compile(r"-?\d{1,19}")
SWITCHES: Final = {"true": True, "false": False, "1": True, "0": False, "": True}
"""A parameter without a value is on, as in ``/readyz?verbose``."""
SECONDS: Final = Setting("seconds", "float", 0.0, Described(what="A time.", why="It is waited for.", unit="s"))
TYPES: Final[dict[Kind, Schema]] = {
    "text": {"type": "string"},
    "integer": {"type": "integer"},
    "boolean": {"type": "boolean"},
    "seconds": {"type": "number"},
    "object": {"type": "object"},
    "list": {"type": "array"},
    "any": {},
}
BOUNDS: Final[dict[Kind, tuple[str, str]]] = {"text": ("minLength", "maxLength"), "list": ("minItems", "maxItems")}
OBJECT: Final[Schema] = {"type": "object"}


@dataclass(frozen=True, slots=True)
class Argument:
    """One thing that a request says: in its path, in its query, or as a field of its JSON body."""

    name: str
    what: str
    """What it means, as a sentence."""
    kind: Kind = "text"
    where: Where = "query"
    default: Any = None
    required: bool = False
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    """Both bounds are allowed values; those of a text or a list bound its length."""
    pattern: str = ""
    """A regular expression that a whole text must match, in the dialect of JSON schemas (ECMA 262)."""
    repeats: bool = False
    """Whether a query may give it several times; the values then have commas between them."""
    example: Any = None
    headers: tuple[str, ...] = ()
    """Headers of a request that say the same as a parameter of its query."""
    meanings: tuple[tuple[str, str], ...] = ()
    """Words with the values that they mean, where a value has several words; they are read in any case."""

    @property
    def told(self) -> str:
        """What it means, and how else it can be said."""
        return f"{self.what} Also as the header {' or '.join(self.headers)}." if self.headers else self.what

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of its values."""
        found: dict[str, Any] = dict(TYPES[self.kind])
        if self.choices:
            found["enum"] = list(self.choices)
        low, high = BOUNDS.get(self.kind, ("minimum", "maximum"))
        if self.minimum is not None:
            found[low] = self.minimum
        if self.maximum is not None:
            found[high] = self.maximum
        if self.pattern:
            found["pattern"] = f"^{self.pattern}$"
        if self.default is not None:
            found["default"] = self.default
        return found

    @property
    def takes_nothing(self) -> bool:
        """Whether a query may give it without a value, as in ``/readyz?verbose``, which switches it on."""
        return self.kind == "boolean" and self.where == "query"

    def of_text(self, text: str) -> Any:
        """Return the value that a text in a path or a query stands for. Raises `ProblemError`."""
        value: Any = dict(self.meanings).get(text.strip().lower(), text) if self.meanings else text
        if self.kind == "integer":
            value = int(text) if WHOLE.fullmatch(text) and text.isascii() else None
        elif self.kind == "boolean":
            value = SWITCHES.get(text.lower())
        elif self.kind == "seconds":
            try:
                value = parse(SECONDS, text) if text.isascii() else None
            except InvalidConfigError:
                value = None
        if value is None:
            raise self.wrong(text)
        return self.checked(value)

    def checked(self, value: Any) -> Any:
        """Return a value, if it is one that this argument can have. Raises `ProblemError`."""
        if self.kind == "integer" and isinstance(value, float) and value.is_integer():
            value = int(value)  # as JSON schemas have it
        fits: dict[Kind, bool] = {
            "text": isinstance(value, str),
            "integer": isinstance(value, int) and not isinstance(value, bool),
            "boolean": isinstance(value, bool),
            "seconds": isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= FLOAT_MAX,
            "object": isinstance(value, dict),
            "list": isinstance(value, list),
            "any": True,
        }
        if not fits[self.kind] or (self.choices and value not in self.choices):
            raise self.wrong(value)
        measured: Any = value
        size = len(measured) if self.kind in {"text", "list"} else measured
        if self.minimum is not None and size < self.minimum:
            raise self.wrong(value)
        if self.maximum is not None and size > self.maximum:
            raise self.wrong(value)
        if self.kind == "text" and not self.takes_text(str(value)):
            raise self.wrong(value)
        return value

    def takes_text(self, text: str) -> bool:
        """Whether a text can be encoded and matches the pattern."""
        return is_unicode(text) and (not self.pattern or re.fullmatch(self.pattern, text) is not None)

    def wrong(self, value: Any) -> Exception:
        """Return the problem for a value that cannot be."""
        nouns: dict[Kind, str] = {
            "text": "a text",
            "integer": "a whole number",
            "boolean": "true or false",
            "seconds": "a time such as 2.5 or 500ms",
            "object": "a JSON object",
            "list": "a list",
            "any": "JSON",
        }
        told = json_text(value) if self.pattern or not isinstance(value, str) else repr(value[:80])
        if isinstance(value, str) and looks_like_secret(value):  # such as a token in the place of its id
            told = NOT_TOLD
        if self.pattern:
            return invalid(f"{self.name} is {told[:100]}: {self.what[0].lower()}{self.what[1:]}")
        expected = f"one of {', '.join(map(repr, self.choices))}" if self.choices else nouns[self.kind]
        of = {"text": " characters", "seconds": " s", "list": " items"}.get(self.kind, "")
        bounds = [f"at least {number_text(self.minimum)}{of}"] if self.minimum is not None else []
        bounds += [f"at most {number_text(self.maximum)}{of}"] if self.maximum is not None else []
        return invalid(f"{self.name} is {told[:100]}: it must be {', '.join([expected, *bounds])}")


def number_text(number: float) -> str:
    """Return a number for people, without an exponent."""
    return str(int(number)) if float(number).is_integer() else str(number)


@dataclass(slots=True)
class Call:
    """One request, checked: what a handler works with."""

    api: Shared
    arguments: dict[str, Any]
    """By name; those that the request does not give have their defaults."""
    headers: Mapping[str, str]
    """By name in lower case."""
    body: Any = None
    """The value of the JSON body, or the bytes of a value of any media type."""
    media_type: str = ""
    """The media type of the body, without parameters."""
    seconds: float = 5.0
    """How long the handler may try."""

    @property
    def seconds_max(self) -> float:
        """After so long the handler has answered: it may try for `seconds`, after it has waited for a change."""
        return self.seconds + (0.0 if self.arguments.get(SINCE) is None else self.arguments[WAIT])

    def __getitem__(self, name: str) -> Any:
        """Return an argument."""
        return self.arguments[name]

    @property
    def subject(self) -> Subject:
        """The node that is asked. Raises `NotStartedError` before it is open."""
        if self.api.subject is None:
            raise NotStartedError
        return self.api.subject

    @property
    def client(self) -> AsyncClient:
        """A client that goes through the node. Raises `ConsensusError`."""
        return self.subject.client


Handler = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that the API does: a method at a path."""

    method: str
    path: str
    """Below the root of the API, such as ``/v1/members/{id}``."""
    tag: str
    """Under which heading it is documented."""
    summary: str
    handler: Handler
    arguments: tuple[Argument, ...] = ()
    answers: Mapping[int, tuple[str, Schema | None]] = field(default_factory=dict)
    """Status -> what it says, and the JSON schema of its body (None for a body that is no JSON)."""
    body: Body = "none"
    media_type: str = JSON_TYPE
    """Of the answers."""
    other_types: tuple[str, ...] = ()
    """Media types that an answer can have instead."""
    seconds: float = 5.0
    """How long the handler may try, where the request gives no `timeout`."""
    seconds_max: float = 60.0
    also_at: tuple[str, ...] = ()
    """Further paths. One with a tilde before it is below the prefix only, as those of the Go original; one with an
    equals sign is at the root only."""
    endless: bool = False
    """Whether its answer ends only with the client, so that no time limits it."""
    any_of: tuple[str, ...] = ()
    """Fields of the body of which at least one must be given."""
    by_options: bool = False
    """Whether OPTIONS is answered as GET is, as some load balancers ask."""
    while_starting: bool = False
    """Whether it is answered before the node is open."""
    keys: Callable[[Mapping[str, Any]], tuple[str, ...]] | None = None
    """Returns the keys, or beginnings of keys, that a request with these arguments is about, so that rules for keys
    may allow it; None if no rule can."""
    reach: Callable[[Call], Reaches | None] | None = None
    """Returns which keys of the built-in machine a request reads and writes that tells them in its body, so that rules
    for keys may allow it; its None stands for what is about the cluster itself, and so needs the permission `admin`."""

    @property
    def name(self) -> str:
        """Its name in programs that are made of the document, and in the table of permissions."""
        path = self.path.replace(":rest", "").strip("=").replace("~", "original").strip("/")
        parts = ("".join(filter(str.isalnum, part)) for part in path.replace("-", "/").split("/"))
        return "_".join(filter(None, (self.method.lower(), *parts)))

    @property
    def needed(self) -> Needed | None:
        """What it takes to be answered; None if nobody has decided that, and then nobody is."""
        return ROUTES.get(self.name)

    def fields(self, where: Where) -> tuple[Argument, ...]:
        """Return the arguments of one place."""
        return tuple(each for each in self.arguments if each.where == where)

    @property
    def allowed(self) -> tuple[Argument, ...]:
        """The arguments that a query may give."""
        limit = () if self.endless else (timeout_argument(self.seconds, self.seconds_max),)
        return (*self.fields("query"), *limit)


def timeout_argument(seconds: float, seconds_max: float) -> Argument:
    """Return the argument by which every request says how long it waits."""
    return Argument(
        "timeout", "How many seconds to try.", "seconds", default=seconds, minimum=SECONDS_MIN, maximum=seconds_max
    )


def query_of(operation: Operation, query: bytes, headers: Mapping[str, str] = NO_HEADERS) -> dict[str, Any]:
    """Return the arguments that a query gives, or the headers that say the same; `headers` by name in lower case.

    Raises `ProblemError` for an unknown one, for a wrong value, and for two places that contradict each other.
    """
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=PARAMETERS_MAX, errors="strict")
    except (ValueError, UnicodeDecodeError) as error:
        raise invalid(f"the query cannot be read: it must be percent-encoded UTF-8 ({error})") from None
    known = {each.name: each for each in operation.allowed}
    found: dict[str, Any] = {}
    for name, text in pairs:
        if name not in known:
            raise unknown("parameter", name, known)
        again = known[name].repeats and name in found
        found[name] = known[name].of_text(f"{found[name]},{text}" if again else text)
    for each in known.values():
        take_headers(each, headers, found)
    return with_defaults(found, operation.allowed)


def take_headers(argument: Argument, headers: Mapping[str, str], found: dict[str, Any]) -> None:
    """Add to what a query gives what the headers say of one argument. Raises `ProblemError`."""
    place = "the query"
    for header in argument.headers:
        text = headers.get(header.lower(), "").strip()
        if not text:
            continue
        value = replace(argument, name=header).of_text(text)
        if found.setdefault(argument.name, value) != value:
            raise invalid(
                f"{argument.name} is {json_text(found[argument.name])} in {place} and {json_text(value)} in the header "
                f"{header}: give one of them"
            )
        place = f"the header {header}" if place == "the query" else place


def fields_of(operation: Operation, body: Any) -> dict[str, Any]:
    """Return the arguments that a JSON body gives. Raises `ProblemError`."""
    if not isinstance(body, dict):
        raise invalid("the body is no JSON object: send one such as {} with Content-Type: application/json")
    known = {each.name: each for each in operation.fields("body")}
    for name in body:
        if name not in known:
            raise unknown("field", name, known)
    if operation.any_of and not set(operation.any_of) & body.keys():
        raise invalid(f"nothing is asked for: give {', '.join(operation.any_of[:-1])} or {operation.any_of[-1]}")
    return with_defaults({name: known[name].checked(value) for name, value in body.items()}, tuple(known.values()))


def with_defaults(given: dict[str, Any], arguments: tuple[Argument, ...]) -> dict[str, Any]:
    """Return what is given and the defaults of the rest. Raises `ProblemError` for a required one that is missing."""
    found = {}
    for each in arguments:
        if each.required and each.name not in given:
            raise invalid(f"{each.name} is missing: {each.what[0].lower()}{each.what[1:]}")
        found[each.name] = given.get(each.name, each.default)
    return found


def unknown(kind: str, name: str, known: Mapping[str, object]) -> Exception:
    """Return the problem of a name that is none, with what may have been meant."""
    told = name[:NAME_CHARS_TOLD_MAX]
    close = difflib.get_close_matches(told, known, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known) or 'none'}"
    return invalid(f"there is no {kind} {told!r} here: {hint}")


def json_of(data: bytes) -> Any:
    """Return the value of a JSON text. Raises `ProblemError`, also for one that nests deeper than `NESTED_MAX`."""
    try:
        value = load_json(data.decode())
    except ValueError as error:
        raise invalid(f"the body is not JSON in UTF-8: {error}") from None
    except RecursionError:
        raise too_deep() from None
    if data.count(b"[") + data.count(b"{") > NESTED_MAX and nests_too_deep([value], NESTED_MAX):
        raise too_deep()
    if not is_unicode(json.dumps(value, ensure_ascii=False)):
        raise invalid("the body has a text with half of a surrogate pair, which is no Unicode")
    return value


def too_deep() -> Exception:
    """Return the problem of a body whose lists and objects are in one another too often."""
    return invalid(f"the body nests lists and objects deeper than {NESTED_MAX}: send a flatter one")


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded: JSON can name half of a surrogate pair, which is no character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def answer(
    fields: Any, status: int = 200, headers: Mapping[str, str] | None = None, media_type: str = JSON_TYPE
) -> Response:
    """Return the answer with these fields as JSON; bytes become ``{"base64": ...}``."""
    return Response(json_text(fields), status, dict(headers or {}), media_type)
