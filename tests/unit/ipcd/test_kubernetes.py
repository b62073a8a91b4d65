"""packaging/kubernetes: the manifests are YAML, and what they say to ipcd and ipcctl is what those understand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ipcd_client.cli import failures
from ipcd_client.cli.program import run

from ipcd import cli, config

FOLDER = Path(__file__).parents[3] / "packaging" / "kubernetes"
IMAGE = Path(__file__).parents[3] / "docker" / "Dockerfile"
# What the API server puts in the place of a fieldRef.
FIELDS = {"spec.nodeName": "host3", "status.hostIP": "10.0.0.3"}

pytestmark = pytest.mark.skipif(
    not FOLDER.exists(), reason="the manifests are not where the tests are, as when an installed wheel is tested"
)


def documents() -> list[Any]:
    return [each for file in sorted(FOLDER.glob("*.yaml")) for each in yaml.safe_load_all(file.read_text())]


def pods() -> list[Any]:
    return [each["spec"]["template"]["spec"] for each in documents() if "template" in each.get("spec", {})]


def containers() -> Iterator[tuple[Any, Any]]:
    """Each container, with its pod."""
    for pod in pods():
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            yield pod, container


def environment(container: Any) -> dict[str, str]:
    return {
        each["name"]: each.get("value") or FIELDS[each["valueFrom"]["fieldRef"]["fieldPath"]]
        for each in container.get("env", [])
    }


def test_there_is_what_the_documents_tell_of() -> None:
    assert [each["kind"] for each in documents()] == ["Namespace", "Service", "DaemonSet", "Deployment"]


def test_the_daemon_takes_its_settings() -> None:
    (container,) = [each for _, each in containers() if each["command"][:2] == ["ipcd", "run"]]
    context = cli.main.commands["run"].make_context("ipcd run", list(container["command"][2:]))
    flags = {key: value for key, value in context.params.items() if value is not None and value != ()}
    loaded = config.load(flags, environ=environment(container))
    assert (loaded.node, loaded.advertise, loaded.listen) == ("host3", "10.0.0.3", "0.0.0.0:7319")
    assert set(environment(container)) <= set(config.VARIABLES.values())
    assert [each["containerPort"] for each in container["ports"]] == [7319]
    (service,) = [each for each in documents() if each["kind"] == "Service"]
    name = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc.cluster.local"
    assert loaded.peers == (f"{name}:{service['spec']['ports'][0]['port']}",)


def test_probes_are_commands_of_ipcctl(tmp_path: Path) -> None:
    probes = [
        probe["exec"]["command"]
        for _, container in containers()
        for name, probe in container.items()
        if name.endswith("Probe")
    ]
    assert len(probes) == 4
    for probe in probes:
        assert probe[0] == "ipcctl"
        assert run([*probe[1:], "-s", str(tmp_path / "none.sock")]) == failures.NO_DAEMON


def test_all_are_one_user_and_share_one_directory() -> None:
    users, folders = set(), set()
    for pod, container in containers():
        context = pod.get("securityContext", {}) | container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"]["drop"] == ["ALL"]
        if context["runAsUser"]:
            users.add(context["runAsUser"])
        folders |= {mount["mountPath"] for mount in container["volumeMounts"]}
        folders |= {volume["hostPath"]["path"] for volume in pod["volumes"]}
        folders |= {str(Path(value).parent) for key, value in environment(container).items() if key == "IPCD_SOCKET"}
    (user,) = users
    assert folders == {"/run/ipcd"}
    assert f"--uid {user} " in IMAGE.read_text()
