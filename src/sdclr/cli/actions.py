"""What each command does, and what it tells when it is done."""

import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from rich.console import Console

from sdclr.cli.apply import Apply, apply_command
from sdclr.cli.attributes import Attributes, attributes_command
from sdclr.cli.bar import is_first as _first
from sdclr.cli.bar import progress_bar as _progress
from sdclr.cli.bench import Bench, bench_command
from sdclr.cli.commands import (
    Command,
    Demo,
    Diagnose,
    Embed,
    Evaluate,
    Export,
    Mine,
    Neighbors,
    Pretrain,
    Report,
    Select,
)
from sdclr.cli.duplicates import Duplicates, duplicates_command
from sdclr.cli.finetune import Finetune, finetune_command
from sdclr.cli.labels import labelled_ids, spent, write_choice
from sdclr.cli.recipe import Recipe, print_recipe
from sdclr.cli.reproduce import Reproduce, reproduce_command
from sdclr.cli.told import found, pictureless, shown, tell_encoder
from sdclr.data.sources import open_source
from sdclr.data.subset import select
from sdclr.demo import mine_demo, run_demo
from sdclr.encoders import STRONGER
from sdclr.errors import InputError
from sdclr.evaluation.embed import embed
from sdclr.evaluation.evaluate import evaluate
from sdclr.evaluation.neighbors import neighbors
from sdclr.files import write_json
from sdclr.mining.choose import choose_to_label
from sdclr.mining.diagnose import diagnose
from sdclr.mining.mine import default_folder, mine_features, open_mined
from sdclr.mining.page import write_page
from sdclr.paper.numbers import Probe
from sdclr.paper.tables import tidy_table
from sdclr.reporting.page import report, run_report
from sdclr.reporting.tables import balance_table
from sdclr.training.defaults import starting_line
from sdclr.training.distributed import resolve_device
from sdclr.training.export import export
from sdclr.training.feed import default_workers
from sdclr.training.pretrain import pretrain
from sdclr.training.resolve import ResolvedEncoder, resolve_encoder


def perform(command: Command) -> None:
    """Carry out a command.

    Raises:
        InputError: What the command was given cannot be used.
    """
    console = Console(highlight=False, soft_wrap=True)
    _ACTIONS[type(command)](command, console)


def _pretrain(command: Pretrain, console: Console) -> None:
    source = select(open_source(command.images), command.subset)
    if command.config.start is not None and _first():
        console.print(starting_line(command.config), markup=False)
    run = pretrain(source, command.config, run=command.run, runtime=command.runtime)
    if _first():
        page = run_report(run, source)
        console.print(f"encoder: {run.path / 'encoder.safetensors'}\nreport:  {page}")


def _mine(command: Mine, console: Console) -> None:
    source, used = open_mined(command.images, command.encoder, image_size=command.config.image_size)
    folder = command.out or default_folder(source, used)
    device, workers = _machine(command)
    tell_encoder(used, source, device=device, workers=workers, amp=command.config.amp, console=console)
    with _progress("reading images") as told:
        scores, features, *_ = mine_features(
            source, command.config, encoder=used, out=folder, device=device, workers=workers, progress=told
        )
    console.print(f"scores:  {folder / 'scores.parquet'}", markup=False)
    if command.csv is not None:
        console.print(f"csv:     {scores.to_csv(command.csv)}", markup=False)
    if command.fiftyone is not None:
        console.print(f"fiftyone: {scores.to_fiftyone(command.fiftyone, source)}", markup=False)
    if command.page:
        with _progress("drawing thumbnails") as told:
            page = write_page(
                folder / "rarest.html",
                scores,
                source,
                thumbnails=command.thumbnails,
                images=command.page_images,
                features=features,
                encoder=used.encoder if isinstance(used, ResolvedEncoder) else None,
                workers=workers,
                progress=told,
            )
        console.print(f"page:    {page}", markup=False)
    for line in (*found(scores), *filter(None, [pictureless(source)])):
        console.print(line, markup=False)
    if isinstance(used, ResolvedEncoder) and command.encoder is None:
        console.print(f"For finer features, slower: --encoder {STRONGER}", markup=False)


def _select(command: Select, console: Console) -> None:
    device, workers = _machine(command)
    labelled = labelled_ids(command.labelled)
    source, used = open_mined(command.images, command.encoder)
    errors = Console(stderr=True, highlight=False, soft_wrap=True)  # ids go to standard output
    tell_encoder(used, source, device=device, workers=workers, amp="auto", console=errors)
    with _progress("reading images") as told:
        choice = choose_to_label(
            source,
            command.budget,
            encoder=used,
            method=command.method,
            labelled=labelled,
            out=command.folder,
            seed=command.seed,
            device=device,
            workers=workers,
            progress=told,
        )
    lines = [*spent(choice, command.method, labelled)]
    if command.out is None:
        _write_lines(choice.ids)
    else:
        write_choice(choice, command.out)
        lines.append(f"to label next: {command.out}")
    for line in lines:
        (errors if command.out is None else console).print(line, markup=False)


