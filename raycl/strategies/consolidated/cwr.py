"""CWR, CWR+ and CWR*: a frozen trunk under a head that is learned anew by every task and then consolidated.

Lomonaco and Maltoni, "CORe50", CoRL 2017 (arXiv 1705.03550); Maltoni and Lomonaco, "Continuous learning in
single-incremental-task scenarios", 2019 (arXiv 1806.08568); Lomonaco, Maltoni and Pellegrini, "Rehearsal-free
continual learning over small non-i.i.d. batches", 2020 (arXiv 1907.03799). :mod:`raycl.learning.consolidated_head` has
the equations. The first task trains everything; after it, or from the start where the model has pretrained
``weights``, the trunk is frozen, batch norm included. ``cwr_star`` also knows what to do with a class that comes back;
the two others take its latest rows.

Departures:
- The softmax runs over the classes seen so far, as in the papers' algorithms, which add rows as classes come. Their
  code runs it over all classes from the start (``training.active_logits: all``), which keeps tasks alike: otherwise
  the rows of a later task have a larger part in common, since they win against more others, and a shift by one number
  does not take it away. Rows of absent classes compete from 0. ``auto`` stays ``seen``: a trunk that is frozen after a
  first task of two classes learns nothing under it that tells others apart (digits: 20 % with ``all``, 31 % with
  ``seen``; frozen from the start 50 and 45).
- Batch norm, not batch renormalisation.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from raycl.learning.consolidated_head import VARIANT_HELP, Variant
from raycl.spec.needs import Idle
from raycl.spec.options import Positive
from raycl.strategies.base import Context
from raycl.strategies.consolidated.base import Consolidated, ConsolidatedConfig
from raycl.strategies.lower_part import settled_from


class CWRConfig(ConsolidatedConfig):
    """How heads are consolidated."""

    search_space: ClassVar[dict[str, Any]] = {
        "variant": {"choice": ["cwr", "cwr_plus", "cwr_star"]},
        "head_learning_rate": {"loguniform": [0.1, 100]},
    }

    ignores: ClassVar[tuple[Idle, ...]] = (
        Idle(("scale",), "only variant: cwr scales", lambda at: at.options.variant != "cwr"),
    )

    variant: Variant = Field("cwr_star", description=VARIANT_HELP)
    scale: Positive = Field(1.0, description="of cwr: factor on the rows of every task but the first")


class CWR(Consolidated):
    """Copy weights, with re-initialisation."""

    Config = CWRConfig
    acts_from = {"scale": 2, "head_learning_rate": settled_from}
    between_tasks = ("head_learning_rate",)
    one_pass: ClassVar[bool] = False
    paper: ClassVar[str] = "Lomonaco, Maltoni and Pellegrini 2020, CWR* (arXiv 1907.03799)"

    def __init__(self, config: CWRConfig, context: Context) -> None:
        super().__init__(config, context, variant=config.variant, scale=config.scale)
