"""The report: what it claims, that it stands by itself, and what it weighs."""

from __future__ import annotations

import functools
import http.server
import re
import shutil
import subprocess
import threading
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import html5lib
import pytest
from PIL import Image
from results.made_results import HEAD, Made

from raycl.results.report import page, write_report
from raycl.results.report.answer import NO_ANSWER, answers
from raycl.results.report.page import SELECTS_NOTHING
from raycl.results.view import Results

METHOD = "{strategy: replay, memory.capacity: {choice: [50, 100, 200]}}"
TEXT = f"""# What keeps <most> & best?
{HEAD}
strategies:
  first: {METHOD}
  near: {{strategy: ewc, penalty: 1.0}}
  far: {{strategy: naive}}
  bound: {{strategy: joint}}
search: {{trials: 3, seeds: [0]}}
final: {{seeds: [10, 11, 12]}}
"""
FINAL = {"near": (59.0, 63.0, 63.5), "far": (30.0, 31.0, 35.0), "bound": (90.0, 90.0, 90.0)}


def sweep(folder: Path, first: tuple[float, ...] = (60.0, 62.0, 64.0), reason: str = "loss is <nan>") -> Made:
    """First is searched; near differs from it by 1, -1 and .5 points, far by 30, 31 and 29."""
    made = Made(folder, TEXT)
    made.suggest("first", [50, 100, 200])
    made.end("first", 50, 0, None, reason=reason)
    for capacity, value in ((100, 60.0), (200, 70.0)):
        made.end("first", capacity, 0, value)
    made.win("first", 200)
    for name, values in {"first": first, **FINAL}.items():
        for seed, value in zip((10, 11, 12), values, strict=False):
            made.end(name, 200 if name == "first" else None, seed, value, "final", upper_bound=name == "bound")
    return made


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page(Results(sweep(tmp_path_factory.mktemp("report") / "r").results))


def answer(made: Made) -> str:
    ((family, told),) = answers(Results(made.results).table)
    assert family == ""
    return told


def test_the_answer_claims_what_the_seeds_support(tmp_path: Path) -> None:
    """A difference of half a point with a deviation of one is a tie, and told as one."""
    told = answer(sweep(tmp_path / "r"))
    assert told.startswith(
        "first was best on validation data, and reaches 62.0 % (95 % interval 57.0 to 67.0, 3 seeds) of average "
        "accuracy after the last task on test data. The seeds do not tell it apart from near: between these no rank "
        "is claimed. It is told apart from far, which keeps less. "
    )
    assert told.endswith("Upper bounds, which see data that a continual learner has not: bound 90.0 % (3 seeds, "
                         "no interval).")  # fmt: skip


def test_one_that_is_better_on_test_data_than_the_chosen_one_is_told(tmp_path: Path) -> None:
    told = answer(sweep(tmp_path / "r", (31.0, 30.5, 35.5)))
    assert "On test data it is beaten by near." in told
    assert "The seeds do not tell it apart from far" in told


def test_one_seed_allows_no_comparison_and_no_interval(tmp_path: Path) -> None:
    told = answer(sweep(tmp_path / "r", (60.0,)))
    assert told.startswith("So far, as first has not ended: first was best on validation data, and reaches 60.0 % "
                           "(1 seed, no interval)")  # fmt: skip
    assert "It cannot be compared with near and far: too few seeds in common, or equal differences." in told


def test_before_anything_was_scored_there_is_no_answer(tmp_path: Path) -> None:
    empty = Made(tmp_path / "r", TEXT)
    assert answer(empty) == NO_ANSWER
    html5lib.HTMLParser(strict=True).parse(page(Results(empty.results)))


def test_a_table_of_points_says_that_nothing_was_selected(tmp_path: Path) -> None:
    made = Made(tmp_path / "r", f"{HEAD}strategies: {{first: {METHOD}}}\ntable: {{points: 3}}\n")
    assert SELECTS_NOTHING in page(Results(made.results))


def test_the_page_is_valid_and_every_id_is_there_once(text: str) -> None:
    html5lib.HTMLParser(strict=True).parse(text)
    names = re.findall(r'\bid="([^"]+)"', text)
    assert len(names) == len(set(names)) > 100
    used = {*re.findall(r'href="#([^"]+)"', text), *re.findall(r"url\(#([^)]+)\)", text)}
    assert used <= set(names)


def test_the_validator_sees_what_is_no_html(text: str) -> None:
    with pytest.raises(html5lib.html5parser.ParseError):
        html5lib.HTMLParser(strict=True).parse(text.replace("</figure>", "</section>", 1))


