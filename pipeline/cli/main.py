"""The command ``hypermend``. Each verb parses once, calls one function and shows its report; no work is done here.

Exit codes: 0 everything asked for is published. 1 some scenes failed or were skipped; their reasons are shown and kept
in the log of the run. 2 nothing was started: the request cannot be carried out as it is. 130 interrupted; run the same
command again to resume.
"""

from __future__ import annotations

import sys

# isort: off
from hypermend.pipeline.cli import inspect, archive, restore, models, evaluate, search, train  # noqa: F401
from hypermend.pipeline.cli import nightly, jobs, maintenance  # noqa: F401
from hypermend.pipeline.cli.app import app
# isort: on (the order of the verbs in the help)


def main() -> None:
    """Entry point."""
    try:
        app()
    finally:
        sys.stdout = sys.stderr  # Ray prints its last messages at exit, and standard output may hold a JSON
