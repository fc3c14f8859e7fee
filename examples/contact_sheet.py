"""Shows what the two-view augmentation makes of your images: each row is an image and eight views of it.

Run:

    python examples/contact_sheet.py --out views.png                     # scikit-learn's digits
    python examples/contact_sheet.py path/to/images --out views.png      # a folder, a manifest, a parquet set
    python examples/contact_sheet.py path/to/cifar10 --size 32 --zoom 3  # docs/images/views.png
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from sdclr.data.sources import Source, open_source
from sdclr.errors import BadImageError, InputError
from sdclr.views.config import ViewConfig
from sdclr.views.parameters import draw_views
from sdclr.views.render_cv import render_cv

GAP = 2
PAPER = (255, 255, 255)


def contact_sheet(source: Source, config: ViewConfig, *, rows: int, views: int, zoom: int, seed: int) -> Image.Image:
    """Draws `rows` images of the source, spread evenly over it, each beside `views` views."""
    side = config.image_size * zoom
    step = side + GAP
    sheet = Image.new("RGB", ((views + 1) * step + 2 * GAP, rows * step + GAP), PAPER)
    positions = np.linspace(0, len(source) - 1, min(rows, len(source))).astype(np.int64)
    for row, position in enumerate(positions.tolist()):
        try:
            image = source.image(position)
        except BadImageError as error:
            print(f"left out {error}", file=sys.stderr)
            continue
        original = Image.fromarray(image)
        original.thumbnail((side, side), Image.Resampling.BICUBIC)
        if zoom > 1 and max(original.size) < side:
            scale = side // max(original.size)
            original = original.resize((original.width * scale, original.height * scale), Image.Resampling.NEAREST)
        sheet.paste(original, (GAP, GAP + row * step))
        for number in range(views):
            # Both views of an image in each of the first epochs.
            params = draw_views(
                config,
                seed=seed,
                epoch=number // 2,
                indices=np.array([position]),
                view=number % 2,
                height=image.shape[0],
                width=image.shape[1],
            )
            view = Image.fromarray(render_cv(image, params, config.image_size))
            view = view.resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(view, (3 * GAP + (number + 1) * step - GAP, GAP + row * step))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", default="digits", help='a folder, a manifest, a parquet set, or "digits"')
    parser.add_argument("--out", type=Path, default=Path("views.png"), help="where the sheet goes (PNG)")
    parser.add_argument("--size", type=int, default=32, help="side of a view in pixels")
    parser.add_argument("--zoom", type=int, default=3, help="how much larger the sheet shows it")
    parser.add_argument("--rows", type=int, default=10, help="how many images")
    parser.add_argument("--blur", type=float, default=0.0, help="probability of blur")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        config = ViewConfig(image_size=options.size, blur=options.blur)
        source = open_source(options.source)
    except InputError as error:
        sys.exit(f"error: {error}")
    sheet = contact_sheet(source, config, rows=options.rows, views=8, zoom=options.zoom, seed=options.seed)
    sheet.save(options.out, optimize=True)
    print(f"{options.out}: {sheet.width} x {sheet.height} pixels")


if __name__ == "__main__":
    main()
