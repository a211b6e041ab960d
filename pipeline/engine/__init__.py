"""Tasks on processes: outcome (the contract), serial (the reference), ray_actors, cluster, submit."""
