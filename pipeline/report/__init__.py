"""The HTML report of a study, and of several side by side: one file that holds everything it needs."""

from pipeline.report.comparison import load_comparison
from pipeline.report.comparison_page import render_comparison
from pipeline.report.data import ReportData
from pipeline.report.load import load_report_data
from pipeline.report.page import write_page, write_report

__all__ = ["ReportData", "load_comparison", "load_report_data", "render_comparison", "write_page", "write_report"]
