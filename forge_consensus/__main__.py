"""``python -m forge_consensus``: the same as the command ``forge-consensus``."""

from forge_consensus.cli.main import main

if __name__ == "__main__":
    main()
