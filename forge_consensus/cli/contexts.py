"""The file of contexts: clusters that a user has named, and which of them is the current one.

Its shape is ``{current: prod, contexts: {prod: {endpoints: [10.0.0.1:7001, 10.0.0.2:7001]}}}``. PyYAML is imported when
such a file is read or written, and not before, because the command line works without it.
"""

from __future__ import annotations

import difflib
import fcntl
import importlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from forge_consensus.config.address import parse_endpoint
from forge_consensus.config.file_reads import BYTES_MAX, text_of_file
from forge_consensus.config.given import ConfigProblemsError
from forge_consensus.config.yaml_file import NO_VALUE, NOTHING, Reader, TooMuchError, tree_of
from forge_consensus.errors import BusyError, InvalidConfigError, StorageError
from forge_consensus.missing import missing_extra
from forge_consensus.storage.backends.folder import TEMPORARY_SUFFIX, explain, fsync_directory, make_directory

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

FILE_VARIABLE: Final = "FORGE_CONSENSUS_CONTEXTS"
PLACE: Final = Path("forge-consensus", "contexts.yaml")
"""Where the file is in the folder of a user's configuration files."""
NAME_CHARS_MAX: Final = 128
NAMES_SHOWN_MAX: Final = 20
LOCK_SECONDS_MAX: Final = 10.0
"""A writer waits so long while no other one gets anything done; with many of them, each has its turn in the end."""
LOCK_POLL_SECONDS: Final = 0.02
HEAD: Final = "# Named clusters, written by forge-consensus context, which keeps no comments.\n"
HOW_TO_ADD: Final = "add one: forge-consensus context set NAME --endpoints HOST:PORT,..."


@dataclass(frozen=True, slots=True)
class Contexts:
    """What the file holds."""

    current: str | None = None
    """The name of the context that commands take by default, one of `endpoints`."""
    endpoints: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Name -> addresses of nodes, in the order of the file."""

    def with_context(self, name: str, endpoints: Sequence[str]) -> Contexts:
        """Return these contexts with one more, or with other endpoints for it. Raises `InvalidConfigError`."""
        check_name(name)
        return replace(self, endpoints={**self.endpoints, name: tuple(endpoints)})

    def with_current(self, name: str) -> Contexts:
        """Return these contexts with another current one, which must be among them."""
        return replace(self, current=name)

    def without(self, name: str) -> Contexts:
        """Return these contexts without one of them; if it was the current one, there is none any more."""
        left = {other: held for other, held in self.endpoints.items() if other != name}
        return Contexts(None if self.current == name else self.current, left)


def check_name(name: str) -> None:
    """Raise `InvalidConfigError` for a text that can name no context."""
    if not (0 < len(name) <= NAME_CHARS_MAX and name.isprintable()) or " " in name or "/" in name:
        raise InvalidConfigError(
            f"{name!r:.200} is no name of a context: give up to {NAME_CHARS_MAX} printable characters without spaces "
            "and slashes, such as prod"
        )


# --- which file, which context ---------------------------------------------------------------------------------------


def contexts_file(environment: Mapping[str, str]) -> Path:
    """Return where the file is, or would be. Raises `InvalidConfigError` for a user without a home."""
    if given := environment.get(FILE_VARIABLE):
        return Path(given)
    folder = environment.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(folder):  # the specification has relative ones ignored
        folder = os.path.expanduser("~/.config")
    if not os.path.isabs(folder):
        raise InvalidConfigError(f"there is no home folder for a file of contexts: name the file by {FILE_VARIABLE}")
    return Path(folder, PLACE)


def endpoints_of(path: Path, name: str, place: str) -> tuple[str, ...]:
    """Return the endpoints of a context.

    Args:
        path: the file of contexts.
        name: the context.
        place: what named it, for the error: an option or a variable.

    Raises `InvalidConfigError` if there is no such context, or if the file cannot be used.

    """
    return known(read(path), name, path, place)


def known(found: Contexts, name: str, path: Path, place: str = "") -> tuple[str, ...]:
    """Return the endpoints of a context, as `endpoints_of` does; `found` is what the file holds."""
    if name not in found.endpoints:
        by = f" ({place})" if place else ""
        raise InvalidConfigError(f"there is no context {name!r:.200}{by} in {path}: {meant(name, found.endpoints)}")
    return found.endpoints[name]


def current_endpoints(environment: Mapping[str, str]) -> list[str] | None:
    """Return the endpoints of the current context, None if there is none; no file is none.

    Raises `InvalidConfigError` if there is a file that cannot be used.
    """
    found = found_contexts(environment)
    return None if found.current is None else list(found.endpoints[found.current])


def found_contexts(environment: Mapping[str, str]) -> Contexts:
    """Return the contexts of a user who may never have heard of them: what cannot be a file counts as none.

    Raises `InvalidConfigError` if there is a file that cannot be used.
    """
    try:
        path = contexts_file(environment)
    except InvalidConfigError:
        return Contexts()
    return read(path) if os.path.exists(path) else Contexts()


def known_text(environment: Mapping[str, str]) -> str:
    """Return a sentence that names the contexts there are. Raises `InvalidConfigError` as `found_contexts` does."""
    names = list(found_contexts(environment).endpoints)
    return f"Contexts: {listed(names)}" if names else f"There are no contexts; {HOW_TO_ADD}"


def meant(name: str, names: Mapping[str, object]) -> str:
    """Return which context may have been meant, and which there are."""
    if not names:
        return f"there is none yet, {HOW_TO_ADD}"
    close = difflib.get_close_matches(name[:NAME_CHARS_MAX], names, 2)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{hint}there {'is' if len(names) == 1 else 'are'} {listed(list(names))}"


def listed(names: Sequence[str]) -> str:
    """Return names as a text, the first of them if there are many."""
    more = len(names) - NAMES_SHOWN_MAX
    return ", ".join(names[:NAMES_SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")


def complete_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Return the contexts whose names begin so, for the shell; none where they cannot be had, for whatever reason."""
    from click.shell_completion import CompletionItem

    try:
        path = contexts_file(os.environ)
        found = read(path) if path.is_file() else Contexts()  # a pipe would hold up the shell
        return [
            CompletionItem(name, help=",".join(endpoints))
            for name, endpoints in found.endpoints.items()
            if name.startswith(incomplete)
        ]
    except Exception:  # somebody is typing: an error would stand in the middle of the line
        return []


