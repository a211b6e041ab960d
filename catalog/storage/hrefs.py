"""Hrefs: resolve them, check them before anything follows them, and print them without secrets."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from urllib.parse import parse_qsl, unquote, urlencode, urljoin, urlsplit, urlunsplit

SCHEMES = ("file", "http", "https", "s3")
ALLOWED_HOSTS = "HYPERMEND_ALLOWED_HOSTS"
"""Environment variable: allowed hosts and buckets, such as *.dlr.de,my-bucket; unset for any."""
_SIGNATURE = re.compile(
    r"^(x-(amz|goog)-.*|awsaccesskeyid|signature|expires|policy|key-pair-id|(access_|api_?)?(token|key)|s(ig|e|t|p|v|r|ip|pr)"
    r"|sk(oid|tid|t|e|s|v)|passw(or)?d|pwd|auth(orization)?|jwt|(client_)?secret|session(id)?)$",
    re.I,
)
"""Names of query fields in which clouds and servers put signatures, tokens and passwords."""
_METADATA_HOSTS = ("metadata", "metadata.google.internal", "instance-data", "instance-data.ec2.internal")
_METADATA_ADDRESSES = ("fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192")
"""AWS over IPv6, Alibaba, Azure and Oracle; those of the others are link-local."""
MAX_HREF = 4096
"""Characters; a longer href is no address."""


def refuse_host(href: str) -> None:
    """Refuse an href to an address at which clouds keep a machine's credentials, and to hosts that are not allowed.

    A name is not resolved here: `connect.connect` checks the addresses that it connects to.

    Raises:
        ValueError: a link-local address in any notation, a host outside HYPERMEND_ALLOWED_HOSTS, or a password.
    """
    parts = urlsplit(href)
    if parts.scheme not in ("http", "https", "s3"):
        return
    if "@" in parts.netloc:
        raise ValueError(f"href {shown(href)} is given with a user or password; remove it and use --sign")
    host = (parts.hostname or "").rstrip(".")
    if host in _METADATA_HOSTS or (parts.scheme != "s3" and is_metadata_address(host)):
        raise ValueError(f"href {shown(href)} names a link-local address, where machines keep their credentials")
    allowed = [name.strip().lower() for name in os.environ.get(ALLOWED_HOSTS, "").split(",") if name.strip()]
    if allowed and not any(fnmatchcase(host, name) for name in allowed):
        raise ValueError(f"href {shown(href)}: {host} is not among {ALLOWED_HOSTS} ({', '.join(allowed)})")


def is_metadata_address(host: str) -> bool:
    """Whether a host is a number, in any notation, at which clouds answer with credentials; False for a name."""
    try:
        ip: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:
            ip = ipaddress.IPv4Address(socket.inet_aton(host))  # 0xa9fea9fe, 2852039166
        except (OSError, UnicodeError):
            return False
    inside = _embedded(ip) if isinstance(ip, ipaddress.IPv6Address) else None
    return any(a.is_link_local or str(a) in _METADATA_ADDRESSES for a in (ip, inside) if a is not None)


def _embedded(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address leads to: mapped, 6to4, NAT64 or compatible."""
    if ip.ipv4_mapped or ip.sixtofour:
        return ip.ipv4_mapped or ip.sixtofour
    if ip in ipaddress.IPv6Network("64:ff9b::/96") or ip in ipaddress.IPv6Network("::/96"):
        return ipaddress.IPv4Address(ip.packed[-4:])
    return None


def is_remote(href: str) -> bool:
    """Whether an href names a server; one that is no address does, too, and who follows it sees the error."""
    try:
        return urlsplit(href).scheme in ("http", "https", "s3")
    except ValueError:  # "http://["
        return True


def resolve_href(href: str, base: str | None = None, *, within: str | None = None, own: bool = False) -> str:
    """An absolute URL or absolute path.

    Args:
        own: Hypermend wrote the document at `base`, so it may name files of this machine wherever it is stored.

    Raises:
        ValueError: scheme not allowed, a path inside a zip, a relative href with nothing to resolve it against, one
            that leaves `within`, or a local file named by a remote document.
    """
    if len(href) > MAX_HREF:
        raise ValueError(f"href {href[:80]}... has {len(href)} characters, the limit is {MAX_HREF}")
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
    try:
        parts = urlsplit(href)
    except ValueError:
        return _bare(href)
    if parts.scheme not in ("http", "https", "s3"):
        return href
    host = parts.netloc.rsplit("@", 1)[-1]
    return f"{parts.scheme}://{host}{parts.path}"


def _bare(text: str) -> str:
    """What is no address, without what could be a password or a query."""
    scheme, mark, rest = text.partition("//")
    return scheme + mark + re.split("[?#]", rest)[0].rpartition("@")[2]


def redact(url: str) -> str:
    """`url` without user, password, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return _bare(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def unsigned(href: str) -> str:
    """`href` without user, password and the query fields in which clouds put signatures and tokens."""
    try:
        parts = urlsplit(href)
    except ValueError:
        return _bare(href)
    fields = parse_qsl(parts.query, keep_blank_values=True)
    query = [(name, value) for name, value in fields if not _SIGNATURE.match(name)]
    kept = parts.query if len(query) == len(fields) else urlencode(query)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, kept, parts.fragment))


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
