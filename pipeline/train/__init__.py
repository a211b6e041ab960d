"""`hypermend train`: plan, task, build, worker, checkpoints, publish, and the driver on Ray Train."""
