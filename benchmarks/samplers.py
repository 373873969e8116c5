"""How good a point each sampler finds, on landscapes of which the best point is known.

A landscape is a ridge over learning rate and penalty, both on a logarithm: what is right for the one depends on the
other, as regularisation methods have it, and its place, slope and width are drawn anew for each. Every sampler has 20
trials in generations of 5, of which a generation knows the results of those before it; ``sequential`` knows every
result at once, which nobody does who runs trials side by side. All samplers see the same landscapes, so differences are
paired; intervals are 95 % t-intervals.

    python benchmarks/samplers.py [landscapes]

With a table of real trials (``table: {points: ...}``; its results folder, or its pack) its methods are the landscapes:
each suggestion is moved to the nearest unused point of the table, of which a search tries half at the most (those that
try all choose alike); it sees the validation data of one seed, by turns, and what it chooses is scored by test data of
the others. Regret is what the best point of the table has more. A search is paired with that of the same number by
another sampler; intervals are over searches, each the mean over all methods.

    python benchmarks/samplers.py TABLE [searches]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from rich.console import Console
from rich.table import Table
from scipy.stats import t

from raycl.results.landscapes import Landscape, Landscapes, read_table
from raycl.results.outcomes import Outcome, ranked
from raycl.results.trackers.optuna_terms import frozen, optuna_space
from raycl.spec import space
from raycl.spec.points import Point, Space, active, place_of
from raycl.spec.sweep_options import SearchConfig
from raycl.sweep.over_table import Answers
from raycl.sweep.suggestions import Suggester, sampler_seed

TRIALS, GENERATION, STARTUP = 20, 5, 5
PART = 0.5
"""Of a table's points, so many are tried at the most."""
OVER: Space = {"learning_rate": space.LogUniform(1e-4, 1e-1), "penalty": space.LogUniform(1.0, 1e6)}
Draw = Callable[[int, Sequence[Outcome], Sequence[Point]], Point]
Make = Callable[[Space, SearchConfig, str], Draw]


@dataclass(frozen=True)
class Ridge:
    """An accuracy in per cent over the unit square, 90 at its best point.

    Attributes:
        best: where that is.
        angle: of the ridge.
        along, across: how far accuracy holds, in widths of the square.
        floor: accuracy far away.
    """

    best: np.ndarray
    angle: float
    along: float
    across: float
    floor: float

    @classmethod
    def drawn(cls, seed: int) -> Ridge:
        drawn = np.random.default_rng(seed)
        along, across = drawn.uniform(0.25, 0.6), drawn.uniform(0.05, 0.15)
        return cls(drawn.uniform(0.1, 0.9, 2), drawn.uniform(0, np.pi), along, across, drawn.uniform(15, 50))

    def __call__(self, point: Mapping[str, Any]) -> float:
        away = np.array(place_of(OVER, point)) - self.best
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        along, across = (cos * away[0] + sin * away[1]) / self.along, (cos * away[1] - sin * away[0]) / self.across
        return float(self.floor + (90 - self.floor) * np.exp(-(along**2 + across**2) / 2))


def former(space: Space, search: SearchConfig, key: str) -> Draw:
    """The sampler before: a random start, and suggestions of a generation that know nothing of each other."""
    known = optuna_space(space)

    def draw(index: int, seen: Sequence[Outcome], earlier: Sequence[Point]) -> Point:
        study = optuna.create_study(direction="maximize")
        study.add_trials([frozen(outcome, known) for outcome in seen])
        seed = sampler_seed(search, key, index)
        study.sampler = optuna.samplers.RandomSampler(seed=seed)
        if seen:
            study.sampler = optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=STARTUP, multivariate=True, constant_liar=False
            )
        return active(space, study.ask(known).params)

    return draw


def present(space: Space, search: SearchConfig, key: str) -> Draw:
    suggester = Suggester(space, search, key)
    return lambda index, seen, earlier: suggester.draw(index, seen, earlier).point


def tried(draw: Draw, outcome: Callable[[Point], Outcome], trials: int, generation: int) -> list[Outcome]:
    """Everything that a search tries, in order."""
    points, outcomes = list[Point](), list[Outcome]()
    for index in range(trials):
        seen = 0 if index < STARTUP else index - (index - STARTUP) % generation
        outcomes += map(outcome, points[len(outcomes) : seen])
        points.append(draw(index, outcomes, points))
    return list(map(outcome, points))


