"""Saving and restoring the checkpoints of a run, in TensorFlow's format."""

import glob
import os
import shutil

from options import UserError
from storage.run import MODEL, Diverged, checkpoint_steps, select_steps
from tf1 import one_line, tf
from utils import list_first, make_folder

# Suffixes of the names of Adam's slots and of its powers of the betas. D's optimizer is created first.
SLOTS = '/Adam', '/Adam_1'
POWER_SUFFIXES = {'discriminator': '', 'generator': '_1'}


class Checkpoints:
    """The checkpoints SAGAN.model-<step>.* in a folder, each with all variables of the graph.

    Args:
        sess: the session of the graph.
        folder: the path of the folder.
        averages: the moving averages of variables. If a checkpoint lacks an average, the average starts at the
            value of its variable.
        keep: number of newest checkpoints to keep.
    """

    def __init__(self, sess, folder, averages, keep):
        self.sess, self.folder, self.averages, self.keep = sess, folder, averages, keep
        self.saver = tf.train.Saver(max_to_keep=keep)
        self.all_finite = tf.reduce_all([tf.reduce_all(tf.is_finite(variable)) for variable in tf.global_variables()])

    def path(self, step):
        return os.path.join(self.folder, f'{MODEL}.model-{step}')

    def save_if_finite(self, step):
        """Save a checkpoint unless training has diverged.

        Raises:
            UserError: if a weight is not finite, if the run's folder has been removed, or if the write fails.
        """
        run_folder = os.path.dirname(self.folder)
        if not os.path.isdir(run_folder):
            raise UserError(f'the checkpoint of step {step} was not saved ({run_folder} has been removed): restore the '
                            'folder and run the same command again to resume')
        if not self.sess.run(self.all_finite):
            raise Diverged('a weight', step)
        self.save(step)

    def save(self, step):
        """Write a checkpoint. Then remove the oldest ones if there are more than self.keep.

        Raises:
            UserError: if the write fails. Earlier checkpoints are intact.
        """
        path = self.path(step)
        make_folder(self.folder)
        before = [self.path(other) for other in checkpoint_steps(self.folder)[::-1] if other != step]
        self.saver.recover_last_checkpoints(before[-self.keep:])  # so that a restarted process also removes the oldest
        try:
            self.saver.save(self.sess, path.removesuffix(f'-{step}'), step, write_meta_graph=False)
        except (tf.errors.OpError, ValueError) as error:
            leftovers = '.*tempstate*' if os.path.exists(path + '.index') else '.*'
            for part in glob.glob(glob.escape(path) + leftovers):
                os.remove(part)
            raise UserError(f'the checkpoint of step {step} cannot be written to {self.folder} ({one_line(error)}): '
                            'free some disk space, then run the same command again to resume') from error
        for old in before[:-self.keep]:  # left over from a run with a larger --keep
            for part in glob.glob(glob.escape(old) + '.*'):
                os.remove(part)

    def check_disk_space(self, count):
        """Raise UserError if the disk cannot hold the given number of additional checkpoints."""
        size = count * sum(variable.shape.num_elements() * variable.dtype.size for variable in tf.global_variables())
        run_folder = os.path.dirname(self.folder)
        free = shutil.disk_usage(run_folder).free
        if size > free:
            raise UserError(f'not enough disk space (the checkpoints of this run need {size / 1e6:.0f} MB, and '
                            f'{run_folder} has {free / 1e6:.0f} MB left): free some disk space, or reduce --keep')

    def growth(self, saves):
        """Return the number of checkpoints that the folder gains from the given number of saves."""
        return max(0, min(saves, self.keep - len(checkpoint_steps(self.folder))))

    def restore(self, checkpoint='latest'):
        """Restore a checkpoint.

        Args:
            checkpoint: 'latest' (the newest undamaged one), 'best' (the newest, in the folder of the best checkpoint),
                or a step.

        Returns:
            (step, whether the checkpoint has the averages), or None if there is no such checkpoint.

        Raises:
            UserError: if the checkpoint belongs to another network, or is damaged.
        """
        existing = checkpoint_steps(self.folder)
        steps = select_steps(existing, checkpoint)
        for step in steps:
            try:
                return step, self.restore_file(self.path(step))
            except tf.errors.OpError as error:
                if checkpoint_steps(self.folder) != existing:  # a training run has replaced it in the meantime
                    return self.restore(checkpoint)
                fallback = '' if step == steps[-1] else ': falling back to the previous one'
                print(f'{self.path(step)} is damaged ({one_line(error)}){fallback}')
        if not steps:
            return None
        if checkpoint == 'latest':
            raise UserError(f'all checkpoints in {self.folder} are damaged: delete the folder to start training again')
        raise UserError(f'checkpoint {checkpoint} in {self.folder} is damaged: choose another --checkpoint')

    def restore_file(self, path):
        """Restore the checkpoint at path and return whether it has the averages.

        Raises:
            OpError: if the checkpoint is damaged.
            UserError: if the checkpoint belongs to another network.
        """
        saved_shapes = tf.train.load_checkpoint(path).get_variable_to_shape_map()
        missing = [average for average in self.averages if average.op.name not in saved_shapes]
        variables = [variable for variable in tf.global_variables() if variable not in missing]
        for variable in variables:
            shape, saved = variable.shape.as_list(), saved_shapes.get(variable.op.name)
            if shape != saved:
                difference = 'is missing' if saved is None else f'has shape {saved} in the checkpoint and {shape} here'
                raise UserError(f'{path} belongs to another network ({variable.op.name} {difference}): move it to '
                                'another folder, or use the options of its run')
        if missing:
            tf.train.Saver(variables).restore(self.sess, path)
            self.sess.run(tf.variables_initializer(missing))  # to the values of the variables
            print(f'{path} has no averaged weights: using the raw weights')
        else:
            self.saver.restore(self.sess, path)
        return bool(self.averages) and not missing

    def start_from(self, source, beta1, beta2):
        """Restore the variables that this graph shares with a checkpoint of another run, the newest undamaged one.

        A variable is shared if the checkpoint has its name and shape. Its optimizer slots and its average are restored
        with it. All other variables keep their values, but an average that is not restored starts at the value of its
        variable.

        After t updates, Adam's bias correction divides the moments by 1 - beta^t. The powers beta^t are restored if all
        trainable variables of a network are restored with their slots. Otherwise they start again: new variables then
        take Adam's usual first steps, and restored ones take smaller steps at first.

        Args:
            source: a storage.branch.Source.
            beta1, beta2: those of this run. Adam's powers of the betas are adapted if the source's betas differ.

        Returns:
            (step of the checkpoint, variables that were not restored, names in the checkpoint that this graph lacks).

        Raises:
            UserError: if the checkpoints are damaged, or if no trainable variable is shared.
        """
        for step in source.steps:
            path = os.path.join(source.checkpoints, f'{MODEL}.model-{step}')
            try:
                saved_shapes = tf.train.load_checkpoint(path).get_variable_to_shape_map()
                shared = shared_variables(saved_shapes)
                if not set(shared) & set(names_of(tf.trainable_variables())):
                    raise UserError(f'{path} shares no trainable variable (name and shape) with this network: choose '
                                    "another run, or the options of the source's network")
                tf.train.Saver(shared).restore(self.sess, path)
            except tf.errors.OpError as error:
                print(f'{path} is damaged ({one_line(error)})')
                continue
            self.sess.run(tf.variables_initializer([v for v in self.averages if v.op.name not in shared]))
            for name, before, now in ('beta1_power', source.options['beta1'], beta1), (
                    'beta2_power', source.options['beta2'], beta2):
                for power in [shared[name + suffix] for suffix in POWER_SUFFIXES.values() if name + suffix in shared]:
                    # The variable holds beta^(t + 1) after t steps. Its last factor becomes this run's beta.
                    # If the source's beta is 0, the variable stays 0.
                    if before not in (0, now):
                        power.load(self.sess.run(power) * now / before, self.sess)
            new = [variable for variable in tf.global_variables() if variable.op.name not in shared]
            return step, new, sorted(set(saved_shapes) - set(names_of(tf.global_variables())))
        raise UserError(f'all checkpoints of --from {source.folder} are damaged: choose another --checkpoint or run')


