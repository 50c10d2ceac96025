"""Pages, tables and pictures out of files alone; never a model.

In reading order:

    run_files.py       the run folder as values
    pages.py           the page and its order
    summary.py         the short table that a run ends with
    results.py         the page's tables: by model, language group and language
    tables.py          HTML tables, numbers as people read them, escaping
    charts.py          the charts, on the page and as images
    style.py           colours, style sheet, script; nothing is loaded
    compare.py         results beside one another and beside published ones
    compare_charts.py  their pictures
    published.py       results read from files and from the tables of papers
    plan_tables.py     that as tables and CSV
    planned.py         a plan as an image
    fertility.py       what each language pays for a tokenizer, as an image
"""

from tessera.report.charts import save_plots
from tessera.report.pages import write_report
from tessera.report.summary import summarize

__all__ = ["save_plots", "summarize", "write_report"]
