"""What validation chooses at the end of a run: how a model scores images, and how it puts lists in order."""
