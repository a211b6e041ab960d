"""How a truth is degraded and an estimate is scored: shared by training, evaluation and benchmarks."""
