"""HTML reports, tables and pictures out of files alone; never a model.

In reading order:

    run_files.py       the run folder as values: metrics, mixture, results
    pages.py           the HTML report of a run, and the short tables that a run ends with
    results.py         the report's tables: by model, language group and language
    tables.py          tables as data, numbers as people read them
    charts.py          the report's charts as Vega-Lite
    style.py           colours, HTML templates with everything escaped, a chart as a file
    compare.py         results beside one another and beside published ones
    compare_charts.py  their pictures
    overview.py        what a recipe will do, by phase and language
    plan_tables.py     a plan as tables, CSV and picture
    fertility.py       what each language pays for a tokenizer, as a picture
    shrink_chart.py    smaller models: what is kept, by size, as a picture
    look.py            a look at a model: what its languages cost, how well words are guessed
"""

from tessera.report.pages import summarize, write_report

__all__ = ["summarize", "write_report"]
