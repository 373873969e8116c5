"""Sweep files: YAML in, checked and frozen objects out. Nothing here imports torch or ray."""
