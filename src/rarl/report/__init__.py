"""The report of a run: tables, plots and ranked strips on one page."""
