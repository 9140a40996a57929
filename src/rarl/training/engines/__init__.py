"""What trains: what a run asks of the machine, the weights that an engine holds, and the vLLM of a run."""
