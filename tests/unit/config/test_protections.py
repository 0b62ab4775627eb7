"""Settings of protections that do not fit together: none of them may be off although it looks as if it were on."""

from __future__ import annotations

from typing import Any

import pytest

from forge_consensus.config.loading import load_config
from forge_consensus.errors import InvalidConfigError


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"security": {"enable_tls": True}}, "security.cert_file and security.key_file are not both given"),
        ({"security": {"enable_mtls": True}}, "without security.enable_tls"),
        (
            {"security": {"enable_tls": True, "enable_mtls": True, "cert_file": "c", "key_file": "k"}},
            "without security.ca_file",
        ),
        ({"admin_api": {"api_key": "k" * 40}}, "admin_api.enable_auth is off"),
        ({"admin_api": {"api_key": "short", "enable_auth": True}}, "fewer than 16 characters"),
    ],
)
def test_protections_that_do_not_fit_together_are_refused(given: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidConfigError, match=text) as told:
        load_config(environment={}, node_id="n1", bind="127.0.0.1:7001", **given)
    assert "k" * 40 not in str(told.value)
    assert "'short'" not in str(told.value)
