"""`python -m hypermend`: the command where it is not on PATH."""

from hypermend.pipeline.cli.main import main

main()
