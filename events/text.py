"""The texts of events and durations for people: in log lines, on the command line and in the demo."""

from __future__ import annotations

from forge_consensus.events.envelope import ConsensusEvent, payload


def seconds_text(seconds: float | None) -> str:
    """Return a duration for people: 2.7ms, 120ms, 1.9s, 3m20s, 3h12m, 2d4h; "-" for None."""
    if seconds is None:
        return "-"
    if seconds < 1:
        milliseconds = seconds * 1000
        return f"{milliseconds:.1f}ms" if 0 < milliseconds < 9.95 else f"{milliseconds:.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    for size, unit, below, small in ((86_400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // below}{small}"
    return f"{whole}s"


def field_text(value: object) -> str:
    """Return one field of an event as text; it is quoted if it contains a space, a quote, a comma or `=`.

    Every float in an event is a duration in seconds.
    """
    if isinstance(value, float):
        return seconds_text(value)
    if isinstance(value, list | tuple):
        return ",".join(map(field_text, value))
    text = str(value)
    plain = text.isprintable() and not set(text) & set(" \"'=,")
    return text if plain else repr(text)


def facts_text(event: ConsensusEvent) -> str:
    """Return the fields of an event that are not empty, as `name=value`, with spaces between them."""
    return " ".join(
        f"{name}={field_text(value)}" for name, value in payload(event).items() if value not in (None, "", ())
    )
