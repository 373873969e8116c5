"""Several folders in one table: compared where all ask the same, and never where they do not."""

from __future__ import annotations

from pathlib import Path

import pytest
from results.made_results import HEAD, PROVENANCE, Made, rows
from results.test_layout import TEXT, made, printed

from raycl.errors import UnknownName
from raycl.matrix import TaskRow, Verdict
from raycl.results.packing import pack
from raycl.results.questions import differences
from raycl.results.several import chosen, compared_folders

PLAIN = f"{HEAD}strategies: {{naive: {{}}, replay: {{}}}}\nfinal: {{seeds: [10, 11, 12]}}\n"
FIGURES = {"naive": (20.0, 21.0, 24.0), "replay": (60.0, 61.0, 63.0)}


def plain(folder: Path, text: str = PLAIN, shift: float = 0.0) -> str:
    """A folder with two methods, of which nothing was searched."""
    found = Made(folder, text)
    for alias, values in FIGURES.items():
        for seed, value in zip((10, 11, 12), values, strict=True):
            found.end(alias, None, seed, value + shift, "final")
    return found.results.uri


def test_methods_of_sweeps_that_ask_the_same_are_one_family(tmp_path: Path) -> None:
    other = PLAIN.replace("name: tiny", "name: other").replace("replay: {}", "replay: {memory.capacity: 11}")
    table = compared_folders([plain(tmp_path / "a"), plain(tmp_path / "b", other, 10.0)])
    assert table.differ == ()
    assert [line.key for line in table.lines] == ["other/replay", "tiny/replay", "other/naive", "tiny/naive"]
    (base,) = table.baselines.values()
    assert (base.key, base.comparisons, set(base.against)) == (
        "other/replay",
        6,  # all pairs of four methods, as test data chose the best
        {"tiny/replay", "other/naive", "tiny/naive"},
    )
    assert base.against["tiny/replay"].difference.mean == pytest.approx(-0.1)
    assert [row["sweep"] for row in table.to_arrow().to_pylist()] == ["other", "tiny", "other", "tiny"]
    assert "sweep  strategy" in printed(table, 200)


def test_sweeps_that_ask_otherwise_are_compared_within_themselves_and_told_apart(tmp_path: Path) -> None:
    other = PLAIN.replace("name: tiny", "name: other").replace("tasks: 3", "tasks: 4")
    table = compared_folders([plain(tmp_path / "a"), plain(tmp_path / "b", other)])
    assert table.differ == ("stream.tasks (3, 4)",)
    assert {key: base.key for key, base in table.baselines.items()} == {"tiny": "tiny/replay", "other": "other/replay"}
    assert {base.comparisons for base in table.baselines.values()} == {1}
    told = "The sweeps differ in stream.tasks (3, 4): methods are compared within each alone."
    assert told in table.notes
    assert "Baseline of other: replay (1 comparison); all others are told apart." in table.notes


def test_a_metric_that_differs_is_told_and_so_are_other_variants() -> None:
    asked = {"variants": "", "metric": "average_accuracy", "data": None}
    assert differences([asked, asked | {"metric": "pooled_accuracy"}]) == ["metric (average_accuracy, pooled_accuracy)"]
    assert differences([asked, asked | {"data": "feed"}]) == [], "older results do not know their data"
    assert differences([asked | {"data": "beef"}, asked | {"data": "feed"}]) == ["data"]
    assert differences([asked, {"variants": "a, b", "a: stream.tasks": 3}]) == ["variants (none; a, b)"]
    assert differences([asked, {"metric": "pooled_accuracy"}]) == [], "of it no final trial has ended"


def test_folders_of_one_name_go_by_their_paths(tmp_path: Path) -> None:
    first, second = plain(tmp_path / "a"), plain(tmp_path / "b")
    assert {line.place for line in compared_folders([first, second]).lines} == {first, second}
    assert {line.place for line in compared_folders([first]).lines} == {""}


def test_a_pack_stands_beside_the_folder_that_it_was_made_of(tmp_path: Path) -> None:
    folder = made(tmp_path / "r").results.uri
    pack(folder, tmp_path / "kept")
    whole, packed = (compared_folders([place]).to_arrow() for place in (folder, tmp_path / "kept"))
    assert packed.to_pylist() == whole.to_pylist()
    table = compared_folders([folder, tmp_path / "kept"])
    assert table.differ == ()
    assert len(table.lines) == 8
    (base,) = table.baselines.values()
    twin = next(line.key for line in table.lines if line.alias == "third" and line.key != base.key)
    assert base.against[twin].difference.mean == 0


