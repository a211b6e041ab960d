"""Submitting a job to a cluster through Ray's Jobs API, once: what is submitted twice is one job.

The id of a submission is a hash of the verb, the job and the code that is shipped, so the head itself refuses the
second one. The code travels as Ray's working directory: the package as it is installed here, and the job. The
token of the cluster comes from where Ray looks for it (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token); it is
never read, stored or printed here.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ray.exceptions import AuthenticationError, RayError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient
from tenacity import retry, retry_if_exception, stop_after_delay, wait_fixed

import hypermend
from hypermend.catalog.storage.archive_store import digest
from hypermend.pipeline.config import BadJob, IngestJob, Job, NightlyJob, RestoreJob, load_job

ROOMS = ("catalog", "models", "pipeline")
PREFIX = "hypermend-"
KINDS: dict[str, type[Job]] = {"ingest": IngestJob, "restore": RestoreJob, "nightly": NightlyJob}
STOP_WAIT_S = "600"
"""From SIGTERM to SIGKILL: time for the tiles in flight. Ray's own default is three seconds."""
_ENDED = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED)


@dataclass(frozen=True, kw_only=True)
class Package:
    """What is submitted."""

    id: str
    verb: str
    text: str
    """The job, in TOML."""
    lane: str | None


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """A job on a cluster."""

    id: str
    status: str
    new: bool = False
    begun: str = ""
    message: str = ""
    exit_code: int = 0
    """Of the job once it has ended: 0 or what it left with."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def package(file: Path, verb: str | None = None) -> Package:
    """Check a job file here, before it travels, and name it after what it does.

    Raises:
        BadJob: as ``load_job``; no such verb; an archive that only this machine sees.
    """
    verb = verb or _verb(file)
    if verb not in KINDS:
        raise BadJob(f"{file}: no verb {verb!r} can be submitted; {', '.join(KINDS)} can")
    job = load_job(file, KINDS[verb])
    if "://" not in job.archive and not Path(job.archive).is_absolute():
        raise BadJob(
            f"{file}: archive {job.archive!r} is relative: on the cluster it would be another folder; write s3://... "
            "or the absolute path of a folder that every machine shares"
        )
    settings = job.model_dump(mode="json", exclude={"ray_address"})
    return Package(
        id=f"{PREFIX}{verb}-{digest([verb, settings, code_sha256()])}",
        verb=verb,
        text=file.read_text(),
        lane=job.lane,
    )


def _verb(file: Path) -> str:
    """What the keys of a job file ask for."""
    try:
        keys = set(tomllib.loads(file.read_text()))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        keys = set()  # load_job says what is wrong
    ingests = keys & {"stac", "query", "limit", "bands", "gsd_m", "sign"}
    restores = keys & {"task", "model", "guide_collection", "scenes", "memory_gib"}
    return "nightly" if (ingests and restores) or keys & {"name", "attempts"} else "ingest" if ingests else "restore"


def code_sha256() -> str:
    """Of every file that is shipped: other code is another job."""
    seen = hashlib.sha256()
    for path in _shipped():
        seen.update(f"{path.relative_to(_home().parent)}\n".encode())
        seen.update(hashlib.sha256(path.read_bytes()).digest())
    return seen.hexdigest()


def _home() -> Path:
    return Path(hypermend.__file__).parent


def _shipped() -> list[Path]:
    home = _home()
    # In a checkout a room is a link: glob follows one that it starts from, and none below.
    files = (*home.glob("*"), *(path for room in ROOMS for path in (home / room).rglob("*")))
    return sorted(path for path in files if path.is_file() and "__pycache__" not in path.parts)


def retrying(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call, tried again for three minutes while the head has only just started."""
    starting = retry_if_exception(lambda error: "No available agent" in str(error))
    return retry(retry=starting, wait=wait_fixed(2), stop=stop_after_delay(180), reraise=True)(call)


@contextmanager
def working_dir(package: Package) -> Iterator[Path]:
    """A folder with the code and the job, and nothing else: no data, no environment, no secret."""
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
        folder = Path(name)
        for path in _shipped():
            there = folder / path.relative_to(_home().parent)
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, there)
        (folder / "job.toml").write_text(package.text)
        yield folder


