"""Hostile files: snapshots whose every checksum fits, and texts of configurations, with anything in them."""

from __future__ import annotations

import zlib
from hashlib import sha256
from typing import Any

import msgpack
from hypothesis import strategies as st

from forge_consensus.storage.snapshots.file import END, END_MARK, FRAME, MAGIC, PREAMBLE, VERSION
from tests.worlds.hostile_bytes import BYTES, VALUES

PARTS = ("index", "term", "time_ms", "elapsed_ms", "configuration", "sessions", "access", "skips", "machine", "cluster")
ROWS = st.lists(
    st.tuples(st.binary(max_size=20) | st.integers(0, 2**64 - 1), st.binary(max_size=40)).map(list), max_size=4
)
CHUNKS = st.lists(ROWS.map(msgpack.packb) | BYTES, max_size=3)
ODD_PARTS = st.dictionaries(st.sampled_from(PARTS), VALUES | st.lists(ROWS.map(msgpack.packb), max_size=2), max_size=3)
"""Parts of a header that take the places of the right ones."""


def snapshot_bytes(header: bytes, chunks: list[bytes]) -> bytes:
    """A snapshot file whose checksums fit, whatever is in it."""
    data = PREAMBLE.pack(MAGIC, VERSION)
    for part in (header, *chunks):
        data += FRAME.pack(len(part), zlib.crc32(part)) + part
    data += END.pack(END_MARK, len(chunks), sum(map(len, chunks)))
    return data + sha256(data).digest()


TEXTS = st.sampled_from(
    (
        "n1", "", "true", "2001-02-30", "0x1f", "1_0", "1e999", "9" * 5000, "*a", "&a [*a]", "!!set {a}", "!!binary a",
        "!!python/name:os.system", "? [a]", "<<: *a", "~", "- - - a", "{a: b", "[", "]", "'", "${HOME}", "${file:/x}",
        "127.0.0.1:7001", "[n1, n2]", "{n1: [k]}", "!!timestamp 1", "\x00", "\ud7ff", "10m", "-.inf", "=", "!!int []",
    )
) | st.text(max_size=12)  # fmt: skip
NAMES = st.sampled_from(
    (
        "client", "endpoints", "cluster_id", "timeout", "servers", "token", "token_file", "members", "clients",
        "revoked", "keys", "roles", "rules", "tokens", "n1", "node_id", "peers", "raft", "security", "consensus",
        "extensions", "storage_path", "bind", "admin_api", "current", "contexts",
    )
)  # fmt: skip


def nested(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Sections with values in them, as YAML that is mostly right."""
    rows = st.lists(st.tuples(NAMES | TEXTS, inner), min_size=1, max_size=4)
    return rows.map(lambda found: "{" + ", ".join(f"{name}: {value}" for name, value in found) + "}") | st.lists(
        inner, max_size=4
    ).map(lambda found: "[" + ", ".join(found) + "]")


CONFIGURATIONS = st.one_of(
    st.recursive(TEXTS, nested, max_leaves=12),
    st.text(max_size=60),
    st.sampled_from(
        (
            "[" * 3000,
            "{a: " * 3000,
            "a: &a [x, x, x, x, x, x, x, x, x]\n"
            + "".join(f"b{n}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)),
            "members: &m {n1: &k {keys: [a]}, n2: *k}\nclients: *m\n",
            "a: &a\n  b: *a\n",
        )
    ),
)
"""Texts in YAML; some of them are JSON, too."""


def packed_header(parts: dict[str, Any], odd: dict[str, Any]) -> bytes:
    """A header with some parts in the places of others."""
    found: bytes = msgpack.packb({**parts, **odd})
    return found
