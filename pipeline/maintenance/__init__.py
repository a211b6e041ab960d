"""Maintenance of an archive: verify its bytes, prune old cubes, list failures and retry them."""
