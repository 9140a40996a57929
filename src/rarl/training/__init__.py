"""Training: one YAML to a list of stages, TRL's trainers with our mutation, and a run that can be continued.
Nothing is imported here, so that a configuration can be read without torch."""
