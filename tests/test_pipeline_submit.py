"""Submission without a cluster: what is shipped, what it is called, what is refused and never shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobDetails, JobStatus, JobType
from typer.testing import CliRunner

from hypermend.pipeline.cli.main import app
from hypermend.pipeline.config import BadJob, IngestJob
from hypermend.pipeline.engine import submit as submit_module
from hypermend.pipeline.engine.submit import JobsClient, make_package, working_dir


def job_file(folder: Path, text: str) -> Path:
    path = folder / "job.toml"
    path.write_text(text)
    return path


def test_the_id_is_that_of_job_and_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = 'archive = "s3://b/a"\ntask = "denoise"\n'
    first = make_package(job_file(tmp_path, text))
    assert first.id.startswith("hypermend-restore-")
    assert make_package(job_file(tmp_path, "# a remark\n" + text)).id == first.id
    assert make_package(job_file(tmp_path, text + "tile_px = 64\n")).id != first.id
    monkeypatch.setattr(submit_module, "code_sha256", lambda: "other")
    assert make_package(job_file(tmp_path, text)).id != first.id


@pytest.mark.parametrize(
    ("text", "verb"),
    [
        ('archive = "/a"\nstac = "https://x"\n', "ingest"),
        ('archive = "/a"\ntask = "denoise"\n', "restore"),
        ('archive = "/a"\nstac = "https://x"\ntask = "denoise"\n', "nightly"),
        ('archive = "/a"\nattempts = 2\n', "nightly"),
    ],
)
def test_the_verb_follows_from_the_keys(tmp_path: Path, text: str, verb: str) -> None:
    assert make_package(job_file(tmp_path, text)).verb == verb


def test_what_cannot_be_submitted_is_refused_before_anything_travels(tmp_path: Path) -> None:
    with pytest.raises(BadJob, match=r"archive 'demo' is relative"):
        make_package(job_file(tmp_path, 'archive = "demo"\n'))
    with pytest.raises(BadJob, match=r"unknown key 'takk'; did you mean 'task'"):
        make_package(job_file(tmp_path, 'archive = "/a"\ntakk = "denoise"\n'))
    answer = CliRunner().invoke(app, ["submit", str(tmp_path / "no.toml"), "--address", "http://127.0.0.1:9"])
    assert answer.exit_code == 2
    for address in ("127.0.0.1:8265", "ray://h:10001", "http://user:pw@h:8265"):
        with pytest.raises(BadJob, match="write the head's dashboard") as error:
            JobsClient(address)
        assert "pw" not in str(error.value)


@pytest.mark.fault
@pytest.mark.parametrize(
    "text",
    [
        'archive = "/a"\nstac = "https://user:pa55@h/catalog.json"\n',
        'archive = "/a"\nstac = "https://h/catalog.json?page=1&sig=pa55"\n',
        'archive = "/a"\n# stac = "https://h/catalog.json?api_key=pa55"\n',
        'archive = "s3://key:pa55@bucket/a"\n',
        'archive = "/a"\nray_address = "ray://user:pa55@h:10001"\n',
    ],
)
def test_g4_no_secret_travels_to_the_cluster(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadJob, match="with a password or a signature") as error:
        make_package(job_file(tmp_path, text))
    assert "pa55" not in str(error.value)


@pytest.mark.fault
def test_g4_a_query_without_a_secret_travels(tmp_path: Path) -> None:
    made = make_package(job_file(tmp_path, 'archive = "/a"\nstac = "https://h/search?f=json"\n'))
    assert "search?f=json" in made.text


@pytest.mark.fault
def test_g4_the_record_of_a_job_has_no_secret() -> None:
    job = IngestJob(archive="/a", stac="https://u:pa55@h/c.json?sig=pa55", ray_address="ray://u:pa55@h:1")
    assert job.to_record()["stac"] == "https://h/c.json" and "pa55" not in str(job.to_record())


def test_code_travels_and_nothing_else(tmp_path: Path) -> None:
    with working_dir(make_package(job_file(tmp_path, 'archive = "/a"\n'))) as folder:
        assert sorted(path.name for path in folder.iterdir()) == ["hypermend", "job.toml"]
        assert (folder / "hypermend" / "pipeline" / "cli" / "main.py").is_file()
        assert list((folder / "hypermend" / "models" / "weights").rglob("card.json"))
        assert not list(folder.rglob("__pycache__"))
    assert not folder.exists()


class Head:
    """What the Jobs API of a head does, in memory."""

    def __init__(self, address: str) -> None:
        self.jobs: dict[str, JobDetails] = {}
        self.submitted: list[dict[str, Any]] = []

    def list_jobs(self) -> list[JobDetails]:
        return list(self.jobs.values())

    def get_job_info(self, name: str) -> JobDetails:
        return self.jobs[name]

    def submit_job(self, **asked: Any) -> str:
        name = asked["submission_id"]
        if name in self.jobs:
            raise RuntimeError(f"job {name} exists")
        self.submitted.append(asked)
        self.jobs[name] = JobDetails(
            type=JobType.SUBMISSION, submission_id=name, entrypoint=asked["entrypoint"], status=JobStatus.PENDING,
            metadata=asked["metadata"], start_time=len(self.jobs),
        )  # fmt: skip
        return str(name)


def test_twice_is_one_job_and_a_job_that_has_ended_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit_module, "JobSubmissionClient", Head)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "SECRET-TOKEN")
    made = make_package(job_file(tmp_path, 'archive = "/a"\nlane = "backfill"\n'))
    cluster = JobsClient("http://127.0.0.1:8265")
    head: Any = cluster._client
    assert (cluster.submit(made).new, cluster.submit(made).new) == (True, False)
    assert len(head.submitted) == 1
    assert "SECRET-TOKEN" not in str(head.submitted)
    with pytest.raises(BadJob, match="is pending; stop it first"):
        cluster.retry(made.id)
    head.jobs[made.id].status = JobStatus.FAILED
    again = cluster.retry(made.id)
    assert (again.new, again.id) == (True, f"{made.id}-again1")
    assert head.submitted[1]["entrypoint"] == head.submitted[0]["entrypoint"]
    head.jobs[again.id].status = JobStatus.SUCCEEDED
    assert cluster.retry(again.id).id == f"{made.id}-again2"
    assert [job.id for job in cluster.jobs()] == [f"{made.id}-again2", f"{made.id}-again1", made.id]


def test_a_night_is_submitted_every_night_and_only_once_while_it_is_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit_module, "JobSubmissionClient", Head)
    night = make_package(job_file(tmp_path, 'archive = "/a"\nstac = "https://x"\ntask = "denoise"\n'))
    cluster = JobsClient("http://127.0.0.1:8265")
    head: Any = cluster._client
    for name in (night.id, f"{night.id}-again1", f"{night.id}-again2"):
        first, second = cluster.submit(night), cluster.submit(night)
        assert [(one.id, one.new) for one in (first, second)] == [(name, True), (name, False)]
        head.jobs[name].status = JobStatus.SUCCEEDED


def test_a_missing_token_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(address: str) -> None:
        raise RuntimeError("Request failed with status code 401: Unauthorized: Missing authentication token\nmore")

    monkeypatch.setattr(submit_module, "JobSubmissionClient", refused)
    with pytest.raises(BadJob, match=r"the cluster wants its token; set RAY_AUTH_MODE=token") as error:
        JobsClient("http://127.0.0.1:8265")
    assert "\n" not in str(error.value)


def test_a_port_is_not_taken_for_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(address: str) -> None:
        raise ConnectionError(f"Failed to connect to Ray at address: {address}.")

    monkeypatch.setattr(submit_module, "JobSubmissionClient", nobody)
    with pytest.raises(BadJob, match=r"Failed to connect"):
        JobsClient("http://127.0.0.1:40123")
