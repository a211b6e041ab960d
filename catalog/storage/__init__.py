"""Bytes: archive_store (an archive's objects), leases, hrefs, fetch and ranged_file (assets over HTTP), signing.

recent is a small cache that closes what it drops.
"""
