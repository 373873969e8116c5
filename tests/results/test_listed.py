"""What lies below a folder: every state a sweep can be in, and none that ends the list."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from results.made_results import Made
from results.test_contrast import BEFORE, TEXT, ended
from results.test_layout import made
from typer.testing import CliRunner

from raycl.cli.app import app
from raycl.cli.ls_results import age
from raycl.errors import StoreError
from raycl.results.listed import listed
from raycl.results.packing import pack
from raycl.results.process import identity


def test_states(tmp_path: Path) -> None:
    root = tmp_path / "results"
    ended(root / "whole", BEFORE)
    ended(root / "below" / "half", {"naive": (20.0, 21.0)})
    held = Path(ended(root / "held", {"naive": (20.0, 21.0)}))
    (held / "lease.json").write_text(json.dumps({**identity(), "token": "x", "counter": 1}))
    far = Path(ended(root / "far", {"naive": (20.0, 21.0)}))
    (far / "lease.json").write_text(json.dumps({**identity(), "boot": "another", "token": "x", "counter": 1}))
    gone = Path(ended(root / "gone", {"naive": (20.0, 21.0)}))
    (gone / "lease.json").write_text(json.dumps({**identity(), "started": 1, "token": "x", "counter": 1}))
    failed = Made(root / "failed", TEXT)
    for alias in BEFORE:
        for seed in (10, 11, 12):
            failed.end(
                alias, None, seed, None if alias == "naive" else 50.0 + seed, "final", reason="loss is not finite"
            )
    pack(root / "whole", root / "kept")
    (root / "notes").mkdir()
    (root / "notes" / "sweep.yaml").write_text("name: mine\n")
    found = {one.path: one for one in listed(str(root))}
    assert {path: one.state for path, one in found.items()} == {
        "whole": "complete",
        "below/half": "stopped",
        "held": "running",
        "far": "in use elsewhere",
        "gone": "stopped",
        "failed": "complete",
        "kept": "pack",
    }
    assert (found["failed"].failed, found["whole"].failed) == (1, 0)
    assert [line.alias for line in found["whole"].best] == ["replay"]
    assert (found["whole"].trials, found["kept"].trials, found["below/half"].trials) == (6, 6, 2)
    assert abs((found["whole"].changed or 0) - time.time()) < 300
    assert [one.path for one in listed(str(root / "whole"))] == [""]


def test_the_best_is_that_of_validation_data(tmp_path: Path) -> None:
    made(tmp_path / "r" / "s")
    (one,) = listed(str(tmp_path / "r"))
    assert [line.alias for line in one.best] == ["third"], "though the first is better on test data"


def test_what_cannot_be_read_is_told_and_ends_nothing(tmp_path: Path) -> None:
    ended(tmp_path / "r" / "good", BEFORE)
    for name, text in (("newer", '{"format": 9, "name": "", "hash": "", "sweep": ""}'), ("torn", '{"form')):
        (tmp_path / "r" / name).mkdir()
        (tmp_path / "r" / name / "sweep.json").write_text(text)
    (tmp_path / "r" / "foreign").mkdir()
    (tmp_path / "r" / "foreign" / "trials.parquet").write_text("a,b\n")
    done = CliRunner().invoke(app, ["ls", "results", str(tmp_path / "r")], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    assert done.output.count("unreadable") == 3
    told = " ".join(done.output.split())
    assert "format 9, this raycl reads 1 and 2; run it anew, or read it with a newer raycl" in told
    assert "damaged; delete this file and give `raycl run`" in told
    assert "no complete Parquet file" in told
    assert "replay 61.33 ± 3.79 %" in done.output


@pytest.mark.parametrize("width", ["60", "80", "200"])
def test_columns_go_and_no_figure_is_cut(tmp_path: Path, width: str) -> None:
    ended(tmp_path / "a_folder_with_a_name_that_is_long" / "and_another_one_below_it", BEFORE)
    done = CliRunner().invoke(app, ["ls", "results", str(tmp_path)], env={"COLUMNS": width})
    assert "replay 61.33 ± 3.79 %" in done.output
    assert "…" not in done.output
    assert ("age" in done.output) >= (width == "200")


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no folder, or an empty one; give the ROOT below which results lie"):
        listed(str(tmp_path / "none"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.txt").write_text("")
    done = CliRunner().invoke(app, ["ls", "results", str(tmp_path)])
    assert "no results of raycl lie here" in " ".join(done.output.split())


@pytest.mark.parametrize(("ago", "told"), [(0, "0 s"), (90, "2 min"), (7200, "2 h"), (3 * 86400, "3 d")])
def test_age_is_told_in_one_unit(ago: float, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert age(1e9 - ago) == told
    assert age(None) == ""
