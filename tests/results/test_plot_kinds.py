"""The pictures of a results folder by name: each with its axes, its series and a figure that was worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.figure import Figure
from results.made_results import HEAD, Made

from raycl.errors import UnknownName
from raycl.results import plots
from raycl.results.plots.kinds import PICTURES, NothingToDraw, draw, inferred
from raycl.results.view import Results
from raycl.spec.space import Choice, LogUniform

METHOD = "{strategy: replay, memory.capacity: {choice: [50, 100, 200]}}"
TEXT = f"""{HEAD}
strategies: {{first: {METHOD}, second: {{strategy: naive}}, bound: {{strategy: joint}}}}
search: {{trials: 3, seeds: [0]}}
final: {{seeds: [10, 11, 12]}}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """On test data first has 60, 62 and 64 %, second 30, 31 and 35, the upper bound 90."""
    made = Made(tmp_path_factory.mktemp("kinds") / "r", TEXT)
    made.suggest("first", [50, 100, 200])
    for capacity, value in ((50, 50.0), (100, 70.0), (200, 60.0)):
        made.end("first", capacity, 0, value)
    made.win("first", 100)
    for seed, one, other in ((10, 60.0, 30.0), (11, 62.0, 31.0), (12, 64.0, 35.0)):
        made.end("first", 100, seed, one, "final")
        made.end("second", None, seed, other, "final")
        made.end("bound", None, seed, 90.0, "final", upper_bound=True)
    return Results(made.results)


def names(figure: Figure) -> list[str]:
    legend = figure.axes[0].get_legend()
    return [text.get_text() for text in legend.get_texts()]


def test_final_accuracies(made: Results) -> None:
    axes = draw(made, "final").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "bound (upper bound)", "second"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.62, 0.9, 0.32])
    assert axes.get_title(loc="left") == "tiny"


def test_differences_are_paired_and_filled_where_they_are_told_apart(made: Results) -> None:
    """30, 31 and 29 points: 30 with half-width 4.303 / sqrt(3)."""
    axes = draw(made, "differences").axes[0]
    bound, second = axes.containers
    np.testing.assert_allclose(second[0].get_xydata(), [[-0.3, 1]])
    (ends,) = second[2]
    np.testing.assert_allclose(np.ptp(ends.get_segments()[0][:, 0]) / 2, 0.0430265 / np.sqrt(3), rtol=1e-4)
    assert second[0].get_markerfacecolor() != "white"
    assert bound[0].get_markerfacecolor() == "white"
    assert axes.get_xlabel() == "average accuracy less that of first, paired by seed"
    assert len(draw(made, "differences", ["second"]).axes[0].containers) == 1


def test_matrix_has_a_map_for_each_method_and_its_mean_in_the_cells(made: Results) -> None:
    figure = draw(made, "matrix")
    drawn = [axes for axes in figure.axes if axes.get_images()]
    assert [axes.get_title(loc="left") for axes in drawn] == ["first", "bound", "second"]
    assert [text.get_text() for text in drawn[0].texts] == ["62.0"] * 3
    alone = draw(made, "matrix", ["second"])
    assert alone.axes[0].get_title(loc="left") == "tiny: second"


def test_accuracy_has_a_line_for_each_method(made: Results) -> None:
    figure = draw(made, "accuracy")
    assert names(figure) == ["first", "bound", "second"]
    assert [line.get_ydata()[0] for line in figure.axes[0].get_lines()] == pytest.approx([0.62, 0.9, 0.32])


def test_memory_is_that_of_the_methods(made: Results) -> None:
    figure = draw(made, "memory")
    assert names(figure) == ["first", "bound (upper bound)", "second"]
    assert figure.axes[0].get_xscale() == "log"
    assert set(figure.axes[0].get_lines()[0].get_xdata()) == {4500}
    assert figure.axes[0].get_xticklabels()[0].get_text().endswith("B")


