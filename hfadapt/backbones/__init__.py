"""Families of backbones: facts that can't be derived; one family a file."""
