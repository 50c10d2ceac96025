"""One self-contained HTML page about a run, and its charts as images. Reads files only."""

from tessera.report.charts import save_plots
from tessera.report.pages import write_report
from tessera.report.summary import summarize

__all__ = ["save_plots", "summarize", "write_report"]
