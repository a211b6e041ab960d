"""Hrefs: made absolute, checked before anything follows them, and shown without what must stay secret."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from urllib.parse import unquote, urljoin, urlsplit

SCHEMES = ("file", "http", "https", "s3")


def is_remote(href: str) -> bool:
    return urlsplit(href).scheme in ("http", "https", "s3")


def resolve_href(href: str, base: str | None = None, *, within: str | None = None, own: bool = False) -> str:
    """An absolute URL or absolute path.

    Args:
        own: the document at `base` was written by us, so it may name files of this machine wherever it lies.

    Raises:
        ValueError: scheme not allowed, a path inside a zip, a relative href with nothing to resolve it against, one
            that leaves `within`, or a local file named by a remote document.
    """
    scheme = urlsplit(href).scheme if re.match(r"^[A-Za-z][A-Za-z0-9+.-]+:", href) else ""
    if scheme and scheme not in SCHEMES:
        raise ValueError(f"href {shown(href)} has scheme {scheme!r}; allowed are {', '.join(SCHEMES)}")
    path = unquote(urlsplit(href).path if scheme else href.split("?")[0])
    if path.startswith("/vsi") or "\\" in path or re.search(r"\.(zip|tar|tgz|gz)([/!]|$)", path, re.I):
        raise ValueError(f"href {shown(href)} points into an archive file or a virtual file system; unpack it first")
    remote_base = base is not None and is_remote(base) and not own
    if scheme == "file" and remote_base:
        raise ValueError(f"href {shown(href)}: a remote catalog may not name files of this machine")
    if scheme == "file":
        return str(PurePosixPath(path))
    if scheme:
        if ".." in PurePosixPath(path).parts:
            raise ValueError(f"href {shown(href)} climbs with '..'")
        return href
    if path.startswith("/"):
        if remote_base:
            raise ValueError(f"href {href!r}: a remote catalog may not name absolute paths; it needs a full URL")
        return path
    if base is None:
        raise ValueError(f"href {href!r} is relative and nothing says where the item lies")
    out = _join(base, href)
    if within is not None and not (out + "/").startswith(within.rstrip("/") + "/"):
        raise ValueError(f"href {href!r} leaves {shown(within)}")
    return out


def shown(href: str) -> str:
    """An href fit for a message: no query string (it may hold a signature) and no password."""
    parts = urlsplit(href)
    if parts.scheme not in ("http", "https", "s3"):
        return href
    host = parts.netloc.rsplit("@", 1)[-1]
    return f"{parts.scheme}://{host}{parts.path}"


def _join(base: str, href: str) -> str:
    """`href` relative to the document at `base`; '..' may not climb over the root."""
    if is_remote(base):
        parts = urlsplit(base)
        if _climbs(str(PurePosixPath(parts.path).parent), unquote(href.split("?")[0])):
            raise ValueError(f"href {href!r} climbs over the root of {parts.netloc}")
        if parts.scheme == "s3":  # urljoin does not know s3
            return "s3" + urljoin(f"http://{parts.netloc}{parts.path}", href).removeprefix("http")
        return urljoin(f"{parts.scheme}://{parts.netloc}{parts.path}", href)
    folder = PurePosixPath(base.removeprefix("file://")).parent
    if _climbs(str(folder), href):
        raise ValueError(f"href {href!r} climbs over the root of the file system")
    out: list[str] = []
    for part in (folder / href).parts:
        if part == "..":
            out.pop()
        else:
            out.append(part)
    return str(PurePosixPath(*out))


def _climbs(folder: str, href: str) -> bool:
    depth = 0 if href.startswith("/") else len([p for p in PurePosixPath(folder).parts if p != "/"])
    for part in PurePosixPath(href).parts:
        depth += -1 if part == ".." else 0 if part == "/" else 1
        if depth < 0:
            return True
    return False
