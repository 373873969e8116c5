"""The columns ``hp.*`` of the trials table: one type for each path, whichever methods a sweep compares.

Most options are of one type wherever they occur; those that are not stand here, and a test over all registries holds
these lists to be complete.
"""

from __future__ import annotations

import pyarrow as pa

HP = "hp."
WORD = ".word"
"""Ends the column of the words that stand in place of a number: ``hp.replay_share.word`` beside ``hp.replay_share``."""
WORD_OR_NUMBER = frozenset({"decay", "memory.capacity", "noise", "prune_fraction", "replay_share", "stream.first_task"})
"""Options that are a number in one place and a word in another: numbers keep their column, words have one beside it."""
LIST_OR_NUMBER = frozenset({"model.hidden", "training.schedule.multistep.factor"})
"""Options that are a list in one place and a number in another: text that is JSON either way."""


def settled(trials: pa.Table) -> pa.Table:
    """A trials table whose columns ``hp.*`` have the types that they have in every table.

    Tables of before, whose columns took the type of whatever methods they held, come out alike.
    """
    for path in sorted(WORD_OR_NUMBER | LIST_OR_NUMBER):
        place = trials.schema.get_field_index(HP + path)
        if place < 0:
            continue
        if path in LIST_OR_NUMBER:
            trials = trials.set_column(place, HP + path, trials[HP + path].cast(pa.string()))
        elif pa.types.is_string(trials[HP + path].type):
            trials = _apart(trials, place, HP + path)
    return trials


def _apart(trials: pa.Table, place: int, name: str) -> pa.Table:
    """Numbers and words of one column in two; one without a value is left out."""
    texts = trials[name].to_pylist()
    numbers = [None if text is None else _number(text) for text in texts]
    words = [text if number is None else None for text, number in zip(texts, numbers, strict=True)]
    trials = trials.remove_column(place)
    for column, values in ((name + WORD, pa.array(words, pa.string())), (name, pa.array(numbers))):
        if values.null_count < len(values):
            trials = trials.add_column(place, column, values)
    return trials


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None
