"""What ``raycl check`` says of intervals before anything has run."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from results.made_results import HEAD, Made
from typer.testing import CliRunner

from raycl.catalog import catalog
from raycl.cli.app import app
from raycl.results.foreseen import ASSUMED, SOURCE, expected, few_seeds
from raycl.spec.sweep import SweepSpec

TEXT = HEAD + "strategies: {naive: {}, replay: {}, kept: {strategy: replay}}\nfinal: {seeds: [10, 11, 12]}\n"


def stored(root: Path, name: str = "stored", text: str = TEXT) -> None:
    """Replay with a deviation of 1 point, over three seeds; naive with one seed alone."""
    made = Made(root / name, text)
    for seed, accuracy in ((10, 60.0), (11, 61.0), (12, 62.0)):
        made.end("replay", None, seed, accuracy, "final")
    made.end("naive", None, 10, 20.0, "final")


def test_the_half_width_comes_from_stored_sweeps_of_the_method(tmp_path: Path) -> None:
    stored(tmp_path)
    equal = Made(tmp_path / "equal", TEXT)
    for seed in (10, 11):
        equal.end("naive", None, seed, 20.0, "final")
    sweep = SweepSpec.parse(TEXT, catalog())
    found = expected(sweep, tmp_path)
    for key in ("replay", "kept"):
        assert (found[key].n, found[key].known_from) == (3, 3)
        assert found[key].margin == pytest.approx(0.01 * 4.302653 / math.sqrt(3), rel=1e-5)
    assert found["naive"].known_from == 0, "one seed, and in another sweep two that are equal"
    assert found["naive"].margin == pytest.approx(ASSUMED * 4.302653 / math.sqrt(3), rel=1e-5)


def test_deviations_of_several_sweeps_are_pooled_by_their_degrees_of_freedom(tmp_path: Path) -> None:
    """Variances 1 (two degrees of freedom) and 8 (one): (2 + 8) / 3. Around one mean of all they would be larger."""
    stored(tmp_path)
    made = Made(tmp_path / "second", TEXT)
    for seed, accuracy in ((10, 30.0), (11, 34.0)):
        made.end("replay", None, seed, accuracy, "final")
    found = expected(SweepSpec.parse(TEXT, catalog()), tmp_path)["replay"]
    assert found.margin == pytest.approx(0.01 * math.sqrt(10 / 3) * 4.302653 / math.sqrt(3), rel=1e-5)
    assert found.known_from == 5


def test_another_stream_a_damaged_folder_and_no_folder_tell_nothing(tmp_path: Path) -> None:
    stored(tmp_path, text=TEXT.replace("scenario: class", "scenario: domain"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sweep.json").write_text("torn")
    sweep = SweepSpec.parse(TEXT, catalog())
    for root in (tmp_path, tmp_path / "nothing", "s3://bucket/results"):
        assert {one.known_from for one in expected(sweep, root).values()} == {0}


def test_a_single_seed_and_a_search_alone_have_no_interval(tmp_path: Path) -> None:
    one = SweepSpec.parse(TEXT.replace("[10, 11, 12]", "[10]"), catalog())
    assert all(math.isnan(found.margin) for found in expected(one, tmp_path).values())
    assert "is not defined" in str(few_seeds(one))
    alone = TEXT.replace("replay: {}", "replay: {memory.capacity: {randint: [5, 9]}}").split("final")[0]
    search = SweepSpec.parse(alone + "search: {trials: 2}\n", catalog())
    assert expected(search, tmp_path) == {}
    assert few_seeds(search) is None


@pytest.mark.parametrize(("seeds", "warned"), [("[1, 2, 3, 4]", True), ("[1, 2, 3, 4, 5]", False)])
def test_below_five_seeds_a_warning_has_its_place(seeds: str, warned: bool) -> None:
    sweep = SweepSpec.parse(TEXT.replace("[10, 11, 12]", seeds), catalog(), "x.yaml")
    told = few_seeds(sweep)
    assert (told is not None) is warned
    if told is not None:
        assert str(told).startswith("x.yaml:7:16: final.seeds: few seeds: the 95 % interval of a mean is 1.6 standard")
    assert sweep.warnings == ()


def test_check_prints_both(tmp_path: Path) -> None:
    stored(tmp_path)
    (tmp_path / "x.yaml").write_text(TEXT)
    done = CliRunner().invoke(
        app, ["check", str(tmp_path / "x.yaml")], env={"COLUMNS": "200", "RAYCL_RESULTS": str(tmp_path)}
    )
    told = " ".join(done.output.split())
    assert "accuracy over 3 final seeds, 95 %: replay ± 2.5, kept ± 2.5, from stored sweeps; others ± " in told
    assert SOURCE in told
    assert "warning: " in told
    assert "final.seeds: few seeds" in told
