"""What lies in deploy/ is checked as far as it can be without the machines it is for.

Kubernetes' own kinds, and every pod template in KubeRay's, are held against Kubernetes' published schemas. What KubeRay
adds is held against a strict list of the fields that we use, compared by hand with the types of its v1 API: a misspelt
field, a missing one or a reference to something that is nowhere is found.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate import ValidationError, validate

from hypermend.pipeline.config import IngestJob, NightlyJob, load_job, parse
from hypermend.pipeline.engine import prometheus
from tests.test_docs import ROOT

DEPLOY = ROOT / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
CLUSTERS = [ROOT / "ray_cluster.yaml", DEPLOY / "ray_cluster_local.yaml"]

K8S = "1.31"

# kind -> field -> what it holds: a type, a dict of fields, a list of one of either; "*" marks what must be there
ENV = [{"*name": str, "value": str}]
LIMITS = {"cpu": str, "*memory": str, "nvidia.com/gpu": str}
CONTAINER = {
    "*name": str, "*image": str, "command": [str], "env": ENV, "ports": [{"*name": str, "*containerPort": int}],
    "*resources": {"*requests": LIMITS, "*limits": LIMITS},
    "*securityContext": {"*allowPrivilegeEscalation": bool, "*capabilities": {"*drop": [str]}},
    "volumeMounts": [{"*name": str, "*mountPath": str, "readOnly": bool}],
}  # fmt: skip
VOLUME = {
    "*name": str, "secret": {"*secretName": str, "defaultMode": int}, "configMap": {"*name": str},
    "emptyDir": {"medium": str, "sizeLimit": str},
}  # fmt: skip
POD = {
    "serviceAccountName": str, "automountServiceAccountToken": bool, "restartPolicy": str, "nodeSelector": {"": str},
    "terminationGracePeriodSeconds": int, "tolerations": [{"*key": str, "operator": str, "effect": str}],
    "*securityContext": {"*runAsNonRoot": bool, "runAsUser": int, "fsGroup": int},
    "*containers": [CONTAINER], "volumes": [VOLUME],
}  # fmt: skip
CHOSEN = {"*matchLabels": {"": str}}
META = {"*name": str, "*namespace": str, "labels": {"": str}}
TEMPLATE = {"metadata": {"labels": {"": str}, "annotations": {"": str}}, "*spec": POD}
PARAMS = {"*rayStartParams": {"": str}, "*template": TEMPLATE}
KINDS: dict[tuple[str, str], Any] = {
    ("ray.io/v1", "RayCluster"): {
        "*rayVersion": str, "*authOptions": {"*mode": str}, "enableInTreeAutoscaling": bool,
        "autoscalerOptions": {"idleTimeoutSeconds": int, "upscalingMode": str},
        "*headGroupSpec": PARAMS,
        "workerGroupSpecs": [{"*groupName": str, "replicas": int, "*minReplicas": int, "*maxReplicas": int, **PARAMS}],
    },
    ("networking.k8s.io/v1", "NetworkPolicy"): {
        "*podSelector": CHOSEN, "*policyTypes": [str],
        "*ingress": [{"*from": [{"podSelector": CHOSEN, "namespaceSelector": CHOSEN}]}],
    },
    ("ray.io/v1", "RayJob"): {
        "clusterSelector": {"": str}, "submissionMode": str, "*entrypoint": str, "backoffLimit": int,
        "submitterPodTemplate": TEMPLATE,
    },
    ("batch/v1", "CronJob"): {
        "*schedule": str, "timeZone": str, "concurrencyPolicy": str, "startingDeadlineSeconds": int,
        "successfulJobsHistoryLimit": int, "failedJobsHistoryLimit": int,
        "*jobTemplate": {"*spec": {"backoffLimit": int, "*template": TEMPLATE}},
    },
}  # fmt: skip


def complaints(value: Any, shape: Any, where: str) -> Iterator[str]:
    """What in ``value`` is not as ``shape`` has it."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            yield f"{where}: not a mapping"
            return
        if "" in shape:
            for key, one in value.items():
                yield from complaints(one, shape[""], f"{where}.{key}")
            return
        known = {key.removeprefix("*"): of for key, of in shape.items()}
        yield from (f"{where}.{key}: no such field" for key in value if key not in known)
        yield from (f"{where}.{key[1:]} is missing" for key in shape if key[0] == "*" and key[1:] not in value)
        for key in value.keys() & known.keys():
            yield from complaints(value[key], known[key], f"{where}.{key}")
    elif isinstance(shape, list):
        if not isinstance(value, list) or not value:
            yield f"{where}: not a list with something in it"
        for number, one in enumerate(value if isinstance(value, list) else []):
            yield from complaints(one, shape[0], f"{where}[{number}]")
    elif type(value) is not shape:
        yield f"{where}: {value!r} is no {shape.__name__}"


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def pods(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for one in value.values():
            yield from pods(one)
    elif isinstance(value, list):
        for one in value:
            yield from pods(one)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.name)
def test_a_manifest_has_the_fields_of_its_kind_and_no_others(path: Path) -> None:
    for document in documents(path):
        kind = document.pop("apiVersion"), document.pop("kind")
        assert list(complaints(document.pop("metadata"), META, "metadata")) == []
        if kind == ("v1", "ConfigMap"):
            parse(NightlyJob, tomllib.loads(document["data"]["job.toml"]), where=path.name)
            continue
        assert list(complaints(document.pop("spec"), KINDS[kind], kind[1])) == []
        assert document == {}


