"""`hypermend search`: plan, trial, driver on Ray Tune, cell_picture."""
