"""Stopping training on a signal."""

import signal

import pytest

from training.stop import Stop

SIGNALS = signal.SIGUSR1, signal.SIGUSR2


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.fixture(autouse=True)
def program_handler():
    """Install a handler that does nothing. The previous handlers are restored after the test."""
    def ignore(number, frame):
        pass

    before = [signal.signal(number, ignore) for number in SIGNALS]
    yield ignore
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


def test_stop_installs_no_handler_outside_the_context(program_handler):
    Stop(SIGNALS)
    assert handlers() == [program_handler, program_handler]


def test_stop_installs_handlers_in_the_context():
    stop = Stop(SIGNALS)
    with stop:
        assert handlers() == [stop.receive, stop.receive]


def test_stop_restores_the_handlers_after_the_context(program_handler):
    with Stop(SIGNALS):
        pass
    assert handlers() == [program_handler, program_handler]


def test_stop_restores_the_handlers_after_an_error(program_handler):
    with pytest.raises(ZeroDivisionError), Stop(SIGNALS):
        raise ZeroDivisionError
    assert handlers() == [program_handler, program_handler]


def test_stop_leaves_other_signals_alone(program_handler):
    with Stop(SIGNALS[:1]):
        assert signal.getsignal(SIGNALS[1]) == program_handler


def test_stop_without_signals_installs_no_handler(program_handler):
    with Stop():
        assert handlers() == [program_handler, program_handler]


def test_stop_records_received_signals_in_order():
    with Stop(SIGNALS) as stop:
        for number in signal.SIGUSR2, signal.SIGUSR1, signal.SIGUSR2:
            signal.raise_signal(number)
    assert stop.received == [signal.SIGUSR2, signal.SIGUSR1, signal.SIGUSR2]


def test_stop_ignores_signals_after_the_context():
    with Stop(SIGNALS) as stop:
        pass
    signal.raise_signal(signal.SIGUSR1)
    assert stop.received == []


def test_stop_is_not_requested_before_the_workers_agree():
    with Stop(SIGNALS) as stop:
        signal.raise_signal(signal.SIGUSR1)
        assert stop.requested is None
