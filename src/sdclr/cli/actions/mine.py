"""Action of `sdclr mine`."""

from typing import Final

from rich.console import Console

from sdclr.cli.commands.mine import Mine
from sdclr.cli.machine import machine
from sdclr.cli.mining_plan import tell_mining
from sdclr.cli.talk import finish, note, spelled
from sdclr.cli.told import found, pictureless
from sdclr.encoders import STRONGER
from sdclr.mining.mine import mine_features, open_mined
from sdclr.mining.page import write_page
from sdclr.mining.plan import default_folder
from sdclr.training.resolve import ResolvedEncoder

_LABELED: Final = 100
"""Budget of the suggested `sdclr select`, limited to half of all images."""


def run(command: Mine, console: Console) -> None:
    """Rank the images, write the scores and the page, and print a summary."""
    source, used = open_mined(command.images, command.encoder, image_size=command.config.image_size, out=command.out)
    folder = command.out or default_folder(source, used)
    device, workers = machine(command.device, command.workers)
    tell_mining(console, source, used, command.config, folder, device=device, workers=workers, out=folder)
    scores, features, *_ = mine_features(
        source, command.config, encoder=used, against=command.against, out=folder, device=device, workers=workers
    )
    console.print(f"scores:  {folder / 'scores.parquet'}", markup=False)
    if command.csv is not None:
        console.print(f"csv:     {scores.to_csv(command.csv)}", markup=False)
    if command.fiftyone is not None:
        console.print(f"fiftyone: {scores.to_fiftyone(command.fiftyone, source)}", markup=False)
    if command.page:
        page = write_page(
            folder / "rarest.html",
            scores,
            source,
            thumbnails=command.thumbnails,
            images=command.page_images,
            features=features,
            encoder=used.encoder if isinstance(used, ResolvedEncoder) else None,
            workers=workers,
        )
        console.print(f"page:    {page}", markup=False)
    elif (old := folder / "rarest.html").exists():
        note(console, f"page:    {old} shows an earlier ranking; the same command without --no-page writes it again")
    for line in (*found(scores), *filter(None, [pictureless(source)])):
        console.print(line, markup=False)
    if isinstance(used, ResolvedEncoder) and command.encoder is None:
        note(console, f"For finer features, slower: --encoder {STRONGER}")
    same = {"encoder": command.encoder, "folder": command.out}
    budget = min(_LABELED, (len(scores) - len(scores.bad)) // 2)
    finish(
        console,
        spelled("select", command.images, budget=budget, out="next.csv", **same) if budget else None,
        spelled("duplicates", command.images, marks="marks.csv", **same) if scores.duplicates else None,
        spelled("diagnose", command.images, **same) if _is_network(command, used) else None,
    )


def _is_network(command: Mine, used: object) -> bool:
    """Whether the same encoder can be given to commands that do not take embeddings or an image size."""
    return isinstance(used, ResolvedEncoder) and command.config.image_size is None
