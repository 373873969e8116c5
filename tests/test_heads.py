"""How figures get from a pack into a head: every one of these is worked out by hand."""

from __future__ import annotations

import heads
import pytest

from raycl.spec.seeds import RunSeeds


def by_seed(*values: float, first: int = 10) -> dict[RunSeeds, float]:
    return {RunSeeds.of(first + place): value for place, value in enumerate(values)}


PACK = heads.Pack(
    "made",
    {
        ("new", "average_accuracy"): by_seed(80, 82, 84),  # s = 2, and t of two degrees of freedom 4.3027
        ("old", "average_accuracy"): by_seed(70, 75, 77),  # differences 10, 7, 7: s = 3 ** 0.5
        ("one", "average_accuracy"): by_seed(8.3),
        ("two", "average_accuracy"): by_seed(50, 52),  # s = 2 ** 0.5, and t of one degree of freedom 12.7062
        ("new", "forgetting"): by_seed(0, 0, 0),
        ("old", "forgetting"): by_seed(1, 2, 3),
        ("new", "state"): by_seed(1.5e6, 1.5e6, 1.5e6),
    },
    {"new": "penalty=0.1, layer=7", "old": "", "one": "", "two": ""},
)
HEAD = """# Which?
#
# Cost:      5 minutes on 2 cores, 3 ± 1.
#
# Measured:  nothing yet.
#            More is known: 4 of 5.
#              average %   forgetting %   state   winner
#            new   50.00 ± 3.00 (81.5)   1.00 ± 2.00   3 kB   penalty=3   paper 81.9  ; seeds 1.00, 2.00
#            old
#            one
#            two   160 features
#            new - old
#            It is the better one.

name: made
"""
WRITTEN = """# Which?
#
# Cost:      5 minutes on 2 cores, 3 ± 1.
#
# Measured:  mean ± half-width of the 95 % t-interval over the 3 final seeds, in percent of test data.
# Pack:      analysis/papers/made, this file as it stands; differences paired by seed.
#            More is known: 4 of 5.
#                        average %                 forgetting %        state    winner
#            new         82.00 ± 4.97 (81.5)        0.00 (each seed)   1.5 MB   penalty=0.1, layer=7   paper 81.9   ; seeds 80.00, 82.00, 84.00
#            old         74.00 ± 8.96               2.00 ± 2.48         -       -
#            one          8.30 (1 seed)              -                  -       -
#            two         51.00 ± 12.71 (2 seeds)     -                  -       -                      160 features
#            new - old   +8.00 ± 4.30              -2.00 ± 2.48         -       -
#            It is the better one.

name: made
"""  # noqa: E501


def test_a_head_is_written_from_its_pack_and_keeps_its_text() -> None:
    assert heads.rewritten(HEAD, PACK) == WRITTEN


def test_what_was_written_stays() -> None:
    assert heads.rewritten(WRITTEN, PACK) == WRITTEN


def test_variants_may_be_columns() -> None:
    figures = {("a/new", "average_accuracy"): by_seed(80, 82, 84), ("b/new", "average_accuracy"): by_seed(7, 7, 7)}
    pack = heads.Pack("made", figures, {"a/new": "", "b/new": ""})
    written = heads.rewritten(
        "# Measured:  \n#            a   b\n#            new   1.00 (2.0)   3.00   kept\n\n", pack
    )
    assert written.splitlines()[2:4] == [
        "#                  a                    b",
        "#            new   82.00 ± 4.97 (2.0)   7.00 (each seed)   kept",
    ]


def test_of_one_seed_there_is_no_interval() -> None:
    pack = heads.Pack("made", {("new", "average_accuracy"): by_seed(97.494)}, {"new": ""})
    written = heads.rewritten("# Measured:  \n#            average %\n#            new\n\n", pack)
    assert "97.49 (1 seed)" in written
    assert "±" not in written


@pytest.mark.parametrize("row", ["never   1.00", "new - never   1.00", "new - old - one   1.00"])
def test_a_row_of_what_the_pack_does_not_hold_is_refused(row: str) -> None:
    with pytest.raises(ValueError, match="a row names an entry of the pack"):
        heads.rewritten(f"# Measured:  \n#            average %\n#            {row}\n\n", PACK)


def test_a_head_without_a_place_for_figures_is_refused() -> None:
    with pytest.raises(ValueError, match="a line that starts with '# Measured:  '"):
        heads.rewritten("# Which?\n\n", PACK)
