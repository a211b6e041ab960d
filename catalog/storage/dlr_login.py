"""Login at DLR's file server, download.geoservice.dlr.de: a form of its single sign-on (CAS), then a session cookie.

The file server answers 403 to an Authorization header that it has not asked for; one that asks (401, Basic) gets it.
The password goes to the sign-on and to the file server only, over https, and appears in no message.
Source: hyperproc 0.1.2 (MIT), archive/dlr.py; https://www.enmap.org/data_access/.
"""

from __future__ import annotations

import base64
import http.client
import urllib.request
from html.parser import HTMLParser
from http.cookiejar import CookieJar
from urllib.parse import urlencode, urljoin, urlsplit

from hypermend.catalog.errors import AccessDenied, NotFound, Refused, Unreachable
from hypermend.catalog.storage.connect import TIMEOUT_S
from hypermend.catalog.storage.hrefs import shown
from hypermend.catalog.storage.transport import (
    USER_AGENT,
    carries_secrets,
    check_href,
    http_error,
    make_opener,
    message_of,
    send,
)

PAGE_BYTES = 1 << 20


def log_in(href: str, mission: str, account: tuple[str, str], *, sign_on_hosts: tuple[str, ...]) -> dict[str, str]:
    """Headers of a session that may read `href`; {} if it needs none.

    Args:
        mission: ENMAP or DESIS: each has its own accounts.
        account: user and password.
        sign_on_hosts: the hosts that may be sent the password.

    Raises:
        AccessDenied: the sign-on refuses the account, or waits for the user.
        NotFound, Refused, Unreachable: the server cannot be asked.
    """
    cookies = CookieJar()
    opener = make_opener(urllib.request.HTTPCookieProcessor(cookies))
    request = urllib.request.Request(check_href(href), headers={"User-Agent": USER_AGENT, "Range": "bytes=0-0"})
    try:
        with opener.open(request, timeout=TIMEOUT_S) as response:
            url, page = response.url, _page(response)
    except urllib.error.HTTPError as e:
        with e:
            if e.code == 401 and "basic" in e.headers.get("WWW-Authenticate", "").lower():
                return {"Authorization": "Basic " + base64.b64encode(":".join(account).encode()).decode()}
            raise http_error(href, e.code) from None
    except (OSError, http.client.HTTPException) as e:
        raise Unreachable(f"{shown(href)}: {message_of(e)}") from None
    if page is not None:
        form = _Forms.of(page).login
        target = url if form is None else urljoin(url, form.action or url)
        if form is None or not (_is_sign_on(url, sign_on_hosts) and _is_sign_on(target, sign_on_hosts)):
            raise AccessDenied(f"{shown(href)}: {urlsplit(url).hostname} shows a page that is not DLR's login form")
        fields = {**form.fields, "username": account[0], "password": account[1]}
        try:
            with send(href, target, data=urlencode(fields).encode(), opener=opener, web_page=True) as response:
                url, page = response.url, _page(response)
        except (Refused, NotFound):
            raise AccessDenied(_account_refused(href, mission)) from None
        if _is_sign_on(url, sign_on_hosts):
            waits = page is not None and _Forms.of(page).login is None
            raise AccessDenied(_waits_for_user(href) if waits else _account_refused(href, mission))
    return _session(href, cookies)


class _Form:
    """One form of a page: where it goes, its fields, whether it asks for a password."""

    def __init__(self, action: str) -> None:
        self.action = action
        self.fields: dict[str, str] = {}
        self.asks_password = False


class _Forms(HTMLParser):
    """The forms of a page, apart: that of EnMAP has a second one, which hands over to another identity provider."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[_Form] = []

    @classmethod
    def of(cls, page: str) -> _Forms:
        parser = cls()
        parser.feed(page)
        return parser

    @property
    def login(self) -> _Form | None:
        return next((form for form in self.forms if form.asks_password), None)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "form":
            self.forms.append(_Form(values.get("action") or ""))
        elif tag == "input" and self.forms and values.get("name") and values.get("type") != "submit":
            self.forms[-1].fields[str(values["name"])] = values.get("value") or ""
            self.forms[-1].asks_password |= values.get("type") == "password"


def _page(response: http.client.HTTPResponse) -> str | None:
    """The text of a web page; None for anything else."""
    if response.headers.get_content_type() != "text/html":
        return None
    return response.read(PAGE_BYTES).decode("utf-8", "replace")


def _is_sign_on(url: str, hosts: tuple[str, ...]) -> bool:
    return urlsplit(url).hostname in hosts and carries_secrets(url)


def _session(href: str, cookies: CookieJar) -> dict[str, str]:
    """The cookies that belong to the file server, and to no other host."""
    probe = urllib.request.Request(href)
    cookies.add_cookie_header(probe)
    cookie = probe.get_header("Cookie")
    return {} if cookie is None else {"Cookie": cookie}


def _account_refused(href: str, mission: str) -> str:
    return (
        f"{shown(href)}: DLR's login refuses the account. EnMAP and DESIS may need different ones: check "
        f"{mission}_USERNAME and {mission}_PASSWORD in a browser"
    )


def _waits_for_user(href: str) -> str:
    return f"{shown(href)}: DLR's login waits for the user, most often to agree to its usage policy: do it in a browser"
