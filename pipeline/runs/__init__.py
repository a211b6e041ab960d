"""Many scenes in one run: unit (a scene's steps), scheduler, scene_leases, run, run_log, report, progress."""