def best_found(draw: Draw, landscape: Ridge, generation: int) -> float:
    found = tried(draw, lambda point: Outcome(point, "finished", landscape(point)), TRIALS, generation)
    return max(landscape(outcome.point) for outcome in found)


def regret_on(method: Landscape, seeds: Sequence[str], make: Make, search: SearchConfig, generation: int) -> float:
    """Accuracy, in per cent, that the best point of a method has more than what a search chooses.

    Args:
        seeds: of the table; the search sees the first, and the others score.
    """
    draw, answers = make(method.entry.space, search, method.entry.key), Answers(method, method.num_tasks, search.metric)

    def moved(index: int, seen: Sequence[Outcome], earlier: Sequence[Point]) -> Point:
        return dict(method.points[method.nearest(draw(index, seen, earlier), earlier)])

    def outcome(point: Point) -> Outcome:
        verdict, curve = answers.ended(method.index(point), seeds[0])
        return Outcome.of(point, [verdict], [curve])

    found = tried(moved, outcome, min(TRIALS, int(PART * len(method.points))), generation)
    chosen = ranked(found, range(len(found)))
    scores = [method.tested(index, seeds[1:], search.metric) for index in range(len(method.points))]
    score = scores[method.index(found[chosen[0]].point)] if chosen else None
    best = max((score for score in scores if score is not None), default=math.nan)
    return math.nan if score is None else 100 * (best - score)


def interval(values: np.ndarray) -> str:
    """Mean and 95 % t-interval."""
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.2f} ± {half:.2f}"


SEARCH = SearchConfig(trials=TRIALS, generation=GENERATION, startup=STARTUP, defaults=False)
SAMPLERS: Mapping[str, tuple[Make, SearchConfig, int]] = {
    "random": (present, SEARCH.model_copy(update={"sampler": "random"}), GENERATION),
    "qmc": (present, SEARCH.model_copy(update={"sampler": "qmc"}), GENERATION),
    "tpe, the former": (former, SEARCH, GENERATION),
    "tpe": (present, SEARCH, GENERATION),
    "tpe, sequential": (present, SEARCH, 1),
    "gp": (present, SEARCH.model_copy(update={"sampler": "gp"}), GENERATION),
}


def over_ridges(landscapes: int) -> dict[str, np.ndarray]:
    """The regret of each sampler on each landscape."""
    return {
        name: 90.0 - np.array([best_found(make(OVER, config, str(n)), Ridge.drawn(n), size) for n in range(landscapes)])
        for name, (make, config, size) in SAMPLERS.items()
    }


def over_table(table: Landscapes, searches: int) -> dict[str, np.ndarray]:
    """The regret of each search by each sampler, the mean over the methods with more than one point."""
    methods = [method for method in table.methods.values() if len(method.points) > 1]

    def regret(make: Make, config: SearchConfig, size: int, number: int) -> float:
        turn = number % len(table.seeds)
        seeds = (table.seeds[turn], *table.seeds[:turn], *table.seeds[turn + 1 :])
        seeded = config.model_copy(update={"seed": number})
        return float(np.nanmean([regret_on(method, seeds, make, seeded, size) for method in methods]))

    return {
        name: np.array([regret(*sampler, number) for number in range(searches)]) for name, sampler in SAMPLERS.items()
    }


def shown(title: str, found: Mapping[str, np.ndarray]) -> Table:
    """Regrets, and by how much what each sampler finds lies above what two others do."""
    table = Table(title=title)
    for heading in ("sampler", "regret", "above the former", "above the sequential"):
        table.add_column(heading, justify="left" if heading == "sampler" else "right")
    for name, values in found.items():
        above = [
            interval(found[other] - values) if other != name else "" for other in ("tpe, the former", "tpe, sequential")
        ]
        table.add_row(name, interval(values), *above)
    return table


def main(place: str | None, count: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if place is None:
        title = f"Best of {TRIALS} trials, accuracy %, over {count} landscapes"
        table = shown(title, over_ridges(count))
    else:
        known = read_table(place)
        title = f"Choice of {TRIALS} trials, or half of the points, accuracy %, {count} searches on {known.sweep.name}"
        table = shown(title, over_table(known, count))
    Console(width=120).print(table)


if __name__ == "__main__":
    given = sys.argv[1:]
    counted = [text for text in given if text.isdigit()]
    main(next((text for text in given if not text.isdigit()), None), int(counted[0]) if counted else 150)
