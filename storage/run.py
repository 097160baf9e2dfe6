"""A run on disk: its folders, lock and config.json, and the search for trained runs."""

import contextlib
import glob
import json
import os
import pathlib
import re
import shutil
import socket
from typing import NamedTuple

import filelock

from options import (
    ARTICLE,
    DATASET_METADATA,
    SOURCE_METADATA,
    UserError,
    as_typed,
    check_saved_options,
    default_shape,
    flag,
    options_of,
    resolve_shape,
    run_name,
    shape_of,
)
from utils import is_abandoned, list_first, make_folder, write_json

MODEL = 'SAGAN'  # the names of checkpoints and result files start with it


class RunNotFound(UserError):
    """No trained run has the requested options."""


class Diverged(UserError):
    """Training has stopped because a loss or a weight is not finite.

    Args:
        quantity: the name of the loss, or 'a weight'.
        step: the step after which it was not finite.
    """

    def __init__(self, quantity, step):
        self.cause = f'{quantity} is not finite at step {step}: training stopped'
        super().__init__(f'{self.cause}. Lower the learning rates, --g_lr and --d_lr; checkpoints before that step are '
                         'intact')


class Run:
    """The folders of a run: <checkpoint_dir>/<name>, <result_dir>/<name> and <log_dir>/<name>.

    Args:
        config: the Config of the run.
    """

    def __init__(self, config):
        self.name = run_name(vars(config))
        self.folder = os.path.join(config.checkpoint_dir, self.name)
        self.results = os.path.join(config.result_dir, self.name)
        self.logs = os.path.join(config.log_dir, self.name)
        self.config_path = config_path(self.folder)
        self.snapshots = os.path.join(self.results, f'{MODEL}_maps')

    def result_path(self, name, suffix=''):
        """Return the path of a result file: <results>/SAGAN_<name><suffix><extension of name>."""
        stem, extension = os.path.splitext(name)
        return os.path.join(self.results, f'{MODEL}_{stem}{suffix}{extension}')

    @contextlib.contextmanager
    def locked(self):
        """Hold the lock of the run, which allows one writer. Remove the partial files of killed processes.

        The operating system releases the lock when the process ends.

        Raises:
            UserError: if another process holds the lock. The message names the process.
        """
        lock = filelock.FileLock(os.path.join(make_folder(self.folder), 'lock'), timeout=0)
        holder = pathlib.Path(self.folder, 'lock_holder.txt')  # on Windows, other processes cannot read a locked file
        try:
            lock.acquire()
        except filelock.Timeout:
            name = 'another process'
            with contextlib.suppress(OSError):
                name = holder.read_text().strip() or name
            raise UserError(f'{self.folder} is being trained by {name}: wait until it ends, or give this run another '
                            '--name') from None
        try:
            holder.write_text(f'process {os.getpid()} on {socket.gethostname()}\n')
            for folder in self.folder, f'{self.folder}/{MODEL}', f'{self.folder}/best', self.results, self.snapshots:
                remove_partial_files(folder)
            yield
        finally:
            holder.unlink(missing_ok=True)
            lock.release()

    def check_config(self, config):
        """Check that the run in the folder, if it has checkpoints, was trained with this config.

        Print the unknown keys of config.json, and a message if the training split has changed.

        Returns:
            The source metadata in config.json, {name: value}, or {} if the run has no checkpoint.

        Raises:
            UserError: if the options, classes, image shape or reading of the data set differ from those of the run,
                if its config.json is damaged, or if its start was interrupted and config has no source.
        """
        if not os.path.exists(self.config_path):
            return {}
        options, metadata = read_config(self.config_path)
        if not checkpoints_of(self.folder):
            if config.source is None:
                check_not_interrupted(self.folder, metadata)
            return {}
        saved = {**ARTICLE, **options}
        different = [f'{flag(name)} {as_typed(saved[name])}' for name in options_of('identity', 'training')
                     if saved[name] != getattr(config, name)]
        if different:
            raise UserError(f'{self.folder} holds a run with {", ".join(different)}: use the same options, or another '
                            '--name')
        report_unknown_keys(self.folder, metadata)
        reading = list(config.reading)
        if metadata.get('reading', []) != reading:
            before, now = describe_reading(metadata.get('reading', [])), describe_reading(reading)
            raise UserError(f'{self.folder} cannot resume (its data set is read differently; before: {before}; now: '
                            f'{now}): branch from the run with --from {self.name} --name NEW')
        image_shape = list(config.image_shape)
        if metadata.get('image_shape', image_shape) != image_shape:
            before, now = ('{} x {} x {}'.format(*shape) for shape in (metadata['image_shape'], image_shape))
            raise UserError(f'{self.folder} holds a run on images of {before}, but those of the data set are {now}: '
                            'restore the data set, or choose another --name')
        class_names = list(config.class_names)
        if metadata.get('class_names', class_names) != class_names:
            before, now = (', '.join(names) or 'none' for names in (metadata['class_names'], class_names))
            raise UserError(f'{self.folder} holds a run with the classes {before}, but the data set has {now}: restore '
                            'the data set, or choose another --name')
        if metadata.get('images', config.images) != config.images:
            print(f'The training split has {config.images} images; it had {metadata["images"]} before')
        elif None not in (metadata.get('digest'), config.digest) and metadata['digest'] != config.digest:
            print(f'The {config.images} images of the training split, or their classes, have changed since the run '
                  'was last trained')
        return {name: metadata[name] for name in SOURCE_METADATA if name in metadata}

    def is_older_than_augment(self):
        """Return whether this run has a checkpoint, but no config.json with the option augment."""
        if not checkpoints_of(self.folder):
            return False
        if not os.path.exists(self.config_path):
            return True
        options, _ = read_config(self.config_path)
        return 'augment' not in options

    def write_config(self, config):
        """Write config.json. Keep the keys of an existing file that are not in the config.

        If the file lacks the option augment, which older runs do not have, it is not added. The command that started
        the run can then resume it: see storage.branch.resolve_augment.
        """
        metadata = {}
        if os.path.exists(self.config_path):
            _, metadata = read_config(self.config_path)
        values = {**metadata, **vars(config)}
        if self.is_older_than_augment():
            del values['augment']
        write_json(values, self.config_path)


