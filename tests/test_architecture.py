"""Imports run one way, and `method` stands on torch alone."""

import ast
import sys
from pathlib import Path

import pytest

import sdclr

ROOT = Path(sdclr.__file__).parent
LAYERS = [
    {
        *("errors", "config", "environment", "files", "settings", "settings_lines", "version", "precision"),
        *("fastest", "progress", "progress_display", "progress_notebook", "choices", "time_budget", "visible"),
        *("intensities", "limits", "out_of_memory", "products", "slurm"),
    },
    {"method", "encoders", "views", "decoding"},
    {"data"},
    {"longtail"},
    {"loading"},
    {"features"},
    {"marks"},
    {"training"},
    {"evaluation"},
    {"downstream", "reporting"},
    {"mining"},
    {"recipes"},
    {"paper", "demo"},
    {"cli"},
    {"__main__"},
]
LEVEL = {unit: level for level, units in enumerate(LAYERS) for unit in units}
# Units of one level that may not know each other.
APART = [
    {"method", "views"},
    {"method", "encoders"},
    {"encoders", "views"},
    {"views", "decoding"},
    {"longtail", "loading"},
]
MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def unit_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "sdclr"


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    relative = path.relative_to(ROOT)
    unit = relative.parts[0].removesuffix(".py")
    assert unit in LEVEL, f"{unit} has no place in the order: give it one here and in docs/architecture.md"
    for module in imports(path):
        if not module.startswith("sdclr.") or unit_of(module) == unit:
            continue
        other = unit_of(module)
        assert LEVEL[other] <= LEVEL[unit], f"{relative} imports {module}, which stands above it"
        assert {unit, other} not in APART, f"{relative} imports {module}, beside it"


@pytest.mark.parametrize("path", sorted((ROOT / "method").rglob("*.py")), ids=lambda path: path.name)
def test_method_imports_torch_and_itself(path):
    for module in imports(path):
        top = module.split(".")[0]
        assert top in {"torch", "lazy_loader", *sys.stdlib_module_names} or module.startswith("sdclr.method"), module


def test_files_are_short():
    for path in MODULES:
        assert len(path.read_text().splitlines()) <= 400, path


def test_nothing_prints_outside_the_command_line():
    for path in MODULES:
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        prints = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
        assert not prints or "cli" in path.parts, path


WRITES = {
    *("write_text", "write_bytes", "mkdir", "makedirs", "touch", "unlink", "rmdir", "rmtree", "rename", "truncate"),
    *("symlink_to", "hardlink_to", "symlink", "link", "copy2", "copyfile", "copyfileobj", "copytree"),
    *(
        "mkstemp",
        "mkdtemp",
        "TemporaryDirectory",
        "NamedTemporaryFile",
        "SummaryWriter",
        "open_memmap",
        "posix_fallocate",
    ),
}
"""Calls that change what is on disk."""
INTO = {"save", "savez", "savefig", "write_table", "ParquetWriter"}
"""Calls that write into a path or a file."""
SINKS = {"buffer", "opened", "sink"}
"""Names of what is in memory, or opened by `sdclr.files`."""
WRITERS = {
    "loading/cache.py": "an image of the cache need not reach the disk, and a full disk only ends the cache",
    "marks/place.py": "links to images of the user's own",
    "marks/moves.py": "moves images of the user's own",
}
"""Files outside `sdclr.files` that change what is on disk, and why."""


def _name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _writes(call: ast.Call) -> bool:
    """Whether a call may write to disk."""
    name, args = _name_of(call), call.args
    of = ast.unparse(call.func).rpartition(".")[0]
    if name in WRITES:
        return True
    if name == "open":
        modes = [*(args[:1] if of else args[1:2]), *(word.value for word in call.keywords if word.arg == "mode")]
        texts = [str(mode.value) for mode in modes if isinstance(mode, ast.Constant)]
        return of not in {"os", "Image"} and any(set(text) & set("wax+") for text in texts)
    if name == "memmap":
        return any(word.arg == "mode" and word.value.value != "r" for word in call.keywords)
    if name == "replace":  # of a path: that of a text takes two arguments, that of a dataclass is a function
        return bool(of) and len(args) == 1 and not call.keywords
    bytes_or_nothing = name == "save" and not (of and args)  # safetensors' returns bytes, a trainer's takes nothing
    if name in INTO and of not in {"elements", "writer"} and not bytes_or_nothing:  # ours, and one with a sink
        return not {getattr(argument, "id", None) for argument in args} & SINKS
    return False


