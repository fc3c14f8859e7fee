"""Action of `sdclr report`."""

from rich.console import Console

from sdclr.cli.commands.report import Report
from sdclr.cli.talk import finish
from sdclr.paper.numbers import Probe
from sdclr.paper.tables import tidy_table
from sdclr.reporting.page import report


def run(command: Report, console: Console) -> None:
    """Write the report."""
    probes: tuple[Probe, ...] = ("linear", "few_shot")
    tables = [] if command.results is None else [tidy_table(command.results, probe=probe) for probe in probes]
    page = report(command.runs, source=command.source, out=command.out, figures=command.figures, tables=tables)
    console.print(f"report: {page}", markup=False)
    finish(console)