def _diagnose(command: Diagnose, console: Console) -> None:
    device, workers = _machine(command)
    source = open_source(command.images)
    used = resolve_encoder(command.encoder, source)
    tell_encoder(used, source, device=device, workers=workers, amp="none", console=console)
    with _progress("reading images") as told:
        diagnosis = diagnose(source, command.config, encoder=used, device=device, workers=workers, progress=told)
    file = command.out or (used.results or default_folder(source, used)) / "diagnosis.json"
    write_json(file, diagnosis.to_json())
    for sentence in diagnosis.summary:
        console.print(sentence, markup=False)
    console.print(f"written to {file}", markup=False)


def _embed(command: Embed, console: Console) -> None:
    device, workers = _machine(command)
    source = open_source(command.images)
    used = resolve_encoder(command.encoder, source, image_size=command.image_size)
    if _first():
        tell_encoder(used, source, device=device, workers=workers, amp=command.amp, console=console)
    with _progress("reading images") as told:
        rows, bad = embed(
            source,
            command.out,
            encoder=used,
            branch=command.branch,
            batch_size=command.batch_size,
            device=device,
            workers=workers,
            amp=command.amp,
            progress=told,
        )
    if _first():
        console.print(f"{rows} embeddings written to {command.out}; {len(bad)} images are unreadable", markup=False)


def _neighbors(command: Neighbors, console: Console) -> None:
    device, workers = _machine(command)
    found = neighbors(
        command.images,
        command.queries,
        command.k,
        encoder=command.encoder,
        metric=command.metric,
        device=device,
        workers=workers,
        amp="auto",
    )
    for image in found.bad:
        console.print(f"left out: {shown(image.id)}: {image.reason}", markup=False)
    if not found.rows:
        raise InputError("no query could be read: give ids of the images, or image files")
    if command.out is not None:
        console.print(f"{len(found.rows)} neighbors written to {found.write(command.out)}", markup=False)
        return
    _write_lines(f"{row.query}\t{row.rank}\t{row.id}\t{row.distance:.4f}" for row in found.rows)


def _evaluate(command: Evaluate, console: Console) -> None:
    device, workers = _machine(command)
    train = open_source(command.train)
    used = resolve_encoder(command.encoder, train)
    tell_encoder(used, train, device=device, workers=workers, amp="none", console=console)
    result = evaluate(
        train, command.test, command.config, encoder=used, out=command.out, device=device, workers=workers
    )
    scores = {"linear probe": result.linear, "few-shot probe": result.few_shot, "kNN": result.knn}
    console.print(balance_table({name: [score.balance] for name, score in scores.items()}).rich())
    folder = command.out or used.results
    where = f"written to {folder / f'{command.config.branch}.json'}" if folder else "not written: give --out FOLDER"
    console.print(where, markup=False)


def _export(command: Export, console: Console) -> None:
    written = export(command.encoder, command.folder, command.formats)
    for file in written.files:
        console.print(f"{written.folder / file}")
    for name, why in written.left_out.items():
        console.print(f"no {name}: {why}", markup=False)


def _report(command: Report, console: Console) -> None:
    probes: tuple[Probe, ...] = ("linear", "few_shot")
    tables = [] if command.results is None else [tidy_table(command.results, probe=probe) for probe in probes]
    page = report(command.runs, source=command.source, out=command.out, figures=command.figures, tables=tables)
    console.print(f"report: {page}")


def _demo(command: Demo, console: Console) -> None:
    if not command.train:
        with _progress("reading images") as told:
            scores, kinds, page = mine_demo(command.run, progress=told)
        for line in (*found(scores), *kinds, f"page: {page}"):
            console.print(line, markup=False)
        return
    tables, page = run_demo(command.run, splits=command.splits, console=console)
    for table in tables:
        console.print(table.rich())
    console.print(f"report: {page}")


_ACTIONS: Final[dict[type, Callable[[Any, Console], None]]] = {
    Pretrain: _pretrain,
    Mine: _mine,
    Select: _select,
    Apply: apply_command,
    Diagnose: _diagnose,
    Embed: _embed,
    Duplicates: duplicates_command,
    Neighbors: _neighbors,
    Evaluate: _evaluate,
    Report: _report,
    Export: _export,
    Attributes: attributes_command,
    Finetune: finetune_command,
    Reproduce: reproduce_command,
    Bench: bench_command,
    Recipe: print_recipe,
    Demo: _demo,
}


def _machine(command: Mine | Select | Diagnose | Embed | Neighbors | Evaluate) -> tuple[torch.device, int]:
    """Where a command computes, and how many processes decode for it."""
    return resolve_device(command.device), default_workers() if command.workers is None else command.workers


def _write_lines(lines: Iterable[str]) -> None:
    """Results for other programs, on standard output: ids to the byte, be they UTF-8 or not."""
    for line in lines:
        sys.stdout.buffer.write(line.encode("utf-8", "surrogateescape") + b"\n")
    sys.stdout.buffer.flush()
