"""Archive-wide work: the only package that knows both catalog and models, and Ray.

Read in this order: config (the jobs), tiling, engine, runs, registry, then one folder for each verb, and cli.
"""
