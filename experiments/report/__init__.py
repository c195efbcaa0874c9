"""The report: one self-contained HTML page, and the picture that sums it up."""

from __future__ import annotations

from rsp_robot.experiments.report.page import write_page, write_report
from rsp_robot.experiments.report.picture import save_summary_picture

__all__ = ["save_summary_picture", "write_page", "write_report"]
