"""Signing of hrefs at read time: `--sign none|planetary-computer|earthdata|dlr|s3-requester-pays`.

A signer turns the plain href of a scene into the parts of a request: a URL with a short-lived signature, a bearer
token, a session cookie, or a requester-pays header. They are made in the worker that reads, renewed when the server
answers 401 or 403, sent to the hosts that they are for only, and never stored or printed: messages show hrefs through
`hrefs.shown`.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPException
from threading import Lock
from typing import Protocol
from urllib.parse import urlsplit

from hypermend.catalog.errors import AccessDenied, ArchiveError, Refused, Unreachable
from hypermend.catalog.storage.dlr_login import log_in
from hypermend.catalog.storage.download import read_all
from hypermend.catalog.storage.hrefs import shown
from hypermend.catalog.storage.transport import carries_secrets, send

PLANETARY_TOKENS = "https://planetarycomputer.microsoft.com/api/sas/v1/token"
TOKEN_BYTES = 1 << 20
MARGIN_S = 120.0
LOG_IN_AGAIN_S = 60.0
"""Shortest time between two logins of one account: one that is not cleared for a file must not be locked for trying."""


@dataclass(frozen=True, kw_only=True)
class Signed:
    """URL and headers of one request; its repr shows no secret."""

    url: str = field(repr=False)
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    requester_pays: bool = False


class Signer(Protocol):
    """Signs one href; `fresh=True` after a 401 or 403, when a cached token has become invalid."""

    def __call__(self, href: str, *, fresh: bool = False) -> Signed: ...


class Unsigned:
    """Leaves hrefs as they are."""

    def __call__(self, href: str, *, fresh: bool = False) -> Signed:
        return Signed(url=href)


class PlanetaryComputer:
    """Adds the SAS token of their account and container to Azure blob hrefs; requested once and kept until it expires.

    Source: planetarycomputer.microsoft.com/docs/concepts/sas ({"token", "msft:expiry"}).
    """

    def __init__(self, token_url: str | None = None, *, hosts: tuple[str, ...] = (".blob.core.windows.net",)) -> None:
        self._token_url = (token_url or os.environ.get("PC_SDK_SAS_URL") or PLANETARY_TOKENS).rstrip("/")
        self._hosts = hosts
        self._tokens: dict[str, tuple[str, float]] = {}

    def __call__(self, href: str, *, fresh: bool = False) -> Signed:
        parts = urlsplit(href)
        if not parts.netloc.endswith(self._hosts):
            return Signed(url=href)
        account = parts.netloc.split(".")[0].split(":")[0]
        container = parts.path.lstrip("/").split("/")[0]
        container_path = f"{account}/{container}"
        token, expires = self._tokens.get(container_path, ("", 0.0))
        if fresh or time.time() > expires - MARGIN_S:
            token, expires = self._request_token(container_path)
            self._tokens[container_path] = token, expires
        return Signed(url=f"{href}{'&' if parts.query else '?'}{token}")

    def _request_token(self, container_path: str) -> tuple[str, float]:
        headers = {}
        if key := os.environ.get("PC_SDK_SUBSCRIPTION_KEY"):
            headers["Ocp-Apim-Subscription-Key"] = key
        where = f"{self._token_url}/{container_path}"
        try:
            with send(where, headers=headers) as response:
                body = json.loads(read_all(response, where, TOKEN_BYTES))
            expiry = datetime.fromisoformat(body["msft:expiry"])
            return str(body["token"]), expiry.replace(tzinfo=expiry.tzinfo or UTC).timestamp()
        except ArchiveError as e:
            kind = Unreachable if e.transient else Refused
            raise kind(f"no read token for {container_path}: {e}") from e
        except (OSError, ValueError, KeyError, HTTPException) as e:
            raise Unreachable(f"no read token for {container_path}: {type(e).__name__}") from e


class Earthdata:
    """NASA Earthdata: a bearer token from EARTHDATA_TOKEN, sent to NASA's hosts only."""

    def __init__(self, *, hosts: tuple[str, ...] = (".nasa.gov", ".earthdatacloud.nasa.gov")) -> None:
        self._hosts = hosts

    def __call__(self, href: str, *, fresh: bool = False) -> Signed:
        parts = urlsplit(href)
        if parts.scheme not in ("http", "https") or not (parts.hostname or "").endswith(self._hosts):
            return Signed(url=href)
        token = os.environ.get("EARTHDATA_TOKEN")  # read each time, so that a renewed token takes effect
        if not token:
            raise Refused("earthdata signing needs a token in EARTHDATA_TOKEN (urs.earthdata.nasa.gov, My tokens)")
        if not carries_secrets(href):
            raise Refused(f"{shown(href)}: the token is sent over https only, and this address is http")
        return Signed(url=href, headers={"Authorization": f"Bearer {token}"})


