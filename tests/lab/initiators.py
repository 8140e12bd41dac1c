"""Real initiators (grows below)."""


def stop_initiator() -> None:
    """Placeholder until the initiators are written."""
