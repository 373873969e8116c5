"""What methods and blocks need of each other, and what does nothing: refused or warned of, each at its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from mistakes import raycl

from raycl.catalog import catalog
from raycl.errors import SpecError
from raycl.results.store import ResultsFolder
from raycl.results.tables import comparison
from raycl.spec import check, needs, sweep_file
from raycl.spec.needs import Extent, Idle, Need
from raycl.spec.source import parse
from raycl.spec.sweep import SweepSpec

BASE = """\
name: needs
stream: {name: split, dataset: digits, tasks: 5, scenario: class}
model: {name: mlp, hidden: [20]}
training: {batch_size: 32, epochs: 2}
memory: {capacity: 500}
strategies:
  replay: {}
  ewc: {}
search: {trials: 20, generation: 5}
final: {seeds: [10]}
"""
SEARCHED = BASE.replace("ewc: {}", "ewc: {penalty: {loguniform: [1, 100]}}")
"""Something is searched, so that blocks about the search mean something."""


def parsed(text: str) -> SweepSpec:
    return SweepSpec.parse(text, catalog(), "sweep.yaml")


def changed(edits: dict[str, str], base: str = SEARCHED) -> str:
    for old, new in edits.items():
        assert base.count(old) == 1, old
        base = base.replace(old, new)
    return base


def refusals(text: str) -> list[str]:
    with pytest.raises(SpecError) as error:
        parsed(text)
    return str(error.value).splitlines()


HIDDEN = {"scenario: class": "scenario: class, boundaries: hidden", "  ewc: {penalty: {loguniform: [1, 100]}}\n": ""}
DOMAIN = {"scenario: class": "scenario: domain, boundaries: hidden", "  ewc: {penalty: {loguniform: [1, 100]}}\n": ""}
BATCH_NORM = {"hidden: [20]": "hidden: [20], norm: batch"}

REFUSED = {
    "random, frozen": (
        {"capacity: 500": "capacity: 20, selection: random"},
        "5:35: memory.selection: replaces capacity / i rows",
    ),
    "random, frozen by every epoch": (
        {"capacity: 500": "capacity: 70, insert: every_epoch, selection: random"},
        "5:56: memory.selection: replaces capacity / i rows",
    ),
    "random, frozen within a task": (
        {"capacity: 500": "capacity: 7, unit: task, selection: random"},
        "5:46: memory.selection: replaces capacity / i rows",
    ),
    "hidden, task share": (
        HIDDEN | {"capacity: 500": "capacity: 500, combine: task_share"},
        "5:34: memory.combine: weighs by the number of tasks",
    ),
    "hidden, rows per task": (
        HIDDEN | {"capacity: 500": "capacity: 500, unit: task"},
        "5:31: memory.unit: counts rows per task, and nobody tells tasks apart",
    ),
    "hidden, own method's unit": (
        HIDDEN | {"replay: {}": "replay: {memory.unit: task}"},
        "7:25: strategies.replay.memory.unit: counts rows per task",
    ),
    "hidden, active logits": (
        HIDDEN | {"epochs: 2": "epochs: 2, active_logits: seen"},
        "4:54: training.active_logits: says which tasks a unit belongs to",
    ),
    "hidden, active logits searched": (
        HIDDEN | {"replay: {}": "replay: {training.active_logits: {choice: [all, own]}}"},
        "7:51: strategies.replay.training.active_logits: says which tasks a unit belongs to",
    ),
    "hidden, GDumb over shared units": (
        DOMAIN | {"replay: {}": "gdumb: {}"},
        "2:80: stream.boundaries: must be given: where tasks share output units",
    ),
    "one row and batch norm": (
        BATCH_NORM | {"batch_size: 32": "batch_size: 1"},
        "4:24: training.batch_size: batch norm has no statistics of one row",
    ),
    "one image a task and batch norm": (
        BATCH_NORM | {"tasks: 5": "tasks: 5, train_per_task: 1"},
        "2:66: stream.train_per_task: batch norm has no statistics of one row",
    ),
    "GDumb with one row and batch norm": (
        BATCH_NORM | {"replay: {}": "gdumb: {memory.capacity: 1}"},
        "7:28: strategies.gdumb.memory.capacity: batch norm has no statistics of one row",
    ),
    "GDumb, row by row, and batch norm": (
        BATCH_NORM | {"replay: {}": "gdumb: {batch_size: 1}"},
        "7:23: strategies.gdumb.batch_size: batch norm has no statistics of one row",
    ),
    "ExStream, batches of two, and batch norm": (
        BATCH_NORM | {"replay: {}": "exstream: {memory.batch_size: 2}"},
        "7:33: strategies.exstream.memory.batch_size: batch norm has no statistics of one row",
    ),
    "ExStream, fewer rows than classes": (
        {"replay: {}": "exstream: {memory.capacity: 9}"},
        "7:31: strategies.exstream.memory.capacity: must be at least the number of classes",
    ),
    "iCaRL, fewer rows than classes": (
        {"replay: {}": "icarl: {memory.capacity: {choice: [9, 20]}}"},
        "7:38: strategies.icarl.memory.capacity: must be at least the number of classes",
    ),
    "MIR that scores nobody": (
        {"replay: {}": "mir: {subsample: 10}"},
        "7:20: strategies.mir.subsample: must be above the rows that are replayed",
    ),
    "MIR, one choice of which scores nobody": (
        {"replay: {}": "mir: {memory.batch_size: 20, subsample: search}"},
        "7:32: strategies.mir.subsample: must be above the rows that are replayed",
    ),
    "an ensemble over a task of one class": (
        {"replay: {}": "ensemble: {}", "tasks: 5": "tasks: 4, first_task: 1"},
        "2:47: stream.tasks: must have two classes each, or more: a network of one class is always certain",
    ),
    "masks over several heads": (
        {"replay: {}": "supsup: {training.active_logits: seen}"},
        "7:36: strategies.supsup.training.active_logits: a mask has its own task's head only",
    ),
    "PackNet on one head": (
        {"replay: {}": "packnet: {model.head: single}", "scenario: class": "scenario: task"},
        "7:25: strategies.packnet.model.head: must give every task output units of its own",
    ),
    "iCaRL by another rule": (
        {"replay: {}": "icarl: {memory.selection: ring}"},
        "7:29: strategies.icarl.memory.selection: icarl keeps the first rows of each class's ranking",
    ),
    "ExStream by task": (
        {"replay: {}": "exstream: {memory.unit: task}"},
        "7:27: strategies.exstream.memory.unit: exstream merges rows within a class",
    ),
    "ER-ACE's unseen units on a growing head": (
        {"replay: {}": "er_ace: {unseen: true, training.active_logits: seen}"},
        "7:20: strategies.er_ace.unseen: units that have not come yet exist on a full head only",
    ),
    "a warm-up of shared units": (
        {"replay: {}": "lwf: {warmup_epochs: 1}", "scenario: class": "scenario: domain"},
        "7:24: strategies.lwf.warmup_epochs: warms up output units that are new",
    ),
    "momentum of adam, searched": (
        {"ewc: {penalty: {loguniform: [1, 100]}}": "ewc: {training.momentum: {uniform: [0, 0.9]}}"},
        "8:9: strategies.ewc.training.momentum: is searched, but does nothing: only sgd and rmsprop have momentum",
    ),
    "momentum of adam, searched for all": (
        {"epochs: 2": "epochs: 2, momentum: {uniform: [0, 0.9]}"},
        "4:39: training.momentum: is searched, but does nothing for the methods that take it from here: only sgd and",
    ),
    "decay of separate penalties, searched": (
        {"{penalty: {loguniform: [1, 100]}}": "{online_decay: {uniform: [0.5, 1.0]}}"},
        "8:9: strategies.ewc.online_decay: is searched, but does nothing: only mode: online decays",
    ),
    "GDumb's rate in the training block, searched": (
        {"replay: {}": "gdumb: {training.learning_rate: {loguniform: [0.001, 0.1]}}"},
        "7:11: strategies.gdumb.training.learning_rate: is searched, but does nothing: the method has its own",
    ),
    "GDumb's epochs, searched": (
        {"replay: {}": "gdumb: {training.epochs: {choice: [1, 10]}}"},
        "7:11: strategies.gdumb.training.epochs: is searched, but does nothing: a new network is fitted",
    ),
    "a scale of no cosine, searched": (
        {"replay: {}": "replay: {model.classifier_scale: {uniform: [1, 20]}}"},
        "7:12: strategies.replay.model.classifier_scale: is searched, but does nothing: only model.classifier: cosine",
    ),
    "an empty list of finalists' seeds": (
        {"generation: 5": "generation: 5, finalists: {seeds: []}"},
        "9:56: search.finalists.seeds: must hold at least one seed; leave finalists out",
    ),
}

WARNED = {
    "momentum of adam": (
        {"epochs: 2": "epochs: 2, momentum: 0.9"},
        "4:39: training.momentum: does nothing for the methods that take it from here: only sgd and rmsprop have "
        "momentum",
    ),
    "momentum of adam, one method's": (
        {"replay: {}": "replay: {training.momentum: 0.9}"},
        "7:12: strategies.replay.training.momentum: does nothing: only sgd and rmsprop have momentum",
    ),
    "decay of separate penalties": (
        {"ewc: {": "ewc: {online_decay: 0.5, "},
        "8:9: strategies.ewc.online_decay: does nothing: only mode: online decays",
    ),
    "GDumb's epochs": (
        {"replay: {}": "gdumb: {training.epochs: 7}"},
        "7:11: strategies.gdumb.training.epochs: does nothing: a new network is fitted to the memory",
    ),
    "GDumb's rate where training's counts": (
        {"replay: {}": "gdumb: {optimizer: training, learning_rate: 0.1}"},
        "7:32: strategies.gdumb.learning_rate: does nothing: optimizer: training takes those",
    ),
    "a memory for nobody": (
        {"  replay: {}\n": "", "capacity: 500": "capacity: 100"},
        "5:1: memory: does nothing for the methods that take it from here: this method keeps no examples",
    ),
    "a union for methods without": (
        {"capacity: 500": "capacity: 500, mix: equal"},
        "5:25: memory.mix: does nothing for the methods that take it from here: replayed rows are drawn",
    ),
    "every epoch of one": (
        {"epochs: 2": "epochs: 1", "capacity: 500": "capacity: 500, insert: every_epoch"},
        "5:25: memory.insert: does nothing for the methods that take it from here: with one epoch",
    ),
    "a ratio that nothing has": (
        {"final:": "limits: {max_compression_ratio: 2.0}\nfinal:"},
        "10:10: limits.max_compression_ratio: does nothing for the methods that take it from here: this method makes",
    ),
    "a pruner on few tasks": (
        {"final:": "pruner: {quantile: 0.5}\nfinal:"},
        "10:1: pruner: does nothing: no trial is ever stopped: grace_tasks, 10 where it is not given, must lie below",
    ),
    "a pruner that waits for the last task": (
        {"final:": "pruner: {grace_tasks: 5}\nfinal:"},
        "10:1: pruner: does nothing: no trial is ever stopped: grace_tasks",
    ),
    "a pruner that waits for the last task that a search trial learns": (
        {
            "final:": "pruner: {grace_tasks: 2}\nfinal:",
            "search: {": "search: {protocol: {first_tasks: 2}, ",
        },
        "10:1: pruner: does nothing: no trial is ever stopped: grace_tasks",
    ),
    "a pruner in one generation": (
        {"generation: 5": "generation: 20", "final:": "pruner: {grace_tasks: 1}\nfinal:"},
        "10:1: pruner: does nothing: no trial is ever stopped: lower search.generation or min_trials",
    ),
    "a quantile of rungs": (
        {"final:": "pruner: {scheduler: asha, grace_tasks: 1, quantile: 0.5}\nfinal:"},
        "10:43: pruner.quantile: does nothing: pruner.scheduler: asha goes by rungs",
    ),
    "rungs of generations": (
        {"final:": "pruner: {grace_tasks: 1, reduction_factor: 4}\nfinal:"},
        "10:26: pruner.reduction_factor: does nothing: only pruner.scheduler: asha has rungs",
    ),
    "start-up above all trials": (
        {"generation: 5": "generation: 5, startup: 21"},
        "9:37: search.startup: does nothing: no trial is left for the sampler to learn for",
    ),
    "a generation above all trials": (
        {"generation: 5": "generation: 21"},
        "9:22: search.generation: does nothing: all trials are one generation",
    ),
    "start-up of the random sampler": (
        {"generation: 5": "generation: 5, sampler: random, startup: 5"},
        "9:54: search.startup: does nothing: this sampler never learns",
    ),
    "a single finalist": (
        {"generation: 5": "generation: 5, finalists: {top: 1}"},
        "9:37: search.finalists: does nothing: a single finalist wins",
    ),
    "more finalists than trials": (
        {"generation: 5": "generation: 5, finalists: {top: 21}"},
        "9:49: search.finalists.top: does nothing: every trial is a finalist",
    ),
    "a scale of no cosine": (
        {"hidden: [20]": "hidden: [20], classifier_scale: 5.0"},
        "3:34: model.classifier_scale: does nothing for the methods that take it from here: only model.classifier",
    ),
    "active logits of tasks that share all units": (
        {"scenario: class": "scenario: domain", "epochs: 2": "epochs: 2, active_logits: own"},
        "4:39: training.active_logits: does nothing for the methods that take it from here: tasks of equal size",
    ),
    "moments of networks that are new": (
        {"replay: {}": "ensemble: {training.reset_optimizer: false}"},
        "7:14: strategies.ensemble.training.reset_optimizer: does nothing: this method learns every task with new",
    ),
    "a start of weights that are generated": (
        {"replay: {}": "hypernetwork: {model.init: xavier}"},
        "7:18: strategies.hypernetwork.model.init: does nothing: the layers' weights are generated",
    ),
    "a search for nothing": (
        {"penalty: {loguniform: [1, 100]}": ""},
        "9:1: search: does nothing: no value of any method is a distribution",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_combinations_that_make_another_method_are_refused(case: str) -> None:
    edits, expected = REFUSED[case]
    (line,) = refusals(changed(edits))
    assert line.startswith(f"sweep.yaml:{expected}"), line


@pytest.mark.parametrize("case", WARNED)
def test_values_that_do_nothing_are_told(case: str) -> None:
    edits, expected = WARNED[case]
    warnings = [line for line in parsed(changed(edits)).warnings if "does nothing" in line]
    assert len(warnings) == 1, warnings
    assert warnings[0].startswith(f"sweep.yaml:{expected}"), warnings


def test_what_makes_sense_is_told_nothing() -> None:
    assert parsed(SEARCHED).warnings == ()
    for edits in (
        {"capacity: 500": "capacity: 500, selection: random"},
        {"epochs: 2": "epochs: 2, optimizer: sgd, momentum: 0.9"},
        {"ewc: {": "ewc: {mode: online, online_decay: 0.5, "},
        {"replay: {}": "mir: {}"},
        {"replay: {}": "exstream: {memory.capacity: 10}"},
        HIDDEN | {"replay: {}": "replay: {}\n  gdumb: {}"},
        BATCH_NORM | {"batch_size: 32": "batch_size: 2"},
        {"final:": "pruner: {grace_tasks: 4}\nfinal:"},
    ):
        assert [line for line in parsed(changed(edits)).warnings if "nothing" in line and "search" not in line] == []


def test_an_option_that_acts_at_one_point_of_the_space_is_searched() -> None:
    """Momentum acts beside one of the optimisers; with both idle at every corner, their combination counts."""
    both = "training.optimizer: {choice: [adam, sgd]}, training.momentum: {choice: [0.0, 0.9]}"
    assert "training.momentum" in parsed(changed({"ewc: {": f"ewc: {{{both}, "})).entries[1].space
    text = changed({"replay: {}": "gdumb: {optimizer: {choice: [sgd, training]}, training.learning_rate: search}"})
    (line,) = refusals(text)
    assert "has no usual search space" in line
    text = text.replace("learning_rate: search", "learning_rate: {loguniform: [0.001, 0.1]}")
    assert "training.learning_rate" in parsed(text).entries[0].space


def test_what_is_searched_for_all_is_left_out_where_it_does_nothing() -> None:
    text = changed({"replay: {}": "gdumb: {}", "epochs: 2": "epochs: 2, learning_rate: {loguniform: [0.001, 0.1]}"})
    gdumb, ewc = parsed(text).entries
    assert list(gdumb.space) == []
    assert "training.learning_rate" in ewc.space
    assert parsed(text).trial(gdumb, {}, 0, "search").training.learning_rate == 1e-3


def test_a_variant_in_which_a_method_makes_no_sense_leaves_it_out() -> None:
    text = changed({"  ewc: {penalty: {loguniform: [1, 100]}}\n": "", "replay: {}": "gdumb: {}"})
    text += "variants: {a: {stream.boundaries: hidden}, b: {stream.boundaries: hidden, stream.scenario: domain}}\n"
    able, barred = parsed(text).entries
    assert able.barred is None
    assert "pairs of task and class" in str(barred.barred)


def test_mutant_without_what_is_declared_every_combination_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "broken", lambda setting: iter(()))
    monkeypatch.setattr(check, "idle", lambda setting: {})
    monkeypatch.setattr(sweep_file, "search_findings", lambda data, setting: iter(()))
    for edits, _ in (*REFUSED.values(), *WARNED.values()):
        assert not [line for line in parsed(changed(edits)).warnings if "does nothing" in line]


def test_the_command_says_what_the_library_says(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    for edits, expected in (REFUSED["random, frozen"], REFUSED["momentum of adam, searched"]):
        file.write_text(changed(edits))
        result = raycl("check", file)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith(f"{file}:{expected}")
    edits, expected = WARNED["a pruner on few tasks"]
    file.write_text(changed(edits))
    result = raycl("check", file)
    assert result.exit_code == 0
    assert expected.split(": ")[-1] in " ".join(result.stdout.split())
    assert f"warning: {file}:10:1: pruner" in "".join(result.stdout.split("\n")).replace("warning:  ", "warning: ")


def test_results_of_before_can_be_read_and_are_not_continued() -> None:
    """A folder holds the file as it was when nothing refused it."""
    stored = parsed(SEARCHED)
    text = changed(REFUSED["hidden, task share"][0])
    told = SweepSpec.loads(stored.dumps().replace(repr(SEARCHED)[1:-1], repr(text)[1:-1]), catalog())
    assert told.text == text
    assert told.warnings == ()


def test_a_folder_that_searched_for_nothing_is_read_as_it_was(tmp_path: Path) -> None:
    """An earlier raycl searched momentum of Adam, and named its folder by it."""
    text = changed(REFUSED["momentum of adam, searched"][0])
    source = parse(text, "sweep.yaml")
    before = SweepSpec.of(source, catalog(), judged=True, whole=True)
    now = SweepSpec.of(source, catalog(), judged=True)
    assert before.hash != now.hash
    read = SweepSpec.loads(before.dumps(), catalog())
    assert read.hash == before.hash
    assert "training.momentum" in read.entry("ewc").space
    assert "training.momentum" not in now.entry("ewc").space
    assert SweepSpec.loads(now.dumps(), catalog()).hash == now.hash
    table = " ".join(str(comparison(ResultsFolder.create(tmp_path, before.dumps(), before.hash))).split())
    place = "sweep.yaml:8:9: strategies.ewc.training.momentum: is searched, but does nothing"
    assert f"This raycl refuses its sweep file: {place}" in table
    assert "continues" not in table


class Declaring:
    """A method with nothing but declarations."""

    uses_memory = False
    needs = (Need("training.momentum", "must be 0", lambda at: not at.training.momentum),)
    ignores = (Idle(("training.momentum",), "not used", lambda at: at.training.optimizer == "adam"),)


def test_a_need_of_what_does_nothing_is_met() -> None:
    resolved = parsed(BASE).resolved(parsed(BASE).entries[1], {})
    fast = resolved.training.model_copy(update={"momentum": 0.9})
    setting = replace(resolved, strategy=Declaring, training=fast, extent=Extent((2, 2)))
    assert list(needs.broken(setting)) == []
    sgd = fast.model_copy(update={"optimizer": "sgd"})
    assert [need.rule for need in needs.broken(replace(setting, training=sgd))] == ["must be 0"]
    assert needs.covered("memory.capacity", needs.idle(setting)) == needs.NO_MEMORY.why
    assert setting.units == 4
