"""How training starts: resume a run, start a new run from another one, or start afresh."""

import itertools
import os
import pathlib
import re
from typing import NamedTuple

from options import (
    ARTICLE,
    DEFAULTS,
    FEW_IMAGES,
    UserError,
    as_typed,
    command_line,
    flag,
    known_options,
    make_config,
    options_of,
    resolve,
    value_of,
)
from storage.run import (
    MODEL,
    Run,
    check_not_interrupted,
    checkpoint_steps,
    checkpoints_of,
    has_options,
    image_shape_of,
    list_runs,
    missing_checkpoint,
    read_options,
    read_run,
    select_steps,
)
from utils import list_first

SUBFOLDERS = MODEL, 'best'  # the subfolders of a run's folder that hold checkpoints


class Source(NamedTuple):
    """The checkpoint from which a new run starts."""
    folder: str  # of the source run
    checkpoints: str  # the folder of the checkpoint
    steps: tuple  # of the checkpoints that may be restored, the preferred one first
    options: dict  # all options of the source run
    metadata: dict  # everything else in its config.json

    @property
    def name(self):
        """The name of the source run."""
        return folder_name(self.folder)

    @property
    def image_shape(self):
        """The shape (H, W, C) of the source's images."""
        return image_shape_of(self.options, self.metadata)

    @property
    def previous_steps(self):
        """The number of earlier steps that count towards the warm-up of the moving average."""
        return self.metadata.get('previous_steps', 0)


def folder_name(folder):
    return os.path.basename(os.path.abspath(folder))


def find_source(text, checkpoint_dir, checkpoint='latest'):
    """Find the run or the checkpoint that --from names.

    Runs of older repositories have no config.json: see storage.run.read_options.

    Args:
        text: the name of a run in checkpoint_dir, or the path of a run's folder, a checkpoint or a folder of
            checkpoints.
        checkpoint: 'latest', 'best' or a step.

    Raises:
        UserError: if there is no such run or checkpoint, or if its config.json is damaged.
    """
    path, step = split_checkpoint_path(text)
    places = [os.path.join(checkpoint_dir, path), path]
    if step is not None:
        places.reverse()
        if checkpoint not in ('latest', step):
            raise UserError(f'--from {text} is the checkpoint of step {step}, but --checkpoint is {checkpoint}: omit '
                            '--checkpoint')
        checkpoint = step
    folder = next((place for place in places if os.path.isdir(place)), None)
    if folder is None:
        runs, _ = list_runs(checkpoint_dir)
        existing = list_first([run.name for run in runs]) or 'none'
        raise UserError(f'--from {text} is neither a run in {checkpoint_dir} (existing: {existing}) nor a folder: '
                        'choose a run, or give the path of a run or checkpoint')
    run_folder = run_folder_of(folder)
    if checkpoint == 'best':
        checkpoints = os.path.join(run_folder, 'best')
    elif checkpoint_steps(folder):
        checkpoints = folder
    else:
        checkpoints = os.path.join(run_folder, MODEL)
    existing = checkpoint_steps(checkpoints)
    steps = select_steps(existing, checkpoint)
    if not steps:
        raise UserError(f'{missing_checkpoint(checkpoints, checkpoint, existing)}: choose another --checkpoint or '
                        'another run')
    options, metadata = read_options(run_folder) or ({**ARTICLE, 'dataset_name': 'auto'}, {})
    return Source(run_folder, checkpoints, tuple(steps), options, metadata)


def split_checkpoint_path(text):
    """Split the path of a checkpoint into (its folder, its step). For any other path, the step is None."""
    path = os.path.normpath(text)
    folder, name = os.path.split(path)
    match = re.fullmatch(rf'{MODEL}\.model-([0-9]+)(\.index|\.data-[0-9]+-of-[0-9]+)?', name)
    if not match:
        return path, None
    return folder or os.curdir, int(match[1])


def run_folder_of(folder):
    """Return the folder of a run: folder itself, or its parent if it is a subfolder of a run that holds checkpoints."""
    if folder_name(folder) in SUBFOLDERS and checkpoint_steps(folder):
        return os.path.normpath(os.path.join(folder, os.pardir))
    return folder


