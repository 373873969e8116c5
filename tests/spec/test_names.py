"""What names a trial: everything that decides its numbers, and nothing that means what was done before it existed."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import pytest
import stored_hashes

from raycl.spec import revisions as changes
from raycl.spec.options import Later, Options
from raycl.spec.sweep import SweepSpec
from raycl.spec.trial import TrialSpec

from .fakes import BASE, CATALOG, FakeNames, FakeStrategy


class First(Options):
    penalty: float = 1.0
    combine: Literal["sum", "mean"] = "sum"


class Now(Options):
    """The same options, two years on."""

    penalty: float = 1.0
    combine: Annotated[Literal["auto", "sum", "mean"], Later(before="sum")] = "auto"
    step: Annotated[Literal["gradient", "proximal"], Later()] = "gradient"


@dataclass(frozen=True)
class Method(FakeStrategy):
    """A method of the fake catalogue with whatever a test gives it."""

    revision: int = 1
    published: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "published", self.published or {})


def asked(text: str = BASE, **methods: Method) -> SweepSpec:
    """A sweep over the fake catalogue with some of its methods replaced."""
    strategies = FakeNames({**CATALOG.strategies, **methods})
    return SweepSpec.parse(text, replace(CATALOG, strategies=strategies), "sweep.yaml")


def trials(sweep: SweepSpec) -> dict[str, TrialSpec]:
    return {entry.key: sweep.trial(entry, entry.middle, 0, "final") for entry in sweep.entries}


def hashes(sweep: SweepSpec) -> dict[str, str]:
    return {key: trial.hash for key, trial in trials(sweep).items()}


def test_a_later_key_enters_no_name_at_its_default() -> None:
    before, after = asked(ewc=Method(First)), asked(ewc=Method(Now))
    assert hashes(after) == hashes(before)
    assert after.hash == before.hash
    assert [entry.stored_as for entry in after.entries] == [entry.key for entry in before.entries]


@pytest.mark.parametrize("key", ["combine: mean", "step: proximal"])
def test_a_later_key_names_another_trial_off_its_default(key: str) -> None:
    text = BASE.replace("ewc: {", f"ewc: {{{key}, ")
    before, after = asked(ewc=Method(Now)), asked(text, ewc=Method(Now))
    assert hashes(after)["ewc"] != hashes(before)["ewc"]
    assert after.hash != before.hash


def test_the_former_word_names_the_same_trial() -> None:
    """``combine: sum`` stood in old files; ``auto`` means the same."""
    text = BASE.replace("ewc: {", "ewc: {combine: sum, ")
    assert hashes(asked(text, ewc=Method(Now))) == hashes(asked(ewc=Method(First)))


def test_mutant_a_default_that_is_hashed_locks_old_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Options, "as_before", lambda self: {})
    assert hashes(asked(ewc=Method(Now))) != hashes(asked(ewc=Method(First)))


def test_a_revision_renames_the_trials_of_its_method_alone() -> None:
    before, after = asked(), asked(ewc=Method(CATALOG.strategies["ewc"].Config, revision=2))
    changed = {key for key, name in hashes(after).items() if name != hashes(before)[key]}
    assert changed == {"ewc"}
    assert after.hash == before.hash, "the folder is still this sweep's"
    marked = {entry.key: entry.stored_as for entry in after.entries}
    assert marked["ewc"].startswith("ewc@")
    assert {key: name for key, name in marked.items() if key != "ewc"} == {"naive": "naive", "replay": "replay"}


def test_a_change_of_the_loop_renames_the_trials_that_it_touches(monkeypatch: pytest.MonkeyPatch) -> None:
    before = hashes(asked())
    small = changes.Change("order", 2, lambda setting: setting.strategy.uses_memory)
    monkeypatch.setattr(changes, "CHANGES", (small,))
    after = asked()
    assert {key for key, name in hashes(after).items() if name != before[key]} == {"replay"}
    assert trials(after)["replay"].revisions == {"order": 2}


def test_a_published_default_takes_the_place_of_auto() -> None:
    own = {"class": {"training.active_logits": "all", "memory.batch_size": 10}}
    method = Method(CATALOG.strategies["replay"].Config, uses_memory=True, published=own)
    before, after = asked(), asked(replay=method)
    trial = trials(after)["replay"]
    assert (trial.training.active_logits, trial.memory.batch_size) == ("all", 10)
    assert trial.hash != hashes(before)["replay"]
    assert after.hash == before.hash
    assert after.entry("replay").mark


def test_what_the_file_says_wins_over_what_is_published() -> None:
    own = {"class": {"training.active_logits": "all"}}
    text = BASE.replace("epochs: 4", "epochs: 4, active_logits: seen")
    assert trials(asked(text, ewc=Method(First, published=own)))["ewc"].training.active_logits == "seen"


def test_a_head_for_each_task_keeps_its_own_units() -> None:
    own = {scenario: {"training.active_logits": "all"} for scenario in ("task", "class")}
    for text in (BASE.replace("scenario: class", "scenario: task"), BASE.replace("[100]}", "[100], head: per_task}")):
        assert trials(asked(text, ewc=Method(First, published=own)))["ewc"].training.active_logits == "auto"


def test_code_that_was_registered_at_run_time_is_part_of_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    before = hashes(asked())
    monkeypatch.setattr(FakeNames, "code", lambda self, name: "abc" if name == "ewc" else "")
    after = asked()
    assert {key for key, name in hashes(after).items() if name != before[key]} == {"ewc"}
    assert after.entry("ewc").mark


def test_a_trial_that_was_stored_by_an_earlier_raycl_keeps_its_name() -> None:
    trial = trials(asked(ewc=Method(First)))["ewc"]
    stored = json.loads(trial.dumps())
    for path in trial.before:  # it knew none of these
        block, _, name = path.partition(".")
        del stored[block][name]
    for key in ("before", "revisions", "code"):
        del stored[key]
    assert TrialSpec.loads(json.dumps(stored)).hash == trial.hash == trials(asked(ewc=Method(Now)))["ewc"].hash


def test_a_change_inside_a_space_marks_its_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Suggestions and the winner of before come from other numbers, though no end of one dimension alone is touched."""

    def both(blocks: Any) -> bool:
        return bool(blocks.training.weight_decay) and blocks.training.batch_size == 64

    searched = "weight_decay: {uniform: [0, 0.1]}, batch_size: {choice: [32, 64]}"
    text = BASE.replace("batch_size: 32, epochs: 4", f"epochs: 4, {searched}")
    monkeypatch.setattr(changes, "CHANGES", (changes.Change("decay", 2, both),))
    sweep = asked(text)
    assert sweep.entry("naive").mark
    monkeypatch.setattr("raycl.spec.sweep.end_points", lambda space: iter(()))  # the mutant: corners alone
    assert not asked(text).entry("naive").mark


def test_a_stored_trial_keeps_its_name() -> None:
    trial = trials(asked(ewc=Method(Now, revision=3)))["ewc"]
    assert TrialSpec.loads(trial.dumps()).hash == trial.hash


def test_names_of_all_shipped_sweeps_are_those_of_the_stored_list() -> None:
    """What changes numbers changes the names of exactly those trials: see ``tests/stored_hashes.py``."""
    assert stored_hashes.collect() == json.loads(stored_hashes.STORED.read_text())


def test_a_changed_name_has_a_reason() -> None:
    for file, found in json.loads(stored_hashes.STORED.read_text()).items():
        for key, (first, *now) in found["trials"].items():
            if now:
                name, why = now
                assert name != first, (file, key)
                assert why, (file, key)
