"""Model folders: a stranger's is looked at and tried before it is loaded, an adapter's is merged, one goes to
the hub."""
