"""The duration and the progress of an evaluation: a bar on a terminal, otherwise one line per quarter."""

import math
import sys
import time

from tqdm import tqdm


class Progress:
    """A context manager that shows how much of an activity is done.

    Args:
        activity: what is being done, for example 'Training the classifier'.
        total: the number of items.
    """

    def __init__(self, activity, total):
        self.activity, self.total, self.done = activity, total, 0

    def __enter__(self):
        self.start = time.time()
        self.bar = tqdm(desc=self.activity, total=self.total, leave=False, disable=not sys.stderr.isatty())
        return self

    def update(self, count):
        """Add count to the number of finished items."""
        quarters_before = 4 * self.done // self.total
        self.done += count
        quarters = 4 * self.done // self.total
        self.bar.update(count)
        if self.bar.disable and quarters_before < quarters < 4:
            print(f'{self.activity}: {25 * quarters}% after {time.time() - self.start:.0f} s', flush=True)

    def __exit__(self, *exception):
        self.bar.close()


def seconds_per_item(function, *inputs):
    """Return how long function(*inputs) takes per item, where inputs are arrays [N, ...] or None.

    The first call is not timed, because it prepares the graph.
    """
    function(*inputs)
    start = time.perf_counter()
    function(*inputs)
    return (time.perf_counter() - start) / len(inputs[0])


def rough_duration(seconds):
    """Return a phrase for a duration that is not known exactly."""
    if seconds < 50:
        return 'less than a minute'
    minutes = math.ceil(seconds / 60)
    if minutes < 100:
        return f'roughly {minutes} minute{"s" if minutes > 1 else ""}'
    return f'roughly {seconds / 3600:.0f} hours'
