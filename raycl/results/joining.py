"""Several comparisons as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa

from raycl.results.tables import Comparison
from raycl.spec.entry import entry_key


def joined(tables: Mapping[str, Comparison]) -> Comparison:
    """The lines of several sweeps one below another: each sweep's name stands before its variants, and its methods are
    compared within them.

    Args:
        tables: by the name under which each counts.
    """
    found = [
        replace(line, variant=entry_key(label, line.variant) if line.variant else label)
        for label, table in tables.items()
        for line in table.lines
    ]
    named = {table.named for table in tables.values()}
    return Comparison(
        ", ".join(tables),
        found,
        sum(table.begun for table in tables.values()),
        next(filter(None, (table.refused for table in tables.values())), ""),
        named.pop() if len(named) == 1 else None,
        pa.concat_tables([table.splits for table in tables.values()]),
    )
