"""gevent and its like: where the standard library was changed, the poller is found, or a typed error tells why."""

from __future__ import annotations

import _thread
import importlib.util
import select
import subprocess
import sys
from functools import partial

import pytest

from forge_consensus.errors import InvalidConfigError
from forge_consensus.process.green import original_epoll
from tests.worlds.source_tree import ROOT

PATCHED = """
from gevent import monkey
monkey.{patch}
import select
assert not hasattr(select, "epoll")
from forge_consensus import Client, ConnectionFailedError
try:
    Client("127.0.0.1:1", timeout=0.1).get("a")
except ConnectionFailedError:
    print("works")
"""


@pytest.mark.skipif(importlib.util.find_spec("gevent") is None, reason="gevent is not installed")
@pytest.mark.parametrize("patch", ["patch_all()", "patch_all(thread=False)", "patch_select()"])
def test_a_client_has_its_poller_whatever_gevent_has_replaced(patch: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PATCHED.format(patch=patch)],
        cwd=ROOT, timeout=60, capture_output=True, check=False, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "works", "")


@pytest.mark.parametrize(("threads", "told"), [(True, "has replaced the threads"), (False, "taken epoll out")])
def test_a_library_that_takes_the_poller_away_is_refused_with_a_typed_error(
    monkeypatch: pytest.MonkeyPatch, threads: bool, told: str
) -> None:
    monkeypatch.delitem(sys.modules, "gevent.monkey", raising=False)
    monkeypatch.delattr(select, "epoll")
    if threads:
        monkeypatch.setattr(_thread, "start_new_thread", partial(_thread.start_new_thread))
    with pytest.raises(InvalidConfigError, match=told):
        original_epoll()
