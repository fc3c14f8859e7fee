"""Ctrl-C and SIGTERM."""

import signal
import threading

import pytest

from sdclr.training.interrupts import TIME_IS_UP, Interrupted, Interrupts, listening, stopping_after


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_remembered_and_the_second_works_as_usual(signum: signal.Signals) -> None:
    before = signal.getsignal(signum)
    with listening() as interrupts:
        assert interrupts.signum == 0
        signal.raise_signal(signum)
        assert interrupts.signum == signum
        usual = signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL
        assert signal.getsignal(signum) == usual
    assert signal.getsignal(signum) is before


def test_a_second_ctrl_c_is_a_keyboard_interrupt() -> None:
    before = signal.getsignal(signal.SIGINT)

    def twice() -> None:
        with listening():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        twice()
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_nothing_is_listened_for() -> None:
    seen: list[Interrupts] = []
    before = signal.getsignal(signal.SIGTERM)

    def work() -> None:
        with listening() as interrupts:
            seen.append(interrupts)
            assert signal.getsignal(signal.SIGTERM) is before

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen[0].signum == 0


def test_the_exit_code_is_the_shells() -> None:
    assert Interrupted(signal.SIGINT, "x").exit_code == 130
    assert Interrupted(signal.SIGTERM, "x").exit_code == 143
    assert not isinstance(Interrupted(signal.SIGINT, "x"), Exception)  # `except Exception` must not swallow it


def test_a_time_limit_asks_who_listens() -> None:
    before = signal.getsignal(TIME_IS_UP)
    with stopping_after(1e6):
        with listening() as interrupts:
            signal.raise_signal(TIME_IS_UP)
            assert interrupts.signum == TIME_IS_UP
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
        with pytest.raises(Interrupted, match="the time is up"):
            signal.raise_signal(TIME_IS_UP)
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.getsignal(TIME_IS_UP) is before


def test_a_time_limit_that_is_over_rings_at_once() -> None:
    def wait() -> None:
        with stopping_after(-5):
            signal.pause()

    with pytest.raises(Interrupted) as caught:
        wait()
    assert caught.value.signum == TIME_IS_UP
