"""The HTML report of a study: one file that holds everything it needs."""

from pipeline.report.data import ReportData
from pipeline.report.load import load_report_data
from pipeline.report.page import write_report

__all__ = ["ReportData", "load_report_data", "write_report"]
