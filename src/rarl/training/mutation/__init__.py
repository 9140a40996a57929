"""RMO (section 3.2), its options and its rival, dynamic sampling, inside TRL's pipeline: each file is a class
that goes before GRPOTrainer among the bases of `RARLTrainer`. What is decided over rewards alone is in
`rarl.method.mutation`."""
