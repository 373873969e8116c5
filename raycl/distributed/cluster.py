"""The Ray cluster that a sweep runs on: one of its own on this machine, or one that is there already."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.authentication import authentication_token_setup as tokens

from raycl.addresses import shown
from raycl.distributed import address as place
from raycl.distributed.environment import (
    DriversPath,
    entry_point,
    environment,
    for_ray,
    no_shipping,
    one_driver,
    quiet,
)
from raycl.errors import InfrastructureError
from raycl.spec.sweep_options import ResourcesConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Connection:
    """How this process came to its cluster.

    Attributes:
        own: the cluster was started for this process and ends with it.
        ours: the connection was made here, so that all actors of this process end with it.
    """

    own: bool
    ours: bool


@contextmanager
def connected(name: str, address: str | None) -> Iterator[Connection]:
    """Ray, for the duration of a block.

    Where this process is connected already, that connection is used and left as it is. Otherwise ``address`` or
    ``RAY_ADDRESS`` names a cluster to join, and without either one is started here, for this process alone.

    Raises:
        InfrastructureError: the cluster cannot be reached.
    """
    if ray.is_initialized():
        yield Connection(own=False, ours=False)
        return
    target = place.target(address)
    if target is not None:
        place.knock(target)
    with quiet(), ExitStack() as stack:
        folder = stack.enter_context(place.ray_folder()) if target is None else None
        stack.enter_context(_authenticated(own=target is None))
        try:
            with environment(for_ray()), no_shipping(), entry_point(), one_driver():
                ray.init(
                    address=target or "local",
                    namespace=f"raycl-{name}",
                    job_config=DriversPath(),
                    include_dashboard=None if target else False,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                    _temp_dir=folder,
                )
        except (OSError, RuntimeError, ValueError) as error:
            raise InfrastructureError(_unreachable(target, error)) from error
        except BaseException:  # told to stop while it starts
            ray.shutdown()
            raise
        try:
            yield Connection(own=target is None, ours=True)
        finally:
            ray.shutdown()


@dataclass
class Pulse:
    """Tells where a cluster of one machine has died, for which Tune would wait for ever.

    Args:
        every: seconds between two looks, at the least.
    """

    every: float = 5.0
    _next: float = 0.0

    def check(self) -> None:
        """Look, unless that was a moment ago.

        Raises:
            InfrastructureError: no node is alive.
        """
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self.every
        if not any(node["Alive"] for node in ray.nodes()):
            raise InfrastructureError(
                "Ray's node on this machine has died, and the running trials with it; it may have been killed, or the "
                "machine may be out of memory. Nothing is lost: the same command goes on from the last stored task of "
                "each trial"
            )


def slots(resources: ResourcesConfig, own: bool, wanted: int, limit: int | None) -> int:
    """Trials at the same time: what fits on a cluster of our own; on others all, as more pending ones make it grow."""
    fits = wanted
    if own:
        there = ray.cluster_resources()
        fits = int(there.get("CPU", 0) // resources.cpus)
        if resources.gpus > 0:
            fits = min(fits, int(there.get("GPU", 0) / resources.gpus + 1e-9))
        if fits < 1:
            raise InfrastructureError(
                f"a trial asks for {resources.cpus} CPUs and {resources.gpus:g} GPUs, this machine has "
                f"{there.get('CPU', 0):g} and {there.get('GPU', 0):g}; lower `resources`, or name a cluster"
            )
    elif not any(_holds(node, resources) for node in ray.nodes()):
        log.warning(
            "no node of the cluster has the %d CPUs and %g GPUs of one trial; waiting for one to join, "
            "or stop and lower `resources`",
            resources.cpus,
            resources.gpus,
        )
    return max(1, min(fits, wanted, limit or wanted))


def _holds(node: Mapping[str, Any], resources: ResourcesConfig) -> bool:
    """Whether a node could run one trial."""
    there = node["Resources"] if node["Alive"] else {}
    return bool(there.get("CPU", 0) >= resources.cpus and there.get("GPU", 0) >= resources.gpus)


@contextmanager
def _authenticated(own: bool) -> Iterator[None]:
    """A cluster of our own gets a token that nobody else knows; others need the user's, where the mode is left open.

    The process's next cluster begins without it: Ray keeps mode and token in the environment and in its own memory,
    and a driver that still asks for them turns the control store of a cluster without a token away.
    """
    if "RAY_AUTH_MODE" in os.environ:
        yield
        return
    try:
        with environment({name: os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}):
            if own:  # Ray itself asks for a token then, and would otherwise write one into the user's home
                os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            else:
                tokens.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
            yield
    finally:
        tokens.AuthenticationTokenLoader.instance().reset_cache()
        tokens.Config.initialize("")


def _unreachable(target: str | None, error: Exception) -> str:
    where = f"the Ray cluster at {shown(target)}" if target else "a Ray cluster on this machine"
    return (
        f"{where} cannot be reached: {error}. If it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN "
        "(or RAY_AUTH_TOKEN_PATH); if it was started without one, set RAY_AUTH_MODE=disabled"
    )
