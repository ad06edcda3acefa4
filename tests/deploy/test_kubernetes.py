"""config/kubernetes: valid by Kubernetes' own schemas, and true about the image and the proxy."""

from __future__ import annotations

import ipaddress
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

from canaryproxy import __version__, config
from canaryproxy.admin import openapi
from canaryproxy.cli import command_named
from canaryproxy.config import Config, TcpAddress
from canaryproxy.runtime import context
from tests.deploy.dockerfile import ROOT, stages

FOLDER = ROOT / "config" / "kubernetes"
NAMES = ("edge", "sidecar", "example", "fleet")
OLDEST, NEWEST = "1.30", "1.37"
"""Of Kubernetes; preStop.sleep is on by default since the first."""
OURS = "canaryproxy"
REDIS = "canaryproxy-redis"

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What kubectl would apply, for each folder."""
    folder = tmp_path_factory.mktemp("kubernetes")
    shutil.copytree(FOLDER, folder, dirs_exist_ok=True)
    (folder / "example" / "token").write_text("bm90IGEgdG9rZW4gZm9yIHlvdQ\n")
    found = {}
    for name in NAMES:
        done = subprocess.run(
            ["kubectl", "kustomize", folder / name], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert not done.stderr, done.stderr
        found[name] = list(yaml.safe_load_all(done.stdout))
    return found


@pytest.fixture(params=NAMES)
def objects(
    request: pytest.FixtureRequest, built: dict[str, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    return built[request.param]


def of(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [one for one in objects if one["kind"] == kind]


def our(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The only one of its kind, Redis' own apart."""
    (found,) = (one for one in of(objects, kind) if one["metadata"]["name"] != REDIS)
    return found


