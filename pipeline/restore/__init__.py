"""`hypermend restore`.

Read in this order: request and work_list (which scenes, with which models), plan and make_plan, steps and chain,
worker with single_image and image_pair, driver; dry_run is `hypermend plan`.
"""
