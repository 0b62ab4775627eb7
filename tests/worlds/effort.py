"""How much is tried of what may be tried for ever: a sample in the usual run, far more on request.

``FORGE_THOROUGH=1 make test`` tries all of it: before a release, and after a change of what a sample is about.
"""

from __future__ import annotations

import os

THOROUGH = os.environ.get("FORGE_THOROUGH", "0") not in {"", "0"}


def effort(sample: int, whole: int) -> int:
    """How many examples, seeds or steps of each kind a test takes now."""
    return whole if THOROUGH else sample
