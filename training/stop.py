"""Stopping training by a signal."""

import signal


class Stop:
    """A request to stop training after the current step.

    As a context manager, it records signals instead of letting them end the process.

    Args:
        signals: signal numbers to record.
    """

    def __init__(self, signals=()):
        self.signals = signals
        self.received = []  # signals of this process
        self.requested = None  # the signal that stops all workers; set by Cluster.agree_to_stop

    def __enter__(self):
        """Install the signal handlers."""
        self.previous = {number: signal.signal(number, self.receive) for number in self.signals}
        return self

    def __exit__(self, *error):
        """Restore the previous signal handlers."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def receive(self, number, frame):
        """Record a signal."""
        self.received.append(number)
