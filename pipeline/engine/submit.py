"""Submit jobs to a cluster through Ray's Jobs API, each once: submitting a job twice gives one job.

The id of a submission is a hash of the verb, the job and the code shipped, so the head itself refuses a second one. The
code travels as Ray's working directory: the package as it is installed here, and the job. Ray reads the cluster's token
from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token; this module never reads, stores or prints it.
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
from hypermend.catalog.storage.hrefs import redact, unsigned
from hypermend.pipeline.config import BadJob, IngestJob, Job, NightlyJob, RestoreJob, load_job, parse_toml, read_job

ROOMS = ("catalog", "models", "pipeline")
PREFIX = "hypermend-"
KINDS: dict[str, type[Job]] = {"ingest": IngestJob, "restore": RestoreJob, "nightly": NightlyJob}
STOP_WAIT_S = "600"
"""Seconds from SIGTERM to SIGKILL, for the tiles in flight to end. Ray's own default is three seconds."""
_ENDED = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED)


@dataclass(frozen=True, kw_only=True)
class Package:
    """A job to submit, named after its content."""

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
    """Exit code of the job once it has ended."""

    def to_dict(self) -> dict[str, Any]:
        """Return the submission as JSON values."""
        return asdict(self)


def make_package(file: Path, verb: str | None = None) -> Package:
    """Check a job file on this machine, before it travels, and hash it.

    Raises:
        BadJob: as ``load_job``; no such verb; an archive that only this machine can read.
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
    text = read_job(file).decode()
    if secret := next((url for url in re.findall(r"\w+://[^\s'\"]+", text) if unsigned(url) != url), None):
        raise BadJob(
            f"{file}: {redact(secret)} is given with a password or a signature, which the cluster would show; "
            "remove it, also from comments, and give the cluster's machines the account in their environment (--sign)"
        )
    settings = job.model_dump(mode="json", exclude={"ray_address"})
    return Package(
        id=f"{PREFIX}{verb}-{digest([verb, settings, code_sha256()])}",
        verb=verb,
        text=text,
        lane=job.lane,
    )


def _verb(file: Path) -> str:
    """Infer the verb from the keys of a job file."""
    try:
        keys = set(parse_toml(read_job(file)))
    except (BadJob, ValueError):
        keys = set()  # load_job reports the fault
    ingests = keys & {"stac", "query", "limit", "bands", "gsd_m", "sign"}
    restores = keys & {"task", "model", "guide_collection", "scenes", "memory_gib"}
    return "nightly" if (ingests and restores) or keys & {"name", "attempts"} else "ingest" if ingests else "restore"


def code_sha256() -> str:
    """Hash every file that is shipped: a job with other code is another job."""
    total = hashlib.sha256()
    for path in _shipped():
        total.update(f"{path.relative_to(_home().parent)}\n".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _home() -> Path:
    return Path(hypermend.__file__).parent


def _shipped() -> list[Path]:
    home = _home()
    # In a checkout a room is a link: glob follows one that it starts from, and none below.
    files = (*home.glob("*"), *(path for room in ROOMS for path in (home / room).rglob("*")))
    return sorted(path for path in files if path.is_file() and "__pycache__" not in path.parts)


def with_retries(call: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a call so that it is retried for three minutes while the head is starting."""
    starting = retry_if_exception(lambda error: "No available agent" in str(error))
    return retry(retry=starting, wait=wait_fixed(2), stop=stop_after_delay(180), reraise=True)(call)


