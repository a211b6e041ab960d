"""Errors of the pipeline that a user can act on."""

from __future__ import annotations


class Refused(Exception):
    """The plan cannot be carried out, and no pixel was touched: says which scene, why and what to do."""
