"""Prometheus' own judge on the rules and their tests, and that dashboards and rules ask for metrics that there are."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from service_tools import find_program

ROOT = Path(__file__).resolve().parent.parent
PROMETHEUS = ROOT / "config/prometheus"
DASHBOARD = ROOT / "config/grafana/reefd.json"
PROMTOOL = find_program("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool (Debian's package prometheus) is not installed here")


def promtool(*words: str) -> None:
    assert PROMTOOL is not None
    done = subprocess.run([str(PROMTOOL), *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def expressions_of_rules() -> list[str]:
    rules = YAML(typ="safe", pure=True).load((PROMETHEUS / "reefd.rules.yml").read_text(encoding="utf-8"))
    return [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


def expressions_of_dashboard() -> Iterator[str]:
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        yield from (target["expr"].replace("$instance", ".*") for target in panel.get("targets", ()))


@needs_promtool
def test_alert_rules_pass_their_own_tests() -> None:
    promtool("check", "rules", str(PROMETHEUS / "reefd.rules.yml"))
    promtool("test", "rules", str(PROMETHEUS / "reefd.rules.test.yml"))


@needs_promtool
def test_prometheus_takes_the_settings_that_are_shipped() -> None:
    promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))


@needs_promtool
def test_every_panel_of_the_dashboard_asks_in_promql(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(expressions_of_dashboard())]
    assert len(rules) > 20
    (tmp_path / "panels.yml").write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")
    promtool("check", "rules", str(tmp_path / "panels.yml"))


def test_panels_do_not_overlap_and_say_their_unit_where_they_show_money_or_time() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        exprs = " ".join(target["expr"] for target in panel.get("targets", ()))
        if re.search(r"_usd\b", exprs):
            assert panel["fieldConfig"]["defaults"]["unit"] == "currencyUSD", panel["title"]


def test_compose_file_mounts_what_is_there() -> None:
    compose = YAML(typ="safe", pure=True).load((ROOT / "config/compose/compose.yaml").read_text(encoding="utf-8"))
    for name, service in compose["services"].items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / "config/compose" / source).is_file(), f"{name}: {source}"
            else:
                assert source in compose["volumes"], f"{name}: {source}"
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), f"{name} listens to the world"


def test_rules_and_dashboard_ask_for_metrics_that_are_documented() -> None:
    told = set(re.findall(r"`(reefd_\w+)[`{]", (ROOT / "docs/metrics.md").read_text(encoding="utf-8")))
    asked = {name for expr in (*expressions_of_rules(), *expressions_of_dashboard()) for name in re.findall(r"\breefd_\w+", expr)}
    assert len(asked) > 25
    unknown = {name for name in asked if name not in told and re.sub(r"_(bucket|total|count|sum)$", "", name) not in told}
    assert unknown == set()
