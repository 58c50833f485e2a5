"""Exported models: the folders they lie in, how their graphs are traced, and how they are run."""
