"""The command ``hypermend``. Each verb parses once, calls one function and shows its report; no work is done here.

Exit codes: 0 everything asked for is published. 1 some scenes failed or were skipped; their reasons are shown and kept
in the run's ledger. 2 nothing was started: the request cannot be carried out as it is. 130 interrupted; run the same
command again to go on.
"""

from __future__ import annotations

import sys

from hypermend.pipeline.cli import (  # noqa: F401 (their verbs, in this order)
    archive,
    cluster,
    evaluate,
    maintenance,
    models,
    restore,
    search,
    train,
)  # fmt: skip
from hypermend.pipeline.cli.app import app


def main() -> None:
    """Entry point."""
    try:
        app()
    except KeyboardInterrupt:
        print("hypermend: interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    finally:
        sys.stdout = sys.stderr  # Ray says at exit what it has held back, and a JSON may stand on standard output
