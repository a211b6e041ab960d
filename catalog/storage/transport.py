"""HTTP requests of the catalog: User-Agent, checked redirects, classified errors, and retries within bounds.

404 is NotFound. 401 and 403 are Refused; a web page where data is expected is AccessDenied, because it is a login.
Timeouts, resets, 429 and 5xx are Unreachable (transient). Every request and every redirect passes one check of its
host, and connects to an address that was checked (`connect`). GDAL and S3 have clients of their own (`gdal`, `fetch`);
both send the same User-Agent.
"""

from __future__ import annotations

import email.utils
import http.client
import re
import urllib.request
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

from tenacity import RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential
from tenacity import retry as tenacity_retry

from hypermend.catalog.errors import AccessDenied, ArchiveError, BadAsset, NotFound, Refused, Unreachable
from hypermend.catalog.storage.connect import TIMEOUT_S, Connection, SecureConnection
from hypermend.catalog.storage.hrefs import refuse_host, resolve_href, shown

USER_AGENT = f"hypermend/{metadata.version('hypermend')}"
TRIES = 4
FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 4.0
LONGEST_RETRY_AFTER_S = 60.0
"""A server that asks for a longer wait is not asked again in this call."""
_SECRET_HEADERS = ("Authorization", "Cookie")
T = TypeVar("T")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, and sends no token or cookie to another host."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        check_href(newurl)  # its scheme, too; the host again when it is connected to
        if code in (307, 308) and req.data is not None:  # a search by POST goes on as one
            new: urllib.request.Request | None = urllib.request.Request(newurl, req.data, dict(req.headers))
        else:
            new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None and _origin(newurl) != _origin(req.full_url):
            for name in _SECRET_HEADERS:
                new.remove_header(name)
        return new


