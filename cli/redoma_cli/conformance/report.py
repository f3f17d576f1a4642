"""A run's report for people, for programs and for CI."""

from xml.etree import ElementTree

from rich.console import Console
from rich.markup import escape

from redoma_cli.conformance.results import CheckResult, Outcome, Report

SHOWN_FINDINGS = 8
MARKS = {
    Outcome.PASSED: "[green]✓ passed[/] ",
    Outcome.FAILED: "[bold red]✗ FAILED[/] ",
    Outcome.SKIPPED: "[yellow]- skipped[/]",
    Outcome.ERROR: "[bold red]! ERROR[/]  ",
}


def mark_line(result: CheckResult) -> str:
    """Gives the one line that tells of a check, as rich markup."""
    return f"{MARKS[result.outcome]} {result.id:<22} {escape(result.title)} [dim]({result.seconds:.1f} s)[/]"


def print_report(report: Report, console: Console, *, marks: bool) -> None:
    """Prints what a person reads; `marks` says whether the line of each check is to be printed, too."""
    for result in report.results:
        if marks:
            console.print(mark_line(result))
        _print_details(result, console)
    counted = ", ".join(f"{report.count(outcome)} {outcome}" for outcome in Outcome if report.count(outcome))
    console.print(f"\n{report.edge}: {counted}, in {report.seconds:.0f} s.")
    if report.left_tenants:
        console.print(f"Throw-away tenants that are left: {', '.join(report.left_tenants)}")
        console.print("Delete them with: redoma conformance --clean")


def _print_details(result: CheckResult, console: Console) -> None:
    if result.reason or result.findings or result.left_out:
        console.print(f"\n[bold]{result.id}[/] [dim]({result.severity})[/]")
    if result.reason:
        console.print(f"  {result.outcome}: {escape(result.reason)}")
    if result.findings:
        console.print(f"  why it matters: {escape(result.why)}")
    for finding in result.findings[:SHOWN_FINDINGS]:
        console.print(f"  [red]•[/] {escape(finding.probe)}")
        console.print(f"      expected: {escape(finding.expected)}")
        console.print(f"      happened: {escape(finding.happened)}")
    if len(result.findings) > SHOWN_FINDINGS:
        console.print(f"    and {len(result.findings) - SHOWN_FINDINGS} more; --json has all of them")
    for reason in result.left_out:
        console.print(f"  [yellow]left out:[/] {escape(reason)}")
    if result.findings:
        for name, value in result.measured.items():
            console.print(f"  [dim]{escape(name)}: {escape(value)}[/]")


def as_json(report: Report, *, strict: bool) -> dict[str, object]:
    """Gives the report as plain values for JSON."""
    return {
        "edge": report.edge,
        "start_time": report.start_time.isoformat(),
        "seconds": round(report.seconds, 3),
        "conforms": report.conforms(strict=strict),
        "left_tenants": list(report.left_tenants),
        "checks": [_check_as_json(result) for result in report.results],
    }


def _check_as_json(result: CheckResult) -> dict[str, object]:
    return {
        "id": result.id,
        "title": result.title,
        "severity": result.severity,
        "why": result.why,
        "outcome": result.outcome.value,
        "reason": result.reason,
        "probes": result.tried,
        "findings": [
            {"probe": finding.probe, "expected": finding.expected, "happened": finding.happened}
            for finding in result.findings
        ],
        "left_out": list(result.left_out),
        "measured": dict(result.measured),
        "seconds": round(result.seconds, 3),
    }


def as_junit(report: Report) -> bytes:
    """Gives the report as a JUnit XML file."""
    suite = ElementTree.Element(
        "testsuite",
        name="redoma conformance",
        hostname=report.edge,
        timestamp=report.start_time.replace(tzinfo=None).isoformat(timespec="seconds"),
        time=f"{report.seconds:.3f}",
        tests=str(len(report.results)),
        failures=str(report.count(Outcome.FAILED)),
        errors=str(report.count(Outcome.ERROR)),
        skipped=str(report.count(Outcome.SKIPPED)),
    )
    for result in report.results:
        _add_case(suite, result)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _add_case(suite: ElementTree.Element, result: CheckResult) -> None:
    case = ElementTree.SubElement(
        suite, "testcase", classname=f"conformance.{result.severity}", name=result.id, time=f"{result.seconds:.3f}"
    )
    if result.outcome is Outcome.FAILED:
        told = [f"{each.probe}\n  expected: {each.expected}\n  happened: {each.happened}" for each in result.findings]
        ElementTree.SubElement(case, "failure", message=_printable(result.title)).text = _printable(
            "\n".join((result.why, *told))
        )
    elif result.outcome is Outcome.ERROR:
        ElementTree.SubElement(case, "error", message=_printable(result.reason))
    elif result.outcome is Outcome.SKIPPED:
        ElementTree.SubElement(case, "skipped", message=_printable(result.reason))
    notes = [f"{name}: {value}" for name, value in result.measured.items()]
    notes += [f"left out: {reason}" for reason in result.left_out]
    ElementTree.SubElement(case, "system-out").text = _printable("\n".join((*notes, f"probes: {result.tried}")))


def _printable(text: str) -> str:
    """Leaves out what XML can't hold."""
    return "".join(char for char in text if char.isprintable() or char == "\n")
