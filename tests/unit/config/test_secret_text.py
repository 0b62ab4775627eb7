"""What looks like a secret, and that none is told of a node's file where it stands in the wrong place."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from forge_consensus.config.loading import load_config
from forge_consensus.config.secret_text import looks_like_secret
from forge_consensus.errors import InvalidConfigError

KEY = "JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6"
"""The secret key of ZeroMQ's own documentation."""


@pytest.mark.parametrize(
    ("line", "part"),
    [
        (f"curve_key_file: '{KEY}'", "or give security.curve_secret_key"),
        (f"encryption_key_file: {'0f' * 32}", "or give security.encryption_key"),
        (f"access_file: '{KEY}'", "write it into a file of mode 0600, and name that"),
        (f"enable_tls: '{KEY}'", "write true or false"),
        (f"curve_secret_key: !{KEY[8:16]}", "put a text that begins with ! in quotes"),
        (f"curve_secret_key: *{'0f' * 20}", "found undefined alias"),
        (f"curve_secret_key: '${{{KEY[:9]}}}'", "no name of a variable"),
    ],
)
def test_a_secret_in_the_wrong_place_is_not_told(tmp_path: Path, line: str, part: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"node_id: n1\nbind: '127.0.0.1:7001'\nsecurity:\n  {line}\n")
    with pytest.raises(InvalidConfigError) as refused:
        load_config(file, environment={})
    assert part in str(refused.value)
    for secret in (KEY[:9], KEY[8:16], "0f0f0f"):
        assert secret not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (KEY, True),
        (f"fct_{'a' * 12}_{'b' * 43}", True),
        ("0f" * 32, True),
        (base64.b64encode(bytes(range(32))).decode(), True),
        ("/etc/forge-consensus/keys/node1-main.key", False),
        ("n1.key", False),
        ("/run/secrets/a-path-that-is-as-long-as-a-hexadecimal-key-of-64-x", False),
        ("", False),
    ],
)
def test_what_looks_like_a_secret(text: str, is_one: bool) -> None:
    assert looks_like_secret(text) is is_one
