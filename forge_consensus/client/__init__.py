"""The client: what programs use to speak with a cluster from outside, for threads and for asyncio."""