class Cluster:
    """The Jobs API of a cluster's head."""

    def __init__(self, address: str) -> None:
        """
        Raises:
            BadJob: no address of a head; nobody there; the token is missing or wrong.
        """
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise BadJob(
                f"--address {parts.scheme}://{parts.hostname or ''}: write the head's dashboard, http://HEAD:8265"
            )
        self._address = f"{parts.scheme}://{parts.netloc}"
        with self._said():
            self._client = JobSubmissionClient(self._address)

    def submit(self, package: Package, *, attempt: int = 0) -> Submitted:
        """Submit once: a job of this id that is there already is left as it is.

        Of a night, one that is at work is; once it has ended, the next may find what is new since.

        Raises:
            BadJob: as ``Cluster``.
        """
        if package.verb == "nightly" and attempt == 0:
            tries = self._tries(package.id)
            attempt = len(tries) - any(JobStatus(one.status) not in _ENDED for one in tries)
        name = package.id if attempt == 0 else f"{package.id}-again{attempt}"
        known = self._find(name)
        if known is not None:
            return known
        command = f"python -m hypermend {package.verb} job.toml --address auto"
        with working_dir(package) as folder, self._said():
            submit = retrying(self._client.submit_job)
            submit(
                entrypoint=command,
                submission_id=name,
                runtime_env={
                    "working_dir": str(folder),
                    "env_vars": {"PYTHONUNBUFFERED": "1", "RAY_JOB_STOP_WAIT_TIME_S": STOP_WAIT_S},
                },
                metadata={"verb": package.verb, "job": package.text, "id": package.id, "attempt": str(attempt)},
            )
        return Submitted(id=name, status="PENDING", new=True)

    def jobs(self) -> list[Submitted]:
        """Every job of ours, the newest first."""
        with self._said():
            every = self._client.list_jobs()
        ours = [d for d in every if (d.submission_id or "").startswith(PREFIX)]
        return [_submitted(d) for d in sorted(ours, key=lambda d: d.start_time or 0, reverse=True)]

    def logs(self, name: str) -> str:
        with self._said():
            return str(self._client.get_job_logs(name))

    def stop(self, name: str) -> bool:
        """Ask it to stop; False if it had ended. Ray kills it if it is not gone in ten minutes."""
        with self._said():
            return bool(self._client.stop_job(name))

    def retry(self, name: str) -> Submitted:
        """Submit a job that has ended once more.

        Raises:
            BadJob: it has not ended, or it is none of ours.
        """
        with self._said():
            details = self._client.get_job_info(name)
        facts = details.metadata or {}
        if details.status not in _ENDED:
            raise BadJob(f"job {name} is {details.status.value.lower()}; stop it first, or let it end")
        if "job" not in facts:
            raise BadJob(f"job {name} was not submitted by `hypermend submit`")
        lane = tomllib.loads(facts["job"]).get("lane")
        again = Package(id=facts["id"], verb=facts["verb"], text=facts["job"], lane=lane)
        return self.submit(again, attempt=len(self._tries(again.id)))

    def follow(self, name: str, show: Callable[[str], None]) -> Submitted:
        """Show what a job prints until it ends."""

        async def tail() -> None:
            async for text in self._client.tail_job_logs(name):
                show(text)

        with self._said():
            asyncio.run(tail())
        while True:
            found = self._find(name)
            if found is None or JobStatus(found.status) in _ENDED:
                return found or Submitted(id=name, status="GONE", exit_code=1)
            time.sleep(0.5)

    def _tries(self, base: str) -> list[Submitted]:
        """Every submission of a job, the newest first."""
        return [one for one in self.jobs() if one.id == base or one.id.startswith(f"{base}-again")]

    def _find(self, name: str) -> Submitted | None:
        return next((one for one in self.jobs() if one.id == name), None)

    @contextmanager
    def _said(self) -> Iterator[None]:
        """Ray's errors in one line, with what to do; never what was sent."""
        try:
            yield
        except (RayError, RuntimeError, ConnectionError, ValueError) as error:
            text = str(error)
            if isinstance(error, AuthenticationError) or re.search(
                r"\b40[13]\b|authenticat|token", text, re.IGNORECASE
            ):
                raise BadJob(
                    f"{self._address}: the cluster wants its token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to "
                    "a file that holds it (`ray get-auth-token` on the head shows it)"
                ) from None
            said = text.strip().splitlines()[0] if text.strip() else type(error).__name__
            lost = "; is the head up, and the tunnel to its dashboard open?" if "Failed to connect" in said else ""
            raise BadJob(f"{self._address}: {said.rstrip('.')}{lost}") from None


def _submitted(details: JobDetails) -> Submitted:
    begun = datetime.fromtimestamp((details.start_time or 0) / 1000, UTC).isoformat(timespec="seconds")
    code = details.driver_exit_code
    ended_badly = details.status in (JobStatus.FAILED, JobStatus.STOPPED)
    return Submitted(
        id=details.submission_id or "",
        status=details.status.value,
        begun=begun,
        message=next(iter((details.message or "").splitlines()), "") if details.status is JobStatus.FAILED else "",
        exit_code=int(code) if code else int(ended_badly),
    )
