"""Runs in a network of its own: a node, a client and a feed whose connections a firewall forgets.

Ends with 0 if the next call and the feed go on over new connections, with 75 if the packets of one connection cannot be
dropped here, and with an exception otherwise.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from forge_consensus import Client, EventFeed
from forge_consensus.events.types import LogCommitted

ADDRESS = "127.0.0.1:7101"
PORT = 7101
CALL_SECONDS = 5.0
ESTABLISHED = "01"


def command(*words: str) -> None:
    """Run a command; end with 75 if it cannot be."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{' '.join(words)}: {done.stderr}")
        sys.exit(75)


def open_ports() -> set[int]:
    """The ports of the connections that there are, but not the node's."""
    found: set[int] = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text(encoding="utf-8").splitlines()[1:]:
            row = line.split()
            if row[3] == ESTABLISHED:
                found |= {int(place.rpartition(":")[2], 16) for place in row[1:3]}
    return found - {PORT}


def forget_connections() -> None:
    """From now on drop every packet of the present connections."""
    command("ip", "rule", "add", "pref", "10", "lookup", "local")
    for port in open_ports():
        for side in ("sport", "dport"):
            command("ip", "rule", "add", "pref", "1", "ipproto", "tcp", side, str(port), "blackhole")
    command("ip", "rule", "del", "pref", "0")


def main(folder: str) -> None:
    """Run it all."""
    command("ip", "link", "set", "lo", "up")
    words = [sys.executable, "-m", "forge_consensus", "node", "--id", "n1", "--listen", ADDRESS, "--data", folder]
    node = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        client = Client(ADDRESS, timeout=20.0)
        client.put("a", 1)
        feed = EventFeed(ADDRESS, kinds=["log.committed"])
        time.sleep(1.0)  # it listens by now
        client.put("a", 2)
        assert isinstance(feed.get(CALL_SECONDS), LogCommitted)
        forget_connections()
        began = time.monotonic()
        client.put("a", 3, timeout=CALL_SECONDS)
        print(f"served again after {time.monotonic() - began:.1f} s")
        client.put("a", 4)
        while True:
            event = feed.get(3 * CALL_SECONDS)
            if isinstance(event, LogCommitted) and event.last_index >= 6:
                break
        print(f"the feed went on after {time.monotonic() - began:.1f} s")
        feed.close()
        client.close()
    finally:
        node.kill()
        node.wait()


if __name__ == "__main__":
    main(sys.argv[1])
