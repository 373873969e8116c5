"""Seeds of each source of randomness: the runs a design makes, what is refused, and the trials' names."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from raycl.errors import SpecError
from raycl.spec.rules import BrokenRules, validate
from raycl.spec.schema import json_schema
from raycl.spec.seeds import SEED_SOURCES, RunSeeds
from raycl.spec.source import parse
from raycl.spec.sweep import SweepSpec
from raycl.spec.sweep_options import FinalConfig, SearchConfig
from raycl.spec.trial import TrialSpec

from .fakes import BASE, CATALOG, sweep

FINAL = "final: {seeds: [10, 11, 12]}"


def design(**seeds: Any) -> FinalConfig:
    return validate(FinalConfig, {"seeds": seeds})


def values(config: FinalConfig | SearchConfig) -> list[tuple[int, ...]]:
    return [run.values for run in config.runs]


def final(seeds: str, text: str = BASE) -> SweepSpec:
    assert FINAL in text
    return sweep(text.replace(FINAL, f"final: {{seeds: {seeds}}}"))


def refused(seeds: str, text: str = BASE) -> str:
    with pytest.raises(SpecError) as caught:
        final(seeds, text)
    (problem,) = caught.value.problems
    return str(problem)


# -- the runs of a design ----------------------------------------------------------------------------------------------


def test_a_list_gives_every_source_the_same_seed() -> None:
    assert values(validate(FinalConfig, {"seeds": [4, 7]})) == [(4, 4, 4, 4), (7, 7, 7, 7)]
    assert values(FinalConfig()) == [(10,) * 4, (11,) * 4, (12,) * 4]


def test_lists_are_paired_and_a_single_seed_stands_in_all_runs() -> None:
    config = design(class_order=[10, 11], model=[20, 21], split=[5])
    assert values(config) == [(10, 5, 20, 0), (11, 5, 21, 0)], "what is not named has the seed 0"
    assert values(design(model=[1, 2], others=9)) == [(9, 9, 1, 9), (9, 9, 2, 9)]


def test_crossed_seeds_make_every_combination() -> None:
    config = design(class_order=[1, 2], batches=[5, 6, 7], crossed=True)
    expected = [(order, 0, 0, batches) for order in (1, 2) for batches in (5, 6, 7)]
    assert values(config) == expected


@pytest.mark.parametrize(
    ("seeds", "rule"),
    [
        ({}, "must name a source: class_order, split, model, batches"),
        ({"others": 1}, "must name a source"),
        (
            {"model": [1, 2], "split": [1, 2, 3]},
            r"or of one seed \(got split 3, model 2\); or set crossed: true",
        ),
        ({"model": [1, 1]}, "every combination of seeds may stand once"),
        ({"model": list(range(40)), "split": list(range(40)), "crossed": True}, r"at most 1,000 runs \(got 1,600\)"),
        ({source: [1, 2] for source in SEED_SOURCES} | {"others": 1}, "others does nothing beside all four sources"),
        ({"model": []}, "must hold at least 1 item"),
        ({"model": [-1]}, "must be at least 0"),
        ({"model": 3}, "must be a list"),
        ({"modle": [1]}, "unknown key; did you mean 'model'"),
    ],
)
def test_what_makes_no_runs_is_refused(seeds: dict[str, Any], rule: str) -> None:
    with pytest.raises(BrokenRules) as caught:
        design(**seeds)
    (broken,) = caught.value.broken
    assert broken.path[0] == "seeds"
    assert re.search(rule, broken.rule)


@pytest.mark.parametrize("wrong", [3, "all", None])
def test_neither_a_list_nor_a_mapping_is_refused(wrong: Any) -> None:
    with pytest.raises(BrokenRules, match="must be a list or must be a mapping of options"):
        validate(FinalConfig, {"seeds": wrong})


def test_a_design_of_equal_seeds_is_the_list_of_them() -> None:
    config = design(**{source: [10, 11, 12] for source in SEED_SOURCES})
    assert config == FinalConfig()
    assert final(json.dumps({source: [10, 11, 12] for source in SEED_SOURCES})).hash == sweep().hash


# -- trials ------------------------------------------------------------------------------------------------------------


def trial(seed: int | RunSeeds) -> TrialSpec:
    asked = sweep()
    return asked.trial(asked.entries[0], asked.entries[0].middle, seed, "final")


def test_equal_seeds_of_all_sources_are_the_run_seed() -> None:
    one, other = trial(3), trial(RunSeeds(class_order=3, split=3, model=3, batches=3))
    assert one == other
    assert one.hash == other.hash
    assert (one.seeds, one.seed_label) == (None, "3")


def test_every_source_names_a_trial() -> None:
    changed = {source: trial(RunSeeds.of(3).model_copy(update={source: 4})) for source in SEED_SOURCES}
    assert len({spec.hash for spec in (trial(3), trial(4), *changed.values())}) == 6
    assert [spec.seed_label for spec in changed.values()] == ["4/3/3/3", "3/4/3/3", "3/3/4/3", "3/3/3/4"]
    for spec in changed.values():
        assert TrialSpec.loads(spec.dumps()) == spec
        assert TrialSpec.loads(spec.dumps()).hash == spec.hash


def test_stored_trials_of_before_have_one_seed() -> None:
    stored = json.loads(trial(3).dumps())
    del stored["seeds"]
    found = TrialSpec.loads(json.dumps(stored))
    assert (found.run_seeds, found.hash) == (RunSeeds.of(3), trial(3).hash)


def test_runs_are_counted() -> None:
    asked = final("{class_order: [10, 11], model: [10, 11, 12], others: 9, crossed: true}")
    assert asked.runs(asked.entries[0]).final == 6
    searched = sweep(BASE.replace("seeds: [0],", "seeds: {model: [0, 3]},").replace(FINAL, "final: {seeds: [10]}"))
    runs = searched.runs(searched.entries[0])
    assert (runs.search, runs.finalists, runs.final) == (40, 6, 1)


# -- between the phases ------------------------------------------------------------------------------------------------

ONE_SEARCH = BASE.replace(", finalists: {top: 3, seeds: [1, 2]}", "")


def test_a_source_with_one_seed_in_every_phase_is_pinned_and_told() -> None:
    asked = final("{model: [10, 11]}", ONE_SEARCH)
    (warning,) = [text for text in asked.warnings if "seeds" in text]
    assert warning == (
        "sweep.yaml:11:16: final.seeds: every phase has class_order 0, split 0 and batches 0: winners are chosen and "
        "scored on the same, and say nothing of another"
    )
    assert not [text for text in sweep().warnings if "seeds" in text]


def test_a_source_that_varies_shares_no_seed_between_phases() -> None:
    told = refused("{class_order: [10, 0], model: [10, 11]}", ONE_SEARCH)
    assert "final.seeds: must be disjoint from search.seeds in class_order; a seed that chose a winner" in told
    assert "or give them one seed in every phase" in told
    told = refused("{model: [10, 11]}", ONE_SEARCH.replace("seeds: [0]", "seeds: [0, 5]"))
    assert "disjoint from search.seeds in class_order, split and batches" in told
    final("{model: [10, 11], others: 9}", ONE_SEARCH.replace("seeds: [0]", "seeds: [0, 5]"))


def test_a_run_that_chose_a_winner_scores_none_though_all_is_pinned() -> None:
    assert "final.seeds: must be disjoint from search.seeds; a seed that chose" in refused("[0]", ONE_SEARCH)


def test_a_stream_with_its_own_seed_takes_no_seeds_of_order_and_split() -> None:
    pinned = ONE_SEARCH.replace("tasks: 5,", "tasks: 5, seed: 3,")
    told = refused("{split: [10, 11], model: [10, 11]}", pinned)
    assert "stream.seed decides class_order and split in every run; leave split out, or stream.seed" in told
    assert len(final("{model: [10, 11]}", pinned).final.runs) == 2  # type: ignore[union-attr]


def test_results_of_before_a_rule_are_read_all_the_same() -> None:
    asked = final("{model: [10, 11]}", ONE_SEARCH)
    assert SweepSpec.loads(asked.dumps(), CATALOG).hash == asked.hash


@pytest.mark.parametrize(("seeds", "fits"), [("{model: [1], crossed: true}", True), ("{modle: [1]}", False)])
def test_the_json_schema_takes_a_design(seeds: str, fits: bool) -> None:
    validator = jsonschema.Draft202012Validator(json_schema(CATALOG))
    data = parse(BASE.replace(FINAL, f"final: {{seeds: {seeds}}}")).data
    assert validator.is_valid(data) is fits
