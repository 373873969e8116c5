"""The ``raycl`` command: a file for each of its commands, and what they show. No rule of a sweep lives here."""

from raycl.cli.app import main

__all__ = ["main"]
