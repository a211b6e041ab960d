"""Many scenes in one run: unit (the steps of a scene), scheduler, scene_leases, run_log, report; run, progress."""
