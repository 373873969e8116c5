"""What may be written in more than one way is one sweep, however it is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from sweeping import HEAD, parsed, play

from raycl.catalog import catalog
from raycl.errors import SpecError
from raycl.results.growth import grow
from raycl.results.store import ResultsFolder
from raycl.spec import protocols, seeds
from raycl.spec.blocks import SHARED_OPTIONS
from raycl.spec.options import Options
from raycl.spec.sweep import SweepSpec
from raycl.spec.sweep_options import FinalConfig, PrunerConfig, ResourcesConfig, SearchConfig, TableConfig
from raycl.sweep.dispatch import Dispatcher
from raycl.sweep.ledger import Ledger
from raycl.sweep.plan import EntryPlan

RATES = HEAD + "strategies: {naive: {training.learning_rate: {choice: [1e-3, 1e-2]}}}\n"
SEARCHED = RATES + "search: {trials: 2, %s}\nfinal: {seeds: [10]}\n"
FINAL = HEAD + "strategies: {naive: {}}\nfinal: {%s}\n"
TABLE = RATES + "table: {points: 2, %s}\n"
WITHIN = "naive: {training.learning_rate: {choice: [1e-3, 1e-2]}}"
CONDITIONAL = SEARCHED.replace(
    WITHIN, "ewc: {mode: {choice: [separate, online]}, online_decay: {uniform: [.8, 1], when: {mode: %s}}}"
).replace("trials: 2, %s", "trials: 2")

SCHEDULED = HEAD.replace("training: {", "training: {schedule: %s, ") + "strategies: {naive: {}}\nfinal: {seeds: [10]}\n"

FORMS: list[tuple[str, str, str, str]] = [
    ("search.protocol", SEARCHED, "protocol: current_task", "protocol: {current_task: {}}"),
    ("search.protocol", SEARCHED, "protocol: current_task", "protocol: {current_task: {retrain: false}}"),
    ("search.protocol", SEARCHED, "protocol: seen_tasks", "protocol: {seen_tasks: {judge: validation}}"),
    ("search.protocol", SEARCHED, "protocol: stability_decay", "protocol: {stability_decay: {drop: 0.2}}"),
    ("search.protocol.first_tasks", SEARCHED, "protocol: {first_tasks: 2}", "protocol: {first_tasks: {tasks: 2}}"),
    (
        "search.protocol.first_tasks",
        SEARCHED,
        "protocol: {first_tasks: 1}",
        "protocol: {first_tasks: {disjoint: false}}",
    ),
    ("search.seeds", SEARCHED, "seeds: [3]", "seeds: {class_order: [3], split: [3], model: [3], batches: [3]}"),
    ("search.seeds", SEARCHED, "seeds: [0]", "seeds: {model: [0]}"),
    ("search.finalists.seeds", SEARCHED, "finalists: {}", "finalists: {top: 3, seeds: [1, 2]}"),
    ("search.finalists", SEARCHED, "finalists: null", "trials: 2"),
    ("final.seeds", FINAL, "seeds: {model: [1, 2]}", "seeds: {model: [1, 2], crossed: true}"),
    ("final.seeds", FINAL, "seeds: {model: [1, 2], split: [5]}", "seeds: {model: [1, 2], split: [5, 5], others: 0}"),
    ("table.seeds", TABLE, "seeds: [7]", "seeds: {model: [7], others: 7}"),
    ("when", CONDITIONAL, "online", "[online]"),
    ("training.schedule", SCHEDULED, "cosine", "{cosine: {floor: 0.0}}"),
    ("training.schedule", SCHEDULED, "plateau", "{plateau: {watch: loss}}"),
    (
        "training.schedule.multistep.factor",
        SCHEDULED,
        "{multistep: {at: [.2, .6], factor: .5}}",
        "{multistep: {at: [.2, .6], factor: [.5, .5]}}",
    ),
]
"""Where the option stands, a sweep, and two ways to write the option in it."""


def written(text: str, form: str) -> SweepSpec:
    text = text % form
    return parsed(text.replace("trials: 2, trials: 2", "trials: 2"))


@pytest.mark.parametrize(("place", "text", "short", "long"), FORMS)
def test_both_forms_are_one_sweep(place: str, text: str, short: str, long: str) -> None:
    one, other = written(text, short), written(text, long)
    assert one.hash == other.hash
    assert (one.search, one.final, one.table) == (other.search, other.final, other.table)
    for own, theirs in zip(one.entries, other.entries, strict=True):
        assert own == theirs
        assert one.basis(own) == other.basis(theirs)
        for phase in ("search", "final"):
            runs = (one.trial(own, own.middle, 0, phase), other.trial(theirs, theirs.middle, 0, phase))
            assert runs[0] == runs[1]


def forms() -> Iterator[str]:
    """Every option of every block that may be written as a word, a number or a list, and as a mapping of options."""
    known = catalog()
    blocks: dict[str, Any] = {
        "search": SearchConfig,
        "pruner": PrunerConfig,
        "final": FinalConfig,
        "table": TableConfig,
    }
    blocks |= {"resources": ResourcesConfig, **SHARED_OPTIONS}
    for kind in ("streams", "models", "strategies"):
        registry = getattr(known, kind)
        blocks |= {f"{kind}/{name}": registry.get(name).Config for name in registry.names()}
    for block, options in blocks.items():
        yield from _forms(options, block)


def _forms(options: type[Options], place: str) -> Iterator[str]:
    for name, field in options.model_fields.items():
        kinds = list(_kinds(field.annotation))
        nested = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Options)]
        if nested and set(kinds) - {*nested, type(None)}:
            yield f"{place}.{name}"
        for inner in nested:
            yield from _forms(inner, f"{place}.{name}")


def _kinds(annotation: Any) -> Iterator[Any]:
    """The members of a union, without what annotates them."""
    if hasattr(annotation, "__metadata__"):
        annotation = annotation.__origin__
    members = get_args(annotation)
    if members and not isinstance(annotation, type) and str(getattr(annotation, "__origin__", "")) != "typing.Literal":
        for member in members:
            yield from _kinds(member)
    else:
        yield annotation


OTHERS = {"evaluation.tasks"}
"""A word and a mapping that never mean the same: {sample: auto} draws in long streams alone."""


def test_no_option_with_two_forms_is_left_out() -> None:
    assert set(forms()) - OTHERS == {place for place, *_ in FORMS} & set(forms())
    assert {"search.protocol", "search.protocol.first_tasks", "search.seeds", "final.seeds"} <= set(forms())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("search: {", "search: {protocol: {first_tasks: %s}, "),
        ("final: {seeds: [10, 11]", "final: {seeds: %s"),
    ],
)
def test_a_folder_goes_on_under_the_other_form(old: str, new: str, tmp_path: Path) -> None:
    short, long = ("2", "{tasks: 2}") if "tasks" in new else ("[10]", "{model: [10], others: 10}")
    text = RATES + "search: {trials: 2, seeds: [0]}\nfinal: {seeds: [10, 11]}\n"

    def ran(form: str) -> int:
        sweep = parsed(text.replace(old, new % form))
        book = Ledger(ResultsFolder.create(tmp_path, sweep.dumps(), sweep.hash, lambda held: grow(held, sweep)))
        return len(play(Dispatcher([EntryPlan(sweep, entry, book) for entry in sweep.entries], book, 3), book.results))

    assert ran(short) == (4 if "tasks" in new else 3)
    assert ran(long) == 0
    assert ran(short) == 0


def test_a_list_of_one_metric_is_no_second_form() -> None:
    with pytest.raises(SpecError, match=r"search\.metric"):
        written(SEARCHED, "metric: [average_accuracy]")


def test_the_mutant_that_keeps_what_was_written_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    given = json.dumps({"first_tasks": {"tasks": 2}})
    kept = protocols.ProtocolConfig.model_validate_json(given)
    assert kept != protocols.shortest(kept) == protocols.ProtocolConfig(first_tasks=2)
    crossed = seeds.SeedDesign(model=(1, 2), crossed=True)
    assert crossed != seeds._listed(crossed) == seeds.SeedDesign(model=(1, 2))
    pair = seeds.SeedDesign(model=(1, 2), split=(1, 2), crossed=True)
    assert seeds._listed(pair) == pair, "four runs are not two"
