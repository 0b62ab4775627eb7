"""A YAML file as a list of given values with their lines and columns; it knows no setting by name but ``peers``.

Everything is read as text, because a setting knows better than YAML what ``1s``, ``on`` or ``010`` stands for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from forge_consensus.config.address import joined_address
from forge_consensus.config.file_reads import BYTES_MAX, FileReads
from forge_consensus.config.given import PEER_KEYS, Given, Layer, name_text
from forge_consensus.config.substitution import expanded
from forge_consensus.errors import InvalidConfigError

VALUES_MAX: Final = 10_000
"""Aliases let a short file stand for any number of values."""
TEXT_CHARS_MAX: Final = 4 * BYTES_MAX
YAML_TAG: Final = "tag:yaml.org,2002:"
NOTHING: Final = f"{YAML_TAG}null"
MERGE: Final = f"{YAML_TAG}merge"
OF_THE_TEXT: Final = re.compile(r"""'(?!<)[^'\s]{4,}'|"(?!<)[^"\s]{4,}\"""")
"""What PyYAML quotes of the text, and not of its own words for what it expects."""
TAGS: Final = frozenset(
    f"{YAML_TAG}{kind}" for kind in ("null", "bool", "int", "float", "str", "timestamp", "map", "seq", "value")
)
MISSING_EXTRA: Final = "configuration files need the package PyYAML: pip install 'forge-consensus[config]'"
NO_VALUE: Final = "it has no value"


class TooMuchError(Exception):
    """The file stands for more than a configuration can hold."""


def read_file(path: Path, environment: Mapping[str, str], reads: FileReads | None = None) -> Layer:
    """Read a file; its section is ``extensions: consensus:``, ``consensus:``, or all of it.

    Args:
        path: a YAML file of at most 1 MiB; JSON is YAML too, if it is indented with spaces.
        environment: the variables that ``${NAME}`` stands for.
        reads: what reads it and the files that it names, and notes what they hold.

    Raises `InvalidConfigError` if the file cannot be read or is no YAML; other faults are in the layer.

    """
    reads = reads or FileReads()
    text = reads.text(path)
    try:
        root = tree_of(path, text)
    except ModuleNotFoundError as error:
        raise InvalidConfigError(MISSING_EXTRA) from error
    reader = Reader(path, environment, reads)
    try:
        section = reader.section(root)
        if section is not None:
            reader.read(section, "")
    except (TooMuchError, RecursionError):
        reader.layer.problems.append(f"{path}:1:1 there is too much in it: a configuration has some hundred values")
    return reader.layer


def tree_of(path: Path, text: str) -> Any:
    """Return the nodes of a YAML text, None if it has none.

    Args:
        path: where the text stands, for errors.
        text: one document.

    Raises `InvalidConfigError` if it is no YAML, `ModuleNotFoundError` if PyYAML is not installed.

    """
    import yaml

    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = mark_of(error)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark is not None else f"{path}"
        raise InvalidConfigError(f"{where} is no YAML: {told_of(error)}") from None  # the error has the line itself
    except (OverflowError, ValueError) as error:  # from an escape such as "\UFFFFFFFF"
        raise InvalidConfigError(f"{path} is no YAML: an escape in it is out of range ({error})") from error
    except RecursionError as error:
        raise InvalidConfigError(f"{path} is nested too deeply: a configuration has a few levels") from error


def mark_of(error: Exception) -> Any:
    """Return the place of a fault of YAML, None if it has none."""
    return getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)


def told_of(error: Exception) -> str:
    """Return what is wrong with a text that is no YAML; nothing of the text, because a secret may stand there."""
    what = getattr(error, "problem", None) or str(error).partition("\n")[0]
    return OF_THE_TEXT.sub("what stands there", what)


def yaml_fault(error: Exception) -> str:
    """Return what is wrong and where, for a text that is no YAML."""
    mark = mark_of(error)
    return told_of(error) if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: {told_of(error)}"


