"""What a sweep asks, in sentences: of which methods, on which stream, and by what rule winners are chosen."""

from __future__ import annotations

from collections.abc import Sequence

from raycl.results.report.answer import in_words
from raycl.spec.protocols import ProtocolConfig
from raycl.spec.seeds import RunSeeds
from raycl.spec.sweep import SweepSpec
from raycl.spec.sweep_options import SearchConfig

SCENARIOS = {
    "task": "task-incremental: the task is given at test",
    "domain": "domain-incremental: the task is not given at test, nor asked for",
    "class": "class-incremental: all classes have to be told apart at test",
}
MOST_SEEDS = 8


def asked(sweep: SweepSpec) -> str:
    """``"Which of 6 methods keeps the most of a stream of 5 tasks?"``, with what the stream is."""
    stream, able = sweep.stream, [entry for entry in sweep.entries if not entry.barred]
    aliases = list(dict.fromkeys(entry.alias for entry in able))
    which = f"Which of {len(aliases)} methods ({', '.join(aliases)}) keeps" if len(aliases) > 1 else (
        f"How much does {', '.join(aliases)} keep")  # fmt: skip
    tasks = "one task" if stream.tasks == 1 else f"{stream.tasks} tasks"
    data = getattr(stream, "dataset", None)
    told = f"{stream.name} {data}" if data else stream.name
    several = len(sweep.variants) > 1
    where = f" in each of {len(sweep.variants)} variants ({', '.join(sweep.variants)})" if several else ""
    scenario = "" if several else f"; {SCENARIOS[stream.scenario]}"
    most = " the most" if len(aliases) > 1 else ""
    return f"{which}{most} of {tasks} that are learned one after another ({told}{scenario}){where}?"


def protocol(sweep: SweepSpec) -> list[str]:
    """By what winners are chosen, and on what they are scored."""
    if sweep.table is not None:
        return [
            f"Nothing is selected: this is a table of up to {sweep.table.points} points for each method, each with "
            f"{_seeds(sweep.table.runs)}, on validation and on test data."
        ]
    told = [_chosen(sweep, sweep.search)]
    if sweep.final is not None:
        rows = "training and validation rows" if sweep.final.train_on == "train_and_validation" else "training rows"
        told.append(
            f"Each winner is then trained anew on the {rows} with {_seeds(sweep.final.runs)}, and scored on test data."
        )
    return told


def _chosen(sweep: SweepSpec, search: SearchConfig | None) -> str:
    searched = [entry for entry in sweep.entries if entry.space and not entry.barred]
    if search is None or not searched:
        return "No hyperparameter is searched: the file names one point for each method."
    if isinstance(rule := sweep.as_it_goes, ProtocolConfig):
        return f"Hyperparameters are chosen between tasks ({rule.name}), within each trial, by validation data."
    tried = f"up to {search.trials} points of each method ({search.sampler}, {search.generation} at a time)"
    told = f"A search tries {tried} with {_seeds(search.runs)}; what counts is {sweep.metric.replace('_', ' ')} on "
    told += "validation data"
    if search.judged is not None:
        told += f" after the first {search.judged.tasks} of the tasks"
    if search.searched_on:
        told += f" of another stream ({', '.join(f'{key}: {value}' for key, value in search.searched_on.items())})"
    if search.costs:
        told += f", beside {', '.join(search.costs)}, which shall be low"
    if search.finalists:
        told += f". The best {search.finalists.top} are run again with {_seeds(search.finalists.runs)} before one wins"
    return f"{told}."


def _seeds(runs: Sequence[RunSeeds]) -> str:
    """``"seeds 10, 11 and 12"``."""
    labels = [run.label for run in runs]
    if len(labels) > MOST_SEEDS:
        return f"{len(labels)} seeds ({labels[0]} to {labels[-1]})"
    return f"seed{'s' * (len(labels) > 1)} {in_words(labels)}"
