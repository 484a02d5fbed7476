import re
from pathlib import Path

import pytest
import yaml

from app.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
COMPOSE = yaml.safe_load(FILE.read_text())
SERVICES = COMPOSE["services"]
# What the image and the port mapping decide.
FIXED = {"host", "port", "models_dir"}


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_confined(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"cpus", "mem_limit", "healthcheck", "restart", "logging"} <= service.keys()


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_nothing_but_the_service_is_reachable_from_elsewhere(name):
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name]["ports"])


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_what_is_mounted_is_there_and_read_only(name):
    mounts = [mount.split(":") for mount in SERVICES[name]["volumes"] if mount.startswith(".")]
    assert mounts
    for source, _, mode in mounts:
        assert (ROOT / source).is_dir()
        assert mode == "ro"


def test_each_starts_when_the_one_that_it_reads_is_healthy():
    assert SERVICES["prometheus"]["depends_on"] == {"understudy": {"condition": "service_healthy"}}
    assert SERVICES["grafana"]["depends_on"] == {"prometheus": {"condition": "service_healthy"}}


def test_every_setting_can_be_passed_to_the_service():
    assert SERVICES["understudy"]["environment"] == sorted(
        PREFIX + field.upper() for field in Settings.model_fields.keys() - FIXED
    )


def test_only_settings_of_the_service_bear_its_prefix():
    """The service refuses unknown names with its prefix, and reads the same .env as Compose."""
    used = set(re.findall(rf"\$\{{({PREFIX}\w+)", FILE.read_text()))
    assert used <= {PREFIX + field.upper() for field in Settings.model_fields}


def test_stopping_waits_for_what_was_admitted():
    drain_limit = Settings.model_fields["drain_limit_seconds"].default
    assert int(SERVICES["understudy"]["stop_grace_period"].removesuffix("s")) > drain_limit


def test_compose_1_29_can_read_it():
    assert "name" not in COMPOSE
    assert all("deploy" not in service for service in SERVICES.values())


def test_the_home_dashboard_is_one_that_is_mounted():
    grafana = SERVICES["grafana"]
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    sources = {target: ROOT / source for source, target, _ in (mount.split(":") for mount in grafana["volumes"])}
    assert (sources[str(home.parent)] / home.name).is_file()
    provider = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/understudy.yml").read_text())
    assert [entry["options"]["path"] for entry in provider["providers"]] == [str(home.parent)]