def config_path(folder):
    """Return the path of the config.json of the run in a folder."""
    return os.path.join(folder, 'config.json')


def check_not_interrupted(folder, metadata):
    """Raise UserError if the start of a run from another run was interrupted. metadata is that of its config.json."""
    source = metadata.get('source')
    if source:
        raise UserError(f'{folder} has no checkpoint yet (its start from {source} was interrupted): add --from '
                        f'{source} --checkpoint {metadata.get("source_step")}, or choose another --name')


def remove_partial_files(folder):
    """Remove temporary files, except those of processes that are still running."""
    for pattern in '*.part', '*.tempstate*', 'checkpoint.tmp*':
        for path in glob.glob(os.path.join(glob.escape(folder), pattern)):
            if not is_abandoned(path):
                continue
            if os.path.isdir(path):
                shutil.rmtree(path)
            else:
                os.remove(path)


def read_config(path):
    """Read a config.json.

    Returns:
        ({option: value}, {key: value} of everything else).

    Raises:
        UserError: if the file is damaged or an option's value is not valid.
    """
    try:
        options, metadata = check_saved_options(dict(json.loads(pathlib.Path(path).read_text())), path)
        for key in 'class_names', 'reading':
            if not all(isinstance(text, str) for text in metadata.get(key, [])):
                raise ValueError(f'{key} is not a list of strings')
        check_class_counts(metadata.get('class_counts', []), metadata.get('class_names', []))
        shape = metadata.get('image_shape', [28, 28, 1])
        if len(shape) != 3 or not all(isinstance(size, int) and size > 0 for size in shape):
            raise ValueError('image_shape is not [height, width, channels]')
        if not isinstance(metadata.get('source') or '', str):
            raise ValueError('source is not a string')
        for name in 'source_step', 'previous_steps':
            if type(metadata.get(name) or 0) is not int or (metadata.get(name) or 0) < 0:
                raise ValueError(f'{name} is not a non-negative integer')
        return options, metadata
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f'{path} is damaged ({error}): correct or delete it') from error


