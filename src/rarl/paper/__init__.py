"""The paper's tables: its arms as a grid of runs, their results, and the numbers it printed."""