def test_the_page_loads_nothing_and_runs_nothing(text: str) -> None:
    asked = set(re.findall(r'(?:src|href|action)="(?!#)([^"]*)"', text))
    assert all(link.startswith("data:") for link in asked)
    assert not re.search(r"<script|<link (?!rel=\"icon\")|@import|url\((?!#)|https?://(?!www\.w3\.org)", text)


def test_the_page_has_what_a_reader_asks_for(text: str) -> None:
    heads = re.findall(r"<h2>(.*?)</h2>", text)
    assert heads == ["The answer", "The question", "The table", "What the searches chose", "Pictures",
                     "How it was measured", "Failures", "Versions", "How to continue"]  # fmt: skip
    plain = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))
    for told in (
        "Which of 4 methods (first, near, far, bound) keeps the most of 3 tasks",
        "memory.capacity 200 choice(50, 100, 200) at an end of its range: better values may lie beyond",
        "with seed 0; what counts is average accuracy on validation data",
        "trained anew on the training rows with seeds 10, 11 and 12, and scored on test data",
        "first search 0 memory.capacity 50 loss is &lt;nan&gt;",
        "search 3 1 ",
        "torch 2.0 processor AVX2",
    ):
        assert told in plain, told
    assert "What keeps &lt;most&gt; &amp; best?" in text, "the file is shown as it is, and is no markup"
    rows = re.findall(r"<tr class=\"tied\">(.*?)</tr>", text)
    assert [re.sub(r"<[^>]+>", " ", row).split()[:2] for row in rows] == [["first", "baseline"], ["near", "tied"]]


def test_pictures_are_drawings_in_the_colours_of_the_page(text: str) -> None:
    drawn = re.findall(r"<svg .*?</svg>", text, re.DOTALL)
    kinds = re.findall(r"raycl plot RESULTS ([\w-]+)</code>", text)
    assert kinds == ["final", "differences", "accuracy", "memory", "matrix", "expected-best", "slices"]
    assert len(drawn) == len(kinds)
    for one in drawn:
        ElementTree.fromstring(one.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1))
        assert 'role="img" aria-label="' in one
        assert "var(--ink)" in one
        assert "#333333" not in one
        assert "#ffffff" not in one
    assert "prefers-color-scheme: dark" in text


def test_a_run_writes_it_beside_its_results(tmp_path: Path) -> None:
    made = sweep(tmp_path / "r")
    assert write_report(made.results) == str(tmp_path / "r" / "report.html")
    assert (tmp_path / "r" / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_several_folders_are_one_page(tmp_path: Path) -> None:
    one, other = sweep(tmp_path / "a"), sweep(tmp_path / "b", (31.0, 30.5, 35.5))
    text = page(Results(one.results, other.results))
    html5lib.HTMLParser(strict=True).parse(text)
    assert text.count('<pre class="yaml">') == 2


@pytest.mark.slow
def test_forty_methods_weigh_three_megabytes_at_most(tmp_path: Path) -> None:
    capacities = "{choice: [50, 100, 200]}"
    methods = ", ".join(f"m{number}: {{strategy: replay, memory.capacity: {capacities}}}" for number in range(40))
    made = Made(tmp_path / "r", f"{HEAD}strategies: {{{methods}}}\nsearch: {{trials: 3}}\nfinal: {{seeds: [10, 11]}}\n")
    for number in range(40):
        made.suggest(f"m{number}", [50, 100, 200])
        made.win(f"m{number}", 100)
    for capacity in (50, 100, 200):
        made.end("m0", capacity, 0, 40.0 + capacity / 10)
    for seed in (10, 11):
        made.end("m0", 100, seed, 50.0 + seed, "final")
    assert len(page(Results(made.results)).encode()) < 3_000_000


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine to show the page")
def test_a_browser_shows_it_light_and_dark_and_asks_for_nothing(tmp_path: Path, text: str, dark: bool) -> None:
    """The page alone is asked for, and its corner has the colour of its paper."""
    (tmp_path / "report.html").write_text(text)
    asked: list[str] = []

    class Recorded(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Recorded, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    picture = tmp_path / "page.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=500,900"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}"]
    options += ["--blink-settings=preferredColorScheme=0"] if dark else []
    try:
        address = f"http://127.0.0.1:{server.server_port}/report.html"
        subprocess.run(["chromium", *options, address], check=True, capture_output=True, timeout=200)
    finally:
        server.shutdown()
    assert asked == ["/report.html"]
    shown = Image.open(picture).convert("RGB")
    assert shown.getpixel((2, 2)) == ((22, 24, 27) if dark else (255, 255, 255))
