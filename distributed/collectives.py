"""What workers send each other within a training step, as operations of the graph: means, and rows of a batch.

A worker alone sends nothing, and its graph has no operation of these.
"""

import contextlib
import itertools

from tf1 import tf

together = []  # the Cluster over whose whole batch batch norms normalize, within its whole_batch


class Collectives:
    """The collective operations of one graph; size: the number of workers, who all must build the same ones."""

    def __init__(self, size):
        # keys: the number of each such operation, where Cluster.share takes 1 and 2 for itself; last: the newest one,
        # which the next one waits for.
        self.size, self.keys, self.last = size, itertools.count(3), None
        # sought: the weights whose gradients are being built; whole: those of them whose gradient all_rows makes.
        self.sought, self.whole = set(), set()

    @contextlib.contextmanager
    def whole_batch(self, batch_size, gathers):
        """Within, batch norms that train normalize by the moments of all slices.

        gathers: whether gradients of fully connected layers may be made of all_rows; those of a penalty may not.
        """
        self.rows, self.gathers = batch_size // self.size, gathers
        together.extend([self] * (self.size > 1))
        try:
            yield
        finally:
            together.clear()

    def mean(self, tensors):
        """The mean over all workers of each of these tensors, in one message; its gradient is the gradients' mean."""
        @tf.custom_gradient
        def averaged(*tensors):
            return self.reduce(tensors), lambda *gradients: self.reduce(gradients)
        return tensors if self.size == 1 else averaged(*tensors)

    def mean_of_gradients(self, compute, loss, variables):
        """compute(loss, variables), pairs of a gradient and its variable -> the same, the mean over all workers."""
        self.sought, self.whole = {v.ref() for v in variables if self.gathers}, set()
        pairs = compute(loss, variables)
        self.sought = set()
        means = iter(self.mean([gradient for gradient, v in pairs if v.ref() not in self.whole]))
        return [(gradient if v.ref() in self.whole else next(means), v) for gradient, v in pairs]

    def all_rows(self, x, dy, matrix):
        """x [b, D] and dy [b, E] / size of all workers, of which a matrix's gradient x^T dy is the mean over them.

        Those of this worker alone where the gradient [D, E] is less to send, or not sought.
        """
        width = x.shape[1] + dy.shape[1]
        if matrix.ref() not in self.sought or self.size * self.rows * width > matrix.shape.num_elements():
            return x, dy
        self.whole.add(matrix.ref())
        with tf.control_dependencies([] if self.last is None else [self.last]):
            self.last = tf.raw_ops.CollectiveGather(
                input=tf.reshape(tf.concat([x, dy / self.size], 1), [self.rows, width]), group_size=self.size,
                group_key=1, instance_key=next(self.keys), shape=[self.size * self.rows, width],
                communication_hint='ring')
        return tf.split(self.last, [x.shape[1], dy.shape[1]], 1)

    def reduce(self, tensors, final='Div', patience=0, key=None):
        """The mean, or with 'Id' the sum, over all workers of each of these float32 tensors; patience 0 is for ever."""
        flat = tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0)
        # One after the other, so that all workers send them in the same order.
        with tf.control_dependencies([] if self.last is None else [self.last]):
            self.last = tf.raw_ops.CollectiveReduce(
                input=flat, group_size=self.size, group_key=1, instance_key=key or next(self.keys), merge_op='Add',
                final_op=final, subdiv_offsets=[0], communication_hint='ring', timeout_seconds=patience)
        parts = tf.split(self.last, [tensor.shape.num_elements() for tensor in tensors])
        return [tf.reshape(part, tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