def pods(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for one in objects:
        if one["kind"] in ("Deployment", "StatefulSet"):
            yield one["spec"]["template"]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def proxies(objects: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each pod with a proxy, and that container."""
    return [
        (pod, container)
        for pod in pods(objects)
        for container in containers(pod)
        if container["name"] == OURS
    ]


def configuration(objects: list[dict[str, Any]]) -> Config:
    (found,) = of(objects, "ConfigMap")
    ((name, text),) = found["data"].items()
    assert name == "canaryproxy.yaml"
    return config.parse(text, file=name)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_takes_them(objects: list[dict[str, Any]], version: str) -> None:
    for one in objects:
        if one["kind"] != "PodMonitor":  # not of Kubernetes
            kubernetes_validate.validate(one, version, strict=True)


def test_the_schemas_do_refuse(built: dict[str, list[dict[str, Any]]]) -> None:
    (one,) = of(built["edge"], "StatefulSet")
    one = {**one, "spec": {**one["spec"], "replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate(one, NEWEST, strict=True)


def test_the_pod_monitor_names_what_is_there(built: dict[str, list[dict[str, Any]]]) -> None:
    (monitor,) = of(built["example"], "PodMonitor")
    ((pod, container),) = proxies(built["example"])
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= pod["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in container["ports"]}
    assert endpoint["path"] == "/metrics"
    assert 'job="canaryproxy"' in (ROOT / "config" / "alerts.yml").read_text()
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": "canaryproxy"}]


def test_the_configurations_are_valid_and_safe(objects: list[dict[str, Any]]) -> None:
    found = configuration(objects)
    assert not config.warnings(found)
    assert found.reload.watch
    assert found.variants.canary is not None


def test_the_proxy_runs_as_the_image_has_it(objects: list[dict[str, Any]]) -> None:
    image = {line.name: line.value for line in stages()[1]}
    ((pod, container),) = proxies(objects)
    assert "command" not in container  # the image's ENTRYPOINT
    command, *arguments = container["args"]
    options = {name for option in command_named(command).params for name in option.opts}
    assert {one for one in arguments if one.startswith("-")} <= options
    security = pod["spec"]["securityContext"] | container["securityContext"]
    assert f"{security['runAsUser']}:{security['runAsGroup']}" == image["USER"]
    assert security["runAsNonRoot"]
    assert f"{security['fsGroup']}" == image["USER"].split(":")[1]


def test_the_proxy_finds_and_may_write_its_files(objects: list[dict[str, Any]]) -> None:
    found = configuration(objects)
    ((pod, container),) = proxies(objects)
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    claims = {
        claim["metadata"]["name"]
        for one in of(objects, "StatefulSet")
        for claim in one["spec"]["volumeClaimTemplates"]
    }
    assert {mount["name"] for mount in mounts.values()} <= volumes.keys() | claims

    assert found.admin.socket is not None
    assert found.admin.token_file is not None
    for path, readable_only in (
        (container["args"][2], True),
        (found.admin.token_file, True),
        (found.admin.socket, False),
        (found.state, False),
    ):
        mount = mounts[str(Path(path).parent)]
        assert mount.get("readOnly", False) is readable_only, path
        assert "subPath" not in mount  # those never change
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert environment["CANARYPROXY_ADMIN"] == found.admin.socket
    (map_,) = of(objects, "ConfigMap")
    mounted = volumes[mounts[str(Path(container["args"][2]).parent)]["name"]]
    assert mounted["configMap"]["name"] == map_["metadata"]["name"]
    assert Path(container["args"][2]).name in map_["data"]
    secret = volumes[mounts[str(Path(found.admin.token_file).parent)]["name"]]["secret"]
    assert secret["optional"]
    for one in of(objects, "Secret"):
        assert one["metadata"]["name"] == secret["secretName"]
        assert Path(found.admin.token_file).name in one["data"]


def test_ports_and_probes_are_those_of_the_configuration(objects: list[dict[str, Any]]) -> None:
    found = configuration(objects)
    ((_, container),) = proxies(objects)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert found.admin.listen is not None
    assert ports["admin"] == found.admin.listen.port
    assert ipaddress.ip_address(
        found.admin.listen.host
    ).is_unspecified  # kubelet comes from outside
    (address,) = (one.address for one in found.listen)
    assert isinstance(address, TcpAddress)
    if "http" in ports:
        assert ports["http"] == address.port
        assert ipaddress.ip_address(address.host).is_unspecified
    else:  # a sidecar is for its own pod alone
        assert ipaddress.ip_address(address.host).is_loopback
    paths = openapi.description()["paths"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["path"] in paths
        assert asked["port"] in ports


def test_there_is_time_to_drain(objects: list[dict[str, Any]]) -> None:
    ((pod, container),) = proxies(objects)
    drain = configuration(objects).limits.drain_timeout
    before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    after = context.CHILD_GRACE + context.CONTROL_GRACE
    assert pod["spec"]["terminationGracePeriodSeconds"] >= before + drain + after


def test_every_container_is_confined(objects: list[dict[str, Any]]) -> None:
    for pod in pods(objects):
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(pod):
            security = pod["spec"]["securityContext"] | container["securityContext"]
            assert security["runAsNonRoot"]
            assert security["runAsUser"] >= 10000
            assert security["readOnlyRootFilesystem"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


def test_selectors_find_the_pods_they_mean(objects: list[dict[str, Any]]) -> None:
    labels = [pod["metadata"]["labels"] for pod in pods(objects)]

    def selects(selector: dict[str, str]) -> list[dict[str, str]]:
        assert selector
        return [one for one in labels if selector.items() <= one.items()]

    ((pod, _),) = proxies(objects)
    ours = pod["metadata"]["labels"]
    for one in objects:
        if one["kind"] in ("StatefulSet", "Deployment"):
            selected = selects(one["spec"]["selector"]["matchLabels"])
            assert selected == [one["spec"]["template"]["metadata"]["labels"]]
    for kind in ("NetworkPolicy", "PodDisruptionBudget"):
        one = our(objects, kind)
        name = "podSelector" if kind == "NetworkPolicy" else "selector"
        assert selects(one["spec"][name]["matchLabels"]) == [ours]
    ports = {port["name"] for one in containers(pod) for port in one["ports"]}
    for service in of(objects, "Service"):
        if service["metadata"]["name"] in ("cart", "canaryproxy-pods"):
            assert selects(service["spec"]["selector"]) == [ours]
            assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    policy = our(objects, "NetworkPolicy")
    allowed = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
    assert allowed <= ports


def test_the_policy_lets_the_proxy_reach_its_upstreams(
    built: dict[str, list[dict[str, Any]]],
) -> None:
    for objects in built.values():
        found = configuration(objects)
        policy = our(objects, "NetworkPolicy")
        out = policy["spec"]["egress"]
        assert found.variants.canary is not None
        for variant in (found.variants.stable, found.variants.canary):
            for endpoint in variant.endpoints:
                assert any(
                    endpoint.port in {port["port"] for port in rule["ports"]} for rule in out
                )
        assert out[0]["to"] == [{"podSelector": {"matchLabels": {"app": "cart"}}}]
    # And in the example the upstreams are there.
    example = built["example"]
    services = {one["metadata"]["name"]: one["spec"] for one in of(example, "Service")}
    found = configuration(example)
    assert found.variants.canary is not None
    for variant in (found.variants.stable, found.variants.canary):
        for endpoint in variant.endpoints:
            service = services[endpoint.host]
            assert service["ports"][0]["port"] == endpoint.port
            (pod,) = [
                pod
                for pod in pods(example)
                if service["selector"].items() <= pod["metadata"]["labels"].items()
            ]
            assert pod["metadata"]["labels"]["app"] == "cart"
            (container,) = containers(pod)
            assert container["command"][-1] == "canaryproxy.demo.service"
            assert container["args"][1] == str(endpoint.port)


def test_the_fleet_finds_its_redis(built: dict[str, list[dict[str, Any]]]) -> None:
    objects = built["fleet"]
    settings = configuration(objects).fleet
    assert settings is not None
    url = urlsplit(settings.redis)
    (service,) = (one for one in of(objects, "Service") if one["metadata"]["name"] == url.hostname)
    assert service["spec"]["ports"][0]["port"] == url.port
    (pod,) = (
        pod
        for pod in pods(objects)
        if service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    )
    (redis,) = containers(pod)
    secret = redis["env"][0]["valueFrom"]["secretKeyRef"]
    # The proxies have the same password, and both policies let them talk.
    ((proxy, container),) = proxies(objects)
    assert settings.password_file is not None
    path = Path(settings.password_file)
    assert path.name == secret["key"]
    (mount,) = (m for m in container["volumeMounts"] if m["mountPath"] == str(path.parent))
    (volume,) = (v for v in proxy["spec"]["volumes"] if v["name"] == mount["name"])
    assert volume["secret"]["secretName"] == secret["name"]
    out = our(objects, "NetworkPolicy")["spec"]["egress"]
    to = {"podSelector": {"matchLabels": pod["metadata"]["labels"]}}
    assert any(rule["to"] == [to] and rule["ports"][0]["port"] == url.port for rule in out)
    (policy,) = (p for p in of(objects, "NetworkPolicy") if p["metadata"]["name"] == REDIS)
    (rule,) = policy["spec"]["ingress"]
    chosen = rule["from"][0]["podSelector"]["matchLabels"]
    assert chosen.items() <= proxy["metadata"]["labels"].items()
    # It takes no writes rather than to lose some, and its options are those of a real one.
    assert redis["args"][redis["args"].index("--maxmemory-policy") + 1] == "noeviction"


def test_the_examples_images_are_one_of_this_version(
    built: dict[str, list[dict[str, Any]]],
) -> None:
    for pod in pods(built["example"]):
        for container in containers(pod):
            assert container["image"] == f"registry.example.com/canaryproxy:{__version__}"
