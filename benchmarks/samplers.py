"""How good a point each sampler finds, on landscapes of which the best point is known.

A landscape is a ridge over learning rate and penalty, both on a logarithm: what is right for the one depends on the
other, as regularisation methods have it, and its place, slope and width are drawn anew for each. Every sampler has 20
trials in generations of 5, of which a generation knows the results of those before it; ``sequential`` knows every
result at once, which nobody does who runs trials side by side. All samplers see the same landscapes, so differences are
paired; intervals are 95 % t-intervals.

    python benchmarks/samplers.py [landscapes]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from rich.console import Console
from rich.table import Table
from scipy.stats import t

from raycl.results.outcomes import Outcome
from raycl.results.trackers.optuna_terms import frozen, optuna_space
from raycl.spec import space
from raycl.spec.points import Point, Space, place_of
from raycl.spec.sweep_options import SearchConfig
from raycl.sweep.suggestions import Suggester, sampler_seed

TRIALS, GENERATION, STARTUP = 20, 5, 5
OVER: Space = {"learning_rate": space.LogUniform(1e-4, 1e-1), "penalty": space.LogUniform(1.0, 1e6)}
Draw = Callable[[int, Sequence[Outcome], Sequence[Point]], Point]


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


def former(search: SearchConfig, key: str) -> Draw:
    """The sampler before: a random start, and suggestions of a generation that know nothing of each other."""
    known = optuna_space(OVER)

    def draw(index: int, seen: Sequence[Outcome], earlier: Sequence[Point]) -> Point:
        study = optuna.create_study(direction="maximize")
        study.add_trials([frozen(outcome, known) for outcome in seen])
        seed = sampler_seed(search, key, index)
        study.sampler = optuna.samplers.RandomSampler(seed=seed)
        if seen:
            study.sampler = optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=STARTUP, multivariate=True, constant_liar=False
            )
        return dict(study.ask(known).params)

    return draw


def present(search: SearchConfig, key: str) -> Draw:
    suggester = Suggester(OVER, search, key)
    return lambda index, seen, earlier: suggester.draw(index, seen, earlier).point


def best_found(draw: Draw, landscape: Ridge, generation: int) -> float:
    points, outcomes = list[Point](), list[Outcome]()
    for index in range(TRIALS):
        seen = 0 if index < STARTUP else index - (index - STARTUP) % generation
        outcomes += [Outcome(point, "finished", landscape(point)) for point in points[len(outcomes) : seen]]
        points.append(draw(index, outcomes, points))
    return max(map(landscape, points))


def interval(values: np.ndarray) -> str:
    """Mean and 95 % t-interval."""
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.2f} ± {half:.2f}"


def main(landscapes: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search = SearchConfig(trials=TRIALS, generation=GENERATION, startup=STARTUP, defaults=False)
    samplers: dict[str, tuple[Callable[[SearchConfig, str], Draw], SearchConfig, int]] = {
        "random": (present, search.model_copy(update={"sampler": "random"}), GENERATION),
        "qmc": (present, search.model_copy(update={"sampler": "qmc"}), GENERATION),
        "tpe, the former": (former, search, GENERATION),
        "tpe": (present, search, GENERATION),
        "tpe, sequential": (present, search, 1),
        "gp": (present, search.model_copy(update={"sampler": "gp"}), GENERATION),
    }
    found = {
        name: np.array([best_found(make(config, str(seed)), Ridge.drawn(seed), size) for seed in range(landscapes)])
        for name, (make, config, size) in samplers.items()
    }
    table = Table(title=f"Best of {TRIALS} trials, accuracy %, over {landscapes} landscapes (90 is the best there is)")
    for heading in ("sampler", "found", "regret", "less the former", "less the sequential"):
        table.add_column(heading, justify="left" if heading == "sampler" else "right")
    for name, values in found.items():
        less = [
            interval(values - found[other]) if other != name else "" for other in ("tpe, the former", "tpe, sequential")
        ]
        table.add_row(name, f"{values.mean():.2f}", interval(90 - values), *less)
    Console(width=120).print(table)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 150)
