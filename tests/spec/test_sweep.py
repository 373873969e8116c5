"""Sweep files: every broken rule with its place, and what a good file becomes."""

from __future__ import annotations

import pickle

import pytest

from raycl.errors import SpecError
from raycl.spec.space import Choice, LogUniform
from raycl.spec.sweep import Runs, SweepSpec

from .fakes import BASE, CATALOG, sweep

MISSING_SEARCH = "is searched, but there is no search; add search: {trials: 20}, or write a value"


def problems(old: str, new: str, base: str = BASE) -> list[str]:
    assert old in base
    with pytest.raises(SpecError) as error:
        sweep(base.replace(old, new))
    return str(error.value).splitlines()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("name: question", "nmae: q", ["1:1: nmae: unknown key; did you mean 'name'?", "1:1: name: is required"]),
        ("name: question", "name: a/b", ["1:7: name: must consist of letters, digits"]),
        ("name: question", "name: 5", ["1:7: name: must consist of letters, digits"]),
        ("tasks: 5", "tasks: 0", ["2:47: stream.tasks: must be at least 1 (got 0)"]),
        ("tasks: 5", "tasks: 5.0", ["2:47: stream.tasks: must be a whole number (got 5.0)"]),
        ("tasks: 5", "tasks: '5'", ["2:47: stream.tasks: must be a whole number (got '5')"]),
        ("tasks: 5", "tasks: true", ["2:47: stream.tasks: must be a whole number (got true)"]),
        ("tasks: 5", "tasks: 3", ["2:9: stream: 10 classes do not divide into 3 tasks"]),
        ("tasks: 5", "tassk: 5", ["2:40: stream.tassk: unknown key; did you mean 'tasks'?"]),
        ("tasks: 5", "tasks: {choice: [2, 5]}", ["2:47: stream.tasks: a distribution may stand in strategies"]),
        ("scenario: class", "scenario: clas", ["2:60: stream.scenario: must be 'task', 'domain' or 'class'; did you"]),
        ("name: split", "name: spilt", ["2:16: stream.name: unknown stream; did you mean 'split'?"]),
        ("name: split, ", "", ["2:1: stream.name: is required; one of split, permuted"]),
        ("dataset: digits", "dataset: digit", ["2:32: stream.dataset: unknown data set; did you mean 'digits'?"]),
        ("name: mlp", "name: mpl", ["3:15: model.name: unknown model; did you mean 'mlp'?"]),
        ("hidden: [100]", "hidden: [0, x]", ["3:29: model.hidden.0: must be at least 1", "3:32: model.hidden.1: must"]),
        ("hidden: [100]", "hidden: []", ["3:28: model.hidden: must hold at least 1 item (got [])"]),
        ("hidden: [100]", "hidden: 100", ["3:28: model.hidden: must be a list (got 100)"]),
        ("epochs: 4", "epochs: 4, iterations: 9", ["4:11: training: set one of epochs, iterations, budget"]),
        ("epochs: 4", "budget: {}", ["4:79: training.budget: set one of gradient_examples, forward_examples"]),
        (
            "naive: {}",
            "naive: {training.budget.forward_examples: 9, training.budget.gradient_examples: 9}",
            ["7:48: strategies.naive.training.budget.gradient_examples: set one of gradient_examples, forward_"],
        ),
        (
            "name: question",
            "name: question\nbudget: {forward_examples: 9}",
            ["2:1: budget: unknown key; it stands in another block: training: {budget: ...}"],
        ),
        (
            "epochs: 4",
            "real_time: true, iterations: 4",
            ["4:82: training.real_time: batches come once, one a tick; set"],
        ),
        ("[5e-4, 5e-3]", "[0, 5e-3]", ["4:41: training.learning_rate: a logarithmic range must begin above 0 (got 0)"]),
        ("loguniform: [5e-4", "uniform: [0", ["4:38: training.learning_rate: must be above 0 (got 0.0)"]),
        ("loguniform: [5e-4", "logunifom: [5e-4", ["4:27: training.learning_rate: unknown distribution 'logunifom'"]),
        ("batch_size: 32", "batch_size: {randint: [0, 9]}", ["4:78: training.batch_size: must be at least 1 (got 0)"]),
        (
            "batch_size: 32",
            "batch_size: {uniform: [8, 9]}",
            [
                "4:78: training.batch_size: must be a whole number; use randint or lograndint (got 8.0)",
                "4:81: training.batch_size: must be a whole number; use randint or lograndint (got 9.0)",
            ],
        ),
        (
            "batch_size: 32",
            "batch_size: {choice: [8, x, -1]}",
            ["4:80: training", "4:83: training.batch_size: must be"],
        ),
        ("capacity: 500", "capacity: .inf", ["5:20: memory.capacity: must be a"]),
        ("naive: {}", "niave: {}", ["7:3: strategies.niave: unknown strategy; did you mean 'naive'?"]),
        ("naive: {}", "n: {strategy: niave}", ["7:17: strategies.n.strategy: unknown strategy; did you mean 'naive'?"]),
        ("naive: {}", "gem/1: {strategy: naive}", ["7:3: strategies.gem/1: must consist of letters"]),
        (
            "naive: {}",
            "packnet: {strategy: naive}",
            ["7:23: strategies.packnet.strategy: 'packnet' is a method itself"],
        ),
        ("naive: {}", "naive:", ["7:9: strategies.naive: must be a mapping of options (got null)"]),
        ("naive: {}", "naive: search", ["7:10: strategies.naive: has no usual search space; write {} or options"]),
        ("naive: {}", "naive: {learning_rate: 1}", ["7:11: strategies.naive.learning_rate: unknown key; did you mean"]),
        ("naive: {}", "naive: {memory: 1}", ["7:11: strategies.naive.memory: unknown key; override the block by"]),
        ("naive: {}", "naive: {memory.capacity: 9}", ["7:11: strategies.naive.memory.capacity: does nothing: this"]),
        ("naive: {}", "naive: {stream.tasks: 9}", ["7:11: strategies.naive.stream.tasks: must be a dotted path below"]),
        ("naive: {}", "naive: {training.: 9}", ["7:11: strategies.naive.training.: must be a dotted path below"]),
        (
            "naive: {}",
            "naive: {model.hidde: 9}",
            ["7:11: strategies.naive.model.hidde: unknown key; did you mean 'hid"],
        ),
        ("naive: {}", "naive: {training.batch_size: 0}", ["7:32: strategies.naive.training.batch_size: must be at"]),
        (
            "naive: {}",
            "naive: {training.epochs: 1, training.iterations: 2}",
            ["7:31: strategies.naive.training.iterations: set one of epochs, iterations, budget"],
        ),
        ("naive: {}", "packnet: {}", ["7:3: strategies.packnet: this method cannot do scenario 'class', only task"]),
        ("{loguniform: [1, 1e10]}", "-1", ["8:18: strategies.ewc.penalty: must be at least 0 (got -1)"]),
        ("penalty: {loguniform: [1, 1e10]}", "mode: search", ["8:15: strategies.ewc.mode: has no usual search space"]),
        ("penalty: {log", "penaty: {log", ["8:9: strategies.ewc.penaty: unknown key; did you mean 'penalty'?"]),
        (
            "[200, 500, 1000]",
            "[200, 0]",
            ["9:44: strategies.replay.memory.capacity: must be at least 1 or must be 'auto' (got 0)"],
        ),
        ("trials: 20", "trials: 0", ["10:18: search.trials: must be at least 1 (got 0)"]),
        ("trials: 20", "trials: search", ["10:18: search.trials: must be a whole number; 'search' may stand in"]),
        ("top: 3", "top: 3, tpo: 1", ["10:69: search.finalists.tpo: unknown key; did you mean 'top'?"]),
        ("seeds: [1, 2]", "seeds: [0, 2]", ["10:76: search.finalists.seeds: must be disjoint from search.seeds; a"]),
        ("[10, 11, 12]", "[12, 0]", ["11:16: final.seeds: must be disjoint from search.seeds; a seed that chose"]),
        (
            "[10, 11, 12]",
            "[10, 11, 12], baseline: rpelay",
            ["11:40: final.baseline: must be a method of this sweep, by its name under strategies; did you mean 'rep"],
        ),
        ("[10, 11, 12]", "[1]", ["11:16: final.seeds: must be disjoint from search.finalists.seeds; a seed that"]),
        ("[10, 11, 12]", "[10, 10]", ["11:16: final.seeds: every seed may stand once (got [10, 10])"]),
        ("4000000", "{choice: [1, 2]}", ["12:27: limits.max_state_bytes: a distribution may stand in strategies, tra"]),
        (
            "search: {trials: 20, generation: 5, seeds: [0], finalists: {top: 3, seeds: [1, 2]}}\n",
            "pruner: {}\n",
            [
                f"4:27: training.learning_rate: {MISSING_SEARCH} (got loguniform(0.0005, 0.005))",
                f"8:18: strategies.ewc.penalty: {MISSING_SEARCH}",
                f"9:29: strategies.replay.memory.capacity: {MISSING_SEARCH} (got choice(200, 500, 1000))",
                "10:1: pruner: prunes search trials, but there is no search",
            ],
        ),
    ],
)
def test_every_problem_has_its_place(old: str, new: str, expected: list[str]) -> None:
    found = problems(old, new)
    assert len(found) == len(expected), found
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(f"sweep.yaml:{start}"), line


