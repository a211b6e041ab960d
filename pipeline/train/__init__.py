"""`hypermend train`: plan, tasks, worker, checkpoints, publish, and the driver on Ray Train."""
