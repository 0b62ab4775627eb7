"""Settings that the original says in another form: an address as two fields, the form of the log as a switch.

Each layer may use either form, and a later layer may change a half of what an earlier one said as a whole.
"""

from __future__ import annotations

from typing import Any, Final

from forge_consensus.config.address import IPC, bind_address, joined_address
from forge_consensus.config.given import Given
from forge_consensus.config.node import NodeSettings
from forge_consensus.config.program import ProgramSettings
from forge_consensus.config.setting import Setting, describe
from forge_consensus.errors import InvalidConfigError

BIND: Final = {row.name: row for row in describe(NodeSettings)}["bind"].described
FORMAT: Final = {row.name: row for row in describe(ProgramSettings)}["log_format"].described
PLACE: Final = ("bind_addr", "bind_port")
STRUCTURED: Final = "observability.logging.enable_structured"
HALVES: Final = {
    "bind_addr": Setting("bind_addr", "str", "127.0.0.1", BIND),
    "bind_port": Setting("bind_port", "int", 7000, BIND),
    STRUCTURED: Setting(STRUCTURED, "bool", True, FORMAT),
}
"""The fields of the original, with what stands for one that is missing."""
TRANSLATED: Final[dict[str, tuple[str, ...]]] = {
    "bind": PLACE,
    "bind_addr": ("bind",),
    "bind_port": ("bind",),
    "log_format": (STRUCTURED,),
    STRUCTURED: ("log_format",),
}
"""Name -> the other names under which the same is said."""


def make_way(chosen: dict[str, Given], last: dict[str, Given], problems: list[str]) -> None:
    """Take from what earlier layers chose whatever a later one says in another form."""
    if last.keys() & set(PLACE) and (whole := chosen.pop("bind", None)) is not None:
        text = str(whole.value).strip()
        host, colon, port = text.rpartition(":")
        if not colon or text.startswith(IPC):
            half = next(last[name] for name in PLACE if name in last)
            problems.append(
                f"{half.origin} {half.name}: {whole.origin} gives a bind that is no HOST:PORT, so a part of it cannot "
                "be replaced: give bind"
            )
        else:
            for name, part in zip(PLACE, (host, port), strict=True):
                chosen[name] = Given(name, part, whole.origin, whole.secret)
    for name in last:
        for other in TRANSLATED.get(name, ()):
            chosen.pop(other, None)


def make_one(values: dict[str, Any], origins: dict[str, Given], problems: list[str]) -> None:
    """Make one setting of what was said in the original's form."""
    given = [origins.pop(half) for half in PLACE if half in origins]
    host = values.pop("bind_addr", HALVES["bind_addr"].default)
    port = values.pop("bind_port", HALVES["bind_port"].default)
    if given:
        origin = " and ".join(dict.fromkeys(half.origin for half in given))
        secret = any(half.secret for half in given)
        try:
            values["bind"] = bind_address(joined_address(host, port))
        except InvalidConfigError as error:
            told = "the secret value is refused" if secret else str(error)
            problems.append(f"{given[-1].origin} {given[-1].name}: {told}")
        else:
            origins["bind"] = Given("bind", values["bind"], origin, secret)
    if STRUCTURED in values:
        values["log_format"] = "json" if values.pop(STRUCTURED) else "text"
        origins["log_format"] = origins.pop(STRUCTURED)
