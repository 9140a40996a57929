"""Replies of a model: which tokens are chosen, by which passes, and what a reply is asked with."""
