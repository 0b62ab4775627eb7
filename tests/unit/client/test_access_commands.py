"""The commands that change the list of access, as a client makes them."""

from __future__ import annotations

import pytest

from forge_consensus.client.access_commands import put_command, token_command
from forge_consensus.errors import InvalidConfigError
from forge_consensus.security.access import Token


def test_a_token_is_not_taken_for_a_name_because_the_list_shows_names() -> None:
    _, text = Token.made()
    for make in (
        lambda: put_command(text, ["read"], [], None, False),
        lambda: token_command(text, ["read"], [], None),
    ):
        with pytest.raises(InvalidConfigError) as raised:
            make()
        assert "looks like a secret" in str(raised.value)
        assert text[-20:] not in str(raised.value)
