"""The rewards of Eq. 8, and RMO where it can be had, in other engines: each file is what one of them loads.
No file is named as an engine is, since some put this folder on their import path. Prompts and truths are
those that `rarl data export` writes; docs/engines.md has the commands."""

from rarl.method.rewards import TERMS

WEIGHTS = tuple(term.weight for term in TERMS)
"""Of the terms of Eq. 8, where an engine is told no others."""
