"""`sdclr mine`: what it does."""

from rich.console import Console

from sdclr.cli.bar import progress_bar
from sdclr.cli.commands.mine import Mine
from sdclr.cli.machine import machine
from sdclr.cli.told import found, pictureless, tell_encoder
from sdclr.encoders import STRONGER
from sdclr.mining.mine import default_folder, mine_features, open_mined
from sdclr.mining.page import write_page
from sdclr.training.resolve import ResolvedEncoder


def run(command: Mine, console: Console) -> None:
    """Rank the images, write the scores and the page, and print a summary."""
    source, used = open_mined(command.images, command.encoder, image_size=command.config.image_size)
    folder = command.out or default_folder(source, used)
    device, workers = machine(command.device, command.workers)
    tell_encoder(used, source, device=device, workers=workers, amp=command.config.amp, console=console)
    with progress_bar("reading images") as told:
        scores, features, *_ = mine_features(
            source, command.config, encoder=used, out=folder, device=device, workers=workers, progress=told
        )
    console.print(f"scores:  {folder / 'scores.parquet'}", markup=False)
    if command.csv is not None:
        console.print(f"csv:     {scores.to_csv(command.csv)}", markup=False)
    if command.fiftyone is not None:
        console.print(f"fiftyone: {scores.to_fiftyone(command.fiftyone, source)}", markup=False)
    if command.page:
        with progress_bar("drawing thumbnails") as told:
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
