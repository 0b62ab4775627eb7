"""Example: an asyncio program that writes with the asynchronous client while it follows events in two ways."""

import asyncio
import tempfile

from forge_consensus import AsyncClient, ConsensusService
from forge_consensus.events import LogCommitted, RoleChanged
from forge_consensus.feed.event_feed import EventFeed


async def roles(service: ConsensusService) -> None:
    """Print role changes of the node in this process, from a stream of its bus."""
    async with service.bus.astream(RoleChanged, timeout=5) as events:
        async for event in events:
            print(f"role: {event.old} -> {event.new} ({event.reason})")
            if event.new == "leader":
                return


async def commits(address: str, upto: int) -> None:
    """Print commits of any node, from the remote feed; here it is the same node."""
    async with EventFeed(address, kinds=[LogCommitted], since=0, timeout=10) as feed:
        async for event in feed:
            if isinstance(event, LogCommitted):
                print(f"committed: entries {event.first_index} to {event.last_index}")
                if event.last_index >= upto:
                    return


async def main() -> None:
    """Start a node, then write and follow events at the same time."""
    with tempfile.TemporaryDirectory() as folder:
        service = ConsensusService(node_id="n1", bind="127.0.0.1:0", storage_path=folder)
        watching = asyncio.create_task(roles(service))
        await asyncio.sleep(0)  # so that the task subscribes before the node starts
        try:
            await asyncio.to_thread(service.start)
            await asyncio.wait_for(watching, 10)
            async with AsyncClient(service.address) as client, asyncio.timeout(20):
                following = asyncio.create_task(commits(service.address, upto=20))
                await asyncio.gather(*(client.put(f"key-{number}", number) for number in range(20)))
                await following
                print("key-19 is", await client.get("key-19"))
        finally:
            await asyncio.to_thread(service.stop)


if __name__ == "__main__":
    asyncio.run(main())