def test_files_are_written_by_one_package():
    found = {}
    for path in MODULES:
        where = str(path.relative_to(ROOT))
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        if not where.startswith("files/") and any(map(_writes, calls)):
            found[where] = [f"line {call.lineno}: {ast.unparse(call)[:80]}" for call in calls if _writes(call)]
    assert {where: calls for where, calls in found.items() if where not in WRITERS} == {}
    assert found.keys() == WRITERS.keys(), "an exception that is none any more"


@pytest.mark.parametrize(
    "code",
    [
        *("open('x', 'w')", "path.open('ab')", "path.open(mode='r+b')", "path.write_text('x')", "shutil.rmtree(path)"),
        *("aside.replace(path)", "torch.save(state, path)", "figure.savefig(path)", "pq.write_table(table, path)"),
        *("np.memmap(path, mode='w+')", "tempfile.mkdtemp()", "image.save(folder / 'x.png', 'PNG')"),
    ],
)
def test_direct_writes_are_seen(code):
    assert _writes(ast.parse(code).body[0].value)


@pytest.mark.parametrize(
    "code",
    [
        *("open('x')", "path.open('rb')", "text.replace('a', 'b')", "replace(config, seed=1)", "save(weights)"),
        *("torch.save(state, buffer)", "image.save(buffer, 'PNG')", "self.save()", "np.memmap(path, mode='r')"),
    ],
)
def test_reads_and_buffers_are_no_writes(code):
    assert not _writes(ast.parse(code).body[0].value)


# What reads files of ours, and belongs into `sdclr.files`, where damage becomes one line.
READERS = {
    *("load", "load_file", "read_table", "ParquetFile", "read_schema", "read_metadata", "ParquetDataset"),
    *("loads", "memmap", "open_memmap", "fromfile", "loadtxt", "genfromtxt", "safe_open"),
}
READING_MODULES = {"json", "np", "numpy", "torch", "pq", "pickle", "joblib", "safetensors", "format"}
ELSEWHERE = {
    "config.py": {"json.loads"},  # of what json.dumps gave
    "fastest.py": {"json.loads"},  # of what json.dumps gave
    "settings.py": {"json.loads"},  # files of people, with the line of what is wrong
    "settings_lines.py": {"json.loads"},  # a token of such a file
    "paper/bench.py": {"json.loads"},  # a value on the command line
    "data/box_files.py": {"json.loads"},  # files of people
    "data/tar_index.py": {"json.loads"},  # labels of samples, which others write
    "decoding/workers.py": {"pickle.loads"},  # our own workers send batches
    "data/parquet.py": {"json.loads"},  # names of classes in the metadata, which others write
    "features/embeddings.py": {"json.loads"},  # in the metadata, which others may write
    "evaluation/embed.py": {"json.loads"},  # metadata, inside `parsing`
    "reporting/mined.py": {"json.loads"},  # metadata, inside `parsing`
    "mining/scores.py": {"json.loads"},  # metadata, inside `parsing`
    "mining/kept.py": {"json.loads"},  # inside `parsing`
    "mining/looks.py": {"np.memmap"},  # a temporary file of this process
}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_read_in_one_place(path):
    relative = path.relative_to(ROOT)
    if relative.parts[0] == "files":
        return
    tree = ast.parse(path.read_text())
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    found = {
        f"{module}.{function.attr}"
        for function in calls
        if isinstance(function, ast.Attribute) and function.attr in READERS
        for module in [getattr(function.value, "attr", getattr(function.value, "id", ""))]
        if module in READING_MODULES
    }
    outside = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and not n.module.startswith("sdclr")]
    named = {alias.name for node in outside for alias in node.names}
    assert not named & {*READERS, "loads"}, f"{relative} imports a reader by name: use sdclr.files"
    allowed = ELSEWHERE.get(relative.as_posix(), set())
    assert found == allowed, f"{relative} reads by {found}, and may by {allowed}: use sdclr.files, which names damage"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled(path):
    tree = ast.parse(path.read_text())
    unpicklers = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    if path.relative_to(ROOT).as_posix() == "decoding/workers.py":  # our own workers send batches
        unpicklers.remove("pickle")
    assert not imports(path) & unpicklers, path
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        words = {word.arg: word.value for word in call.keywords}
        for name, wanted in (("allow_pickle", False), ("weights_only", True)):
            if name in words:
                assert isinstance(words[name], ast.Constant), f"{path}: {name} must be {wanted}"
                assert words[name].value is wanted, f"{path}: {name} must be {wanted}"
        if ast.unparse(call.func) in {"np.load", "numpy.load"}:
            assert "allow_pickle" in words, path
        if ast.unparse(call.func) == "torch.load":
            assert "weights_only" in words, path