def test_slices_mark_the_best_and_expected_best_ends_there(made: Results) -> None:
    figure = draw(made, "slices")
    (axes,) = [axes for axes in figure.axes if axes.get_visible()]
    points, best, _ = axes.get_lines()
    np.testing.assert_allclose(points.get_xydata(), [[0, 0.5], [1, 0.7], [2, 0.6]])
    np.testing.assert_allclose(best.get_xydata(), [[1, 0.7]])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["50", "100", "200"]
    assert axes.get_xlabel() == "memory.capacity"
    curve = draw(made, "expected-best").axes[0].get_lines()[0]
    assert curve.get_ydata()[0] == pytest.approx(0.6)


def test_a_range_that_was_searched_by_its_logarithm_is_shown_so() -> None:
    points = pa.table({"suggestion": [0, 1, 2], "value": [0.3, 0.5, None], "penalty": [1.0, 100.0, 10.0]})
    (axes,) = plots.slices({"ewc": points}, {"ewc": {"penalty": LogUniform(1.0, 1000.0)}}).axes
    assert axes.get_xscale() == "log"
    ended, best, without = axes.get_lines()
    assert (len(ended.get_xdata()), list(best.get_xdata()), list(without.get_xdata())) == (2, [100.0], [10.0])


def test_importance_finds_the_value_that_decides() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.uniform(0, 3, 40), generator.integers(0, 2, 40)
    points = pa.table({"value": one / 3 + 0.001 * other, "penalty": 10**one, "mode": [["a", "b"][m] for m in other]})
    space = {"penalty": LogUniform(1.0, 1000.0), "mode": Choice(("a", "b"), ("a", "b"))}
    found = plots.importances(points, space)
    assert list(found) == ["penalty", "mode"]
    assert found["penalty"] > 0.95
    (axes,) = plots.importance({"ewc": points}, {"ewc": space}).axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx(list(found.values()))
    assert plots.importances(points.slice(0, 9), space) == {}
    (axes,) = plots.importance({"ewc": points.slice(0, 9)}, {"ewc": space}).axes
    assert [text.get_text() for text in axes.texts] == ["too few points: 9 of 10"]


def test_inferred_tasks_are_those_after_the_last_one() -> None:
    rows = [("a", 0, "inferred.1.1", 1.0), ("a", 1, "inferred.1.1", 0.6), ("a", 1, "inferred.1.2", 0.4)]
    rows += [("b", 1, "inferred.1.1", 0.8), ("a", 1, "inferred.2.2", 1.0), ("a", 1, "dead_units", 3.0)]
    measures = pa.table(
        dict(zip(("trial", "train_task", "name", "value"), map(list, zip(*rows, strict=True)), strict=True))
    )
    found = inferred(measures, {"a": "tir", "b": "tir"})
    np.testing.assert_allclose(found["tir"], [[0.7, 0.4], [np.nan, 1.0]])


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("forgetting", "evaluation.every"),
        ("keeping", "evaluation.every"),
        ("importance", "two searched values"),
        ("compute", "old raycl"),
        ("compression", "such as hypernetwork"),
        ("inside", r"evaluation: \{inside"),
        ("online", r"evaluation: \{online"),
        ("confusion", "inferred.TRUE.TAKEN"),
    ],
)
def test_what_a_folder_has_nothing_of_is_refused_with_what_would_record_it(
    made: Results, kind: str, remedy: str
) -> None:
    with pytest.raises(NothingToDraw, match=remedy):
        draw(made, kind)


def test_before_anything_has_ended_every_picture_says_why(tmp_path: Path) -> None:
    empty = Results(Made(tmp_path / "r", TEXT).results)
    for kind in PICTURES:
        with pytest.raises(NothingToDraw, match=f"nothing to draw as {kind}: "):
            draw(empty, kind)


def test_unknown_names_are_told_what_there_is(made: Results) -> None:
    with pytest.raises(UnknownName) as error:
        draw(made, "matrices")
    assert all(f"\n  {kind:<13} {one.shows}" in str(error.value) for kind, one in PICTURES.items())
    with pytest.raises(UnknownName, match=r"no method or variant is called 'thrid'.*first, bound, second"):
        draw(made, "final", ["thrid"])
