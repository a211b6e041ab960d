"""Engines run tasks on processes: outcome (the interface), serial (the reference), ray_actors; cluster, submit."""
