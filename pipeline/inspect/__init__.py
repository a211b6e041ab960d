"""Inspect: what files or an item are taken for, before anything is written."""