def test_unrelated_problems_come_at_once_and_in_file_order() -> None:
    text = BASE.replace("tasks: 5", "tasks: -5").replace("naive: {}", "niave: {}").replace("top: 3", "top: 0")
    found = problems("batch_size: 32", "batch_size: 0", text)
    assert [line.split(": ")[1] for line in found] == [
        "stream.tasks",
        "training.batch_size",
        "strategies.niave",
        "search.finalists.top",
    ]


def test_a_sweep_asks_for_something() -> None:
    text = "name: a\nstream: {name: split}\nmodel: {name: mlp}\nstrategies: {}\n"
    with pytest.raises(SpecError) as error:
        sweep(text)
    assert "strategies: must name at least one method" in str(error.value)
    assert "give search, final or both" in str(error.value)


def test_what_a_good_file_becomes() -> None:
    spec = sweep()
    assert [entry.key for entry in spec.entries] == ["naive", "ewc", "replay"]
    _, ewc, replay = spec.entries
    assert ewc.space == {
        "penalty": LogUniform(1.0, 1e10),
        "training.learning_rate": LogUniform(5e-4, 5e-3),
    }
    assert replay.space["memory.capacity"] == Choice((200, 500, 1000), (200, 500, 1000))
    assert spec.runs(ewc) == Runs(20, 6, 3)
    assert spec.most_at_once == 15
    assert spec.warnings == ()


