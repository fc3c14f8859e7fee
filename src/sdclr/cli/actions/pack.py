"""Action of `sdclr pack`."""

from rich.console import Console
from rich.filesize import decimal

from sdclr.cli.commands.pack import Pack
from sdclr.cli.plan import tell_images, tell_output
from sdclr.cli.talk import finish, spelled
from sdclr.data.pack import pack
from sdclr.data.sources import open_source
from sdclr.visible import counted


def run(command: Pack, console: Console) -> None:
    """Write the shards."""
    source = open_source(command.images)
    tell_images(source, console)
    tell_output(console, command.out)
    done = pack(
        source,
        command.out,
        shard_images=command.shard_images,
        shard_gb=command.shard_gb,
        shuffle=command.shuffle,
        shorter_side=command.shorter_side,
    )
    left_out = f"; {done.bad:,} left out, listed in {command.out / 'bad_images.csv'}" if done.bad else ""
    line = f"packed: {counted(done.images)} in {counted(done.shards, 'shard')}, {decimal(done.bytes)}{left_out}"
    console.print(line, markup=False)
    shards = f"wds:{command.out}"
    finish(console, spelled("info", shards) + " --decode --no-measure", spelled("mine", shards))
