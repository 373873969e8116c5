"""Pictures of results, as matplotlib figures that belong to nobody's global state.

A file for each sort: :mod:`matrices`, :mod:`curves` over tasks, :mod:`methods` beside each other, :mod:`searches`;
their one :mod:`style`; and :mod:`kinds`, the pictures of results folders by name. Lines are means over seeds, bands
and bars the 95 % t-intervals of these means.
"""

from raycl.results.plots.curves import accuracy_curves, forgetting_curves, inside_curves, task_curves
from raycl.results.plots.matrices import confusion, heat_map, heat_maps, mean_matrix
from raycl.results.plots.methods import COSTS, Price, bars, differences, keeping, trade_off
from raycl.results.plots.searches import expected_best, importance, importances, slices
from raycl.results.plots.style import FORMS, FileForm, png, save, written

__all__ = [
    "COSTS",
    "FORMS",
    "FileForm",
    "Price",
    "accuracy_curves",
    "bars",
    "confusion",
    "differences",
    "expected_best",
    "forgetting_curves",
    "heat_map",
    "heat_maps",
    "importance",
    "importances",
    "inside_curves",
    "keeping",
    "mean_matrix",
    "png",
    "save",
    "slices",
    "task_curves",
    "trade_off",
    "written",
]