def test_trials_are_resolved() -> None:
    spec = sweep()
    ewc = spec.entries[1]
    point = {"penalty": 30.0, "training.learning_rate": 1e-3}
    trial = spec.trial(ewc, point, 0, "search")
    assert trial.options == {"penalty": 30.0, "mode": "separate", "online_decay": 1.0}
    assert trial.training.learning_rate == 1e-3
    assert (trial.stream["validation_fraction"], trial.model["head"]) == (0.1, "auto")
    assert trial.limits.max_state_bytes == 4_000_000
    assert (trial.score_on, trial.train_on, trial.uses_memory) == ("validation", "train", False)
    assert spec.trial(ewc, point, 1, "finalists").score_on == "validation"
    assert spec.trial(ewc, point, 10, "final").score_on == "test"
    assert type(trial).loads(trial.dumps()) == trial
    with pytest.raises(ValueError, match="must name exactly"):
        spec.trial(ewc, {"penalty": 30.0}, 0, "search")


def test_final_trains_on_what_it_says() -> None:
    spec = sweep(BASE.replace("seeds: [10, 11, 12]", "seeds: [10], train_on: train_and_validation"))
    entry = spec.entries[0]
    point = {"training.learning_rate": 1e-3}
    assert spec.trial(entry, point, 10, "final").train_on == "train_and_validation"
    assert spec.trial(entry, point, 0, "search").train_on == "train"


def test_a_method_without_memory_ignores_what_is_searched_there() -> None:
    searched = BASE.replace("capacity: 500", "capacity: {choice: [5, 50]}")
    spec = sweep(searched.replace("replay: {memory.capacity: {choice: [200, 500, 1000]}}", "replay: {}"))
    assert "memory.capacity" not in spec.entries[0].space
    assert "memory.capacity" in spec.entries[2].space
    assert spec.trial(spec.entries[0], {"training.learning_rate": 1e-3}, 0, "search").memory.capacity == 500


def test_the_word_search() -> None:
    whole = sweep(BASE.replace("ewc: {penalty: {loguniform: [1, 1e10]}}", "ewc: search"))
    field = sweep(BASE.replace("{loguniform: [1, 1e10]}", "search"))
    assert whole.entries[1].space == field.entries[1].space
    assert whole.entries[1].space["penalty"] == LogUniform(1.0, 1e6)
    replay = sweep(BASE.replace("replay: {memory.capacity: {choice: [200, 500, 1000]}}", "replay: search"))
    assert replay.entries[2].space["memory.capacity"] == Choice((200, 500), (200, 500))


def test_iterations_replace_inherited_epochs_and_the_other_way_round() -> None:
    spec = sweep(BASE.replace("naive: {}", "naive: {training.iterations: 7}"))
    trial = spec.trial(spec.entries[0], {"training.learning_rate": 1e-3}, 0, "search")
    assert (trial.training.epochs, trial.training.iterations) == (None, 7)
    other = spec.trial(spec.entries[1], {"training.learning_rate": 1e-3, "penalty": 1.0}, 0, "search")
    assert (other.training.epochs, other.training.iterations) == (4, None)


def test_one_method_under_two_names_and_lists_that_are_searched() -> None:
    wide = "wide: {strategy: naive, model.hidden: {choice: [[9], [9, 9]]}}"
    spec = sweep(BASE.replace("naive: {}", f"online: {{strategy: ewc, mode: online}}\n  {wide}"))
    assert [(entry.alias, entry.strategy) for entry in spec.entries[:2]] == [("online", "ewc"), ("wide", "naive")]
    point = {"training.learning_rate": 1e-3, "model.hidden": "[9,9]"}
    assert spec.trial(spec.entries[1], point, 0, "search").model["hidden"] == [9, 9]