def check_class_counts(class_counts, class_names):
    """Raise ValueError unless class_counts is empty or holds one image count per class."""
    if class_counts == []:  # the data set has no classes, or an older config.json lacks the counts
        return
    valid = all(type(count) is int and 0 <= count < 2 ** 31 for count in class_counts)
    if not valid or len(class_counts) != len(class_names) or sum(class_counts) == 0:
        raise ValueError('class_counts is not a list with the number of images of each class')


def read_metadata(options):
    """Return the DATASET_METADATA of the run with these options, or None if the run has no config.json."""
    path = config_path(os.path.join(options['checkpoint_dir'], run_name(options)))
    if not os.path.exists(path):
        return None
    _, metadata = read_config(path)
    return {name: metadata[name] for name in DATASET_METADATA if name in metadata}


def describe_reading(reading):
    """Return a phrase that describes how a data set is read. reading is that of a Dataset."""
    return ', '.join(reading) or 'as in earlier versions of this program'


def report_unknown_keys(folder, metadata):
    """Print the keys in the config.json of the run in a folder that are neither options nor metadata of the run."""
    unknown = ', '.join(sorted(set(metadata) - {*DATASET_METADATA, *SOURCE_METADATA}))
    if unknown:
        print(f'{config_path(folder)} has unknown keys, which are ignored: {unknown}')


def checkpoint_steps(folder):
    """Return the steps of the checkpoints SAGAN.model-<step> in a folder, newest first."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    matches = [re.fullmatch(MODEL + r'\.model-([0-9]+)\.index', name) for name in names]
    return sorted((int(match[1]) for match in matches if match), reverse=True)


def select_steps(steps, checkpoint):
    """Return the steps that a --checkpoint selects, in the order to try them.

    Args:
        steps: those of the checkpoints in a folder, newest first.
        checkpoint: 'latest', 'best' or a step.
    """
    if checkpoint == 'latest':
        return steps
    if checkpoint == 'best':  # its folder holds two only while one replaces the other
        return steps[:1]
    return [step for step in steps if step == checkpoint]


def missing_checkpoint(folder, checkpoint, steps):
    """Return the phrase that reports a missing checkpoint.

    Args:
        checkpoint: 'latest', 'best' or a step.
        steps: those of the existing checkpoints.
    """
    name = f'checkpoint {checkpoint}'
    if checkpoint == 'latest':
        name = 'checkpoint'
    elif checkpoint == 'best':
        name = 'best checkpoint'
    return f'{folder} has no {name} (steps: {", ".join(map(str, steps)) or "none"})'


def checkpoints_of(folder):
    """Return the steps of the checkpoints of the run in a folder, newest first."""
    return checkpoint_steps(os.path.join(folder, MODEL))


class StoredRun(NamedTuple):
    """A run that has a checkpoint."""
    name: str  # of its folder
    options: dict  # all options, {option: value}
    metadata: dict  # everything else in config.json
    trained: float  # time of the newest checkpoint, in seconds


def find_runs(checkpoint_dir, wanted):
    """Return the trained runs in checkpoint_dir that have the wanted options, most recently trained first.

    An option that config.json lacks has the article's value. Runs of older repositories have no config.json. The name
    of the folder then gives the data set, batch size and z_dim.

    Args:
        wanted: {option: value}.

    Returns:
        A list of StoredRuns, never empty.

    Raises:
        RunNotFound: if no run matches.
        UserError: if a config.json is damaged. If wanted has a name, only that run's config.json matters.
    """
    runs, errors = list_runs(checkpoint_dir)
    for name, error in errors.items():
        if wanted.get('name', name) == name:
            raise error
    matching = [run for run in runs if has_options(run, wanted)]
    if not matching:
        existing = list_first([run.name for run in runs]) or 'none'
        typed = ''.join(f' {flag(option)} {as_typed(value)}' for option, value in wanted.items())
        if typed:
            typed = f' with{typed}'
        choice = 'choose one of these, or ' if runs else ''
        raise RunNotFound(f'no trained run{typed} in {checkpoint_dir} (existing: {existing}): {choice}train one first, '
                          'with --phase train')
    return matching


def has_options(run, wanted):
    """Return whether a StoredRun has the wanted options. For img_size and c_dim, 0 means the data set's own value."""
    native_shape = default_shape(run.options['dataset_name'])
    height, width, channels = run.metadata.get('image_shape', native_shape)
    if run.options['img_size'] == 0:
        native_shape = height, width, native_shape[2]
    if run.options['c_dim'] == 0:
        native_shape = *native_shape[:2], channels
    return resolve_shape({**run.options, **wanted}, native_shape) == resolve_shape(run.options, native_shape)