def test_the_check_of_manifests_finds_mistakes() -> None:
    pod = next(pods(documents(DEPLOY / "kubernetes" / "nightly.yaml")))
    assert list(complaints(pod, POD, "pod")) == []
    pod["containers"][0]["imagePullPolice"] = "Always"
    del pod["containers"][0]["image"]
    pod["terminationGracePeriodSeconds"] = "300"
    assert sorted(complaints(pod, POD, "pod")) == [
        "pod.containers[0].image is missing",
        "pod.containers[0].imagePullPolice: no such field",
        "pod.terminationGracePeriodSeconds: '300' is no int",
    ]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.name)
def test_kubernetes_schemas_accept_what_is_theirs(path: Path) -> None:
    for document in documents(path):
        if document["apiVersion"] == "ray.io/v1":
            head = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}}
            theirs = [{**head, "spec": pod} for pod in pods(document)]
        else:
            theirs = [document]
        for one in theirs:
            assert validate(one, K8S, strict=True) == K8S  # the version that it was checked against
        one["spec" if "spec" in one else "data"] = 7
        with pytest.raises(ValidationError):
            validate(one, K8S, strict=True)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.name)
def test_pods_mount_what_they_have_and_hold_no_secret(path: Path) -> None:
    for pod in pods(documents(path)):
        asks = path.name != "raycluster.yaml"  # there the operator gives each container its token
        volumes = {volume["name"] for volume in pod.get("volumes", ())}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes
            env = {one["name"]: one.get("value", "") for one in container["env"]}
            assert ("token" if asks else None) == env.get("RAY_AUTH_MODE")
            token = Path(env.get("RAY_AUTH_TOKEN_PATH", "/etc/ray-token/auth_token"))
            assert token.name == "auth_token"
            secrets = {v["name"]: v["secret"]["secretName"] for v in pod.get("volumes", ()) if "secret" in v}
            places = {mount["mountPath"]: secrets.get(mount["name"]) for mount in container.get("volumeMounts", ())}
            assert places.get(str(token.parent)) == ("hypermend" if asks else None)
            assert not {name for name in env if re.search("SECRET|PASSWORD|_TOKEN$|ACCESS_KEY", name)}
            assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]


def test_the_kuberay_cluster_has_our_lanes_and_answers_its_own_and_the_operator_alone() -> None:
    cluster, policy = documents(DEPLOY / "kubernetes" / "raycluster.yaml")
    spec = cluster["spec"]
    # The operator keeps the token in a secret of this name, and calls the head's service so.
    assert (cluster["metadata"]["name"], spec["authOptions"]) == ("hypermend", {"mode": "token"})
    chosen = policy["spec"]["podSelector"]["matchLabels"].items()
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert chosen <= group["template"]["metadata"]["labels"].items()
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in spec["workerGroupSpecs"]:
        lanes = json.loads(json.loads(group["rayStartParams"]["resources"]))
        assert lanes["lane_backfill"] < lanes["lane_nightly"]


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda p: p.name)
def test_ray_accepts_the_cluster_files(path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load(path.read_text()))
    validate_config(config)
    starts = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in starts
    assert "RAY_AUTH_MODE=token" in starts
    assert "RAY_AUTH_MODE=token" in " ".join(config["worker_start_ray_commands"])


def test_workers_of_the_cloud_cluster_have_lanes_and_are_spot() -> None:
    types = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0
    assert types["gpu"]["resources"]["GPU"] > 0
    for name in ("cpu", "gpu"):
        assert types[name]["resources"]["lane_backfill"] < types[name]["resources"]["lane_nightly"]
        assert types[name]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


@pytest.mark.parametrize("path", sorted((DEPLOY / "recipes").glob("*.toml")), ids=lambda p: p.name)
def test_a_recipe_is_a_job(path: Path) -> None:
    job = load_job(path, IngestJob if path.stem == "sentinel2" else NightlyJob)
    assert job.archive.startswith("s3://CHANGE-")
    assert job.stac is not None
    assert "://" in job.stac


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on this machine")
def test_systemd_accepts_timer_and_service(tmp_path: Path) -> None:
    for path in (DEPLOY / "systemd").iterdir():
        text = path.read_text().replace("/opt/hypermend/.venv/bin/hypermend", "/bin/true")  # which must exist
        (tmp_path / path.name).write_text(text)
    units = sorted(str(path) for path in tmp_path.iterdir())
    answer = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")
    when = re.search(r"^OnCalendar=(.*)$", (DEPLOY / "systemd" / "hypermend-nightly.timer").read_text(), re.MULTILINE)
    assert when is not None
    subprocess.run(["systemd-analyze", "calendar", when[1]], check=True, capture_output=True)


def test_the_crontab_has_five_fields_and_a_command() -> None:
    lines = [line for line in (DEPLOY / "crontab").read_text().splitlines() if line and line[0] not in "#M"]
    field = r"(\*|\d+)(/\d+)?"
    for line in lines:
        assert re.match(rf"({field}\s+){{5}}cd /opt/hypermend && ", line), line
        assert "%" not in line  # which cron takes for the end of the command


def test_the_image_has_every_room_and_what_it_copies_exists() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE) for word in line.split()[:-1]]
    assert {"catalog", "models", "pipeline", "constraints.txt"} <= set(copied)
    ignore = (ROOT / ".dockerignore").read_text()
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in ignore, name
    assert re.search(r"^USER (?!root)", text, re.MULTILINE)


def test_the_dashboard_draws_metrics_that_exist() -> None:
    board = json.loads((DEPLOY / "grafana.json").read_text())
    drawn = {
        re.sub(r"_(total|bucket)$", "", name)
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"ray_(hypermend_\w+)", target["expr"])
    }
    source = Path(prometheus.__file__).read_text()
    assert drawn == set(re.findall(r'"(hypermend_\w+)"', source))
