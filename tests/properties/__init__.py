"""Properties of states made by chance."""
