"""One prompt pass for the G responses of a group. Only `rarl.training.trainer` uses this package."""
