"""What initiators see, compared."""
