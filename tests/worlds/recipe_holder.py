"""A process that holds a lock and writes under it when it is told to; its test stops it and lets it go on.

``python -m tests.worlds.recipe_holder ENDPOINTS NAME TTL`` prints the token, and for each line of stdin whether it
believes to hold the lock, and what became of a guarded write.
"""

from __future__ import annotations

import sys

from forge_consensus import Client, Command
from forge_consensus.recipes import Lock


def main(endpoints: str, name: str, ttl: str) -> None:
    """Hold the lock and obey."""
    with Client(endpoints) as client:
        lock = Lock(client, name, float(ttl), owner="holder", on_lost=lambda: None)
        print(lock.acquire(10), flush=True)
        for _ in sys.stdin:
            believed = lock.is_held
            write = Command("set", {"key": f"{name}/data", "value": lock.token})
            done = client.transaction(lock.guard(), [write])
            print(believed, done.succeeded, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
