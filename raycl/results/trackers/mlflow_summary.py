"""What the run of a whole sweep says in MLflow, and how its experiment is shown. No MLflow here."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode

import pyarrow.csv as pa_csv

from raycl.results.store import REPORT, SWEEP_FILE, ResultsFolder
from raycl.results.tables import Comparison
from raycl.results.trackers.mlflow_terms import SEARCHED
from raycl.spec.sweep import SweepSpec

KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Without it MLflow's page of the experiment opens on traces of language models."""
LEADING = ("average_accuracy", "forgetting", "learning_accuracy")
SHARED_VIEW = "mlflow.sharedViewState."
_MOST_COLUMNS = 8


def figures(table: Comparison) -> dict[str, float]:
    """The final table as metrics: mean and half-width of each method's average accuracy, and its forgetting."""
    found: dict[str, float] = {}
    for line in (line for line in table.lines if line.scored_on == "test"):
        for name in LEADING:
            if name in line.metrics:
                found[f"final/{line.key}/{name}"] = line.metrics[name].mean
        if line.interval:
            found[f"final/{line.key}/average_accuracy_half_width"] = line.interval.margin
    return {name: value for name, value in found.items() if math.isfinite(value)}


def winners(table: Comparison) -> dict[str, str]:
    """The point of each method that has one, as JSON, by tag."""
    ended = [line for line in table.lines if line.search and line.search.ended]
    points = {line.key: line.search.winner for line in ended if line.search}
    return {f"raycl.winner.{key}": json.dumps(dict(point), sort_keys=True) for key, point in points.items() if point}


def note(table: Comparison) -> str:
    """The table, as the description of the run."""
    return f"```\n{table}\n```"


def write_files(results: ResultsFolder, table: Comparison, folder: Path) -> None:
    """The files of the sweep's run: sweep file, table, winners, a picture of it, and the report if there is one."""
    (folder / "table.txt").write_text(f"{table}\n")
    pa_csv.write_csv(table.to_arrow(), folder / "table.csv")
    (folder / "winners.json").write_text(
        json.dumps(
            {tag.removeprefix("raycl.winner."): json.loads(point) for tag, point in winners(table).items()}, indent=1
        )
    )
    for name in (SWEEP_FILE, REPORT):
        data = results.files.read(name)
        if data is not None:
            (folder / name).write_bytes(data)
    if any(line.scored_on == "test" and line.metrics for line in table.lines):
        from raycl.results import plots  # late: a sweep begins without matplotlib

        (folder / "average_accuracy.png").write_bytes(plots.png(plots.bars(table)))


def searched(sweep: SweepSpec | None) -> list[str]:
    """Parameters that the sweep searches, by their names in MLflow; those that most methods search first."""
    spaces = [path for entry in sweep.entries for path in entry.space] if sweep else []
    return [SEARCHED + path for path in sorted(dict.fromkeys(spaces), key=lambda path: -spaces.count(path))]


def view(parameters: Sequence[str]) -> tuple[str, str]:
    """Key and value of the shared view that has the columns worth looking at."""
    columns = [f"metrics.`{name}`" for name in LEADING]
    columns += [f"params.`{name}`" for name in parameters[:_MOST_COLUMNS]]
    order = {"orderByKey": "metrics.`average_accuracy`", "orderByAsc": False}
    state = json.dumps({"selectedColumns": columns, "runsHiddenMode": "SHOW_ALL", **order}, sort_keys=True)
    return hashlib.sha256(state.encode()).hexdigest(), state


def page(server: str, experiment: str, key: str) -> str:
    """The address of the experiment's runs as a shared view shows them, beside MLflow's pages for training."""
    query = {"viewStateShareKey": key, "workflowType": "machine_learning"}
    return f"{server}/#/experiments/{experiment}/runs?{urlencode(query)}"
