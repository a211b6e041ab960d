"""`hypermend evaluate`: protocols degrade a source cube, a model restores it, scores compare."""
