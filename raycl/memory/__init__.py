"""Replay memory: what is kept, which rows stay, and who holds them."""
