"""What a sweep asks of all its methods: where two sweeps ask otherwise, their figures are no ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from raycl.catalog import catalog
from raycl.errors import RayclError
from raycl.spec.distribution import format_value
from raycl.spec.sweep import SweepSpec
from raycl.spec.trial import TrialSpec, stream_config

Question = Mapping[str, Any]
"""Setting -> its value: ``stream.tasks``, ``metric``, ``data``."""


def question_of(sweep: SweepSpec | None, trials: Iterable[Mapping[str, Any]]) -> Question:
    """What the trials of a sweep have in common by its rules: the stream of each variant, its data, and the metric.

    Args:
        sweep: None where this installation cannot read it; then the metric is not known.
        trials: rows of the trials table.
    """
    found: dict[str, Any] = {} if sweep is None else {"metric": sweep.metric}
    variants: dict[str, None] = {}
    for trial in trials:
        spec = TrialSpec.loads(trial["spec"])
        if spec.phase != "final" or spec.variant in variants:
            continue
        variants[spec.variant] = None
        own = {f"stream.{key}": value for key, value in _stream(spec).items()}
        own |= {"train_on": spec.train_on, "data": trial.get("data")}
        found |= {f"{spec.variant}: {key}" if spec.variant else key: value for key, value in own.items()}
    return found | ({"variants": ", ".join(sorted(variants))} if variants else {})


def differences(questions: Iterable[Question]) -> list[str]:
    """In what the questions of several sweeps differ, with the values of each: ``stream.tasks (5, 10)``.

    One without any final trial asks nothing yet, and differs from none.
    """
    asked = [own for own in questions if "variants" in own]
    if len({own["variants"] for own in asked}) > 1:
        return [f"variants ({'; '.join(own['variants'] or 'none' for own in asked)})"]
    values = {name: [own.get(name) for own in asked] for name in dict.fromkeys(name for own in asked for name in own)}
    known = {name: own for name, own in values.items() if None not in own or not name.endswith("data")}
    apart = {name: own for name, own in known.items() if any(value != own[0] for value in own)}
    return [name if name.endswith("data") else f"{name} ({', '.join(map(_told, own))})" for name, own in apart.items()]


def _told(value: Any) -> str:
    return "-" if value is None else value if isinstance(value, str) else format_value(value)


def _stream(spec: TrialSpec) -> Mapping[str, Any]:
    """The stream with its defaults: older trials lack what came later."""
    try:
        return stream_config(catalog(), spec.stream).model_dump(mode="json")
    except (RayclError, ValueError):  # of another installation
        return spec.stream
