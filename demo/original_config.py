"""Example: the YAML of the Go original's README as it stands there, and what of it means something else here.

It needs the extra ``config``.
"""

import tempfile
from pathlib import Path

from forge_consensus import ConsensusExtension, InvalidConfigError, load_config
from forge_consensus.config.shown import shown as shown_settings
from forge_consensus.testing.local.ports import free_ports

CONFIG = Path(__file__).with_name("original_config.yaml")
TUNING = Path(__file__).with_name("original_tuning.yaml")
SECURITY = Path(__file__).with_name("original_security.yaml")
WITHOUT_TLS = {"enable_tls": False, "enable_mtls": False, "cert_file": "", "key_file": "", "ca_file": ""}


def without_folder(text: str) -> str:
    """Leave out where the files lie."""
    return text.replace(f"{CONFIG.parent}/", "")


def show_file() -> None:
    """Load the file as it is. Where the node would speak plainly although TLS is on, it is not started."""
    print("== Configuration File ==")
    config = load_config(CONFIG, environment={})
    node = config.node
    print(
        f"{node.node_id} of {node.cluster_id} listens at {node.bind}; the members are {', '.join(node.peers.values())}"
    )
    print(f"heartbeat {node.raft.heartbeat_interval} s, election timeout {node.raft.election_timeout_min} to "
          f"{node.raft.election_timeout_max} s, messages of at most {node.raft.message_bytes_max} bytes")  # fmt: skip
    print(f"a snapshot after {node.storage.snapshot_interval} s or {node.storage.snapshot_entries} entries, "
          f"in {node.storage_path}; log level {config.program.log_level}")  # fmt: skip
    security = node.security
    print(f"TLS {security.enable_tls}, with certificates of clients {security.enable_mtls}: {security.cert_file}, "
          f"{security.key_file}, {security.ca_file}")  # fmt: skip
    for note in config.notes:
        print("note:", without_folder(note))
    # TLS is that of the admin API. Between nodes keys of CURVE encrypt, and this file cannot name any.
    try:
        ConsensusExtension(config).start()
    except InvalidConfigError as error:
        print("not started:", error)


def show_tuning() -> None:
    """Load the second file on top of the first, and run a node by them."""
    print("== Performance Tuning ==")
    with tempfile.TemporaryDirectory() as folder:
        address = f"127.0.0.1:{free_ports(1)[0]}"
        own = {
            "security": WITHOUT_TLS,
            "bind": address,  # a node without keys serves its own machine only, and the file says all addresses
            "peers": {"node-1": address},  # the file's members are on other machines
            "storage_path": folder,
        }
        config = load_config(CONFIG, TUNING, environment={}, **own)
        raft = config.node.raft
        print(f"heartbeat {raft.heartbeat_interval} s, election timeout {raft.election_timeout_min} to "
              f"{raft.election_timeout_max} s, messages of at most {raft.message_bytes_max} bytes")  # fmt: skip
        for note in config.notes:
            if TUNING.name in note:
                print("note:", without_folder(note))
        with ConsensusExtension(config, wait_for_leader=30) as extension:
            print(f"{extension.get_leader()} leads {extension.service.get_cluster_info().id}, by both files")


def show_security() -> None:
    """Load the third file on top of the first, with a key for the connections between nodes besides."""
    print("== Security Hardening ==")
    environment = {"CONSENSUS_ENCRYPTION_KEY": "0f" * 32}
    config = load_config(CONFIG, SECURITY, environment=environment, security={"curve_key_file": "node-1.key"})
    security = config.node.security
    print(f"TLS {security.enable_tls}, with certificates of clients {security.enable_mtls}: {security.cert_file}, "
          f"{security.ca_file}; encrypted on disk {security.enable_encryption}")  # fmt: skip
    shown = {row["name"]: row["text"] for row in shown_settings(config)}
    print(f"the key of the disk is shown as {shown['security.encryption_key']}")


if __name__ == "__main__":
    show_file()
    show_tuning()
    show_security()
