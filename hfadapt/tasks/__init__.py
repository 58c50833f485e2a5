"""What a model is adapted to; one task a file."""
