"""``python -m forge_consensus.testing.campaign``."""

from forge_consensus.testing.campaign.command import campaign

campaign(prog_name="python -m forge_consensus.testing.campaign")
