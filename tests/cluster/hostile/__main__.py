"""The command: attacks a real cluster and prints one line of JSON; the exit code is 1 if a node ended or misled."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from tests.cluster.hostile.campaign import run


def main() -> int:
    """Run the campaign."""
    parser = argparse.ArgumentParser("python -m tests.cluster.hostile", description=__doc__)
    parser.add_argument("--frames", type=int, default=1_000_000, help="how many hostile frames are sent")
    parser.add_argument("--connections", type=int, default=10_000, help="how many half-open connections are made")
    parser.add_argument("--secure", action="store_true", help="encrypt all; frames are those of a known client")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)), help="what all is drawn from")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        found = run(Path(folder), given.seed, given.frames, given.connections, secure=given.secure)
    print(json.dumps(found))
    return 0 if found["whole"] and not (found["crashes"] or found["honest_wrong_reads"] or found["stuck"]) else 1


if __name__ == "__main__":
    sys.exit(main())