def list_runs(checkpoint_dir):
    """Return the trained runs in checkpoint_dir, latest first, and {folder name: UserError} for damaged runs."""
    runs, errors = [], {}
    for folder in sorted(pathlib.Path(checkpoint_dir).glob('*')):
        try:
            run = read_run(folder)
        except UserError as error:
            errors[folder.name] = error
            continue
        if run:
            runs.append(run)
    return sorted(runs, key=lambda run: run.trained, reverse=True), errors


def read_run(folder):
    """Return the StoredRun of a folder of checkpoint_dir, or None if the folder does not hold a trained run."""
    steps = checkpoint_steps(folder / MODEL)
    saved = read_options(folder) if steps else None
    if saved is None:
        return None
    options, metadata = saved
    trained = (folder / MODEL / f'{MODEL}.model-{steps[0]}.index').stat().st_mtime
    return StoredRun(folder.name, options, metadata, trained)


def read_options(folder):
    """Return all options of the run in a folder, {option: value}, and everything else in its config.json.

    Runs of older repositories have no config.json: the folder's name gives the data set, batch size and z_dim. Without
    such a name, the result is None. An option that is missing has the article's value.

    Raises:
        UserError: if config.json is damaged.
    """
    name = os.path.basename(os.path.abspath(folder))
    lineage_name = re.fullmatch(r'SAGAN_(.+)_([0-9]+)_([0-9]+)', name)
    if os.path.exists(config_path(folder)):
        options, metadata = read_config(config_path(folder))
    elif lineage_name:
        dataset_name, batch_size, z_dim = lineage_name.groups()
        options, metadata = {'dataset_name': dataset_name, 'batch_size': int(batch_size), 'z_dim': int(z_dim)}, {}
    else:
        return None
    return {**ARTICLE, **options, 'name': name}, metadata


def image_shape_of(options, metadata):
    """Return the shape (H, W, C) of a run's images. options and metadata are those that read_options returns.

    The config.json of an older run may lack the shape. The options then determine it.
    """
    return tuple(metadata.get('image_shape') or shape_of(options, default_shape(options['dataset_name'])))


def sampling_options(run, checkpoint_dir, changes):
    """Return the options with which the model of a StoredRun is built for sampling, {option: value}.

    Args:
        checkpoint_dir: the folder in which the run was found, which may have been moved since training.
        changes: values of sampling and location options that replace those of config.json.
    """
    # ema may have changed when the run resumed. Loading determines whether the checkpoint has averages.
    # Samples are computed in float32, as in the SavedModel, whatever the precision of training.
    fixed = {'ema': ARTICLE['ema'], 'precision': 'float32', 'checkpoint_dir': checkpoint_dir}
    return {**run.options, **changes, **fixed}
