"""What is refused where trials choose as they go: options that cannot change, methods that cannot be judged."""

from __future__ import annotations

from collections.abc import Iterator

from raycl.spec.acting import changeable, inert, stability
from raycl.spec.blocks import Blocks, point_path
from raycl.spec.problems import Finding
from raycl.spec.protocols import RATE, ProtocolConfig
from raycl.spec.setting import Setting
from raycl.spec.space import Choice

UNTOLD = 10_000
"""Tasks of a stream whose parts tell how many it has."""


def refused_choices(rule: ProtocolConfig, alias: str, blocks: Blocks, setting: Setting) -> Iterator[Finding]:
    """What a protocol by which trials choose as they go cannot do with a method."""
    yield from _searched(rule, blocks, setting)
    at = ("strategies", alias)
    if setting.hidden:
        yield Finding(at, f"{rule.name} chooses between tasks, and nobody tells where one ends; use end_of_training")
    if setting.evaluation.inside is not None:
        why = f"measures while a task is learned, and under {rule.name} what learns sees no test data; leave it out"
        yield Finding(("evaluation", "inside"), why, key=True)
    if rule.stability_decay is not None and stability(setting) is None:
        why = "does not say which of its options hold its stability; leave it out, or use another protocol"
        yield Finding(at, why, key=True)
    if rule.seen_tasks is not None and rule.seen_tasks.judge == "memory" and not _keeps_images(setting):
        yield Finding(at, "keeps no examples that could judge; use judge: validation, or leave it out", key=True)


def _keeps_images(setting: Setting) -> bool:
    return bool(setting.strategy.uses_memory) and setting.strategy.remembers == "examples"


def _searched(rule: ProtocolConfig, blocks: Blocks, setting: Setting) -> Iterator[Finding]:
    """What is searched and cannot be chosen between two tasks."""
    for path, searched in blocks.space.items():
        option, place = point_path(path), blocks.source_path(path)
        if rule.stability_decay is not None:
            if option != RATE or not isinstance(searched, Choice):
                why = f"stability_decay searches {RATE} alone, a grid, and starts from the values given; write a value"
                yield Finding(place, f"{why}, or {RATE}: {{choice: [...]}}", str(searched))
        elif inert(setting, [option], tasks := setting.stream.tasks or UNTOLD):
            yield Finding(
                place, f"does nothing before the stream of {tasks} tasks has ended; write a value", str(searched)
            )
        elif option not in changeable(setting):
            able = ", ".join(sorted(name for name in changeable(setting) if "." not in name or name == RATE))
            why = f"cannot change between two tasks, as {rule.name} chooses; write a value, or search others ({able})"
            yield Finding(place, why, str(searched))
