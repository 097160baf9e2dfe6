"""All that a training knows of the other processes that train with it; alone, what stands here does nothing.

Several equal workers train one model: each takes its slice of every batch, what they find is averaged, and so the
weights of all stay the same.
"""

import contextlib
import hashlib
import os

import numpy as np

from distributed.collectives import Collectives
from distributed.launcher import SIGNALS, WorkerLost, check_port, wait_for
from options import UserError
from tf1 import tf

GONE = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError, tf.errors.CancelledError,
        tf.errors.InternalError, tf.errors.FailedPreconditionError,
        tf.errors.UnknownError)  # where another worker is gone, or there again, or took the port in this moment


class Cluster(Collectives):
    """Equal workers, this one number index; 0 leads: it alone reads and writes a run. patience: seconds to wait."""

    def __init__(self, addresses=(), index=0, patience=60):
        super().__init__(max(1, len(addresses)))
        self.addresses, self.index, self.patience, self.leads = addresses, index, patience, index == 0
        self.fetches, self.noted, self.agreed = [], [], []

    @contextlib.contextmanager
    def session(self, config):
        """A session that reaches the others. Raises UserError where the port is in use, WorkerLost where one is gone."""
        if self.size == 1:
            with tf.Session(config=config) as sess:
                yield sess
            return
        config.experimental.collective_group_leader = '/job:worker/replica:0/task:0'
        config.device_filters.append(f'/job:worker/replica:0/task:{self.index}')
        # What it makes of convolutions in bfloat16 fails through a server.
        config.graph_options.rewrite_options.remapping = config.graph_options.rewrite_options.OFF
        # Workers talk to each other without the proxy that may stand between them and the world.
        os.environ['no_grpc_proxy'] = ','.join(  # noqa: SIM112 (as gRPC reads it)
            address.rsplit(':', 1)[0] for address in self.addresses)
        check_port(self.addresses[self.index])
        if not self.leads:
            wait_for(self.addresses[0], self.patience)
        try:
            server = tf.train.Server({'worker': list(self.addresses)}, 'worker', self.index, config=config)
            with tf.Session(server.target, config=config) as sess:
                yield sess
        except GONE as error:
            raise WorkerLost(f'worker {self.index} of {self.size} has lost another one: start all of them again') from error

    def mine(self, whole):
        """The slice of this worker of a tensor whose first axis is the whole batch; None of None."""
        if self.size == 1 or whole is None:
            return whole
        count = tf.shape(whole)[0] // self.size
        return whole[self.index * count:(self.index + 1) * count]

    def mean_of_step(self, values):
        """The mean over all workers of scalars {name: tensor}, with which travels what heed needs."""
        if self.size == 1:
            return values
        self.flags = tf.placeholder_with_default(np.zeros(len(SIGNALS), np.float32), [len(SIGNALS)])
        *means, self.fetches = self.mean([*values.values(), self.flags])
        return dict(zip(values, means, strict=True))

    def heed(self, noted):
        """Let signals noted here end all workers at the same step -> those that any had noted by the last step."""
        self.noted, self.agreed = noted, noted if self.size == 1 else []
        return self.agreed

    def run(self, sess, fetches, feed):
        """sess.run of the last part of a step, to which mean_of_step belongs."""
        if self.size == 1:
            return sess.run(fetches, feed)
        flags = [float(number in self.noted) for number in SIGNALS]
        found, shares = sess.run([fetches, self.fetches], {**feed, self.flags: flags})
        self.agreed += [number for number, share in zip(SIGNALS, shares, strict=True) if share > 0]
        return found

    def share(self, sess, step, variables, told):
        """Give all workers the leader's step and variables -> step.

        told: () -> {name: text}, what must be the same everywhere. Raises UserError where it is not, WorkerLost where one of
        the workers does not come.
        """
        if self.size == 1:
            return step
        self.last, told = None, told()  # these reductions stand apart from a training step's
        # A part of a digest each, as a number that float32 has exactly.
        numbers = [int(hashlib.sha256(text.encode()).hexdigest()[:6], 16) for text in told.values()]
        # With keys of their own: where options differ, the graphs may have other numbers of reductions.
        leaders, = self.reduce([tf.constant(numbers, tf.float32) * float(self.leads)], 'Id', self.patience, key=1)
        differs, = self.reduce([tf.to_float(tf.not_equal(leaders, tf.to_float(numbers)))], 'Id', key=2)
        try:
            differs = sess.run(differs)
        except tf.errors.DeadlineExceededError as error:
            raise WorkerLost(f'worker {self.index} of {self.size} has waited {self.patience} s for one that has not come: '
                       'start all of them') from error
        if differ := [name for name, count in zip(told, differs, strict=True) if count]:
            raise UserError(f'the workers differ in {" and in ".join(differ)}: start all of them with the same')
        values = [tf.constant([step // 2**20, step % 2**20], tf.float32), *(v.read_value() for v in variables)]
        numbers, *values = [self.reduce([value * float(self.leads)], 'Id')[0] for value in values]
        high_low, _ = sess.run([numbers, [v.assign(value) for v, value in zip(variables, values, strict=True)]])
        return int(high_low[0]) * 2**20 + int(high_low[1])

    def wait(self, sess):
        """Wait until all workers have come here. Raises WorkerLost where one is gone."""
        if self.size > 1:
            self.last = None
            sess.run(self.reduce([tf.zeros([1])]))
