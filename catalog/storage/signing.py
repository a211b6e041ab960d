"""Signing of hrefs at read time: `--sign none|planetary-computer|earthdata|s3-requester-pays`.

A signer turns the plain href of a scene into the parts of a request: a URL with a short-lived signature, a bearer
token, or a requester-pays header. They are made in the worker that reads, renewed when the server answers 401 or 403,
and never stored or printed: messages show hrefs through `hrefs.shown`.
"""

from __future__ import annotations

import json
import os
import time
import urllib.request
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol
from urllib.parse import urlsplit

from hypermend.catalog.errors import Refused, Unreachable

PLANETARY_TOKENS = "https://planetarycomputer.microsoft.com/api/sas/v1/token"
MARGIN_S = 120.0
_TIMEOUT_S = 30.0


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
        request = urllib.request.Request(f"{self._token_url}/{container_path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
                body = json.load(response)
            expiry = datetime.fromisoformat(body["msft:expiry"])
            return str(body["token"]), expiry.replace(tzinfo=expiry.tzinfo or UTC).timestamp()
        except urllib.error.HTTPError as e:
            if e.code in (401, 403, 404):
                raise Refused(f"no read token for {container_path}: the token server answered {e.code}") from e
            raise Unreachable(f"no read token for {container_path}: the token server answered {e.code}") from e
        except (OSError, ValueError, KeyError) as e:
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
        return Signed(url=href, headers={"Authorization": f"Bearer {token}"})


class RequesterPays:
    """S3 buckets whose reader pays: marks the request; the keys come from the usual AWS_* environment."""

    def __call__(self, href: str, *, fresh: bool = False) -> Signed:
        return Signed(url=href, requester_pays=urlsplit(href).scheme == "s3")


SIGNERS: dict[str, type[Signer]] = {
    "none": Unsigned,
    "planetary-computer": PlanetaryComputer,
    "earthdata": Earthdata,
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
