"""Synchronous data-parallel training. With one worker, tensors and variables are left unchanged.

Each worker processes its shard of every batch, and the gradients are averaged.
All workers therefore hold the same weights.
"""

import contextlib
import hashlib
import os

from distributed.launcher import SIGNALS, WorkerLost, check_port, wait_for_chief
from options import UserError
from tf1 import tf

# TensorFlow raises these errors if another worker has ended or restarted, or if the port was taken after check_port.
LOST_ERRORS = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError,
               tf.errors.CancelledError, tf.errors.InternalError, tf.errors.FailedPreconditionError,
               tf.errors.UnknownError)
# check_equal uses fixed keys, because workers with different options may build different numbers of other reductions.
CHIEF_KEY, COMPARE_KEY, FIRST_FREE_KEY = 1, 2, 3


class Cluster:
    """The workers that train together.

    Args:
        addresses: 'host:port' of each worker. Empty if this process trains alone.
        index: number of this worker. Worker 0 is the chief: it alone reads and writes the run.
    """

    def __init__(self, addresses=(), index=0):
        self.addresses, self.index = addresses, index
        self.size = max(1, len(addresses))
        self.is_chief = index == 0

    @contextlib.contextmanager
    def session(self, config):
        """Open a session that is connected to the other workers.

        Args:
            config: a ConfigProto, which is modified.

        Raises:
            UserError: if the port of this worker is in use.
            WorkerLost: if another worker is lost while the session is open.
        """
        if self.size == 1:
            with tf.Session(config=config) as sess:
                yield sess
            return
        config.experimental.collective_group_leader = '/job:worker/replica:0/task:0'
        config.device_filters.append(f'/job:worker/replica:0/task:{self.index}')
        # The bfloat16 convolutions that Grappler's remapper creates fail in a session on a server.
        config.graph_options.rewrite_options.remapping = config.graph_options.rewrite_options.OFF
        # The workers must not connect through a proxy.
        os.environ['no_grpc_proxy'] = ','.join(  # noqa: SIM112 (gRPC reads it in lower case)
            address.rsplit(':', 1)[0].strip('[]') for address in self.addresses)
        check_port(self.addresses[self.index])
        if not self.is_chief:
            wait_for_chief(self.addresses[0])
        try:
            server = tf.train.Server({'worker': list(self.addresses)}, 'worker', self.index, config=config)
            with tf.Session(server.target, config=config) as sess:
                yield sess
        except LOST_ERRORS as error:
            raise WorkerLost(f'worker {self.index} of {self.size} lost its connection to another worker: restart all '
                             'workers') from error

    def build(self):
        """Build the operations that agree_to_stop and barrier run."""
        if self.size > 1:
            self.signal_flags = tf.placeholder(tf.float32, [len(SIGNALS)])
            self.signal_counts = reduce(self.signal_flags, self.size, 'Id')
            self.barrier_op = reduce(tf.zeros([1]), self.size, 'Id')

    def local_shard(self, batch):
        """Return the part of a batch [B, ...] that this worker processes, [B / size, ...]. Return None for None."""
        if self.size == 1 or batch is None:
            return batch
        count = tf.shape(batch)[0] // self.size
        return batch[self.index * count:(self.index + 1) * count]

    def all_reduce(self, tensors):
        """Return each of these float32 tensors averaged over all workers. One message carries all tensors.

        The gradient of an average is the mean of the workers' gradients, because each loss is a mean over one shard.
        """
        if self.size == 1:
            return tensors
        flat = all_reduce_mean(tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0), self.size)
        parts = tf.split(flat, [tensor.shape.num_elements() for tensor in tensors])
        return [tf.reshape(part, tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]

    def check_equal(self, sess, compared):
        """Check that the compared strings, {name: string}, are the same on all workers.

        Raises:
            UserError: if strings differ. The message lists their names.
        """
        if self.size == 1:
            return
        # 24 bits of each digest, as an integer that float32 represents exactly.
        digests = [int(hashlib.sha256(string.encode()).hexdigest()[:6], 16) for string in compared.values()]
        own = tf.constant(digests, tf.float32)
        chief_values = reduce(own * float(self.is_chief), self.size, 'Id', CHIEF_KEY)
        differences = reduce(tf.to_float(tf.not_equal(chief_values, own)), self.size, 'Id', COMPARE_KEY)
        counts = sess.run(differences)
        different = [name for name, count in zip(compared, counts, strict=True) if count > 0]
        if different:
            raise UserError(f'the workers have different {" and ".join(different)}: use the same on all workers')

    def broadcast(self, sess, numbers, variables):
        """Assign the chief's values to variables on all workers, and return the chief's numbers, a list of integers."""
        if self.size == 1:
            return numbers
        # Two parts of each number, because float32 is exact only for integers up to 2**24.
        parts = tf.constant([divmod(number, 2**20) for number in numbers], tf.float32)  # [number of numbers, 2]
        chief_values = []
        for value in [parts, *(variable.read_value() for variable in variables)]:
            with tf.control_dependencies(chief_values[-1:]):  # the order must be the same on all workers
                chief_values.append(reduce(value * float(self.is_chief), self.size, 'Id'))
        assignments = [variable.assign(value) for variable, value in zip(variables, chief_values[1:], strict=True)]
        parts, _ = sess.run([chief_values[0], assignments])
        return [int(high) * 2**20 + int(low) for high, low in parts]

    def agree_to_stop(self, sess, stop):
        """Set stop.requested on all workers if any worker has received a signal."""
        if self.size == 1:
            if stop.received:
                stop.requested = stop.received[0]
            return
        flags = [float(number in stop.received) for number in SIGNALS]
        counts = sess.run(self.signal_counts, {self.signal_flags: flags})
        for number, count in zip(SIGNALS, counts, strict=True):
            if count > 0 and stop.requested is None:
                stop.requested = number

    def barrier(self, sess):
        """Wait until all workers have called barrier."""
        if self.size > 1:
            sess.run(self.barrier_op)


def reduce(tensor, size, final_op, key=None):
    """Return the mean (final_op 'Div') or the sum ('Id') of a float32 tensor over all workers.

    Args:
        key: the number of this reduction in the graph, the same on all workers. None uses the next free number.
    """
    if key is None:
        keys = tf.get_collection_ref('reduction_keys')
        key = FIRST_FREE_KEY + len(keys)
        keys.append(key)
    return tf.raw_ops.CollectiveReduce(
        input=tensor, group_size=size, group_key=1, instance_key=key, merge_op='Add', final_op=final_op,
        subdiv_offsets=[0], communication_hint='ring')


def all_reduce_mean(tensor, size):
    """Return the mean of a float32 tensor over all workers, for the training step. The mean is differentiable."""
    chain = tf.get_collection_ref('all_reduce')
    # Each reduction waits for the previous one, so that the order is the same on all workers.
    with (tf.control_dependencies(chain[-1:]),
          tf.get_default_graph().gradient_override_map({'CollectiveReduce': 'AllReduceMean'})):
        chain.append(reduce(tensor, size, 'Div'))
    return chain[-1]


@tf.RegisterGradient('AllReduceMean')
def all_reduce_mean_gradient(op, dy):
    """Return the gradient of all_reduce_mean given dy at its output: the mean of dy over all workers."""
    return all_reduce_mean(dy, op.get_attr('group_size'))
