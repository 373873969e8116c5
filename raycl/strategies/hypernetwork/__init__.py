"""Continual learning with hypernetworks, and the methods built on it."""
