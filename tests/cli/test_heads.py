"""``raycl ls strategies NAME`` names the sweeps of papers with the figures of their heads, and retypes none."""

from __future__ import annotations

from pathlib import Path

import pytest
from heads import kept, read_pack, sweep_file
from typer.testing import CliRunner

from raycl.catalog import catalog
from raycl.cli import heads, shipped
from raycl.cli.app import app

HEAD = """# Which?
#
# Measured:  mean.
#              average %             forgetting %   winner
#            new   82.00 ± 4.97 (81.5)   0.00 (each seed)   penalty=0.1   ; seeds 80.00, 82.00
#            other   74.00 ± 8.96   2.00   -   160 features   paper 73.9; and more
#            new - other   +8.00 ± 4.30   -2.00   -
#            A sentence with published 3.
#            a   b
#            plain   1.00 (2.0)   3.00

name: made
stream: {name: split, dataset: digits}
model: {name: mlp}
variants: {a: {}, b: {}}
strategies:
  plain: {strategy: naive}
  naive: {}
"""


def test_rows_have_their_measured_and_their_published_figures() -> None:
    found = list(heads._rows("papers/made", HEAD.splitlines(), ["a", "b"]))
    assert [(one.key, one.accuracy, one.published) for one in found] == [
        ("new", "82.00 ± 4.97", "published 81.5"),
        ("other", "74.00 ± 8.96", "paper 73.9"),
        ("a/plain", "1.00", "published 2.0"),
        ("b/plain", "3.00", ""),
    ]


def test_a_method_goes_by_any_name_and_may_not_be_measured_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made.yaml").write_text(HEAD)
    monkeypatch.setattr(heads, "shipped", lambda: {"papers/made": tmp_path / "made.yaml", "other": tmp_path})
    assert [(one.key, one.accuracy) for one in heads.measured("naive")] == [("a/plain", "1.00"), ("b/plain", "3.00")]
    (tmp_path / "made.yaml").write_text(HEAD[HEAD.index("name:") :])
    assert [(one.key, one.accuracy) for one in heads.measured("naive")] == [("plain", ""), ("naive", "")]
    assert heads.measured("ewc") == []


def test_every_row_of_every_head_is_found_with_the_figure_of_its_pack() -> None:
    """Of the packs, which know nothing of heads: average accuracy of each entry, to two digits."""
    known = {strategy: heads.measured(strategy) for strategy in catalog().strategies.names()}
    found = {(one.sweep, one.key): one.accuracy for own in known.values() for one in own if one.accuracy}
    for name in ("gem2017_mnist", "hsu2018_rehearsal", "vandeven2019_permuted_mnist"):
        pack = read_pack(kept()[name], sweep_file(name))
        for key in pack.winners:
            values = list(pack.figures[key, "average_accuracy"].values())
            assert found[f"papers/{name}", key].startswith(f"{sum(values) / len(values):.2f}"), (name, key)
    assert {f"papers/{name}" for name in kept()} == {sweep for sweep, _ in found}


def test_the_command_names_them_and_how_to_start_from_one() -> None:
    for width in ("60", "100"):
        told = CliRunner().invoke(app, ["ls", "strategies", "ewc"], env={"COLUMNS": width}).output
        assert "95.01 ± 0.49" in told
        assert "94.3" in told
        assert "raycl copy papers/hsu2018_split_mnist" in " ".join(told.split())
    assert "papers/hsu2018_split_mnist" in shipped.shipped()
    assert "raycl copy" not in CliRunner().invoke(app, ["ls", "strategies", "shrink_perturb"]).output
