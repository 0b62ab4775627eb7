"""``forge-consensus kv``: keys and values of the built-in machine from the shell."""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

import click
import msgpack

from forge_consensus.cli.main import Commands
from forge_consensus.cli.options import client_options, consistency_option
from forge_consensus.client.sync import SCAN_LIMIT, Client
from forge_consensus.output import cell, json_text, table

BY = click.IntRange(-(1 << 63), (1 << 63) - 1)
KINDS = ("text", "bytes", "json")


class Key(click.ParamType[str]):
    """A key; the state machine checks its length."""

    name = "key"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the key, if it is valid Unicode."""
        try:
            return str(value).encode().decode()
        except UnicodeEncodeError:
            self.fail("a key is UTF-8 text", param, ctx)


@click.group(cls=Commands)
def kv() -> None:
    """Read and change keys of the built-in machine.

    Values are text unless --as says otherwise. Results go to stdout, hints to stderr.
    """


def value_of(text: str, kind: str) -> Any:
    """Return the value that an argument stands for; ``-`` stands for all of stdin."""
    data = sys.stdin.buffer.read() if text == "-" else text.encode(errors="surrogateescape")
    if kind == "bytes":
        return data
    try:
        decoded = data.decode()
    except UnicodeDecodeError:
        raise click.UsageError("the value is not UTF-8 text: give --as bytes") from None
    if kind == "text":
        return decoded
    try:
        value = json.loads(decoded, parse_constant=refuse_constant)
        msgpack.packb(value)
    except (ValueError, OverflowError, RecursionError) as error:
        raise click.UsageError(f"the value is not JSON that can be stored: {error}") from None
    if value is None:
        raise click.UsageError("a key never holds null: delete it instead, or expect it --absent")
    return value


def refuse_constant(name: str) -> None:
    """Refuse NaN and the infinities, which JSON does not have."""
    raise ValueError(f"{name} is not JSON")


def described(value: Any) -> dict[str, Any]:
    """Return a value and its kind for JSON; bytes become base64."""
    if value is None:
        return {"value": None, "kind": None}
    if isinstance(value, bytes):
        return {"value": base64.b64encode(value).decode(), "kind": "bytes"}
    return {"value": value, "kind": "text" if isinstance(value, str) else "json"}


def write_value(value: Any, *, end: bytes = b"\n") -> None:
    """Write a value to stdout: text and bytes as they are, anything else as JSON."""
    if not isinstance(value, bytes):
        value = (value if isinstance(value, str) else json_text(value)).encode()
    click.echo(value + end, nl=False)


def say(output: str, text: str, fields: dict[str, Any]) -> None:
    """Write a result for people or as JSON, as the option -o says."""
    click.echo(json_text(fields) if output == "json" else text)


def hint(text: str) -> None:
    """Write to stderr, where people read it and programs do not."""
    click.echo(text, err=True)


kind_option = click.option(
    "--as", "kind", type=click.Choice(KINDS), default="text", show_default=True, help="What the value is."
)


@kv.command()
@click.argument("key", type=Key())
@click.argument("value")
@kind_option
@client_options
def put(key: str, value: str, kind: str, endpoints: list[str], timeout: float, output: str) -> None:
    """Set KEY to VALUE; a VALUE of - is read from stdin."""
    content = value_of(value, kind)
    with Client(endpoints, timeout) as client:
        client.put(key, content)
    say(output, "ok", {"key": key, "ok": True})


@kv.command()
@click.argument("key", type=Key())
@click.option("--raw", is_flag=True, help="Write the value alone, without a line's end.")
@consistency_option
@client_options
@click.pass_context
def get(
    ctx: click.Context,
    key: str,
    raw: bool,
    consistency: str,
    endpoints: list[str],
    timeout: float,
    output: str,
) -> None:
    """Write the value of KEY; exit code 1 if it has none."""
    with Client(endpoints, timeout) as client:
        found = client.read_detail(key, consistency)
    if output == "json":
        row = {"key": key, "found": found.value is not None, **described(found.value)}
        click.echo(json_text({**row, "applied_index": found.applied, "stale_ms": found.stale_ms}))
    elif found.value is not None:
        write_value(found.value, end=b"" if raw else b"\n")
    if found.value is None:
        hint(f"{key!r} has no value")
        ctx.exit(1)


@kv.command()
@click.argument("key", type=Key())
@client_options
@click.pass_context
def delete(ctx: click.Context, key: str, endpoints: list[str], timeout: float, output: str) -> None:
    """Remove KEY; exit code 1 if it was not there."""
    with Client(endpoints, timeout) as client:
        deleted = client.delete(key)
    if output == "json" or deleted:
        say(output, "deleted", {"key": key, "deleted": deleted})
    if not deleted:
        hint(f"{key!r} was not there")
        ctx.exit(1)


@kv.command()
@click.argument("key", type=Key())
@click.option("--expected", help="The value that KEY must have.")
@click.option("--absent", is_flag=True, help="KEY must have no value.")
@click.option("--value", required=True, help="The value that it gets; - reads stdin.")
@kind_option
@client_options
@click.pass_context
def cas(
    ctx: click.Context,
    key: str,
    expected: str | None,
    absent: bool,
    value: str,
    kind: str,
    endpoints: list[str],
    timeout: float,
    output: str,
) -> None:
    """Set KEY to --value if it holds --expected; exit code 1 if it does not.

    Both are of the kind that --as says, and the kinds must match too: the text 1 is not the number 1.
    """
    if absent == (expected is not None):
        raise click.UsageError("say what KEY must hold: --expected VALUE or --absent, and not both")
    if expected == "-":
        raise click.UsageError("only --value can be read from stdin")
    wanted = None if expected is None else value_of(expected, kind)
    content = value_of(value, kind)
    with Client(endpoints, timeout) as client:
        swapped = client.cas(key, expected=wanted, value=content)
    if output == "json" or swapped:
        say(output, "swapped", {"key": key, "swapped": swapped})
    if not swapped:
        hint(f"{key!r} does not hold what was expected: nothing was changed")
        ctx.exit(1)


@kv.command()
@click.argument("key", type=Key())
@click.option("--by", type=BY, default=1, show_default=True, help="How much to add; may be negative.")
@client_options
def incr(key: str, by: int, endpoints: list[str], timeout: float, output: str) -> None:
    """Add to the number at KEY and write the sum; no value counts as 0.

    A number is set with: put KEY 5 --as json
    """
    with Client(endpoints, timeout) as client:
        total = client.incr(key, by)
    say(output, str(total), {"key": key, "value": total})


@kv.command()
@click.argument("prefix", type=Key(), default="")
@click.option("--limit", type=click.IntRange(1, 10_000), default=SCAN_LIMIT, show_default=True)
@consistency_option
@client_options
def scan(
    prefix: str,
    limit: int,
    consistency: str,
    endpoints: list[str],
    timeout: float,
    output: str,
) -> None:
    """List the keys that begin with PREFIX and their values, in order."""
    with Client(endpoints, timeout) as client:
        pairs = client.scan(prefix, limit, consistency)
    if output == "json":
        rows = [{"key": key, **described(value)} for key, value in pairs]
        click.echo(json_text({"prefix": prefix, "count": len(rows), "pairs": rows}))
    elif pairs:
        click.echo("\n".join(table(("KEY", "VALUE"), [(cell(key), cell(value)) for key, value in pairs])))
    if len(pairs) == limit:
        hint(f"there may be more than {limit}: give a larger --limit or a longer prefix")
    elif not pairs:
        hint(f"no key begins with {prefix!r}")