@contextmanager
def working_dir(package: Package) -> Iterator[Path]:
    """Make a temporary folder with the code and the job, and nothing else: no data, no environment, no secret."""
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
        folder = Path(name)
        for path in _shipped():
            target = folder / path.relative_to(_home().parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        (folder / "job.toml").write_text(package.text)
        yield folder


class JobsClient:
    """Client of the Jobs API of a cluster's head."""

    def __init__(self, address: str) -> None:
        """Connect to the head at ``address``.

        Raises:
            BadJob: this is no address of a head; nothing answers there; the token is missing or wrong.
        """
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise BadJob(
                f"--address {parts.scheme}://{parts.hostname or ''}: write the head's dashboard, http://HEAD:8265"
            )
        self._address = f"{parts.scheme}://{parts.netloc}"
        with self._readable_errors():
            self._client = JobSubmissionClient(self._address)

    def submit(self, package: Package, *, attempt: int = 0) -> Submitted:
        """Submit a job, unless the cluster already has one of this id.

        A nightly job is submitted again once the last one has ended, because there may be new scenes.

        Raises:
            BadJob: as ``JobsClient``.
        """
        if package.verb == "nightly" and attempt == 0:
            attempts = self._attempts(package.id)
            attempt = len(attempts) - any(JobStatus(job.status) not in _ENDED for job in attempts)
        name = package.id if attempt == 0 else f"{package.id}-again{attempt}"
        existing = self._find(name)
        if existing is not None:
            return existing
        command = f"python -m hypermend {package.verb} job.toml --address auto"
        with working_dir(package) as folder, self._readable_errors():
            submit = with_retries(self._client.submit_job)
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
        """List the jobs that `hypermend submit` has submitted, newest first."""
        with self._readable_errors():
            details = self._client.list_jobs()
        submitted = [d for d in details if (d.submission_id or "").startswith(PREFIX)]
        return [_submitted(d) for d in sorted(submitted, key=lambda d: d.start_time or 0, reverse=True)]

    def logs(self, name: str) -> str:
        """Return what the job has printed."""
        with self._readable_errors():
            return str(self._client.get_job_logs(name))

    def stop(self, name: str) -> bool:
        """Ask the job to stop; False if it had ended. Ray kills it after ten minutes."""
        with self._readable_errors():
            return bool(self._client.stop_job(name))

    def retry(self, name: str) -> Submitted:
        """Submit a job that has ended once more.

        Raises:
            BadJob: it has not ended, or `hypermend submit` did not submit it.
        """
        with self._readable_errors():
            details = self._client.get_job_info(name)
        metadata = details.metadata or {}
        if details.status not in _ENDED:
            raise BadJob(f"job {name} is {details.status.value.lower()}; stop it first, or let it end")
        if "job" not in metadata:
            raise BadJob(f"job {name} was not submitted by `hypermend submit`")
        lane = tomllib.loads(metadata["job"]).get("lane")
        package = Package(id=metadata["id"], verb=metadata["verb"], text=metadata["job"], lane=lane)
        return self.submit(package, attempt=len(self._attempts(package.id)))

    def follow(self, name: str, show: Callable[[str], None]) -> Submitted:
        """Show what a job prints until it ends, and return how it ended."""

        async def tail() -> None:
            async for text in self._client.tail_job_logs(name):
                show(text)

        with self._readable_errors():
            asyncio.run(tail())
        while True:
            job = self._find(name)
            if job is None or JobStatus(job.status) in _ENDED:
                return job or Submitted(id=name, status="GONE", exit_code=1)
            time.sleep(0.5)

    def _attempts(self, base: str) -> list[Submitted]:
        """List every submission of a job, newest first."""
        return [job for job in self.jobs() if job.id == base or job.id.startswith(f"{base}-again")]

    def _find(self, name: str) -> Submitted | None:
        return next((job for job in self.jobs() if job.id == name), None)

    @contextmanager
    def _readable_errors(self) -> Iterator[None]:
        """Raise Ray's errors as one line with advice; the line never holds what was sent."""
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
            line = text.strip().splitlines()[0] if text.strip() else type(error).__name__
            advice = "; is the head up, and the tunnel to its dashboard open?" if "Failed to connect" in line else ""
            raise BadJob(f"{self._address}: {line.rstrip('.')}{advice}") from None


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
