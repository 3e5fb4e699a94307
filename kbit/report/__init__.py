"""The report: one HTML file with the verdict, the curves, the law and every run of a study."""

from kbit.report.page import Report, check_folder, make_report, write_report
from kbit.report.provenance import read_provenance

__all__ = ["Report", "check_folder", "make_report", "read_provenance", "write_report"]
