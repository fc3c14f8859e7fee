"""Small valid files of every readable kind, in many variants: the seeds of fuzzing."""

import io
import json
import tarfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save as save_tensors

from sdclr.encoders.create import create_encoder
from sdclr.encoders.encoder import Encoder
from sdclr.encoders.saved import save_encoder
from sdclr.recipes import RECIPES
from sdclr.settings import settings_text
from sdclr.training.config import PretrainConfig


def _picture(mode: str = "RGB", size: tuple[int, int] = (23, 17)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    ImageDraw.Draw(image).ellipse((3, 3, 15, 12), fill=(200, 30, 90))
    if mode == "I;16":
        return Image.fromarray((pixels[..., 0].astype(np.uint16) << 8) + pixels[..., 1])
    if mode == "F":
        return Image.fromarray(pixels[..., 0].astype(np.float32) / 255)
    return image.convert(mode)


def _saved(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def jpeg() -> list[bytes]:
    """Plain, progressive, gray, CMYK, rotated, with restart markers and other subsampling."""
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = _picture()
    return [
        _saved(plain, "JPEG"),
        _saved(plain, "JPEG", progressive=True, exif=exif, icc_profile=b"x" * 40, comment=b"c"),
        _saved(_picture("L"), "JPEG"),
        _saved(_picture("CMYK"), "JPEG"),
        _saved(plain, "JPEG", subsampling=0, restart_marker_blocks=1, quality=30, dpi=(72, 72)),
        _saved(_picture(size=(200, 120)), "JPEG", exif=exif),
    ]


def png() -> list[bytes]:
    """All kinds of pixels, transparency and texts."""
    from PIL.PngImagePlugin import PngInfo

    texts = PngInfo()
    texts.add_text("k", "v")
    texts.add_text("z", "w" * 50, zip=True)
    texts.add_itxt("i", "u", lang="en", zip=True)
    modes = ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")
    frames = [_picture(), _picture("RGB").rotate(90)]
    return [
        *(_saved(_picture(mode), "PNG") for mode in modes),
        _saved(_picture(), "PNG", pnginfo=texts, transparency=(1, 2, 3), dpi=(72, 72), icc_profile=b"x" * 40),
        _saved(_picture("P"), "PNG", transparency=b"\0\x80\xff", bits=4),
        _saved(frames[0], "PNG", save_all=True, append_images=frames[1:], duration=50),
    ]


def gif() -> list[bytes]:
    """Still and animated, with transparency and comment."""
    frames = [_picture("P"), _picture("P").rotate(90), _picture("L")]
    return [
        _saved(frames[0], "GIF"),
        _saved(frames[2], "GIF", interlace=0, comment=b"c" * 300, transparency=3),
        _saved(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=10, loop=0, disposal=2),
    ]


def tiff() -> list[bytes]:
    """All compressions and kinds of pixels, BigTIFF, and several pages."""
    found = [_saved(_picture(mode), "TIFF") for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16", "F", "CMYK")]
    names = ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "tiff_deflate")
    found += [_saved(_picture(), "TIFF", compression=name) for name in names]
    found += [_saved(_picture("1"), "TIFF", compression=name) for name in ("group3", "group4", "tiff_ccitt")]
    found.append(_saved(_picture(), "TIFF", save_all=True, append_images=[_picture("L")]))
    return [*found, _saved(_picture(), "TIFF", big_tiff=True), _saved(_picture("YCbCr"), "TIFF", compression="jpeg")]


def webp() -> list[bytes]:
    """Lossy, lossless, with transparency and animated."""
    return [
        _saved(_picture(), "WEBP"),
        _saved(_picture("RGBA"), "WEBP", lossless=True),
        _saved(_picture("RGBA"), "WEBP", quality=30, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0", icc_profile=b"x" * 40),
        _saved(_picture(), "WEBP", save_all=True, append_images=[_picture("L")], duration=10),
    ]


def bmp() -> list[bytes]:
    """All depths."""
    return [_saved(_picture(mode), "BMP") for mode in ("RGB", "RGBA", "L", "P", "1")]


def ppm() -> list[bytes]:
    """Binary and plain, with 8 and 16 bits."""
    plain = b"P3\n# c\n2 2\n255\n1 2 3 4 5 6 7 8 9 10 11 12\n"
    binary = [_saved(_picture(mode), "PPM") for mode in ("RGB", "L", "1", "I;16")]
    return [*binary, plain, b"P2\n2 2\n9\n1 2 3 4\n", b"P1\n2 2\n0 1 1 0\n", b"Pf\n1 1\n-1.0\n\0\0\x80?"]


def avif() -> list[bytes]:
    """With and without transparency, rotated, and animated."""
    turned = Image.Exif()
    turned[0x0112] = 6
    animated = _saved(_picture(), "AVIF", save_all=True, append_images=[_picture()], duration=10)
    return [_saved(_picture(), "AVIF", exif=turned.tobytes()), _saved(_picture("RGBA"), "AVIF"), animated]


def jp2() -> list[bytes]:
    """Lossless and lossy, with 8 and 16 bits."""
    found = [_saved(_picture(mode), "JPEG2000") for mode in ("RGB", "RGBA", "L", "I;16")]
    return [*found, _saved(_picture(), "JPEG2000", irreversible=True, quality_layers=[20])]


def heic() -> list[bytes]:
    """With and without transparency."""
    import pillow_heif  # an extra

    pillow_heif.register_heif_opener()
    return [_saved(_picture(mode), "HEIF", quality=50) for mode in ("RGB", "RGBA", "L")]


def tar() -> list[bytes]:
    """Shards in the layout of WebDataset, in three formats: labels as a number and as JSON, and a long name."""
    image = _saved(_picture(), "JPEG")
    members = {"0.jpg": image, "0.cls": b"3", "1.png": _saved(_picture(), "PNG"), "1.json": b'{"label": "cat"}'}
    members[f"{'d' * 90}/{'n' * 60}.jpg"] = image
    found = []
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
            for name, data in members.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
        found.append(buffer.getvalue())
    return found


def manifest_csv() -> list[bytes]:
    """Paths, labels, ids and attributes."""
    return [
        b"path,label,id\nimages/a.png,cat,one\nimages/b.jpg,dog,two\nimages/c.png,,three\n",
        b"\xef\xbb\xbfimage,attr:hat,attr:dog\r\nimages/a.png,1,0\r\nimages/b.jpg,,1\r\n",
        b'file_name,attributes,label\n"images/a.png","hat;dog",0\nimages/b.jpg,,1\nimages/c.png,hat|cat,-1\n',
        "path,label\nimages/ä.png,Bär\n./images/a.png,3.0\n".encode(),
    ]


def path_list() -> list[bytes]:
    """A path and a class number per line."""
    return [b"images/a.png 0\nimages/b.jpg 1\nimages/c.png 0\n", b"images/a.png\nimages/b.jpg\n"]


def marks() -> list[bytes]:
    """Marks as written by the page and by spreadsheets, and tables of near-duplicates."""
    return [
        b"path,id,mark,label\nimages/a.png,a.png,keep,cat\nimages/b.jpg,b.jpg,drop,\nimages/c.png,c.png,,dog\n",
        b"sep=;\r\nID;Mark;Label\r\na.png;keep;cat\r\nb.jpg;drop;\r\n",
        "id\tdrop\tlabel\na.png\t1\t\nc.png\t0\tdög\n".encode("utf-16"),
        b"drop,keep,similarity\na.png,b.jpg,0.99\n",
        b'id,label\n"sub/d.png","a, ""b"""\na.png,=1+1\nb.jpg,../x\n',
    ]


def moved_log() -> list[bytes]:
    """A log of moved files."""
    return [b"from,to,id\n/back/a.png,a.png,a.png\n/back/gone.png,sub/gone.png,gone.png\n"]


def labeled() -> list[bytes]:
    """Ids of labeled images, as lines and as CSV."""
    return [b"a.png\nb.jpg\n", b"id,label\na.png,cat\nb.jpg,\n", b"id,order\na.png,1\n"]


def settings_toml() -> list[bytes]:
    """All recipes."""
    return [settings_text(recipe(), "toml").encode() for recipe in RECIPES.values()] + [
        b"epochs = 3\n[optim]\nlr = 0.1\n[damage]\nratio = 0.9\n"
    ]


def settings_json() -> list[bytes]:
    """All recipes."""
    return [settings_text(recipe(), "json").encode() for recipe in RECIPES.values()] + [
        b'{"epochs": 3, "optim": {"lr": 0.1}}'
    ]


def _parquet(columns: dict[str, Any], metadata: dict[bytes, bytes] | None = None, **options: Any) -> bytes:
    table = pa.table(columns)
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata) if metadata else table, buffer, **options)
    return buffer.getvalue()


_HUGGINGFACE = {
    "info": {
        "features": {
            "image": {"_type": "Image"},
            "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
        }
    }
}


def manifest_parquet() -> list[bytes]:
    """Paths with labels, ids and attributes, as pandas and others write them."""
    paths = ["images/a.png", "images/b.jpg", "images/c.png"]
    return [
        _parquet(
            {"path": paths, "label": ["cat", "dog", None], "id": ["1", "2", "3"]}, {b"pandas": b'{"columns": []}'}
        ),
        _parquet({"path": paths, "label": [0, 1, -1], "attr:hat": [True, False, None]}, compression="zstd"),
        _parquet({"file_name": pa.array(paths).dictionary_encode(), "attributes": [["hat"], [], None]}),
    ]


def parquet_images() -> list[bytes]:
    """Encoded images as structs and as bytes, with names of classes."""
    files = [png()[0], jpeg()[0], gif()[0], None]
    structs = [{"bytes": one, "path": f"{row}.png"} for row, one in enumerate(files)]
    about = {b"huggingface": json.dumps(_HUGGINGFACE).encode()}
    return [
        _parquet({"image": structs, "label": [0, 1, 0, 1]}, about),
        _parquet({"jpg": pa.array(files, pa.binary()), "label": ["a", "b", "a", None]}, row_group_size=2),
        _parquet({"img": structs, "attributes": [[0], [1], [], None]}, about, compression="gzip"),
    ]


def _npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def index_npy() -> list[bytes]:
    """Positions in a set."""
    return [_npy(np.array([3, 1, 2])), _npy(np.arange(20, dtype=np.uint16)), _npy(np.arange(4, dtype=">i4"))]


def embeddings_npy() -> list[bytes]:
    """Vectors of several data types."""
    values = np.random.default_rng(0).normal(size=(6, 4))
    return [
        _npy(values),
        _npy(values.astype(np.float16)),
        _npy(np.asfortranarray(values.astype(np.float32))),
        _npy(np.arange(1, 13, dtype=np.uint8).reshape(4, 3)),
    ]


def embeddings_parquet() -> list[bytes]:
    """Vectors as lists and as lists of fixed size, with and without ids."""
    values = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 3)
    ids = ["images/a.png", "images/b.jpg", "c", "d", "e"]
    return [
        _parquet({"id": ids, "embedding": fixed}, {b"sdclr": b'{"encoder": "x"}'}),
        _parquet({"path": ids, "features": values.tolist()}, compression="zstd", row_group_size=2),
        _parquet({"vector": values.astype(np.float64).tolist()}),
    ]