class Reader:
    """Walks the tree of one file."""

    def __init__(self, path: Path, environment: Mapping[str, str], reads: FileReads | None = None) -> None:
        self.path, self.environment, self.reads = path, environment, reads or FileReads()
        self.layer = Layer()
        self.visited = self.chars = 0

    def where(self, node: Any) -> str:
        """Return the place of a node, for texts."""
        return f"{self.path}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"

    def fault(self, node: Any, name: str, text: str) -> None:
        """Note what is wrong with the value of a name."""
        self.layer.problems.append(f"{self.where(node)} {name_text(name)}{': ' if name else ''}{text}")

    def visit(self, node: Any) -> None:
        """Count a value. Raises `TooMuchError`."""
        self.visited += 1
        self.chars += len(node.value) if node.id == "scalar" else 0
        if self.visited > VALUES_MAX or self.chars > TEXT_CHARS_MAX:
            raise TooMuchError

    def section(self, root: Any) -> Any:
        """Return the node with the settings; None if the file has none, or after a fault."""
        if root is None:
            return None
        found = []
        for key, value in root.value if root.id == "mapping" else ():
            if key.value == "extensions" and value.id == "mapping":
                found += [(inner, held) for inner, held in value.value if inner.value == "consensus"]
            elif key.value == "consensus":
                found.append((key, value))
        for key, _ in found[1:]:
            self.fault(key, "consensus", f"the settings stand in line {found[0][0].start_mark.line + 1} too: keep one")
        key, section = found[0] if found else (root, root)
        if found and section.id == "scalar" and section.tag == NOTHING:
            return None
        if section.id != "mapping":
            self.fault(key, "", "there must be names with values, such as node_id: n1")
            return None
        return section if len(found) < 2 else None

    def pairs(self, section: Any, prefix: str) -> Iterator[tuple[Any, str, Any]]:
        """Yield the key, its whole name, and the value of each entry of a section; repeated keys are faults."""
        first: dict[str, Any] = {}
        for key, value in section.value:
            self.visit(value)
            name = f"{prefix}{key.value}" if key.id == "scalar" else ""
            if not name:
                self.fault(key, prefix.rstrip("."), "a key must be a name")
            elif key.tag == MERGE:
                self.fault(key, prefix.rstrip("."), "merge keys are not read: write the settings out")
            elif name in first:
                self.fault(key, name, f"duplicate key, it stands in line {first[name].start_mark.line + 1} already")
            elif value.tag not in TAGS:
                tag = value.tag if value.tag.removeprefix(YAML_TAG).isalpha() else "that begins with !"
                self.fault(key, name, f"the tag {tag} has no meaning here: put a text that begins with ! in quotes")
            else:
                first[name] = key
                yield key, name, value

    def read(self, section: Any, prefix: str) -> None:
        """Read a section and those inside it; a value that is null is not given."""
        for key, name, value in self.pairs(section, prefix):
            if value.tag == NOTHING:
                continue
            if name == "peers":
                self.read_peers(key, value)
            elif value.id == "mapping" and value.value:
                self.read(value, f"{name}.")
            elif value.id == "mapping":
                self.give(key, name, {}, secret=False)
            elif value.id == "sequence":
                self.read_list(key, name, value)
            elif found := self.text(key, name, value):
                self.give(key, name, found[0], secret=found[1])

    def give(self, key: Any, name: str, value: object, *, secret: bool) -> None:
        """Add a value to what the file gives, with the place of its key."""
        self.layer.givens.append(Given(name, value, self.where(key), secret))

    def read_list(self, key: Any, name: str, value: Any) -> None:
        """Read a list of texts as one text with commas; an empty one is no text."""
        texts = [self.text(item, f"{name}[{number}]", item) for number, item in enumerate(value.value)]
        found = [text for text in texts if text is not None]
        if len(found) == len(texts):
            text = ",".join(text for text, _ in found)
            self.give(key, name, text if found else (), secret=any(secret for _, secret in found))

    def text(self, place: Any, name: str, value: Any) -> tuple[str, bool] | None:
        """Return a value's text with its substitutions, and whether one came from a file; None after a fault."""
        self.visit(value)
        if value.id != "scalar":
            self.fault(place, name, "give one value")
            return None
        if value.tag == NOTHING:
            self.fault(place, name, NO_VALUE)
            return None
        try:
            text, secret = expanded(value.value, self.environment, self.reads)
        except InvalidConfigError as error:
            self.fault(place, name, str(error))
            return None
        self.chars += len(text)
        return text, secret

    # --- peers -------------------------------------------------------------------------------------------------------

    def read_peers(self, key: Any, value: Any) -> None:
        """Read the members: a list of id, address and port as in the original, a map of ids to addresses, or a text."""
        if value.id == "scalar":
            if found := self.text(key, "peers", value):
                self.give(key, "peers", found[0], secret=found[1])
            return
        before = len(self.layer.problems)
        peers: dict[str, str] = {}  # those of members with a fault too, so that the check of the whole tells its faults
        secrets = False
        for place, name, member in self.members(value):
            if member is None:
                continue
            node, address, secret = member
            if node in peers:
                self.fault(place, name, f"node {node!r} is twice among the peers: give each member an id of its own")
            peers[node] = address
            secrets = secrets or secret
        if peers or len(self.layer.problems) == before:
            self.give(key, "peers", peers, secret=secrets)

    def members(self, value: Any) -> Iterator[tuple[Any, str, tuple[str, str, bool] | None]]:
        """Yield the place, the name, and the id, address and secrecy of every member; None for one with a fault."""
        if value.id == "mapping":
            for key, name, item in self.pairs(value, "peers."):
                found = self.text(key, name, item)
                yield key, name, found and (name.removeprefix("peers."), *found)
            return
        for number, item in enumerate(value.value):
            yield item, f"peers[{number}]", self.member(item, f"peers[{number}]")

    def member(self, item: Any, name: str) -> tuple[str, str, bool] | None:
        """Return id, address and secrecy of one entry of the list; None after a fault."""
        if item.id == "mapping":
            return self.member_of_fields(item, name)
        found = self.text(item, name, item)
        if found is None:
            return None
        node, equals, address = found[0].partition("=")
        if not equals:
            self.fault(item, name, "a member is id, address and port, or ID=HOST:PORT")
            return None
        return node.strip(), address.strip(), found[1]

    def member_of_fields(self, item: Any, name: str) -> tuple[str, str, bool] | None:
        """Return id, address and secrecy of a member that is given as in the original; None if one cannot be read."""
        before = len(self.layer.problems)
        texts: dict[str, tuple[str, bool]] = {}
        readable = True
        for key, whole, value in self.pairs(item, f"{name}."):
            last = whole.rpartition(".")[2]
            if last not in PEER_KEYS:
                self.fault(key, whole, f"unknown key, a member has {', '.join(PEER_KEYS)}")
            elif found := self.text(value, whole, value):
                texts[last] = found[0].strip(), found[1]
            else:
                readable = False
        for missing in ("id", "address"):
            if missing not in texts and len(self.layer.problems) == before:
                self.fault(item, f"{name}.{missing}", "it is missing")
        if not readable or not texts.keys() >= {"id", "address"}:
            return None
        secret = any(held for _, held in texts.values())
        address = texts["address"][0]
        if "port" in texts:
            try:
                address = joined_address(address, texts["port"][0])
            except InvalidConfigError as error:
                self.fault(item, f"{name}.address", "the secret value is refused" if secret else str(error))
                return None
        return texts["id"][0], address, secret
