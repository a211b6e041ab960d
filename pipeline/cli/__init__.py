"""The command `hypermend`: one module for each verb or group of verbs; main is the entry point."""
