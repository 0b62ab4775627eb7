"""Serving metrics: one path, typed errors, and nothing left behind."""

from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Gauge

from forge_consensus.errors import InvalidConfigError, TransportUnavailableError
from forge_consensus.events.metrics.server import CONNECTIONS_MAX, serve
from tests.worlds.waiting import wait_for


def registry() -> CollectorRegistry:
    made = CollectorRegistry()
    Gauge("answer", "What it is.", registry=made).set(42)
    return made


def get(address: str, path: str) -> str:
    with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as response:
        return str(response.read().decode())


def test_the_registry_is_served_at_metrics_and_others_below_it() -> None:
    with serve(registry(), "127.0.0.1:0", more=registry()) as server:
        assert "answer 42.0" in get(server.address, "/metrics")
        assert "answer 42.0" in get(server.address, "/metrics/more")
        with pytest.raises(urllib.error.HTTPError, match="404") as caught:
            get(server.address, "/")
        with caught.value as error:
            assert b"this server has /metrics, /metrics/more" in error.read()


def test_a_port_in_use_is_a_typed_error_and_is_free_after_close() -> None:
    first = serve(registry(), "127.0.0.1:0")
    address = first.address
    with pytest.raises(TransportUnavailableError, match="in use by another program"):
        serve(registry(), address)
    first.close()
    first.close()
    with serve(registry(), address) as again:
        assert again.address == address


@pytest.mark.parametrize("address", ["", "9100", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000", "192.0.2.1:9100"])
def test_an_unusable_address_is_a_typed_error(address: str) -> None:
    with pytest.raises(InvalidConfigError, match="metrics: "):
        serve(registry(), address)


def test_a_silent_connection_holds_up_nobody() -> None:
    with serve(registry(), "127.0.0.1:0") as server:
        host, _, port = server.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=5):
            assert "answer" in get(server.address, "/metrics")


def test_many_silent_connections_give_way_to_those_that_ask_and_take_few_threads() -> None:
    before = threading.active_count()
    with serve(registry(), "127.0.0.1:0") as server:
        host, _, port = server.address.rpartition(":")
        silent = [socket.create_connection((host, int(port)), timeout=5) for _ in range(2 * CONNECTIONS_MAX)]
        for _ in range(3):
            assert "answer" in get(server.address, "/metrics")
        assert silent[0].recv(1) == b""
        wait_for(lambda: threading.active_count() <= before + CONNECTIONS_MAX + 1, 5, "the threads to end")
        for each in silent:
            each.close()
