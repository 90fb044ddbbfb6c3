"""cluster.yaml and deploy/kuberay.yaml: Ray's own validation takes the one, a schema of the fields we use the other.

KubeRay's whole CRD is too large to be kept here. What this test knows of it is what the manifest uses, and nothing else
is let through: a field that is added has to be looked up in the CRD (helm-chart/kuberay-operator/crds) first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[1]
DATA_DIR = "RAYQUEUE_DATA_DIR"

TEXT, COUNT = {"type": "string"}, {"type": "integer", "minimum": 1}
TEXTS = {"type": "object", "additionalProperties": TEXT}


def fields(*optional: str, **known: Any) -> dict[str, Any]:
    """An object of these fields and no others, all required but the optional ones."""
    required = [name for name in known if name not in optional]
    return {"type": "object", "properties": known, "required": required, "additionalProperties": False}


def items(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": schema, "minItems": 1}


QUANTITIES = {"type": "object", "additionalProperties": {"type": "string", "pattern": r"^[0-9]+(m|Mi|Gi|Ti)?$"}}
RESOURCES = fields("limits", requests=QUANTITIES, limits=QUANTITIES)
CONTAINER = fields(
    name=TEXT,
    image=TEXT,
    env=items(fields(name=TEXT, value=TEXT)),
    resources=RESOURCES,
    volumeMounts=items(fields(name=TEXT, mountPath=TEXT)),
)
SPREAD = fields(
    maxSkew=COUNT,
    topologyKey=TEXT,
    whenUnsatisfiable={"enum": ["DoNotSchedule", "ScheduleAnyway"]},
    labelSelector=fields(matchLabels=TEXTS),
)
TEMPLATE = fields(
    metadata=fields(labels=TEXTS),
    spec=fields(
        topologySpreadConstraints=items(SPREAD),
        securityContext=fields(fsGroup={"type": "integer"}),
        containers=items(CONTAINER),
        volumes=items(fields(name=TEXT, persistentVolumeClaim=fields(claimName=TEXT))),
    ),
)
WORKERS = fields(
    groupName=TEXT, replicas=COUNT, minReplicas=COUNT, maxReplicas=COUNT, rayStartParams=TEXTS, template=TEMPLATE
)
RAY_CLUSTER = fields(
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayCluster"},
    metadata=fields(name=TEXT),
    spec=fields(
        rayVersion=TEXT,
        enableInTreeAutoscaling={"type": "boolean"},
        headGroupSpec=fields(rayStartParams=TEXTS, template=TEMPLATE),
        workerGroupSpecs=items(WORKERS),
    ),
)
CLAIM = fields(
    apiVersion={"const": "v1"},
    kind={"const": "PersistentVolumeClaim"},
    metadata=fields(name=TEXT),
    spec=fields(accessModes=items({"const": "ReadWriteOnce"}), resources=RESOURCES),
)
SCHEMAS = {"RayCluster": RAY_CLUSTER, "PersistentVolumeClaim": CLAIM}


@pytest.fixture(scope="module")
def manifest() -> dict[str, list[dict[str, Any]]]:
    """The documents of the KubeRay manifest, by kind."""
    found: dict[str, list[dict[str, Any]]] = {}
    for document in yaml.safe_load_all((ROOT / "deploy" / "kuberay.yaml").read_text()):
        found.setdefault(document["kind"], []).append(document)
    return found


def test_kubernetes_would_take_every_document(manifest: dict[str, list[dict[str, Any]]]) -> None:
    for kind, documents in manifest.items():
        for document in documents:
            jsonschema.validate(document, SCHEMAS[kind])
    assert len(manifest["RayCluster"]) == 1


def test_a_field_that_raycluster_lacks_is_refused(manifest: dict[str, list[dict[str, Any]]]) -> None:
    cluster = yaml.safe_load(yaml.safe_dump(manifest["RayCluster"][0]))
    cluster["spec"]["workerGroupSpecs"][0]["volumeClaimTemplates"] = []
    with pytest.raises(jsonschema.ValidationError, match="volumeClaimTemplates"):
        jsonschema.validate(cluster, RAY_CLUSTER)


def test_every_broker_has_a_claim_of_its_own_where_its_data_directory_is(
    manifest: dict[str, list[dict[str, Any]]],
) -> None:
    cluster = manifest["RayCluster"][0]["spec"]
    claimed = []
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group.get("replicas", 1) == group.get("minReplicas", 1) == group.get("maxReplicas", 1) == 1
        pod = group["template"]["spec"]
        (container,), (volume,) = pod["containers"], pod["volumes"]
        (mount,) = container["volumeMounts"]
        assert mount["name"] == volume["name"]
        directory = next(one["value"] for one in container["env"] if one["name"] == DATA_DIR)
        assert Path(directory).is_relative_to(mount["mountPath"])
        (spread,) = pod["topologySpreadConstraints"]
        assert spread["labelSelector"]["matchLabels"] == group["template"]["metadata"]["labels"]
        claimed.append(volume["persistentVolumeClaim"]["claimName"])
    assert len(claimed) == 3, "three replicas need three brokers"
    assert sorted(claimed) == sorted(claim["metadata"]["name"] for claim in manifest["PersistentVolumeClaim"])


@pytest.mark.integration
def test_ray_accepts_cluster_yaml() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    validate_config(config)
    assert config["provider"]["type"] == "local"
    assert len(config["provider"]["worker_ips"]) == config["max_workers"] == 2
    for commands in (config["head_setup_commands"], config["worker_setup_commands"]):
        assert any("rayqueue-dist" in command for command in commands)
        assert any("mkdir -p ~/rayqueue-data" in command for command in commands)


@pytest.mark.integration
def test_ray_refuses_what_cluster_yaml_must_not_be() -> None:
    """The validation that the test above relies on does refuse a field that is wrong."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    with pytest.raises(jsonschema.ValidationError):
        validate_config({**config, "max_workers": "two"})
