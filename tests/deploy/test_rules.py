import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed; Prometheus brings it")


def promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_its_configuration_and_rules():
    promtool("check", "config", "deploy/prometheus/prometheus.yml")


def test_rules_and_alerts_do_what_they_promise():
    promtool("test", "rules", "tests/deploy/rules.test.yml")


def test_every_alert_has_fired_in_a_test():
    rules = yaml.safe_load((ROOT / "deploy/prometheus/rules/alerts.yml").read_text())["groups"]
    tests = yaml.safe_load((ROOT / "tests/deploy/rules.test.yml").read_text())["tests"]
    fired = {each["alertname"] for test in tests for each in test.get("alert_rule_test", ()) if each.get("exp_alerts")}
    assert fired == {rule["alert"] for group in rules for rule in group["rules"]}
