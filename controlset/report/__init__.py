"""The report of an evaluation: one HTML file that says whether a ControlNet obeys, and how sure."""

from controlset.report.page import write_report

__all__ = ["write_report"]
