"""Images with values: collections on disk, their sources, and the groups of images that prompts carry."""
