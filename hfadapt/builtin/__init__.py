"""Data that make recipes run with no network."""