def test_a_width_within_a_list_may_be_searched() -> None:
    spec = sweep(BASE.replace("hidden: [100]", "hidden: [{randint: [10, 21]}, 50]"))
    point = {"training.learning_rate": 1e-3, "model.hidden.0": 20}
    assert spec.trial(spec.entries[0], point, 0, "search").model["hidden"] == [20, 50]
    found = problems("hidden: [100]", "hidden: [{randint: [0, 21]}, 50]")
    assert found == ["sweep.yaml:3:40: model.hidden.0: must be at least 1 (got 0)"]


def test_round_trips() -> None:
    spec = sweep()
    again = SweepSpec.loads(spec.dumps(), CATALOG)
    assert (again.hash, again.text, again.name, again.entries) == (spec.hash, spec.text, spec.name, spec.entries)
    assert pickle.loads(pickle.dumps(spec)).hash == spec.hash


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: question", "name: other  # a comment"),
        ("batch_size: 32, epochs: 4", "epochs: 4, batch_size: 32, momentum: 0.0"),
        ("generation: 5", "generation: 5, max_concurrent: 2"),
        ("capacity: 500", "capacity: 500, home: local, shards: 3"),
        ("limits:", "resources: {gpus: 0.5}\nlimits:"),
        ("[5e-4, 5e-3]", "[0.0005, 0.0050]"),
        ("[10, 11, 12]", "[10, 11, 12], baseline: ewc"),
    ],
)
def test_what_changes_no_trial_changes_no_hash(old: str, new: str) -> None:
    assert old in BASE
    assert sweep(BASE.replace(old, new)).hash == sweep().hash


def test_the_order_of_methods_changes_no_hash() -> None:
    text = BASE.replace("  naive: {}\n", "").replace("search: {", "  naive: {}\nsearch: {", 1)
    assert [entry.alias for entry in sweep(text).entries] == ["ewc", "replay", "naive"]
    assert sweep(text).hash == sweep().hash


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("trials: 20", "trials: 21"),
        ("generation: 5", "generation: 4"),
        ("seeds: [0]", "seeds: [3]"),
        ("[10, 11, 12]", "[10, 11]"),
        ("top: 3", "top: 2"),
        ("[5e-4, 5e-3]", "[5e-4, 6e-3]"),
        ("epochs: 4", "iterations: 4"),
        ("hidden: [100]", "hidden: [101]"),
        ("4000000", "4000001"),
        ("naive: {}", "plain: {strategy: naive}"),
        ("capacity: 500", "capacity: 500, combine: mean"),
        ("tasks: 5", "tasks: 5, seed: 1"),
        ("limits:", "pruner: {}\nlimits:"),
        ("limits:", "resources: {cpus: 2}\nlimits:"),
        ("limits:", "evaluation: {future_tasks: false}\nlimits:"),
    ],
)
def test_what_changes_a_trial_changes_the_hash(old: str, new: str) -> None:
    assert old in BASE
    assert sweep(BASE.replace(old, new)).hash != sweep().hash


def test_no_search_gives_one_default_point() -> None:
    text = "name: a\nstream: {name: split}\nmodel: {name: mlp}\nstrategies: {naive: {}, ewc: {}}\nfinal: {}\n"
    spec = sweep(text)
    assert spec.search is None
    assert [spec.runs(entry) for entry in spec.entries] == [Runs(0, 0, 3)] * 2
    assert spec.trial(spec.entries[1], {}, 10, "final").options["penalty"] == 100.0


def test_no_final_is_a_search_only_and_says_what_does_not_run() -> None:
    text = BASE.replace("final: {seeds: [10, 11, 12]}\n", "").replace("{loguniform: [5e-4, 5e-3]}", "1e-3")
    spec = sweep(text)
    assert spec.final is None
    assert [spec.runs(entry).total for entry in spec.entries] == [0, 26, 9], "three capacities are tried once each"
    (warning,) = spec.warnings
    assert warning.startswith(
        "sweep.yaml:7:3: strategies.naive: does not run: it has nothing to search, and there is no"
    )


def test_size_without_limits_is_warned_of() -> None:
    without = BASE.replace("limits: {max_state_bytes: 4000000}\n", "")
    assert [text.split(": ")[:2] for text in sweep(without).warnings] == [
        ["sweep.yaml:9:29", "strategies.replay.memory.capacity"]
    ]
    hyper = without.replace("naive: {}", "hypernetwork: {task_embedding_dim: {randint: [8, 129]}}")
    assert any("task_embedding_dim" in text for text in sweep(hyper).warnings)
