"""The report: one HTML file with the verdict, the curves, the law and every run of a study."""

from kbit.report.page import Report, make_report, write_report

__all__ = ["Report", "make_report", "write_report"]
