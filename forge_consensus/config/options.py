"""The options of an application: settings by name, and those of the Go original (WithBindAddress and so on)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from forge_consensus.config.address import joined_address
from forge_consensus.config.given import Layer
from forge_consensus.config.layers import from_arguments
from forge_consensus.errors import InvalidConfigError

NAMES: Final = {
    "bind_address": "bind",
    "transport_type": "transport.type",
    "discovery_type": "discovery.type",
    "storage_type": "storage.type",
    "tls": "security.enable_tls",
    "mtls": "security.enable_mtls",
}
"""The options of the Go original -> the settings that they set."""
PAIR: Final = 2
SWITCHES: Final = ("true", "false")


def from_options(options: Mapping[str, Any]) -> Layer:
    """Read options, of which faults name the option as it was given. Raises `InvalidConfigError` for one given twice.

    ``bind_address`` is HOST:PORT or ``(host, port)``, ``tls`` a switch or ``(cert_file, key_file)``, and ``mtls`` a
    switch or the file of the authorities, as WithBindAddress, WithTLS and WithMTLS of the original.
    """
    layer = from_arguments({name: value for name, value in options.items() if name not in NAMES})
    for option, name in NAMES.items():
        if options.get(option) is None:
            continue
        if name in options:
            raise InvalidConfigError(f"{option} and another name of {name} are both given: give one of them")
        try:
            settings = dict(settings_of(option, options[option]))
        except InvalidConfigError as error:
            layer.problems.append(f"argument {option}: {error}")
            continue
        found = from_arguments(settings)
        layer.givens += [replace(given, origin=f"argument {option}") for given in found.givens]
        layer.problems += found.problems
    return layer


def settings_of(option: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the settings that one option of the original means. Raises `InvalidConfigError`."""
    name = NAMES[option]
    if option == "bind_address" and isinstance(value, list | tuple):
        yield name, joined_place(value)
    elif option == "tls" and not is_switch(value):
        certificate, key = certified(value)
        yield from ((name, True), ("security.cert_file", certificate), ("security.key_file", key))
    elif option == "mtls" and not is_switch(value):
        if not isinstance(value, str | Path) or not str(value):
            raise InvalidConfigError(f"{value!r:.100} is no file: give True, False, or the file of the authorities")
        yield from ((name, True), ("security.ca_file", str(value)))
    else:
        yield name, value


def is_switch(value: object) -> bool:
    """Whether a value says yes or no, and names no file."""
    return isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in SWITCHES)


def joined_place(value: list[Any] | tuple[Any, ...]) -> str:
    """Return the address of a host and a port. Raises `InvalidConfigError`."""
    if len(value) == PAIR:
        host, port = value
        if isinstance(host, str) and isinstance(port, int | str) and not isinstance(port, bool):
            return joined_address(host, port)
    raise InvalidConfigError(f"{value!r:.100} is no address: give HOST:PORT, or (host, port) such as ('0.0.0.0', 7000)")


def certified(value: object) -> tuple[str, str]:
    """Return the files of a certificate and its key. Raises `InvalidConfigError`."""
    if isinstance(value, list | tuple) and len(value) == PAIR:
        certificate, key = value
        if all(isinstance(each, str | Path) and str(each) for each in (certificate, key)):
            return str(certificate), str(key)
    raise InvalidConfigError(
        f"{value!r:.100} names no two files: give True, False, or (cert_file, key_file) such as ('n1.crt', 'n1.key')"
    )