def is_source(text, recorded, recorded_step, checkpoint_dir, checkpoint='latest'):
    """Return whether the values of --from and --checkpoint refer to the recorded source, which may be deleted."""
    path, step = split_checkpoint_path(text)
    if step is None and isinstance(checkpoint, int):
        step = checkpoint
    if step not in (None, recorded_step):
        return False
    if folder_name(path) in SUBFOLDERS:
        path = os.path.dirname(path) or os.pardir
    if folder_name(path) != folder_name(recorded):
        return False
    places = [place for place in (os.path.join(checkpoint_dir, path), path) if os.path.isdir(place)]
    return not places or not os.path.isdir(recorded) or any(os.path.samefile(place, recorded) for place in places)


def inherited_options(source, dataset_name=None):
    """Return the options that a new run inherits from a source. Typed options take precedence.

    If the source's images are square, images of another data set are converted to their shape, so that the weights of
    the source fit.

    Args:
        dataset_name: the data set of the new run, or None for that of the source.
    """
    options = {name: source.options[name] for name in options_of('identity', 'training', 'schedule')}
    if dataset_name not in (None, options['dataset_name']):
        height, width, options['c_dim'] = source.image_shape
        if height == width:
            options['img_size'] = height
    return options


def describe_changes(source, config):
    """Return the changes from a source to the Config of a new run, for example '--g_lr 0.0005 (was 0.001)'."""
    changes = []
    for name in options_of('identity', 'training', 'schedule'):
        before, after = source.options[name], getattr(config, name)
        if name not in ('img_size', 'c_dim') and before != after:
            changes.append(f'{flag(name)} {as_typed(after)} (was {as_typed(before)})')
    shape = '{} x {} x {}'.format(*config.image_shape)
    if source.image_shape != config.image_shape:
        changes.append('images of {} (were {} x {} x {})'.format(shape, *source.image_shape))
    elif source.options['dataset_name'] != config.dataset_name:
        changes.append(f'images of {shape} as before')
    return ', '.join(changes) or 'no option changed'


##################################################################################
# New runs and resumed runs
##################################################################################

def choose_start(typed):
    """Decide whether training resumes the run of --name, starts a new run from that of --from, or starts afresh.

    Args:
        typed: the options given on the command line.

    Returns:
        (typed, inherited, source): the typed options that still matter, the options that the run inherits, and the
        Source of --from or None.

    Raises:
        UserError: if the options contradict each other or a saved run, or if the run that --from names does not exist.
    """
    checkpoint_dir = value_of(typed, 'checkpoint_dir')
    if 'checkpoint' in typed and 'from_name' not in typed:
        raise UserError('--checkpoint requires --from if --phase is train (without --from, training resumes from the '
                        f'newest checkpoint). {branch_advice(typed)}')
    if 'from_name' in typed and 'name' not in typed:
        raise UserError('--from requires the name of the new run: add --name')
    if 'name' not in typed:
        return typed, {}, None
    folder = os.path.join(checkpoint_dir, typed['name'])
    _, metadata = read_options(folder) or ({}, {})
    if 'from_name' in typed:
        check_same_source(folder, metadata, typed)
    if checkpoints_of(folder):
        run = read_run(pathlib.Path(folder))
        if run is None:  # without a config.json, only the typed options describe the run
            return typed, {}, None
        check_same_options(folder, run, typed)
        typed = {name: value for name, value in typed.items() if name != 'recipe' and value != 'auto'}
        return typed, {**run.options, 'checkpoint_dir': checkpoint_dir}, None
    if 'from_name' in typed:
        source = find_source(typed['from_name'], checkpoint_dir, value_of(typed, 'checkpoint'))
        return typed, inherited_options(source, known_options(typed).get('dataset_name')), source
    check_not_interrupted(folder, metadata)
    return typed, {}, None


def check_same_source(folder, metadata, typed):
    """Raise UserError if a folder holds a run whose source differs from that of --from.

    Args:
        folder: that of the run, which may not exist.
        metadata: what its config.json holds besides options.
        typed: the options given on the command line.
    """
    source, step = metadata.get('source'), metadata.get('source_step')
    if source is None and not checkpoints_of(folder):
        return
    if source is None:
        raise UserError(f'{folder} already holds a run: choose another --name for the new run')
    checkpoint_dir = value_of(typed, 'checkpoint_dir')
    if not is_source(typed['from_name'], source, step, checkpoint_dir, typed.get('checkpoint')):
        raise UserError(f'{folder} already holds a run that started from {source}, step {step}: choose another --name '
                        'for the new run, or omit --from and --checkpoint to resume')


