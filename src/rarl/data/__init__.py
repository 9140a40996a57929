"""Images with values: collections on disk, where they come from, and the groups of 1 to 8 images that prompts carry."""
