"""A run's model card: what happened, and nothing else."""

PLACE = "path/to/model"
"""What stands in a card where the model's place belongs; publishing replaces it with the repository's id."""