@cache
def small_encoder() -> Encoder:
    """A network with few, random weights."""
    torch.manual_seed(0)
    config = PretrainConfig().encoder
    return create_encoder(type(config)(name="resnet20", width=1), 16).eval()


def _weights() -> dict[str, torch.Tensor]:
    return {name: value.contiguous() for name, value in small_encoder().backbone.state_dict().items()}


def _torch(state: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer, **options)
    return buffer.getvalue()


def weights_torch() -> list[bytes]:
    """State dictionaries, bare and within a training state, and in torch's old format."""
    few = dict(list(_weights().items())[:4])
    return [
        _torch(few),
        _torch({"state_dict": {f"module.{name}": value for name, value in few.items()}, "epoch": 3}),
        _torch(few, _use_new_zipfile_serialization=False),
    ]


def weights_safetensors() -> list[bytes]:
    """Tensors of several types."""
    mixed = {"a": torch.zeros(2, 3), "b": torch.ones(4, dtype=torch.float16), "c": torch.tensor(3)}
    return [save_tensors(mixed), save_tensors(_weights(), metadata={"format": "pt"})]


def checkpoint() -> list[bytes]:
    """Contents of a run's checkpoint: tensors, numbers and texts in dictionaries."""
    tensor = torch.arange(6.0)
    state = {"step": 10, "objective": {"a.weight": tensor}, "optimizer": {"state": {0: {"momentum": tensor}}}}
    return [_torch(state), _torch({**state, "rng": [tensor.byte(), None, "x", 1.5, True]})]


