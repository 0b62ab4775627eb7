"""``forge-consensus kv``: keys and values of the built-in machine from the shell."""

from __future__ import annotations

import base64
import functools
import sys
from typing import Any, BinaryIO, ClassVar, cast

import click
import msgpack

from forge_consensus.cli.connecting import client_of
from forge_consensus.cli.main import Commands
from forge_consensus.cli.options import Duration, Function, client_options, read_options
from forge_consensus.client.key_commands import SCAN_LIMIT, TTL_SECONDS_MAX, TTL_SECONDS_MIN, entries_query
from forge_consensus.client.key_records import ID_MAX, KeyEntry
from forge_consensus.errors import CommandError
from forge_consensus.output import cell, json_text, kind_text, load_json, printable, table
from forge_consensus.storage.machines.machine import Command

BY = click.IntRange(-(1 << 63), (1 << 63) - 1)
TTL = Duration(TTL_SECONDS_MIN, TTL_SECONDS_MAX)
LEASE_ID = click.IntRange(1, ID_MAX)
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


class KeyCommands(Commands):
    """The commands on keys; those of other modules are imported when they are called."""

    homes: ClassVar[dict[str, tuple[str, str]]] = {
        "watch": ("forge_consensus.cli.kv_watch:watch", "Print the changes of a key or a prefix as they happen."),
        "transaction": (
            "forge_consensus.cli.kv_transaction:transaction",
            "Compare keys, and then carry out one of two lists of commands.",
        ),
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, those of this module first."""
        return [*self.commands, *self.homes]


@click.group(cls=KeyCommands)
def kv() -> None:
    """Read, change and watch keys of the built-in machine.

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
        value = load_json(decoded)
        msgpack.packb(value)
    except (ValueError, OverflowError, RecursionError) as error:
        raise click.UsageError(f"the value is not JSON that can be stored: {error}") from None
    if value is None:
        raise click.UsageError("a key never holds null: delete it instead, or expect it --absent")
    return value


def described(value: Any) -> dict[str, Any]:
    """Return a value and its kind for JSON; bytes become base64."""
    if value is None:
        return {"value": None, "kind": None}
    if isinstance(value, bytes):
        return {"value": base64.b64encode(value).decode(), "kind": "bytes"}
    return {"value": value, "kind": "text" if isinstance(value, str) else "json"}


def write_value(value: Any, *, raw: bool) -> None:
    """Write a value to stdout: text and bytes as they are, anything else as JSON.

    On a terminal, control characters are escaped unless the value is wanted raw.
    """
    if not raw and sys.stdout.isatty():
        click.echo(printable(value, keep="\n\t"))
        return
    if not isinstance(value, bytes):
        value = (value if isinstance(value, str) else json_text(value)).encode()
    click.echo(value if raw else value + b"\n", nl=False)


def say(output: str, text: str, fields: dict[str, Any]) -> None:
    """Write a result for people or as JSON, as the option -o says."""
    click.echo(json_text(fields) if output == "json" else text)


def held(value: Any) -> str:
    """Return what a key holds for people: the kind of the value and the value."""
    return "nothing" if value is None else f"the {kind_text(value)} {cell(value)}"


def hint(text: str) -> None:
    """Write to stderr, where people read it and programs do not."""
    click.echo(text, err=True)


kind_option = click.option(
    "--as", "kind", type=click.Choice(KINDS), default="text", show_default=True, help="What the value is."
)


LIVING_OPTIONS = (
    click.option("--ttl", type=TTL, metavar="TIME", help="The key goes by itself after this time, such as 10s."),
    click.option("--lease", type=LEASE_ID, metavar="ID", help="The key goes when this lease ends."),
)


def living_options(function: Function) -> Function:
    """Give a command the options that say how long its key lives; it gets what they say as `living`."""

    @functools.wraps(function)
    def command(*args: Any, ttl: float | None, lease: int | None, **others: Any) -> Any:
        if ttl is not None and lease is not None:
            raise click.UsageError("say --ttl or --lease, and not both")
        return function(*args, living={"ttl": ttl, "lease": lease}, **others)

    for option in reversed(LIVING_OPTIONS):
        command = option(command)
    return cast("Function", command)


@kv.command()
@click.argument("key", type=Key())
@click.argument("value")
@kind_option
@living_options
@client_options
def put(
    key: str, value: str, kind: str, living: dict[str, Any], endpoints: list[str], timeout: float, output: str
) -> None:
    """Set KEY to VALUE; a VALUE of - is read from stdin."""
    content = value_of(value, kind)
    with client_of(endpoints, timeout) as client:
        client.put(key, content, **living)
    say(output, "ok", {"key": key, "ok": True})


@kv.command()
@click.argument("prefix", type=Key())
@click.argument("value")
@kind_option
@living_options
@client_options
def append(
    prefix: str, value: str, kind: str, living: dict[str, Any], endpoints: list[str], timeout: float, output: str
) -> None:
    """Set a new key that begins with PREFIX to VALUE, and write the key.

    Keys made with one PREFIX sort in the order in which they were made.
    """
    content = value_of(value, kind)
    with client_of(endpoints, timeout) as client:
        key = client.append(prefix, content, **living)
    say(output, key, {"key": key})


@kv.command()
@click.argument("key", type=Key())
@click.option("--raw", is_flag=True, help="Write the value as it is: nothing escaped, no line's end.")
@click.option("--meta", is_flag=True, help="Also the log entries that made it and wrote it last, and its lease.")
@read_options
@client_options
@click.pass_context
def get(
    ctx: click.Context,
    key: str,
    raw: bool,
    meta: bool,
    reading: dict[str, Any],
    endpoints: list[str],
    timeout: float,
    output: str,
) -> None:
    """Write the value of KEY; exit code 1 if it has none."""
    if raw and meta:
        raise click.UsageError("say --raw or --meta, and not both")
    with client_of(endpoints, timeout) as client:
        found = client.read_detail({"entry": key} if meta else key, **reading)
    entry = KeyEntry.of_row(found.value) if meta and found.value is not None else None
    value = found.value if entry is None else entry.value
    if output == "json":
        row = {"key": key, "found": value is not None, **described(value), **revisions(entry)}
        click.echo(json_text({**row, "applied_index": found.applied, "stale_ms": found.stale_ms}))
    elif entry is not None:
        click.echo("\n".join(entry_table([entry])))
    elif value is not None:
        write_value(value, raw=raw)
    if value is None:
        hint(f"{key!r} has no value")
        ctx.exit(1)


@kv.command()
@click.argument("key", type=Key())
@click.option("--prefix", is_flag=True, help="Remove every key that begins with KEY; say '' for all keys.")
@client_options
@click.pass_context
def delete(ctx: click.Context, key: str, prefix: bool, endpoints: list[str], timeout: float, output: str) -> None:
    """Remove KEY; exit code 1 if it was not there."""
    with client_of(endpoints, timeout) as client:
        count = client.delete_prefix(key) if prefix else int(client.delete(key))
    if output == "json":
        say(output, "", {"prefix": key, "deleted": count} if prefix else {"key": key, "deleted": bool(count)})
    elif count:
        click.echo(f"deleted {count:,} key{'' if count == 1 else 's'}" if prefix else "deleted")
    if not count:
        hint(f"no key begins with {key!r}" if prefix else f"{key!r} was not there")
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
    with client_of(endpoints, timeout) as client:
        swapped = client.cas(key, expected=wanted, value=content)
        found = None if swapped else client.get(key)
    if output == "json":
        row = {"key": key, "swapped": swapped}
        click.echo(json_text(row if swapped else {**row, **described(found)}))
    elif swapped:
        click.echo("swapped")
    if not swapped:
        hint(f"nothing was changed, because {key!r} holds {held(found)}, not {held(wanted)}")
        ctx.exit(1)


@kv.command()
@click.argument("key", type=Key())
@click.option("--by", type=BY, default=1, show_default=True, help="How much to add; may be negative.")
@client_options
def incr(key: str, by: int, endpoints: list[str], timeout: float, output: str) -> None:
    """Add to the number at KEY and write the sum; no value counts as 0.

    A number is set with: put KEY 5 --as json
    """
    with client_of(endpoints, timeout) as client:
        total = client.incr(key, by)
    say(output, str(total), {"key": key, "value": total})


def revisions(entry: KeyEntry | None) -> dict[str, Any]:
    """Return what JSON tells of an entry besides its key and value."""
    return {} if entry is None else {"created": entry.created, "modified": entry.modified, "lease": entry.lease}


def entry_table(entries: list[KeyEntry]) -> list[str]:
    """Return entries as the lines of a table."""
    rows = [
        (
            cell(entry.key),
            kind_text(entry.value),
            cell(entry.value),
            str(entry.created),
            str(entry.modified),
            str(entry.lease or "-"),
        )
        for entry in entries
    ]
    return table(("KEY", "KIND", "VALUE", "CREATED", "MODIFIED", "LEASE"), rows)


@kv.command()
@click.argument("prefix", type=Key(), default="")
@click.option("--limit", type=click.IntRange(1, 10_000), default=SCAN_LIMIT, show_default=True)
@click.option("--after", type=Key(), metavar="KEY", help="Begin behind this key, such as the last of the page before.")
@click.option("--start", type=Key(), metavar="KEY", help="Begin with this key.")
@click.option("--end", type=Key(), metavar="KEY", help="End before this key.")
@click.option("--reverse", is_flag=True, help="In descending order.")
@click.option("--meta", is_flag=True, help="Also the log entries that made and wrote each key, and its lease.")
@read_options
@client_options
def scan(
    prefix: str,
    limit: int,
    after: str | None,
    start: str | None,
    end: str | None,
    reverse: bool,
    meta: bool,
    reading: dict[str, Any],
    endpoints: list[str],
    timeout: float,
    output: str,
) -> None:
    """List the keys that begin with PREFIX and their values, in order."""
    with client_of(endpoints, timeout) as client:
        rows = client.read(entries_query(prefix, limit, after, start, end, reverse), **reading)
    entries = [KeyEntry.of_row(row) for row in rows]
    if output == "json":
        pairs = [{"key": each.key, **described(each.value), **revisions(each if meta else None)} for each in entries]
        click.echo(json_text({"prefix": prefix, "count": len(pairs), "pairs": pairs}))
    elif entries and meta:
        click.echo("\n".join(entry_table(entries)))
    elif entries:
        cells = [(cell(each.key), kind_text(each.value), cell(each.value)) for each in entries]
        click.echo("\n".join(table(("KEY", "KIND", "VALUE"), cells)))
    if len(entries) == limit:
        hint(f"there may be more than {limit}: give a larger --limit or a longer prefix")
    elif not entries:
        hint(f"no key begins with {prefix!r}")


@kv.command()
@click.argument("file", type=click.File("rb"), default="-")
@client_options
def batch(file: BinaryIO, endpoints: list[str], timeout: float, output: str) -> None:
    """Carry out several commands as one, all or none, and write the result of each.

    FILE (- for stdin) has one command a line, each as JSON:

    \b
    {"type": "set", "key": "a", "value": 1}
    {"type": "increment", "key": "n", "by": 2}
    {"type": "cas", "key": "a", "expected": 1, "value": 2}
    {"type": "delete", "key": "b"}
    {"type": "get", "key": "a"}

    A cas that does not match gives false and stops nothing; a command that fails stops all.
    """  # noqa: D301 - click wants the backspace itself
    commands = [command_of(line, number) for number, line in enumerate(file, 1) if line.strip()]
    if not commands:
        raise click.UsageError("the input holds no command: write one a line, as the help shows")
    with client_of(endpoints, timeout) as client:
        results = client.batch(commands)
    if output == "json":
        click.echo(json_text({"results": results}))
    else:
        for result in results:
            click.echo(json_text(result))


def command_of(line: bytes, number: int) -> Command:
    """Return the command on a line of a batch; `number` is the line's, for the error."""
    try:
        fields = load_json(line.decode())
        if not isinstance(fields, dict) or not isinstance(fields.get("type"), str):
            raise ValueError('a command is an object with a "type"')
        command = Command(fields.pop("type"), fields)
        command.encode()
    except (ValueError, RecursionError, CommandError) as error:
        raise click.UsageError(f"line {number} is no command: {error}") from None
    return command