def test_test_scores_of_all_folders_are_counted_by_split(tmp_path: Path) -> None:
    table = compared_folders([plain(tmp_path / "a"), plain(tmp_path / "b")])
    assert "Scores on test data in these folders: 12, over one split." in table.notes


def test_lines_that_are_left_out_still_count_as_comparisons(tmp_path: Path) -> None:
    table = compared_folders([made(tmp_path / "r").results.uri])
    some = chosen(table, ["first", "naive"])
    assert [line.alias for line in some.shown] == ["first", "naive"]
    assert [row["comparisons"] for row in some.to_arrow().to_pylist()] == [3, 3]
    assert [line.alias for line in chosen(table, ["replay"]).shown] == ["third", "second", "first"], (
        "by registered name"
    )
    with pytest.raises(UnknownName, match=r"must be a method of the table \(got 'firsd'\); did you mean 'first'\?"):
        chosen(table, ["firsd"])


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("rank", ["third", "second", "first", "naive"]),
        ("name", ["first", "naive", "second", "third"]),
        ("average_accuracy", ["first", "second", "third", "naive"]),
        ("validation", ["third", "second", "first", "naive"]),
    ],
)
def test_lines_are_sorted(tmp_path: Path, sort: str, order: list[str]) -> None:
    table = compared_folders([made(tmp_path / "r").results.uri])
    assert [line.alias for line in chosen(table, sort=sort).shown] == order
    with pytest.raises(UnknownName, match="lines are sorted by a figure of theirs"):
        chosen(table, sort="averge")


def test_another_metric_is_compared_and_the_least_forgetting_is_the_best(tmp_path: Path) -> None:
    found = Made(tmp_path / "r", PLAIN)
    for alias, losses in (("naive", (30, 31, 32)), ("replay", (10, 10, 10))):
        for seed, lost in zip((10, 11, 12), losses, strict=True):
            store = found.results.trial(found.spec(alias, None, seed, "final"))
            attempt = store.begin()
            for one in rows()[1:]:
                correct = one.correct.copy()
                if one.task == 2:
                    correct[:2] = [90 - lost - seed % 2, 80 - lost]
                store.write_task(attempt, one.task, [TaskRow(one.task, correct, one.total, one.cost)], {})
            store.finish(Verdict("finished", "", None, 2), PROVENANCE)
    table = compared_folders([found.results.uri], metric="forgetting")
    assert [line.alias for line in table.lines] == ["replay", "naive"]
    by_alias = {row["alias"]: row for row in table.to_arrow().to_pylist()}
    assert by_alias["replay"]["forgetting_mean"] == pytest.approx(0.1 + 0.005 / 3)
    assert by_alias["naive"]["difference_mean"] == pytest.approx(0.21)
    assert {row["metric"] for row in by_alias.values()} == {"forgetting"}
    assert "forgetting_margin" in table.to_arrow().column_names
    assert table.lines[0].interval is not None
    assert printed(table, 40).splitlines()[2].split() == ["strategy", "forgetting", "%", "±", "95", "%", "n"]
    assert "better: replay." in " ".join(table.against("naive").notes)
    with pytest.raises(UnknownName, match=r"\(got 'forgeting'\); did you mean 'forgetting'\?"):
        compared_folders([found.results.uri], metric="forgeting")


@pytest.mark.parametrize("width", [30, 45, 60, 80, 120, 200])
def test_no_figure_is_cut_however_narrow(tmp_path: Path, width: int) -> None:
    other = TEXT.replace("name: tiny", "name: a_name_as_long_as_those_of_papers")
    folders = [
        made(tmp_path / "a").results.uri,
        made(tmp_path / "b", other.replace("tasks: 3", "tasks: 4")).results.uri,
    ]
    text = printed(compared_folders(folders), width)
    assert "…" not in text
    assert text.count("70.33 ± 2.08") + text.count("70.33 ± 1.53") == 4
    assert max(map(len, text.splitlines())) <= width
