"""The environment for bug reports: what it says, and what it keeps to itself."""

import getpass
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sdclr
from sdclr import environment
from sdclr.environment import PACKAGES, VARIABLES, describe_environment, private_removed, usable_cores


def test_it_agrees_with_torch_and_python() -> None:
    about = describe_environment()
    assert about.python.endswith(platform.python_version())
    assert (
        about.packages["torch"] == torch.__version__.partition("+")[0] or about.packages["torch"] == torch.__version__
    )
    assert about.sdclr == sdclr.__version__
    assert len(about.gpus) == torch.cuda.device_count()
    if sys.platform == "linux":
        told = torch.cpu.get_capabilities()
        for flag, name in {"avx2": "avx2", "amx_bf16": "amx_bf16", "avx512_bf16": "avx512_bf16"}.items():
            if name in told:
                assert (flag in about.instruction_sets) == told[name]
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        assert about.memory is not None
        assert about.memory <= 1.01 * pages


def test_every_dependency_is_listed() -> None:
    import tomllib

    project = Path(__file__).parent.parent / "pyproject.toml"
    needed = tomllib.loads(project.read_text())["project"]["dependencies"]
    names = {re.split(r"[<>=~! \[]", entry)[0].lower().replace("_", "-") for entry in needed}
    assert names <= {name.lower() for name in PACKAGES}


def test_neither_torch_nor_numpy_is_imported() -> None:
    code = (
        "import sys, sdclr; sdclr.describe_environment(); "
        "found = sorted({'torch', 'numpy', 'rich', 'pyarrow'} & set(sys.modules)); sys.exit(' '.join(found) or None)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_home_and_user_are_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/data/people/eva"))
    monkeypatch.setattr(getpass, "getuser", lambda: "eva")
    assert private_removed("/data/people/eva/images") == "~/images"
    assert private_removed("/data/people/evangelist/images") == "/data/people/evangelist/images"
    assert private_removed("see /home/bob/a.png and /Users/eva.") == "see ~/a.png and ~"
    assert private_removed("/scratch/eva/x") == "/scratch/~/x"
    assert private_removed("evaluation of eva") == "evaluation of eva"
    monkeypatch.setattr(Path, "home", lambda: Path("/"))
    assert private_removed("/images") == "/images"


def test_secrets_stay_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("USER", "somebody-private")
    monkeypatch.setenv("HOSTNAME", "machine-private")
    about = describe_environment()
    assert about.variables["OMP_NUM_THREADS"] == "3"
    assert set(about.variables) <= set(VARIABLES)
    assert "secret" not in repr(about)
    assert "private" not in repr(about)
    assert platform.node() == "" or len(platform.node()) < 4 or platform.node() not in repr(about)


def test_a_container_may_allow_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_CGROUP", tmp_path)
    free = usable_cores()
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert usable_cores() == free
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert usable_cores() == 1
    (tmp_path / "memory.max").write_text(str(2**30))
    (tmp_path / "memory.current").write_text(str(2**29))
    about = describe_environment()
    assert about.memory == 2**30
    assert about.memory_free is None or about.memory_free <= 2**29


def test_gpus_are_read_from_the_driver_s_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100, 81559 MiB, 570.86'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert describe_environment().gpus == ("NVIDIA H100, 81559 MiB, driver 570.86",)
    tool.write_text("#!/bin/sh\necho broken; exit 9\n")
    assert describe_environment().gpus == ()
