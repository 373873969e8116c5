"""raycl: distributed sweep orchestration for continual learning on Ray."""

__version__ = "0.1.0"
