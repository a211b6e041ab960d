"""`hypermend restore`: work_list (which scenes), plan, worker with single_image and image_pair, driver."""
