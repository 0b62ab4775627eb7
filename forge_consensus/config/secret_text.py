"""What looks like a secret: a key or token that stands where a path or a number belongs is not told in an error."""

from __future__ import annotations

import re
from string import ascii_letters, digits
from typing import Final

TOKEN: Final = re.compile(r"fct_[\w-]{12}_[\w-]{20,}")
HEXADECIMAL: Final = re.compile(r"[0-9a-fA-F]{64}")
BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{43}=")
KEY: Final = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
OF_PATHS: Final = frozenset(f"{ascii_letters}{digits}./-")
OTHERS_FEW: Final = 3
"""A key in Z85 has fewer characters that paths seldom have once in 500 times."""
NOT_TOLD: Final = "something that looks like a secret and is not told"


def looks_like_secret(text: str) -> bool:
    """Whether a text is probably a token, a key of CURVE or an encryption key, and neither a path nor a number."""
    text = text.strip()
    if any(form.fullmatch(text) for form in (TOKEN, HEXADECIMAL, BASE64)):
        return True
    return KEY.fullmatch(text) is not None and sum(letter not in OF_PATHS for letter in text) >= OTHERS_FEW
