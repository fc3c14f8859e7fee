"""The fast tests with each supported version of Python, and with the lowest versions of the dependencies.

`nox` runs all of them, `nox -s tests-3.13` one version of Python, and `nox -s lowest` the lowest versions that
pyproject.toml allows.
"""

import nox

nox.options.default_venv_backend = "uv"
PYTEST = ("python", "-m", "pytest", "-q", "-n", "auto", "--maxprocesses", "4", "--dist", "loadfile", "-m", "not slow")


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """The versions of the dependencies that CI uses."""
    session.install("--constraint", "constraints.txt", "--editable", ".[dev]")
    run(session)


@nox.session(python="3.11")
def lowest(session: nox.Session) -> None:
    """The lowest version of every direct dependency."""
    session.install("--resolution", "lowest-direct", "--editable", ".[dev]")
    run(session, "-W", "ignore::DeprecationWarning")  # old versions use names that newer ones of others deprecate


def run(session: nox.Session, *options: str) -> None:
    """Run the fast tests, or those that follow `--` on the command line."""
    session.run(*PYTEST, *options, *session.posargs, env={"OMP_NUM_THREADS": "1"})
