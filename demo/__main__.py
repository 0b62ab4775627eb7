"""``python -m demo``: the same as ``forge-consensus demo``."""

from forge_consensus.demo.command import demo

if __name__ == "__main__":
    demo(prog_name="demo")
