"""Mirrors of the results for other tools, behind one protocol. The results folder stays the truth."""
