"""One trial in one process: what it is built of, its loops, its measurements, its state."""
