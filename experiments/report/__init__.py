"""The report: one self-contained HTML page, and the picture that sums it up."""

from __future__ import annotations

from rsp_robot.experiments.report.figures import save_summary_picture
from rsp_robot.experiments.report.page import write_report

__all__ = ["save_summary_picture", "write_report"]
