"""The report of results: one page that stands by itself, for whoever was not there.

:mod:`answer` puts into words what the statistics support, :mod:`question` what was asked and by what rule winners are
chosen, :mod:`pictures` draws, :mod:`page` lays it all out by the template beside it.
"""

from raycl.results.report.page import leave_report, page, write_report

__all__ = ["leave_report", "page", "write_report"]
