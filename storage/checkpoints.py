"""The checkpoints of a run: written and restored, in TensorFlow's format."""

import glob
import os
import shutil

from options import UserError
from storage.run import MODEL, checkpoint_steps
from tf1 import one_line, tf
from utils import make_folder


class Checkpoints:
    """Checkpoints of all variables of a graph in one folder, SAGAN.model-<step>.*; the newest few are kept.

    averages: the variables that start at the values of others where a checkpoint lacks them; averaged is whether the
    one that was loaded had them. finite: a tensor, whether all variables are finite numbers.
    """

    def __init__(self, sess, folder, averages, finite, keep):
        self.sess, self.folder, self.averages, self.finite, self.keep = sess, folder, averages, finite, keep
        self.saver = tf.train.Saver(max_to_keep=keep)
        self.averaged = bool(averages)

    def path(self, step):
        return os.path.join(self.folder, f'{MODEL}.model-{step}')

    def check(self, step):
        """Raise UserError where a training must not save: its folder is gone, or its weights are no numbers."""
        if not os.path.isdir(os.path.dirname(self.folder)):
            raise UserError(f'{os.path.dirname(self.folder)} is gone, and step {step} is not saved: put it back, then '
                            'the same command goes on from what is in it')
        if not self.sess.run(self.finite):
            raise not_finite('a weight', step)

    def growth(self, saves):
        """How many checkpoints more there are after so many saves."""
        return max(0, min(saves, self.keep - len(checkpoint_steps(self.folder))))

    def check_room(self, count):
        """Raise UserError where the disk cannot hold so many checkpoints more of this graph."""
        size = count * sum(variable.shape.num_elements() * variable.dtype.size for variable in tf.global_variables())
        folder = os.path.dirname(self.folder)
        free = shutil.disk_usage(folder).free
        if size > free:
            raise UserError(f'the checkpoints that this run will write take {size / 1e6:.0f} MB, and {folder} has '
                            f'{free / 1e6:.0f} MB left: free some space, or give a smaller --keep')

    def save(self, step):
        """Write a checkpoint; only then the oldest goes. Raises UserError where that fails: those before it stay."""
        path = self.path(step)
        make_folder(self.folder)
        before = [self.path(other) for other in checkpoint_steps(self.folder)[::-1] if other != step]
        self.saver.recover_last_checkpoints(before[-self.keep:])  # of which it removes the oldest
        try:
            self.saver.save(self.sess, path.removesuffix(f'-{step}'), step, write_meta_graph=False)
        except (tf.errors.OpError, ValueError) as error:
            for part in glob.glob(glob.escape(path) + ('.*tempstate*' if os.path.exists(path + '.index') else '.*')):
                os.remove(part)
            raise UserError(f'the checkpoint of step {step} cannot be written to {self.folder} ({one_line(error)}): '
                            'free some space, then the same command goes on from the one before it') from error
        for old in before[:-self.keep]:  # there are some where --keep was larger
            for part in glob.glob(glob.escape(old) + '.*'):
                os.remove(part)

    def load(self, checkpoint):
        """Restore a checkpoint: 'latest', the newest one that is whole; 'best'; or that of a step -> (found, step).

        (False, 0) where there is none. Raises UserError where it is of another network, or damaged.
        """
        newest = checkpoint_steps(self.folder)
        steps = {'latest': newest, 'best': newest[:1]}.get(checkpoint, [step for step in newest if step == checkpoint])
        for step in steps:
            try:
                self.restore(self.path(step))
                return True, step
            except tf.errors.OpError as error:
                if checkpoint_steps(self.folder) != newest:  # a training that goes on has replaced it
                    return self.load(checkpoint)
                print(f'{self.path(step)} is damaged ({one_line(error)})' +
                      ': falling back to the one before it' * (step != steps[-1]))
        if steps and checkpoint == 'latest':
            raise UserError(f'no checkpoint in {self.folder} is whole: delete the folder to train anew')
        if steps:
            raise UserError(f'checkpoint {checkpoint} of {self.folder} is damaged: choose another --checkpoint')
        return False, 0

    def restore(self, path):
        """Restore one checkpoint. Raises OpError where it is damaged, UserError where it is of another network."""
        shapes = tf.train.load_checkpoint(path).get_variable_to_shape_map()
        missing = [average for average in self.averages if average.op.name not in shapes]
        variables = [variable for variable in tf.global_variables() if variable not in missing]
        for variable in variables:
            here, there = variable.shape.as_list(), shapes.get(variable.op.name)
            if here != there:
                differs = 'is missing' if there is None else f'has the shape {there} there and {here} here'
                raise UserError(f'{path} is of another network: {variable.op.name} {differs}; move it away, or give '
                                'the options it was trained with')
        self.averaged = bool(self.averages) and not missing
        if missing:
            tf.train.Saver(variables).restore(self.sess, path)
            self.sess.run(tf.variables_initializer(missing))  # to the values of the variables
            print(f'{path} has no averaged weights: the raw ones take their place')
        else:
            self.saver.restore(self.sess, path)


def not_finite(what, step):
    """The UserError of a training that came to nothing."""
    return UserError(f'{what} is no finite number at step {step}, which ends this training: take smaller learning '
                     'rates, --g_lr and --d_lr; its checkpoints before that step are whole')