@cache
def _encoder_files() -> tuple[bytes, bytes]:
    with TemporaryDirectory() as folder:
        save_encoder(Path(folder), small_encoder())
        return (Path(folder) / "encoder.json").read_bytes(), (Path(folder) / "encoder.safetensors").read_bytes()


def encoder_description() -> list[bytes]:
    """The `encoder.json` of a run or an export."""
    return [_encoder_files()[0]]


def encoder_weights() -> list[bytes]:
    """The weights that `encoder_description` describes."""
    return [_encoder_files()[1]]


def run_config() -> list[bytes]:
    """The `config.json` of a run."""
    return settings_json()


def metrics() -> list[bytes]:
    """Lines of `metrics.jsonl`."""
    lines = ({"step": step, "epoch": step / 2, "loss": 3.2 - step, "lr": 0.1, "note": None} for step in range(3))
    return [b"".join(json.dumps(line).encode() + b"\n" for line in lines)]


def collection(folder: Path) -> None:
    """Create the images that manifests, marks and embeddings name, in a folder `images`."""
    place = folder / "images"
    place.mkdir(parents=True, exist_ok=True)
    (place / "a.png").write_bytes(png()[0])
    (place / "b.jpg").write_bytes(jpeg()[0])
    (place / "c.png").write_bytes(png()[4])
    (place / "sub").mkdir(exist_ok=True)
    (place / "sub" / "d.png").write_bytes(png()[2])


def scores() -> list[bytes]:
    """The `scores.parquet` of mining with embeddings."""
    return list(_mined())


def _mined() -> Iterator[bytes]:
    from sdclr.mining.mine import mine

    values = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "embeddings.npy"
        np.save(file, values)
        yield mine(file).write(Path(folder) / "scores.parquet").read_bytes()
