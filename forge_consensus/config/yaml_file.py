"""A YAML or JSON file as a list of given values with their lines and columns; it knows no setting by name.

Everything is read as text, because a setting knows better than YAML what ``1s``, ``on`` or ``010`` stands for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from forge_consensus.config.given import Given, Layer
from forge_consensus.errors import InvalidConfigError

BYTES_MAX: Final = 1 << 20
VALUES_MAX: Final = 10_000
"""Aliases let a short file stand for any number of values."""
DEPTH_MAX: Final = 20
NOTHING: Final = "tag:yaml.org,2002:null"
SUBSTITUTION: Final = re.compile(r"\$\$\{|\$\{(?P<what>[^}]*)\}?")
PEER_KEYS: Final = ("id", "address", "port")
MISSING_EXTRA: Final = "configuration files need the package PyYAML: pip install 'forge-consensus[config]'"


def read_file(path: Path, environment: Mapping[str, str]) -> Layer:
    """Read a file; its section is ``extensions: consensus:``, ``consensus:``, or all of it.

    Args:
        path: a YAML file of at most 1 MiB; JSON is YAML too.
        environment: the variables that ``${NAME}`` stands for.

    Raises `InvalidConfigError` if the file cannot be read or is no YAML; other faults are in the layer.

    """
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise InvalidConfigError(MISSING_EXTRA) from error
    text = text_of_file(path)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark is not None else f"{path}"
        what = getattr(error, "problem", None) or str(error)
        raise InvalidConfigError(f"{where} is no YAML: {what}") from error
    except RecursionError as error:
        raise InvalidConfigError(f"{path} is nested too deeply: a configuration has a few levels") from error
    reader = Reader(path, environment)
    if root is not None:
        section = section_of(root, yaml.MappingNode)
        if section is None:
            reader.fault(root, "", "there must be names with values, such as node_id: n1")
        else:
            reader.read(section, "")
    return reader.layer


def text_of_file(path: Path) -> str:
    """Return what the file holds. Raises `InvalidConfigError` if it cannot be read, is too large, or is no text."""
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise InvalidConfigError(f"{path} cannot be read: {error.strerror}: name another file with -c") from error
    if len(data) > BYTES_MAX:
        raise InvalidConfigError(f"{path} has more than {BYTES_MAX} bytes: a configuration has a few thousand")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidConfigError(f"{path} is not UTF-8: byte {error.start} is {data[error.start]:#04x}") from error


def section_of(root: Any, mapping: type) -> Any:
    """Return the node with the settings: that of ``extensions: consensus:``, of ``consensus:``, or the root itself."""

    def inside(node: Any, name: str) -> Any:
        if not isinstance(node, mapping):
            return None
        found = (value for key, value in node.value if key.value == name)  # type: ignore[attr-defined]
        return next(found, None)

    section = inside(inside(root, "extensions"), "consensus") or inside(root, "consensus") or root
    return section if isinstance(section, mapping) else None


class Reader:
    """Walks the tree of one file."""

    def __init__(self, path: Path, environment: Mapping[str, str]) -> None:
        self.path, self.environment = path, environment
        self.layer = Layer()

    def where(self, node: Any) -> str:
        """Return the place of a node, for texts."""
        return f"{self.path}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"

    def fault(self, node: Any, name: str, text: str) -> None:
        """Note what is wrong with the value of a name."""
        self.layer.problems.append(f"{self.where(node)} {name}{': ' if name else ''}{text}")

    def pairs(self, section: Any, prefix: str) -> Iterator[tuple[Any, str, Any]]:
        """Yield the key, its whole name, and the value of each entry of a section; repeated keys are faults."""
        first: dict[str, Any] = {}
        for key, value in section.value:
            name = f"{prefix}{key.value}" if isinstance(key.value, str) else ""
            if not name:
                self.fault(key, prefix.rstrip("."), "a key must be a name")
            elif name in first:
                self.fault(key, name, f"duplicate key, it stands in line {first[name].start_mark.line + 1} already")
            else:
                first[name] = key
                yield key, name, value

    def read(self, section: Any, prefix: str) -> None:
        """Read a section and those inside it."""
        if prefix.count(".") > DEPTH_MAX or len(self.layer.givens) > VALUES_MAX:
            self.fault(section, prefix.rstrip("."), "there is too much in here: a configuration has a few levels")
            return
        for key, name, value in self.pairs(section, prefix):
            if name == "peers":
                self.read_peers(key, value)
            elif value.id == "mapping":
                self.read(value, f"{name}.")
            elif value.id == "sequence":
                self.read_list(key, name, value)
            elif value.tag != NOTHING:
                self.give(key, name, value.value)

    def read_list(self, key: Any, name: str, value: Any) -> None:
        """Read a list of texts as one text with commas."""
        if all(item.id == "scalar" for item in value.value):
            if value.value:
                self.give(key, name, ",".join(item.value for item in value.value))
        else:
            self.fault(key, name, "it is a list of lists or sections: give one value")

    def give(self, key: Any, name: str, text: str) -> None:
        """Note a value, with what ``${...}`` in it stands for."""
        found = self.expanded(key, name, text)
        if found is not None:
            expanded, secret = found
            self.layer.givens.append(Given(name, expanded, self.where(key), secret))

    def expanded(self, key: Any, name: str, text: str) -> tuple[str, bool] | None:
        """Return the text with its substitutions, and whether one came from a file; None after a fault."""
        secret = False
        faults: list[str] = []

        def substitute(found: re.Match[str]) -> str:
            nonlocal secret
            if found["what"] is None:
                return "${"
            if not found[0].endswith("}"):
                faults.append(
                    f"{found[0]!r} has no closing brace: write ${{NAME}}, or $${{ for the characters themselves"
                )
                return ""
            secret = secret or found["what"].startswith("file:")
            try:
                return substituted(found["what"], self.environment)
            except InvalidConfigError as error:
                faults.append(str(error))
                return ""

        result = SUBSTITUTION.sub(substitute, text)
        for fault in faults:
            self.fault(key, name, fault)
        return None if faults else (result, secret)

    # --- peers -------------------------------------------------------------------------------------------------------

    def read_peers(self, key: Any, value: Any) -> None:
        """Read the members: a list of id, address and port as in the original, a map of ids to addresses, or a text."""
        if value.id == "scalar":
            if value.tag != NOTHING:
                self.give(key, "peers", value.value)
            return
        before = len(self.layer.problems)
        if value.id == "mapping":
            parts = [f"{name}={self.inside(item, name)}" for _, name, item in self.pairs(value, "")]
        else:
            parts = [self.peer(item, number) for number, item in enumerate(value.value)]
        if len(self.layer.problems) == before and parts:
            self.layer.givens.append(Given("peers", ",".join(parts), self.where(key)))

    def peer(self, item: Any, number: int) -> str:
        """Return ID=HOST:PORT for one entry of the list of members; whatever is wrong with it is noted."""
        name = f"peers[{number}]"
        if item.id == "scalar":
            return self.inside(item, name)
        if item.id != "mapping":
            self.fault(item, name, "a member is id, address and port")
            return ""
        texts: dict[str, str] = {}
        for key, whole, value in self.pairs(item, f"{name}."):
            last = whole.rpartition(".")[2]
            if last in PEER_KEYS:
                texts[last] = self.inside(value, whole)
            else:
                self.fault(key, whole, f"unknown key, a member has {', '.join(PEER_KEYS)}")
        for missing in ("id", "address"):
            if missing not in texts:
                self.fault(item, f"{name}.{missing}", "it is missing")
        host = texts.get("address", "")
        if "port" in texts:
            host = f"[{host}]" if ":" in host and not host.startswith("[") else host
            return f"{texts.get('id', '')}={host}:{texts['port']}"
        return f"{texts.get('id', '')}={host}"

    def inside(self, item: Any, name: str) -> str:
        """Return the text of a value inside the members; whatever is wrong with it is noted."""
        if item.id != "scalar":
            self.fault(item, name, "give one value")
            return ""
        found = self.expanded(item, name, item.value)
        return found[0].strip() if found else ""


def substituted(what: str, environment: Mapping[str, str]) -> str:
    """Return what stands for ``NAME``, ``NAME:-default`` or ``file:/path``. Raises `InvalidConfigError`."""
    if what.startswith("file:"):
        return text_of_file(Path(what.removeprefix("file:"))).rstrip("\r\n")
    name, dash, default = what.partition(":-")
    if value := environment.get(name, ""):
        return value
    if dash:
        return default
    if name in environment:
        return ""
    raise InvalidConfigError(f"the variable {name!r} is not set: set it, or give a default: ${{{name}:-value}}")
