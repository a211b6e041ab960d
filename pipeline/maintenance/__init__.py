"""Care for an archive: verify, prune, failures."""