def check_same_options(folder, run, typed):
    """Raise UserError if the typed options of a run that is resumed differ from those of its StoredRun."""
    different = different_options(run, known_options(typed))
    if different:
        values = ', '.join(f'{flag(name)} {as_typed(run.options[name])}' for name in different)
        raise UserError(f'{folder} holds a run with {values}: omit these options to resume it. {branch_advice(typed)}')


def different_options(run, options):
    """Return the names of the identity and training options that differ from those of a StoredRun."""
    return [name for name in options_of('identity', 'training')
            if name in options and not has_options(run, {name: options[name]})]


def nearest_run(checkpoint_dir, options):
    """Return the trained run on the same data set that differs in the fewest options.

    If there are several, return the most recently trained one.

    Args:
        options: those of a new run. Without a data set, runs on all data sets are considered.

    Returns:
        (StoredRun, names of the different options), or None if there is no run on the data set.
    """
    runs, _ = list_runs(checkpoint_dir)
    dataset_name = options.get('dataset_name')
    candidates = [(run, different_options(run, options)) for run in runs
                  if dataset_name in (None, run.options['dataset_name'])]
    return min(candidates, key=lambda candidate: len(candidate[1]), default=None)


def resolve_augment(options, images, class_names):
    """Return options with true or false for augment.

    Print a line if auto turns augmentation on, or leaves it off although there are few images.

    With few images, auto is true, but a run that is older than this option resumes without augmentation.

    Args:
        options: as resolve returns them.
        images: number of training images.
        class_names: names of the classes.
    """
    if options['augment'] != 'auto':
        return options
    without = {**options, 'augment': False}
    if images >= FEW_IMAGES:
        return without
    run = Run(make_config(without, class_names=class_names))
    if run.is_older_than_augment():
        print(f'Augmentation: off, because {run.name} was started without it', flush=True)
        return without
    print(f'Augmentation: on, because there are fewer than {FEW_IMAGES} training images; --augment false turns it off',
          flush=True)
    return {**options, 'augment': True}


def report_new_run(config, run):
    """Print the options in which a new Run differs from the nearest run on its data set, if there is one."""
    nearest = nearest_run(config.checkpoint_dir, vars(config))
    if nearest is None or checkpoints_of(run.folder):
        return
    other, different = nearest
    difference = f'has the options of {other.name}'
    if different:
        difference = f'differs from {other.name} in {list_first([flag(name) for name in different])}'
    print(f'New run {run.name} ({difference}; use --from to branch)', flush=True)


##################################################################################
# Commands to type instead
##################################################################################

def branch_advice(typed):
    """Return the advice to start a new run with --from, with the other options of the typed command."""
    checkpoint_dir = value_of(typed, 'checkpoint_dir')
    name = typed.get('name')
    if name is not None and checkpoints_of(os.path.join(checkpoint_dir, name)):
        source, name = name, free_name(name, checkpoint_dir)
    else:
        options = {option: value for option, value in resolve(typed).items() if value not in (None, 'auto')}
        nearest, source = nearest_run(checkpoint_dir, options), 'RUN'
        if nearest is not None:
            run, _ = nearest
            source = run.name
        name = name or free_name(source, checkpoint_dir)
    command = command_line({'phase': 'train', 'from_name': source, **typed, 'name': name})
    return f'To start a new run instead: {command}'


def retry_advice(config, run, typed):
    """Return the advice to train a diverged Run again with half the learning rates, from its newest checkpoint."""
    rates = {'g_lr': config.g_lr / 2, 'd_lr': config.d_lr / 2}
    steps = checkpoints_of(run.folder)
    if not steps:
        return f'To start again with lower learning rates: {command_line({**typed, **rates})}'
    # The new run inherits all other options.
    others = {name: typed[name] for name in ('workers', 'timeout') if name in typed}
    for name in options_of('sampling', 'location'):
        if getattr(config, name) != DEFAULTS[name]:
            others[name] = getattr(config, name)
    command = command_line({'phase': 'train', 'from_name': run.name, 'checkpoint': steps[0], **others,
                            'name': free_name(run.name, config.checkpoint_dir), **rates})
    return f'To start a new run from step {steps[0]} with lower learning rates: {command}'


def free_name(name, checkpoint_dir):
    """Return a valid --name that has no folder in checkpoint_dir: <name>_2, or the same with a larger number."""
    base = re.sub('[^A-Za-z0-9._-]', '_', name)[:90].lstrip('._-') or 'run'
    return next(f'{base}_{number}' for number in itertools.count(2)
                if not os.path.exists(os.path.join(checkpoint_dir, f'{base}_{number}')))