class _Http(urllib.request.HTTPHandler):
    """The door of every request and of every hop of a redirect."""

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        check_href(req.full_url)
        return self.do_open(http.client.HTTPConnection if _goes_to_proxy(req) else Connection, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        check_href(req.full_url)
        kind = http.client.HTTPSConnection if _goes_to_proxy(req) else SecureConnection
        return self.do_open(kind, req, context=self._context)  # type: ignore[attr-defined]


def _goes_to_proxy(request: urllib.request.Request) -> bool:
    """Whether the user's proxy is asked, which resolves the name itself."""
    return request.host != urlsplit(request.full_url).netloc


def make_opener(*more: urllib.request.BaseHandler) -> urllib.request.OpenerDirector:
    """An opener for http and https alone: that of urllib also follows a redirect to ftp."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        _Http(),
        _Https(),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(),
        urllib.request.HTTPErrorProcessor(),
        *more,
    ):
        opener.add_handler(handler)
    return opener


_OPENER = make_opener()


def send(
    href: str,
    url: str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    data: bytes | None = None,
    opener: urllib.request.OpenerDirector = _OPENER,
    web_page: bool = False,
) -> http.client.HTTPResponse:
    """Open one request; redirects are followed, and the answer is 2xx and no web page.

    Args:
        href: the address as messages show it.
        url: the signed address; None for `href`.
        web_page: True where a web page is a good answer.

    Raises:
        NotFound, Refused, AccessDenied, BadAsset, Unreachable: by the answer; see the module.
    """
    request = urllib.request.Request(url or href, data, {"User-Agent": USER_AGENT, **(headers or {})})
    try:
        response: http.client.HTTPResponse = opener.open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as e:
        with e:
            raise http_error(href, e.code, retry_after_s(e.headers)) from None
    except (OSError, http.client.HTTPException) as e:
        raise Unreachable(f"{shown(href)}: {message_of(e)}") from None
    except (ValueError, OverflowError) as e:  # a redirect to what is no address
        raise BadAsset(f"{shown(href)}: what its server answers cannot be read: {message_of(e)}") from None
    if not web_page and response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        response.close()
        raise login_page(href, response.url)
    return response


def login_page(href: str, url: str | None = None) -> AccessDenied:
    """The error for a web page in place of data; `url` is the address that sent it, after redirects."""
    host = urlsplit(url or href).hostname or "the server"
    return AccessDenied(
        f"{shown(href)}: {host} answers with a web page, not with data: most often its login; {how_to_sign(href)}"
    )


def is_web_page(head: bytes) -> bool:
    """Whether a body begins as HTML does, whatever type the server says."""
    return head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html"))


def how_to_sign(href: str) -> str:
    """What the user can do about an address that needs an account."""
    host = urlsplit(href).hostname or ""
    if host == "dlr.de" or host.endswith(".dlr.de"):
        return "give --sign dlr, with the mission's account in ENMAP_USERNAME and ENMAP_PASSWORD, or DESIS_..."
    if host == "nasa.gov" or host.endswith(".nasa.gov"):
        return "give --sign earthdata, with a token in EARTHDATA_TOKEN (urs.earthdata.nasa.gov, My tokens)"
    if host.endswith(".blob.core.windows.net"):
        return "give --sign planetary-computer"
    return "it may need --sign, or the files on a disk"


def http_error(href: str, code: int, wait_s: float | None = None) -> ArchiveError:
    """The error for an HTTP status; `wait_s` is the time for which the server asks."""
    where = shown(href)
    if code in (404, 410):
        return NotFound(f"{where}: the server answers {code}")
    if code in (408, 425, 429) or code >= 500:
        asks = "" if wait_s is None else f" and asks to wait {wait_s:.0f} s"
        error = Unreachable(f"{where}: the server answers {code}{asks}; try again later")
        error.retry_after_s = wait_s
        return error
    if code == 412:
        return BadAsset(f"{where}: the server has another version of it now (412); run the same command again")
    if code in (401, 403):
        return Refused(f"{where}: the server answers {code}; {how_to_sign(href)}")
    return BadAsset(f"{where}: the server answers {code}")


def retry_after_s(headers: Any) -> float | None:
    """Seconds of a Retry-After header, given as such or as a date, by the server's own clock where it tells it."""
    value = str(headers.get("Retry-After") or "").strip()
    if re.fullmatch(r"[0-9]+", value):
        return float(value)
    try:
        until = email.utils.parsedate_to_datetime(value)
        date = headers.get("Date")
        now = email.utils.parsedate_to_datetime(str(date)) if date else datetime.now(UTC)
        return max((until - now).total_seconds(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None


def content_length(response: http.client.HTTPResponse) -> int | None:
    """Number of bytes that the server announces; None where that is none."""
    return _whole_number(response.headers.get("Content-Length"))


def content_range(response: http.client.HTTPResponse) -> tuple[int | None, int | None]:
    """First byte of a partial answer, and the size of the whole file; None where the server does not say."""
    text = response.headers.get("Content-Range", "")
    first, total = re.match(r"bytes ([0-9]+)-", text), re.search(r"/([0-9]+)$", text)
    return _whole_number(first and first[1]), _whole_number(total and total[1])


def _whole_number(text: str | None) -> int | None:
    """A number of bytes; more than 18 digits are none."""
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,18}", text.strip()) else None


def receive(response: http.client.HTTPResponse, count: int) -> bytes:
    """At most `count` bytes of a body, b"" at its end.

    Raises:
        HTTPException, OSError: the connection broke off, or the body is not framed as HTTP says.
    """
    try:
        return response.read(count)
    except ValueError as e:  # a chunk of negative length
        raise http.client.HTTPException(str(e)) from e


def with_retries(call: Callable[[], T]) -> T:
    """Result of the call. It is tried again while its error is transient, after the wait that the server asks for."""
    again = tenacity_retry(
        retry=retry_if_exception(_is_worth_another_try),
        stop=stop_after_attempt(TRIES),
        wait=_wait_s,
        reraise=True,
    )
    return again(call)()


def _is_worth_another_try(error: BaseException) -> bool:
    return isinstance(error, Unreachable) and (error.retry_after_s or 0.0) <= LONGEST_RETRY_AFTER_S


def _wait_s(state: RetryCallState) -> float:
    waited = wait_random_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S)(state)
    error = state.outcome.exception() if state.outcome is not None else None
    asked = error.retry_after_s if isinstance(error, Unreachable) else None
    return waited if asked is None else asked + waited  # not all workers in the same moment


def check_href(href: str) -> str:
    """The resolved href, if a reader may follow it; file:// becomes a path.

    Raises:
        BadAsset: a scheme or host that is not allowed.
    """
    try:
        refuse_host(href)
        return resolve_href(href)
    except ValueError as e:
        raise BadAsset(str(e)) from e


def message_of(error: BaseException) -> str:
    """Text of an error and of those that caused it, without secrets: GDAL says "see previous exception"."""
    texts: list[str] = []
    seen: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in seen and len(seen) < 8:
        seen.append(at)
        text = re.sub(r"See previous exception for details\.?", "", str(at)).strip() or type(at).__name__
        if text not in texts:
            texts.append(text)
        at = at.__cause__
    return without_query(": ".join(texts))


def without_query(text: str) -> str:
    """Any URL in the text without its query string and its password."""
    bare = re.sub(r"https?://[^\s'\"]+", _without_query, text)
    return re.sub(r"(https?://)[^\s'\"/@]+@", r"\1", bare)


def _without_query(url: re.Match[str]) -> str:
    """A URL up to its query, with what follows a comma after it."""
    bare, _, query = url[0].partition("?")
    return bare + query[query.find(",") :] if "," in query else bare


def carries_secrets(url: str) -> bool:
    """Whether a token, cookie or password may be sent to this address: over https, or inside this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1"))


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc
