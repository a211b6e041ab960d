"""Bytes: archive_store (an archive's objects), leases, hrefs, fetch and ranged_file (assets over HTTP), signing.

connect checks the addresses of servers; gate is the door through which GDAL reaches them.
"""
