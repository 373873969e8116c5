"""Numbers of one task after another, and whether they fall: slopes per task, with intervals over seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raycl.results.statistics import deviation, half_width


def online_curves(online: pa.Table, names: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Prequential accuracy, task by task.

    Args:
        online: :func:`raycl.results.reading.read_online`.
        names: trial -> the name under which it counts.

    Returns:
        By name ``[trials, tasks]``, in the order of ``names``; those without any are left out.
    """
    share = pc.divide(online["correct"].cast(pa.float64()), online["total"].cast(pa.float64()))
    return _curves(online.append_column("share", share), "share", names)


def measure_curves(measures: pa.Table, name: str, names: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The numbers of one name, task by task, such as ``dead_units``: as :func:`online_curves` gives them.

    Args:
        measures: :func:`raycl.results.reading.read_measures`.
        names: trial -> the name under which it counts.
    """
    return _curves(measures.filter(pc.field("name") == name), "value", names)


def _curves(table: pa.Table, column: str, names: Mapping[str, str]) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {name: [] for name in names.values()}
    for trial, name in names.items():
        own = table.filter(pc.field("trial") == trial).sort_by("train_task")
        found[name] += [own[column].to_numpy()] if len(own) else []
    return {name: np.stack(curves) for name, curves in found.items() if curves}


@dataclass(frozen=True)
class Slope:
    """Change per task: the mean over seeds, and how far its 95 % interval by Student's t goes to either side."""

    mean: float
    margin: float

    @classmethod
    def of(cls, curves: np.ndarray, after: int = 0) -> Slope:
        """Of the least-squares line through each curve.

        Args:
            curves: ``[seeds, tasks]``; the interval of one seed, or of equal slopes, is NaN.
            after: tasks at the beginning that are left out.
        """
        tasks = np.arange(curves.shape[1])[after:]
        slopes = np.polynomial.polynomial.polyfit(tasks, curves[:, after:].T, 1)[1]
        return cls(float(slopes.mean()), half_width(deviation(slopes.tolist()), len(slopes)))
