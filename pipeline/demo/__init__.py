"""`hypermend demo`: small synthetic deliveries through the whole walk, scored and drawn."""
