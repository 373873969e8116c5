"""The pictures of the report, as drawings inside the page: they follow its colours, and ask for nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass

from matplotlib.figure import Figure

from raycl.results.plots.kinds import PICTURES, NothingToDraw, draw
from raycl.results.plots.style import AXIS, COLOURS, INK, NULL, RULE, written
from raycl.results.view import Results

SHOWN = ("final", "differences", "accuracy", "forgetting", "keeping", "memory", "compute", "matrix", "expected-best",
         "slices", "importance")  # fmt: skip
"""In this order, where there is anything to draw."""
BY_VARIANT = {"accuracy", "forgetting", "keeping", "matrix"}
"""Drawn for each variant by itself: lines of one stream."""
MOST_SMALL = {"matrix": 16, "slices": 24, "importance": 12}
"""Small pictures in one, at most: of more none is drawn, as nobody reads them, and each weighs on the page."""
FOLLOWED = {INK: "ink", RULE: "rule", AXIS: "axis", NULL: "null", COLOURS[6]: "dark"}
"""Colour -> the page's variable that takes its place, light or dark."""


@dataclass(frozen=True)
class Picture:
    """A drawing.

    Attributes:
        kind: as ``raycl plot`` takes it.
        only: the variant; empty: all.
    """

    kind: str
    only: str
    caption: str
    svg: str


def pictures(results: Results) -> list[Picture]:
    """Every picture of :data:`SHOWN` that the results have something for."""
    variants = list(dict.fromkeys(line.key.rpartition("/")[0] for line in results.table.lines))
    found: list[Picture] = []
    for kind in SHOWN:
        for variant in variants if kind in BY_VARIANT and len(variants) > 1 else [""]:
            if _count(results, kind, variant) > MOST_SMALL.get(kind, 1_000):
                continue
            try:
                figure = draw(results, kind, [variant] if variant else (), title="")
            except NothingToDraw:
                continue
            shows = PICTURES[kind].shows
            caption = (f"{variant}: {shows}" if variant else shows[0].upper() + shows[1:]) + "."
            found.append(Picture(kind, variant, caption, inlined(figure, f"p{len(found)}", caption)))
    return found


def _count(results: Results, kind: str, variant: str) -> int:
    """Of how many small ones a picture would consist."""
    if kind == "matrix":
        return sum(not variant or key.startswith(f"{variant}/") for key in results.compared)
    if kind in MOST_SMALL:
        return sum(len(results.spaces[key]) if kind == "slices" else 1 for key in results.searches)
    return 1


def inlined(figure: Figure, name: str, label: str) -> str:
    """A figure as an element of a page.

    Args:
        name: stands before every id of the drawing, of which a page may have each once.
        label: what is shown, for whoever does not see it.
    """
    text = written(figure, "svg").decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    for colour, variable in FOLLOWED.items():
        text = re.sub(rf"(?i){colour}\b", f"var(--{variable})", text)
    text = re.sub(r"(fill|stroke): #ffffff\b", r"\1: var(--paper)", text)
    text = text.replace('fill="#ffffff"', 'style="fill: var(--paper)"')  # behind a hatch
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    box = [float(number) for number in re.findall(r"[\d.]+", text[text.index('viewBox="') :])[:4]]
    head = f'<svg viewBox="0 0 {box[2]:g} {box[3]:g}" role="img" aria-label="{label}" style="--width: {box[2]:.0f}pt">'
    return head + text[text.index(">") + 1 :]
