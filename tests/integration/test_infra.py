"""The recipes of infra/: every one is what its tool accepts, asks for authentication, and names settings that exist."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

INFRA = Path(__file__).parents[2] / "infra"
COMPOSE = INFRA / "containers/compose.yaml"
ENVIRONMENT = INFRA / "containers/env.example"
UNITS = sorted((INFRA / "systemd").glob("*.service"))
MANIFESTS = sorted((INFRA / "kubernetes").glob("*.yaml"))
BIN = Path(sys.executable).parent


def documents() -> Iterator[dict[str, Any]]:
    for path in MANIFESTS:
        yield from yaml.safe_load_all(path.read_text())


def compose(environment: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = ["docker-compose", "--file", str(COMPOSE), "--env-file", str(environment), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"})


def test_compose_accepts_the_file_and_every_secret_is_asked_for(tmp_path: Path) -> None:
    accepted = compose(ENVIRONMENT, "config")
    assert accepted.returncode == 0, accepted.stderr
    secrets = [line.partition("=")[0] for line in ENVIRONMENT.read_text().splitlines() if "change-me" in line]
    assert len(secrets) == 4
    for secret in secrets:
        lacking = tmp_path / "lacking"
        lacking.write_text(re.sub(f"^{secret}=.*$", "", ENVIRONMENT.read_text(), flags=re.MULTILINE))
        refused = compose(lacking, "config")
        assert refused.returncode != 0
        assert secret in refused.stderr


def test_the_container_file_has_no_findings() -> None:
    found = subprocess.run(
        [BIN / "hadolint", INFRA / "containers/Containerfile"], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_accepts_the_unit(unit: Path, tmp_path: Path) -> None:
    """Its programs are those of this environment, as they would be below /opt/coreimage."""
    text = unit.read_text().replace("/opt/coreimage/.venv/bin", str(BIN))
    text = text.replace("User=coreimage", "User=root")
    instance = tmp_path / unit.name.replace("@", "@build")
    instance.write_text(text)
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", instance],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stderr) == (0, "")


def test_units_name_the_files_of_the_examples() -> None:
    named = {name for unit in UNITS for name in re.findall(r"EnvironmentFile=-?/etc/coreimage/(\S+)", unit.read_text())}
    examples = {path.name.removesuffix(".example") for path in (INFRA / "systemd").glob("*.env.example")}
    assert {"signing.env" if name == "%i.env" else name for name in named} == examples


@pytest.mark.parametrize("document", [*documents()], ids=lambda found: f"{found['kind']}-{found['metadata']['name']}")
def test_kubernetes_schema_accepts_the_manifest(document: dict[str, Any]) -> None:
    assert kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_every_server_asks_for_authentication_and_every_worker_has_it() -> None:
    services = yaml.safe_load(compose(ENVIRONMENT, "config").stdout)["services"]
    servers = {name: service for name, service in services.items() if "server" in service.get("command", [])}
    workers = {name: service for name, service in services.items() if "worker" in service.get("command", [])}
    assert set(servers) == {"migrate", "prefect", "prefect-services"}
    assert all(service["environment"]["PREFECT_SERVER_API_AUTH_STRING"] for service in servers.values())
    assert all(service["environment"]["PREFECT_API_AUTH_STRING"] for service in workers.values())
    assert "PREFECT_SERVER_API_AUTH_STRING=" in (INFRA / "systemd/server.env.example").read_text()
    assert "PREFECT_API_AUTH_STRING=" in (INFRA / "systemd/worker.env.example").read_text()
    for name, template in pods().items():
        if template["spec"]["containers"][0]["image"].startswith("coreimage:"):
            secret = "coreimage-worker" if name.startswith("worker") else "coreimage-server"
            assert {"secretRef": {"name": secret}} in template["spec"]["containers"][0]["envFrom"]


def test_only_the_worker_that_signs_has_the_keys() -> None:
    services = yaml.safe_load(compose(ENVIRONMENT, "config").stdout)["services"]
    with_keys = {name for name, service in services.items() if "COREIMAGE_KEYS" in service.get("environment", {})}
    assert with_keys == {"worker-signing"}
    assert {name for name, service in services.items() if "keys" in str(service.get("volumes", []))} == with_keys
    assert {name for name, template in pods().items() if "signing-keys" in str(template)} == with_keys
    units = {path.name for path in (INFRA / "systemd").glob("*.example") if "COREIMAGE_KEYS=" in path.read_text()}
    assert units == {"signing.env.example"}


def pods() -> dict[str, dict[str, Any]]:
    """Pod templates by the name of what makes them."""
    made = [document for document in documents() if "template" in document.get("spec", {})]
    return {document["metadata"]["name"]: document["spec"]["template"] for document in made}


def test_every_setting_is_one_that_prefect_knows() -> None:
    from prefect.settings import Settings  # noqa: PLC0415
    from prefect.settings.legacy import _get_settings_fields  # noqa: PLC0415

    text = "\n".join(path.read_text() for path in INFRA.rglob("*") if path.is_file())
    named = set(re.findall(r"\bPREFECT_[A-Z0-9_]+", text))
    known = set(_get_settings_fields(Settings))
    assert named - known - {"PREFECT_AUTH", "PREFECT_REDIS_MESSAGING_URL", "PREFECT_"} == set()
    for module in set(re.findall(r"prefect_redis\.\w+", text)):
        import_module(module)