# --- reading ---------------------------------------------------------------------------------------------------------


def read(path: Path) -> Contexts:
    """Return what the file holds, nothing if it is not there.

    Raises `InvalidConfigError` if it cannot be read or is no YAML, `ConfigProblemsError` with all other faults of it.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return Contexts()
    except (OSError, ValueError):
        pass  # reading says why
    text = text_of_file(path)
    return parsed(path, text) if text.strip() else Contexts()


def parsed(path: Path, text: str) -> Contexts:
    """Return what the text of the file holds. Raises as `read` does."""
    try:
        root = tree_of(path, text)
    except ModuleNotFoundError as error:
        raise InvalidConfigError(missing_extra(error, "config", "a context")) from error
    reader = Reader(path, {})
    found = Contexts()
    try:
        found = contexts_in(reader, root)
    except TooMuchError:
        reader.layer.problems.append(f"{path}:1:1 there is too much in it: a file of contexts has some hundred values")
    if reader.layer.problems:
        raise ConfigProblemsError(reader.layer.problems)
    return found


def contexts_in(reader: Reader, root: Any) -> Contexts:
    """Return the contexts of the whole file; faults go to the reader. Raises `TooMuchError`."""
    entries = entries_of(reader, root, "", ("current", "contexts"))
    endpoints: dict[str, tuple[str, ...]] = {}
    for name, (key, value) in entries_of(reader, entries.get("contexts", (None, None))[1], "contexts").items():
        try:
            check_name(name)
        except InvalidConfigError as error:
            reader.fault(key, "contexts", str(error))
        endpoints[name] = endpoints_in(reader, key, value, f"contexts.{name}")
    current = entries.get("current", (None, None))[1]
    if current is None or is_null(current):
        return Contexts(None, endpoints)
    if current.id != "scalar":
        reader.fault(current, "current", "give the name of one context")
    elif current.value not in endpoints:
        reader.fault(
            current, "current", f"there is no context {current.value!r:.200}: {meant(current.value, endpoints)}"
        )
    return Contexts(current.value, endpoints)


def entries_of(reader: Reader, node: Any, name: str, keys: Sequence[str] = ()) -> dict[str, tuple[Any, Any]]:
    """Return the entries of a section, the nodes of key and value of each; a section without a value has none.

    Args:
        reader: takes the faults.
        node: the section, None if it is not there.
        name: its whole name, empty for the whole file.
        keys: the only keys that it may have; without them it may have any.

    Raises `TooMuchError`.

    """
    if node is None or is_null(node):
        return {}
    if node.id != "mapping":
        reader.fault(node, name, "there must be names with values, such as contexts: {prod: {endpoints: [HOST:PORT]}}")
        return {}
    prefix = f"{name}." if name else ""
    found = {}
    for key, whole, value in reader.pairs(node, prefix):
        last = whole.removeprefix(prefix)
        if keys and last not in keys:
            reader.fault(key, whole, f"unknown key, there {'is' if len(keys) == 1 else 'are'} {' and '.join(keys)}")
        else:
            found[last] = key, value
    return found


def endpoints_in(reader: Reader, key: Any, node: Any, name: str) -> tuple[str, ...]:
    """Return the addresses of a context, each once; faults go to the reader. Raises `TooMuchError`."""
    before = len(reader.layer.problems)
    entries = entries_of(reader, node, name, ("endpoints",))
    name = f"{name}.endpoints"
    if "endpoints" not in entries:
        if len(reader.layer.problems) == before:
            reader.fault(key, name, "it is missing: give a list of HOST:PORT")
        return ()
    place, value = entries["endpoints"]
    if value.id != "sequence" or not value.value:
        reader.fault(place, name, NO_VALUE if is_null(value) else "give a list of HOST:PORT, such as [127.0.0.1:7001]")
        return ()
    found = []
    for number, item in enumerate(value.value):
        reader.visit(item)
        if item.id != "scalar":
            reader.fault(item, f"{name}[{number}]", "give one address, in quotes if it begins with a bracket")
            continue
        try:
            found.append(parse_endpoint(item.value))
        except InvalidConfigError as error:
            reader.fault(item, f"{name}[{number}]", str(error))
    return tuple(dict.fromkeys(found))


def is_null(node: Any) -> bool:
    """Whether the value of a node is left out."""
    return bool(node.id == "scalar" and node.tag == NOTHING)


# --- writing ---------------------------------------------------------------------------------------------------------


def change(path: Path, edit: Callable[[Contexts], Contexts]) -> Contexts:
    """Change the file as a whole or not at all, and return what it holds then; it is made if it is not there.

    Args:
        path: the file; if it is a link, the file to which it leads.
        edit: gets what the file holds and returns what it shall hold. No other writer comes between.

    Raises `InvalidConfigError` if the file cannot be used as it is, `BusyError` if another writer does not end,
    `StorageError` if the disk refuses, and what `edit` raises; the file is then as it was.

    """
    try:
        yaml = importlib.import_module("yaml")
    except ModuleNotFoundError as error:
        raise InvalidConfigError(missing_extra(error, "config", "a context")) from error
    try:
        real = Path(os.path.realpath(path))
        if real.exists() and not real.is_file():
            raise InvalidConfigError(f"{path} is no file: name another one by {FILE_VARIABLE}")
        make_directory(real.parent)
        with locked(real):
            found = edit(read(path))
            text = HEAD + yaml.safe_dump(plain(found), sort_keys=False, allow_unicode=True)
            check_readable(path, text)
            replace_file(real, text.encode())
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {explain(error)}") from error
    return found


def plain(found: Contexts) -> dict[str, Any]:
    """Return contexts in the shape of the file."""
    head = {} if found.current is None else {"current": found.current}
    return {**head, "contexts": {name: {"endpoints": list(held)} for name, held in found.endpoints.items()}}


def check_readable(path: Path, text: str) -> None:
    """Raise `InvalidConfigError` for a text that is too much for `read`: then nobody could repair the file."""
    if len(text.encode()) > BYTES_MAX:
        raise InvalidConfigError(f"{path} would have more than {BYTES_MAX} bytes: remove contexts first")
    parsed(path, text)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of the writers of a file, which is `flock` on a file beside it that is never removed.

    Raises `BusyError` if another writer does not end, `OSError` if the lock cannot be had.
    """
    lock = path.with_name(f"{path.name}.lock")
    seen, until = version_of(path), time.monotonic() + LOCK_SECONDS_MAX
    while (descriptor := taken(lock)) is None:
        if (now := version_of(path)) != seen:  # somebody wrote it, so nobody hangs
            seen, until = now, time.monotonic() + LOCK_SECONDS_MAX
        if time.monotonic() >= until:
            raise BusyError(f"another process has held {lock} for {LOCK_SECONDS_MAX:g} s: end it, then try again")
        time.sleep(LOCK_POLL_SECONDS)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def version_of(path: Path) -> tuple[int, int]:
    """Return what differs after a file was replaced; zeros if it is not there. Raises `OSError`."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_ino, found.st_mtime_ns


def taken(path: Path) -> int | None:
    """Lock the file and return its descriptor; None if another process has it, or removed it meanwhile.

    Raises `OSError`.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def replace_file(path: Path, data: bytes) -> None:
    """Put a file that only its owner may read in the place of another one, durably. Raises `OSError`."""
    beside = path.with_name(f"{path.name}{TEMPORARY_SUFFIX}")
    beside.unlink(missing_ok=True)  # of a writer that was killed, because the lock is ours
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)
