"""A small Ray for the files that test actors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray

from raycl.distributed.environment import environment


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One for a whole file."""
    with environment({"RAY_AUTH_MODE": "disabled"}):
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=150_000_000,
            namespace="raycl-test-actors",
            logging_level="ERROR",
            log_to_driver=False,
        )
        yield
        ray.shutdown()
