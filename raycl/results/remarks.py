"""What must be known of trials before their figures are believed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from raycl.results.seed_columns import seeds_in

ALL_IMAGES = (
    "stream.normalize mean_std: mean and deviation are those of all training images of the data set, validation rows, "
    "later tasks and absent classes included; mean_std_first_task knows the first task's alone."
)


def remarks(trials: Iterable[Mapping[str, Any]], key: str) -> tuple[str, ...]:
    """Sentences about rows of the trials table, each once.

    Args:
        key: whose figures they give; the alias in a row is that of the entry that ran it first.
    """
    found: dict[str, None] = {}
    for trial in trials:
        if trial.get("hp.stream.normalize") == "mean_std":
            found[ALL_IMAGES] = None
        told = json.loads(trial.get("provenance") or "{}")
        if seen := told.get("weights_seen"):
            found[f"Pretrained weights had learned from {seen} before the stream began."] = None
        if part := told.get("measured"):
            found[f"{key}: metrics are taken over the cells that were measured: {part}."] = None
        for text in told.get("warnings", ()):
            found[f"{key}, seed {seeds_in(trial).label}: {text}"] = None
    return tuple(found)
