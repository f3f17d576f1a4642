"""Reports: nothing is lost on the way to a person, a program or CI."""

from datetime import UTC, datetime
from io import StringIO
from xml.etree import ElementTree

from rich.console import Console

from redoma_cli.conformance.check import Finding
from redoma_cli.conformance.report import as_json, as_junit, print_report
from redoma_cli.conformance.results import CheckResult, Outcome, Report


def result(outcome: Outcome, **changed: object) -> CheckResult:
    """A check's result."""
    values: dict[str, object] = {
        "id": f"check-{outcome}",
        "title": "A promise [with brackets]",
        "severity": "high",
        "why": "It matters.",
        "outcome": outcome,
        "reason": "" if outcome in (Outcome.PASSED, Outcome.FAILED) else f"reason of {outcome}",
        "findings": [],
        "left_out": [],
        "measured": {"time": "3 ms"},
        "tried": 4,
        "seconds": 1.5,
    }
    return CheckResult(**{**values, **changed})  # type: ignore[arg-type]


REPORT = Report(
    "http://edge",
    datetime(2026, 11, 20, tzinfo=UTC),
    6.0,
    (
        result(Outcome.PASSED, left_out=["users are not offered"]),
        result(Outcome.FAILED, findings=[Finding("a <probe> [x]", "good & well", "bad\x00")]),
        result(Outcome.SKIPPED),
        result(Outcome.ERROR),
    ),
    ("conformance-1",),
)


def test_text_says_what_was_expected_what_happened_and_why_it_matters() -> None:
    out = StringIO()
    print_report(REPORT, Console(file=out, width=200), marks=True)
    text = out.getvalue()
    for told in (
        "a <probe> [x]",
        "expected: good & well",
        "happened: bad",
        "why it matters: It matters.",
        "reason of skipped",
        "reason of error",
        "left out: users are not offered",
        "A promise [with brackets]",
        "1 passed, 1 failed, 1 skipped, 1 error",
        "conformance-1",
        "--clean",
    ):
        assert told in text


def test_json_has_all_of_it() -> None:
    told = as_json(REPORT, strict=False)
    assert told["conforms"] is False
    assert told["left_tenants"] == ["conformance-1"]
    checks = told["checks"]
    assert isinstance(checks, list)
    assert [check["outcome"] for check in checks] == ["passed", "failed", "skipped", "error"]
    assert checks[1]["findings"] == [{"probe": "a <probe> [x]", "expected": "good & well", "happened": "bad\x00"}]


def test_junit_is_well_formed_and_counts() -> None:
    suite = ElementTree.fromstring(as_junit(REPORT)).find("testsuite")
    assert suite is not None
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "4", "failures": "1", "errors": "1", "skipped": "1"}
    failure = suite.find("testcase[@name='check-failed']/failure")
    assert failure is not None
    assert "good & well" in (failure.text or "")
    skipped = suite.find("testcase[@name='check-skipped']/skipped")
    assert skipped is not None
    assert skipped.get("message") == "reason of skipped"
