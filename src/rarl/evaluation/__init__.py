"""Evaluation as in section 4.1: what is asked, what is measured, and the files it is kept in."""