class Dlr:
    """DLR's file server: a login for each mission, whose session cookie goes to that server only.

    The account is read from ENMAP_USERNAME and ENMAP_PASSWORD, DESIS_USERNAME and DESIS_PASSWORD, else from
    DLR_EOC_USERNAME and DLR_EOC_PASSWORD.
    """

    def __init__(
        self,
        *,
        hosts: tuple[str, ...] = ("download.geoservice.dlr.de",),
        sign_on_hosts: tuple[str, ...] = ("sso.eoc.dlr.de",),
    ) -> None:
        self._hosts, self._sign_on_hosts = hosts, sign_on_hosts
        self._lock = Lock()  # one login, whatever the number of threads
        self._sessions: dict[str, tuple[dict[str, str], float]] = {}
        self._refused: dict[str, str] = {}

    def __call__(self, href: str, *, fresh: bool = False) -> Signed:
        parts = urlsplit(href)
        if parts.hostname not in self._hosts:
            return Signed(url=href)
        if not carries_secrets(href):
            raise Refused(f"{shown(href)}: the account is sent over https only, and this address is http")
        mission = parts.path.strip("/").split("/")[0].upper()
        with self._lock:
            if mission in self._refused:  # asking again and again would lock the account
                raise AccessDenied(self._refused[mission])
            headers, since = self._sessions.get(mission, ({}, None))
            if since is None or (fresh and time.monotonic() - since > LOG_IN_AGAIN_S):
                account = _dlr_account(mission)
                try:
                    headers = log_in(href, mission, account, sign_on_hosts=self._sign_on_hosts)
                except AccessDenied as e:
                    self._refused[mission] = str(e)
                    raise
                self._sessions[mission] = headers, time.monotonic()
        return Signed(url=href, headers=headers)


class RequesterPays:
    """S3 buckets whose reader pays: marks the request; the keys come from the usual AWS_* environment."""

    def __call__(self, href: str, *, fresh: bool = False) -> Signed:
        return Signed(url=href, requester_pays=urlsplit(href).scheme == "s3")


SIGNERS: dict[str, type[Signer]] = {
    "none": Unsigned,
    "planetary-computer": PlanetaryComputer,
    "earthdata": Earthdata,
    "dlr": Dlr,
    "s3-requester-pays": RequesterPays,
}


def signer(name: str) -> Signer:
    """The signer of this name.

    Raises:
        Refused: there is none; the names are listed.
    """
    if name not in SIGNERS:
        raise Refused(f"unknown signing {name!r}; known are {', '.join(SIGNERS)}")
    return SIGNERS[name]()


def _dlr_account(mission: str) -> tuple[str, str]:
    """User and password of a mission, from the environment.

    Raises:
        Refused: they are not set; names the variables.
    """
    names = [name for name in ("ENMAP", "DESIS") if name == mission] + ["DLR_EOC"]
    for name in names:
        user, password = os.environ.get(f"{name}_USERNAME"), os.environ.get(f"{name}_PASSWORD")
        if user and password:
            return user, password
    wanted = " or ".join(f"{name}_USERNAME and {name}_PASSWORD" for name in names)
    raise Refused(f"signing for DLR needs the account of {mission} in {wanted}")
