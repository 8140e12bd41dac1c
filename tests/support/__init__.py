"""What tests share: builders, strategies, fakes, and what runs inside a host (in*.py)."""
