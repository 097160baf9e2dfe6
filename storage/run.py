"""A run on disk: its folders, its lock, its config.json, finding one, and how its other files are written and read."""

import contextlib
import fcntl
import glob
import json
import os
import pathlib
import re
import shutil
import socket

import imageio.v3 as imageio
import numpy as np
from PIL import Image

from options import ARTICLE, UserError, check_config, flag, options_of, run_name, settled, shown
from utils import atomic_folder, atomic_write, is_abandoned, make_folder, write_png

MODEL = 'SAGAN'  # begins the names of what a run writes
NAMED = 3  # runs that a line names at most
FILM_SIZE, FILM_FRAMES = 800, 150  # pixels a side, and frames, of a film at most: they lie in memory together


class RunNotFound(UserError):
    """No trained run has the options that are wanted."""


class Run:
    """The folders of a run, <checkpoint_dir>/<name>, <result_dir>/<name> and <log_dir>/<name>; options: all of them."""

    def __init__(self, options):
        self.name = run_name(options)
        self.folder, self.results, self.logs = (
            os.path.join(options[place], self.name) for place in ('checkpoint_dir', 'result_dir', 'log_dir'))
        self.config_path = os.path.join(self.folder, 'config.json')
        self.maps = os.path.join(self.results, f'{MODEL}_maps')
        self.variant = ''  # in the names of what is sampled otherwise than by default

    def path(self, name):
        """Where the result of that name, as curves.png, is written."""
        stem, ending = os.path.splitext(name)
        return os.path.join(self.results, f'{MODEL}_{stem}{self.variant}{ending}')

    @contextlib.contextmanager
    def held(self):
        """Hold the lock of the run: it has one writer, and goes with the process. Clears what a kill left half-written.

        Raises UserError, which names the holder, where another process has it.
        """
        with open(os.path.join(make_folder(self.folder), 'lock'), 'a+') as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise UserError(f'{self.folder} is being trained by {lock.read().strip() or "another process"}: wait '
                                'for its end, or give this run a --name of its own') from None
            lock.truncate(0)
            print(f'process {os.getpid()} on {socket.gethostname()}', file=lock, flush=True)
            try:
                for folder in self.folder, f'{self.folder}/{MODEL}', f'{self.folder}/best', self.results, self.maps:
                    clear(folder)
                yield
            finally:
                lock.truncate(0)

    def check(self, options, facts):
        """Raise UserError where the folder holds a run that was trained otherwise; tells what it has beyond these.

        facts: images and class_names, of the data set; another number of images is told.
        """
        if not os.path.exists(self.config_path) or not checkpoint_steps(f'{self.folder}/{MODEL}'):
            return
        known, rest = read_config(self.config_path)
        before = {**ARTICLE, **known}
        other = [f'{flag(name)} {shown(before[name])}' for name in options_of('names', 'trains')
                 if before[name] != options[name]]
        if other:
            raise UserError(f'{self.folder} holds a run with {", ".join(other)}: give the same, or another --name')
        tell_rest(self.config_path, rest)
        if rest.get('class_names', facts['class_names']) != facts['class_names']:
            before, now = (', '.join(names) or 'none' for names in (rest['class_names'], facts['class_names']))
            raise UserError(f'{self.folder} holds a run with the classes {before}, and the data now have {now}: put '
                            'them back, or give another --name')
        if rest.get('images', facts['images']) != facts['images']:
            print(f'The data set has {facts["images"]} images to train on, and had {rest["images"]} before')

    def write_config(self, options):
        """Write config.json; what it has that is no option stays in it."""
        rest = read_config(self.config_path)[1] if os.path.exists(self.config_path) else {}
        write_json({**rest, **options}, self.config_path)


def clear(folder):
    """Remove what a kill left half-written in a folder; other programs, still at work, keep theirs."""
    for pattern in '*.part', '*.tempstate*', 'checkpoint.tmp*':
        for path in glob.glob(os.path.join(glob.escape(folder), pattern)):
            if is_abandoned(path):
                shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)


def read_config(path):
    """What a config.json says -> ({option: value}, the rest of it). Raises UserError where it cannot be understood."""
    try:
        known, facts = check_config(dict(json.loads(pathlib.Path(path).read_text())), path)
        if not all(isinstance(name, str) for name in facts.get('class_names', [])):
            raise ValueError('class_names are no list of names')
        return known, facts
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f'{path} is damaged ({error}): delete it, or put it right') from error


def tell_rest(path, rest):
    """Tell what a config.json has that is neither option nor fact; image_shape was in those of older runs."""
    if names := ', '.join(sorted(set(rest) - {'image_shape', 'images', 'class_names'})):
        print(f'{path} has what this program does not know, and leaves alone: {names}')


