"""The manifests hold by Kubernetes' published schemas, and what they name in each other and in this project exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

kubernetes_validate = pytest.importorskip("kubernetes_validate")
yaml = pytest.importorskip("yaml")

from tf_segformer.cli import cli  # noqa: E402
from tf_segformer.deploy.tf_serving import configuration  # noqa: E402
from tf_segformer.deploy.tf_serving.client import DEFAULT_MODEL_NAME  # noqa: E402
from tf_segformer.training.process_group import find_process_group  # noqa: E402

FOLDER = Path(__file__).parents[2] / "examples" / "kubernetes"
VERSIONS = ("1.29", "1.37")


def manifests(name: str) -> dict[str, dict]:
    documents = yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8"))
    return {document["kind"]: document for document in documents}


def container(manifest: dict) -> dict:
    (only,) = manifest["spec"]["template"]["spec"]["containers"]
    return only


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.iterdir()))
def test_the_schemas_of_kubernetes_accept_the_manifests(name, version):
    for manifest in manifests(name).values():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_a_field_that_does_not_exist_is_noticed():
    deployment = manifests("serving.yaml")["Deployment"]
    container(deployment)["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)


def test_the_server_is_found_scaled_and_asked_for_the_model_that_it_serves():
    found = manifests("serving.yaml")
    deployment, server = found["Deployment"], container(found["Deployment"])
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels == found["Service"]["spec"]["selector"]
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]  # the autoscaler's
    assert server["resources"]["requests"]["cpu"]  # the share of it is what the autoscaler looks at
    assert f"--model_name={DEFAULT_MODEL_NAME}" in server["args"]
    assert server["readinessProbe"]["httpGet"]["path"] == f"/v1/models/{DEFAULT_MODEL_NAME}"
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    assert {port["targetPort"]: port["port"] for port in found["Service"]["spec"]["ports"]} == ports
    volumes = {volume["name"]: volume for volume in deployment["spec"]["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in server["volumeMounts"]} == set(volumes)
    assert volumes["config"]["configMap"]["name"] == found["ConfigMap"]["metadata"]["name"]
    assert volumes["model"]["persistentVolumeClaim"]["claimName"] == found["PersistentVolumeClaim"]["metadata"]["name"]


def test_the_server_s_files_are_those_of_serving_config():
    files = manifests("serving.yaml")["ConfigMap"]["data"]
    batching = configuration._BATCHING.format(max_batch_size=8, batch_timeout_micros=2000, threads=2)
    assert files["batching.config"] == re.sub(r"#.*\n", "", batching)
    assert files["monitoring.config"] == configuration._MONITORING


def test_the_processes_of_the_job_find_each_other():
    found = manifests("training.yaml")
    job, service = found["Job"], found["Service"]
    name, pod = job["metadata"]["name"], job["spec"]["template"]["spec"]
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["publishNotReadyAddresses"]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    variables = {each["name"]: each["value"] for each in container(job)["env"]}
    (port,) = service["spec"]["ports"]
    assert variables["JAX_COORDINATOR_ADDRESS"] == f"{name}-0.{pod['subdomain']}:{port['port']}"
    assert job["spec"]["completionMode"] == "Indexed"
    group = find_process_group(environment={**variables, "JOB_COMPLETION_INDEX": "3"})
    assert (group.coordinator, group.process_id) == (variables["JAX_COORDINATOR_ADDRESS"], 3)
    assert group.num_processes == job["spec"]["completions"] == job["spec"]["parallelism"]


def test_the_job_s_command_has_options_that_exist():
    (script,) = container(manifests("training.yaml")["Job"])["args"]
    program, command, *arguments = shlex.split(script.removeprefix("exec ").replace("$([", "").replace(")", ""))
    options = {option for parameter in cli.get_command(None, command).params for option in parameter.opts}
    given = {argument for argument in arguments if argument.startswith("--")}
    assert program == "tf-segformer" and given and given <= options