def names_of(variables):
    return [variable.op.name for variable in variables]


def shared_variables(saved_shapes):
    """Return the variables of the graph to restore from a checkpoint of another run, {name: variable}.

    Args:
        saved_shapes: {name: shape} of the checkpoint.
    """
    variables = {variable.op.name: variable for variable in tf.global_variables()}
    shared = {name: variable for name, variable in variables.items()
              if saved_shapes.get(name) == variable.shape.as_list()}
    for network, suffix in POWER_SUFFIXES.items():
        needed = {name + slot for name in names_of(tf.trainable_variables(f'{network}/')) for slot in ('', *SLOTS)}
        if not needed <= set(shared):
            for power in 'beta1_power', 'beta2_power':
                shared.pop(power + suffix, None)
    return shared


def describe_variables(variables, new, unused):
    """Return how many variables were restored from another run, and the names of those that were not.

    Args:
        variables: all variables of the graph.
        new, unused: as Checkpoints.start_from returns them.
    """
    text = f'restored {len(variables) - len(new)} of {len(variables)} variables'
    for title, names in ('new', names_of(new)), ('not used', unused):
        owners = [name for name in names if owner_of(name) == name or owner_of(name) not in names]
        if owners:
            text += f'; {title}: {list_first(owners)}'
        if len(owners) < len(names):
            text += ' (with optimizer slots and averages)'
    return text


def owner_of(name):
    """Return the name of the variable to which an optimizer slot or an average belongs, or else the name itself."""
    for suffix in *SLOTS, '/ExponentialMovingAverage':
        name = name.removesuffix(suffix)
    return name
