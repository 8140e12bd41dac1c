"""How long a handover takes, as ratios in one run on one kernel: `scripts/bench`."""
