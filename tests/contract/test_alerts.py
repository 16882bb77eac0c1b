"""The alerts, judged by Prometheus' own promtool."""

import copy
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.contract

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"
GROUPS = yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"]
TESTS = yaml.safe_load((FOLDER / "rules_test.yaml").read_text())
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = [rule["alert"] for rule in RULES]


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    tool = shutil.which("promtool")
    assert tool is not None, "promtool is missing: install the package prometheus (apt-get install prometheus)"
    return subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=60, check=False)


def judge(folder: Path, alert: str, expression: str) -> subprocess.CompletedProcess[str]:
    """What the unit tests of that alert say when its expression is this one. All of the others' would take seven times
    as long, and cannot tell."""
    rules, tests = [copy.deepcopy(rule) for rule in RULES if rule["alert"] == alert], copy.deepcopy(TESTS)
    assert len(rules) == 1
    rules[0]["expr"] = expression
    for test in tests["tests"]:
        test["alert_rule_test"] = [one for one in test["alert_rule_test"] if one["alertname"] == alert]
    tests["tests"] = [test for test in tests["tests"] if test["alert_rule_test"]]
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": alert, "rules": rules}]}))
    (folder / "rules_test.yaml").write_text(yaml.safe_dump(tests))
    return promtool("test", "rules", folder / "rules_test.yaml")


def test_promtool_accepts_the_rules_and_every_alert_fires_and_stays_silent_as_written_down() -> None:
    checked = promtool("check", "rules", FOLDER / "rules.yaml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    result = promtool("test", "rules", FOLDER / "rules_test.yaml")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("alert", ALERTS)
@pytest.mark.parametrize("broken", ["vector(0) > 1", "vector(1)"], ids=["never fires", "always fires"])
def test_the_unit_tests_of_the_rules_notice_a_broken_expression(tmp_path: Path, alert: str, broken: str) -> None:
    result = judge(tmp_path, alert, broken)
    assert (result.returncode, "FAILED" in result.stderr) == (1, True), result.stdout + result.stderr


@pytest.mark.parametrize(
    ("alert", "condition", "weaker"),
    [
        ("LvsVrrpTransition", "== 1) > 1", "== 1) > 0"),  # fires at the first election too
        ("LvsNoActive", "unless on", "and on"),
        ("LvsNoActive", " == 0\n", " > 5\n"),
        ("LvsNoBackends", '{state="ready"}', ""),
        ("LvsNoBackends", "lvs_virtualservice_active == 1", "lvs_virtualservice_active >= 0"),
        ("LvsKubeStale", "lvs_kube_connected == 0", "lvs_kube_connected >= 0"),
        ("LvsKubeStale", "> 300", "> 0"),
        ("LvsVrrpFlapping", "> 3", "> 1"),
        ("LvsChecksDown", "> 0", ">= 0"),  # nothing is to be asked
    ],
)
def test_the_unit_tests_notice_a_weaker_condition(tmp_path: Path, alert: str, condition: str, weaker: str) -> None:
    (rule,) = [rule for rule in RULES if rule["alert"] == alert]
    assert condition in rule["expr"]
    assert judge(tmp_path, alert, rule["expr"]).returncode == 0
    result = judge(tmp_path, alert, rule["expr"].replace(condition, weaker))
    assert (result.returncode, "FAILED" in result.stderr) == (1, True), result.stdout + result.stderr


def test_the_prometheusrule_holds_the_same_groups_as_the_plain_file() -> None:
    wrapped = yaml.safe_load((FOLDER / "prometheusrule.yaml").read_text())
    assert wrapped["kind"] == "PrometheusRule"
    assert wrapped["spec"] == {"groups": GROUPS}


def test_every_alert_says_how_bad_it_is_and_what_to_look_at() -> None:
    for rule in (rule for group in GROUPS for rule in group["rules"]):
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}, rule["alert"]
        assert rule["annotations"]["summary"], rule["alert"]
        assert len(rule["annotations"]["description"]) > 60, rule["alert"]


def test_the_alerts_use_only_metrics_labels_and_states_that_operator_and_agents_have() -> None:
    root = FOLDER.parents[1]
    exported = "\n".join(
        (root / path).read_text()
        for path in (
            *("nodeagent/lvsagent/adapters/metrics.py", "nodeagent/lvsagent/adapters/metrics_health.py"),
            "nodeagent/lvsagent/adapters/metrics_checks.py",
            "operator/lvsoperator/adapters/metrics.py",
        )
    )
    expressions = "\n".join(rule["expr"] for group in GROUPS for rule in group["rules"])
    for name in set(re.findall(r"lvs_[a-z_]+", expressions)):
        assert f'"{name.removesuffix("_total")}"' in exported, name
    labels = {label for matcher in re.findall(r"{([^}]*)}", expressions) for label in re.findall(r"(\w+)=", matcher)}
    labels |= {word for clause in re.findall(r"\b(?:by|on) \(([^)]*)\)", expressions) for word in clause.split(", ")}
    from_scrape = {"node", "instance"}
    for label in labels - from_scrape:
        # the agent builds its first labels from a list named once: names = ["namespace", "virtualservice"]
        assert f'"{label}"' in exported, label
    packet_states = (root / "nodeagent/lvsagent/vrrp/events.py").read_text()
    for state in set(re.findall(r'(?:state|from|to)="([A-Z]\w+)"', expressions)):
        assert f'"{state}"' in packet_states, state
