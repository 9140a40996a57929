"""What several test files set up: where things are, collections and pictures, runs on disk, tables."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""Of the repository."""
SHARED_DATA = Path(os.environ.get("RARL_SHARED_DATA") or ROOT.parent / "shared" / "data")
"""Real images beside the repository; the few tests that look at them skip where they are not there."""
