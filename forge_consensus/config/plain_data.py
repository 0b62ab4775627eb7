"""Plain data out of the text of a file that people write: JSON if its name ends so, else YAML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from forge_consensus.config.yaml_file import yaml_fault
from forge_consensus.errors import InvalidConfigError

VALUES_MAX: Final = 200_000
"""Aliases of YAML let a short file stand for any number of values."""
MISSING_EXTRA: Final = "YAML needs the package PyYAML: pip install 'forge-consensus[config]', or write it as .json"


def data_of_text(place: Path, text: str) -> Any:
    """Return the data in a text.

    Args:
        place: the file that it is of, whose name says what it is written in.
        text: what the file holds, of a bounded length.

    Raises `InvalidConfigError` for what is neither, nests too deeply, or stands for too much.

    """
    language = "JSON" if place.suffix == ".json" else "YAML"
    try:
        return json.loads(text) if language == "JSON" else yaml_of(text)
    except RecursionError:
        raise InvalidConfigError(f"it is no {language} of a configuration: it is nested too deeply") from None
    except ValueError as error:
        raise InvalidConfigError(f"it is no {language}: {error}") from None  # the error may have the text itself


def yaml_of(text: str) -> Any:
    """Return the data of a YAML text. Raises `InvalidConfigError`, `RecursionError`."""
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise InvalidConfigError(MISSING_EXTRA) from error
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidConfigError(f"it is no YAML: {yaml_fault(error)}") from None  # the error has the line itself
    except (ValueError, TypeError, AttributeError, OverflowError) as error:  # such as a date that is none
        raise InvalidConfigError(f"it is no YAML: {type(error).__name__} where a value is none of its kind") from None
    check_count(data)
    return data


def check_count(data: Any) -> None:
    """Raise ValueError for data that stand for more than `VALUES_MAX` values, each counted wherever it stands."""
    left, count = [data], 0
    while left:
        value = left.pop()
        found = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
        count += len(found)
        if count > VALUES_MAX:
            raise ValueError(f"it stands for more than {VALUES_MAX} values: use fewer aliases")
        left.extend(found)
