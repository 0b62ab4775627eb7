"""The command: fuzzes one target until it raises or the time is over. It needs atheris: pip install atheris."""

from __future__ import annotations

import argparse
import importlib
import sys

NAMES = ("frame", "event", "command", "snapshot", "configuration", "body")


def main() -> None:
    """Fuzz; ends the process with 77 at the first fault, after writing the bytes that cause it into a file."""
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=NAMES)
    parser.add_argument("--seconds", type=int, default=60, help="for how long")
    given = parser.parse_args()
    try:
        atheris = importlib.import_module("atheris")
    except ModuleNotFoundError:
        sys.exit("atheris is missing: pip install atheris")
    with atheris.instrument_imports(include=["forge_consensus"]):
        targets = importlib.import_module("tests.fuzz.targets").TARGETS
    atheris.Setup(["fuzz", f"-max_total_time={given.seconds}", "-max_len=4096"], targets[given.target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
