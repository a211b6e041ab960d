"""Finding scenes."""

from __future__ import annotations

from catalog.discover_folder import Skipped, from_folder

__all__ = ["Skipped", "from_folder"]