def checkpoint_steps(folder):
    """The steps of the checkpoints SAGAN.model-<step> in a folder, newest first."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    found = [re.fullmatch(MODEL + r'\.model-([0-9]+)\.index', name) for name in names]
    return sorted((int(match[1]) for match in found if match), reverse=True)


def find_run(checkpoint_dir, wanted):
    """Find, below checkpoint_dir, the run trained last among those whose options agree with wanted, {option: value}.

    Returns all options of the run, its folder's name among them, as its config.json gives them, or, in the folders of
    older repositories, which have none, the folder's name; then what else is in config.json; then the names of all
    runs that agree, the one trained last first.
    Raises RunNotFound where there is no such run, UserError where a config.json, that of the run wanted by name or else any,
    is damaged.
    """
    runs = []
    for folder in sorted(pathlib.Path(checkpoint_dir).glob('*')):
        steps = checkpoint_steps(folder / MODEL)
        named = re.fullmatch(r'SAGAN_(.+)_([0-9]+)_([0-9]+)', folder.name)
        options, rest = {}, {}
        if steps and (folder / 'config.json').exists():
            try:
                options, rest = read_config(folder / 'config.json')
            except UserError:
                if wanted.get('name', folder.name) == folder.name:
                    raise
                continue
        elif steps and named:
            options = {'dataset_name': named[1], 'batch_size': int(named[2]), 'z_dim': int(named[3])}
        else:
            continue
        trained = (folder / MODEL / f'{MODEL}.model-{steps[0]}.index').stat().st_mtime
        runs.append((trained, {**ARTICLE, **options, 'name': folder.name}, rest))
    runs.sort(key=lambda run: run[0], reverse=True)
    agreeing = [run for run in runs if settled({**run[1], **wanted}) == settled(run[1])]
    if not agreeing:
        there_is = name_some([run[1]['name'] for run in runs]) or 'nothing'
        typed = ' '.join(f'{flag(option)} {shown(value)}' for option, value in wanted.items())
        raise RunNotFound(f'no trained run {typed and f"with {typed} "}in {checkpoint_dir} (there is {there_is}): '
                    'train first, with --phase train')
    _, options, rest = agreeing[0]
    return options, rest, [run[1]['name'] for run in agreeing]


def name_some(names):
    """The first of some names as text, and how many there are besides."""
    more = len(names) - NAMED
    return ', '.join(names[:NAMED]) + (f' and {more} more' if more > 0 else '')


##################################################################################
# Files
##################################################################################

def write_json(content, path):
    """Write content as JSON to path."""
    with atomic_write(path) as part:
        pathlib.Path(part).write_text(json.dumps(content, indent=2) + '\n')


def write_animation(folder, prefix):
    """Write the grids <prefix>_train_<epoch>_<step>.png of a folder, in that order, as <prefix>_progress.gif."""
    found = [re.fullmatch(re.escape(prefix) + r'_train_([0-9]+)_([0-9]+)\.png', name) for name in os.listdir(folder)]
    names = [match[0] for match in sorted(filter(None, found), key=lambda match: (int(match[1]), int(match[2])))]
    grids = []
    for name in names[::-(-len(names) // FILM_FRAMES) or 1]:
        with contextlib.suppress(Exception):  # there is no end to what a damaged picture makes Pillow raise
            grid = imageio.imread(os.path.join(folder, name), plugin='pillow')
            grids.append(np.asarray(Image.fromarray(grid).reduce(-(-max(grid.shape) // FILM_SIZE))))
    # A run that went on with another --sample_num has grids of two sizes; a GIF holds one.
    grids = [grid for grid in grids if grid.shape == grids[-1].shape]
    if grids:
        with atomic_write(os.path.join(folder, f'{prefix}_progress.gif')) as part:
            film = imageio.imwrite('<bytes>', np.stack(grids), extension='.gif', duration=200, loop=0)
            pathlib.Path(part).write_bytes(film)


def save_figure(figure, path):
    """Write a figure of matplotlib as PNG."""
    with atomic_write(path) as part:
        figure.savefig(part, format='png', dpi=100)


def export_images(folder, pixels, z, labels=None):
    """Write pixels, uint8 [N, H, W, C], as folder/00000.png ... and, with their z [N, z_dim], as folder/samples.npz.

    samples.npz holds arr_0, the pixels, arr_1, the labels [N] where there are any, and z. What was exported there
    before is replaced.
    """
    with atomic_folder(folder) as part:
        os.makedirs(part)
        for number, image in enumerate(pixels):
            write_png(os.path.join(part, f'{number:05d}.png'), image)
        np.savez_compressed(os.path.join(part, 'samples.npz'), arr_0=pixels, z=z,
                            **({} if labels is None else {'arr_1': labels}))
