"""Stages: who hears of them."""

import os
import subprocess
import sys
import threading

import pytest

from sdclr.progress import duration, listening, reporting_to, stage, tell


def test_nobody_listens_and_nothing_happens():
    assert listening() is None
    with stage("reading", 3) as update:
        update(1)
        update(3, 4, note="more")
    tell("nothing")


def test_the_listener_hears_of_every_stage(told):
    with stage("outer", 2, unit="runs") as outer:
        outer(1)
        with stage("inner") as inner:
            inner(5, 10)
    assert told.begun == ["outer", "inner"]
    assert told.ended == ["inner", "outer"]
    assert told.steps == [("outer", 1, 2), ("inner", 5, 10)]


def test_a_stage_ends_with_an_error(told):
    with pytest.raises(KeyError), stage("reading"):
        raise KeyError
    assert told.ended == ["reading"]


def test_listeners_nest_and_can_be_silenced(told):
    with reporting_to(None), stage("unheard") as update:
        update(1)
    with stage("heard"):
        pass
    assert told.begun == ["heard"]


def test_threads_may_report_to_a_stage(told):
    with stage("reading", 2) as update:
        thread = threading.Thread(target=update, args=(1,))
        thread.start()
        thread.join()
    assert told.counts() == [(1, 2)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_forked_process_does_not_speak(told):
    with stage("reading", 2) as update:
        child = os.fork()
        if not child:
            update(1)
            with stage("in the child"):
                tell("in the child")
            os._exit(len(told.steps) + len(told.told) + len(told.begun) - 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_it_imports_the_standard_library_alone():
    code = (
        "import sys; sys.modules['sdclr'] = type(sys)('sdclr'); sys.modules['sdclr'].__path__ = [sys.argv[1]]; "
        "import sdclr.progress; print(*{name.split('.')[0] for name in sys.modules} & {'rich', 'torch', 'numpy'})"
    )
    folder = str(__import__("sdclr").__path__[0])
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(7, "7 s"), (99, "99 s"), (720, "12 min"), (12_600, "3.5 h"), (216_000, "2.5 days")],
)
def test_times_are_for_people(seconds, words):
    assert duration(seconds) == words
