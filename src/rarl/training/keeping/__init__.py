"""How a training goes on after it was stopped: which checkpoint is whole, what is kept in one, and when it is
written."""
