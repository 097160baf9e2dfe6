"""What training, test and eval leave of a run: when a checkpoint is due, history, summaries, grids, figures, scores.

What training writes is a record each: an object with due(step) and write(step, values), where values are the losses of
that step, {name: number}, to which records may add. training_records lists them in the order of writing.
"""

import contextlib
import dataclasses
import pathlib
from typing import Any

import numpy as np

from evaluation.figures import draw_attention, draw_curves, draw_neighbours
from evaluation.metrics import nearest_neighbours, print_scores
from explorer.page import write_page
from explorer.snapshots import read_snapshots, snapshot_paths, write_snapshot
from options import UserError
from storage.checkpoints import Checkpoints
from storage.history import open_history, read_history
from storage.run import MODEL, Run, save_figure, write_animation, write_json
from tf1 import one_line, tf
from training.progress import Progress, place
from utils import Stream, make_folder, save_images

FEW = 2048  # images, below which a Fréchet distance depends on their number
WALKS, WALK_STEPS = 8, 10  # rows and columns of the picture of walks between two z
NEIGHBOUR_ROWS, NEIGHBOURS = 8, 6  # rows of the picture of nearest training images, and images in one


def training_records(run, options, step, steps_an_epoch, last_step, stops, *, graph, sample, draw, note, score, losses,
                     gammas, output, checkpoints, best):
    """What a training of a run leaves from a step on, in the order of writing: what reads a value comes after it.

    options: all of config.json, which this writes; stops: true once training is asked to stop. graph: of TensorFlow;
    sample: (z, labels) -> images; draw: use, ... -> (z, labels, size) of a grid; note: (epoch, step) -> a note
    of explorer.py, None without attention; score: () -> {name: number}, for --eval_freq; losses: their names; gammas:
    {name: tensor}; output: what D's output is; checkpoints and best: Checkpoints, of every save_freq steps, and of the
    best score.
    """
    epoch, scored = (steps_an_epoch,), (steps_an_epoch * options['eval_freq'],)
    noted = (options['print_freq'], *scored)
    make_folder(run.results)
    summaries = Summaries(noted, run.logs, step, graph)
    path = run.path('history.csv')
    distances = [float(row['frechet_distance']) for row in read_history(path)
                 if row.get('frechet_distance') and int(row['step']) <= step]
    scores = ['frechet_distance', 'classifier_score'] if options['eval_freq'] or distances else []
    history = History(noted, path, step, ['step', *losses, *gammas, *scores], lambda: checkpoints.sess.run(gammas))
    run.write_config(options)  # last, so that a folder that cannot be made leaves it as it was
    return [
        Scores(scored, score), Best(scored, best, min(distances, default=np.inf)), history, summaries,
        Progress(noted, step, steps_an_epoch, last_step),
        Grid((options['sample_freq'],), min(options['save_freq'], last_step), run, sample, draw(Stream.FIXED_Z),
             steps_an_epoch, summaries),
        EpochGrid(epoch, run, sample, draw, steps_an_epoch), Curves(epoch, run, output),
        Film(epoch, last_step, stops, run),
        Maps(epoch if note else (), run.maps, step, steps_an_epoch, note), Page((), last_step, stops, run),
        Saves((options['save_freq'],), last_step, stops, checkpoints)]


@contextlib.contextmanager
def writing(records):
    """Within, a function (step, values) that writes the records that are due, in their order; at the end, closes them.

    One that fails does not keep the others, checkpoints among them, from being written. It is told in a line; what the
    user must put right, an OSError of the system or a UserError, is raised when all have been tried.
    """
    tell = next((record.tell for record in records if isinstance(record, Progress)), lambda word: None)

    def write_due(step, values):
        failure = None
        for record in records:
            try:
                if record.due(step):
                    if record.word:
                        tell(record.word)
                    record.write(step, values)
            except Exception as error:
                if isinstance(error, UserError) or getattr(error, 'errno', None):
                    failure = error
                else:
                    print(f'{type(record).__name__} of step {step} is not written: {one_line(error)}', flush=True)
        if failure:
            raise failure

    with contextlib.ExitStack() as closing:  # closes all, also where closing one fails, as on a full disk
        for record in reversed(records):
            closing.callback(record.close)
        yield write_due


@dataclasses.dataclass
class Record:
    """Something that is written at each multiple of any of these numbers of steps, of which 0 has none."""
    every: tuple

    word = 'drawing'  # for what it does, where that takes a while

    def due(self, step):
        return any(steps and step % steps == 0 for steps in self.every)

    def close(self):
        pass


@dataclasses.dataclass
class AtEnd(Record):
    """Something that is written also after the last step, and when training is asked to stop."""
    last_step: int
    stops: Any  # true once training is asked to stop

    def due(self, step):
        return super().due(step) or step == self.last_step or bool(self.stops)


@dataclasses.dataclass
class Scores(Record):
    """Scores of samples, always of the same z, which the records after it read."""
    score: Any  # () -> {name: number}
    word = 'scoring'

    def write(self, step, values):
        values.update(self.score())


@dataclasses.dataclass
class Best(Record):
    """The checkpoint with the least Fréchet distance that the history knows."""
    checkpoints: Checkpoints
    least: float
    word = 'saving'

    def write(self, step, values):
        if values.get('frechet_distance', np.inf) < self.least:
            self.checkpoints.check(step)
            self.checkpoints.save(step)
            self.least = values['frechet_distance']


class History(Record):
    """A row of all values, in a CSV file that loses what an interrupted run wrote after step; adds the gammas."""

    word = ''

    def __init__(self, every, path, step, columns, gammas):
        super().__init__(every)
        self.columns, self.gammas = columns, gammas  # gammas: a function -> {name: number}
        self.file = open_history(path, step, columns)

    def write(self, step, values):
        values.update(self.gammas())
        print(step, *(values.get(name, '') for name in self.columns[1:]), sep=',', file=self.file, flush=True)

    def close(self):
        self.file.close()


class Summaries(Record):
    """All values and the graph, for TensorBoard, which drops what an interrupted run wrote after step."""

    word = ''

    def __init__(self, every, folder, step, graph):
        super().__init__(every)
        self.writer = tf.summary.FileWriter(make_folder(folder), graph)
        self.writer.add_session_log(tf.SessionLog(status=tf.SessionLog.START), step)

    def write(self, step, values):
        self.writer.add_summary(tf.Summary(value=[
            tf.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]), step)

    def add_image(self, step, path):
        image = tf.Summary.Image(encoded_image_string=pathlib.Path(path).read_bytes())
        self.writer.add_summary(tf.Summary(value=[tf.Summary.Value(tag='samples', image=image)]), step)

    def close(self):
        self.writer.close()


@dataclasses.dataclass
class Grid(Record):
    """A grid of images of the same z, for TensorBoard too; the first at the latest with the first checkpoint."""
    first: int  # the step of the first checkpoint
    run: Run
    sample: Any  # (z, labels) -> images
    drawn: tuple  # z, labels and size of the grid
    steps_an_epoch: int
    summaries: Summaries

    def due(self, step):
        return super().due(step) or step == self.first < self.every[0]

    def write(self, step, values):
        epoch, index = place(step, self.steps_an_epoch)
        path = write_grid(self.run, f'train_{epoch:02d}_{index:04d}', self.sample, *self.drawn)
        self.summaries.add_image(step, path)


@dataclasses.dataclass
class EpochGrid(Record):
    """A grid of new z after each epoch."""
    run: Run
    sample: Any
    draw: Any  # use, number of an epoch -> z, labels and size of the grid
    steps_an_epoch: int

    def write(self, step, values):
        epoch, _ = place(step, self.steps_an_epoch)
        write_grid(self.run, f'epoch{epoch:03d}_test_all_classes', self.sample, *self.draw(Stream.EPOCH_Z, epoch))


@dataclasses.dataclass
class Curves(Record):
    """The history as a figure."""
    run: Run
    output: str

    def write(self, step, values):
        save_figure(draw_curves(read_history(self.run.path('history.csv')), self.output), self.run.path('curves.png'))


@dataclasses.dataclass
class Film(AtEnd):
    """The grids of the same z as a film."""
    run: Run

    def write(self, step, values):
        write_animation(self.run.results, MODEL)


class Maps(Record):
    """Where the attention layers look after each epoch, for the page; drops what was noted after step."""

    def __init__(self, every, folder, step, steps_an_epoch, note):
        super().__init__(every)
        self.folder, self.steps_an_epoch, self.note = folder, steps_an_epoch, note
        for later, path in snapshot_paths(folder).items():
            if later > step:
                path.unlink()

    def write(self, step, values):
        epoch, _ = place(step, self.steps_an_epoch)
        write_snapshot(make_folder(self.folder), self.note(epoch + 1, step))


@dataclasses.dataclass
class Page(AtEnd):
    """The page of all maps that were noted."""
    run: Run

    def write(self, step, values):
        write_explorer(self.run)


@dataclasses.dataclass
class Saves(AtEnd):
    """Checkpoints."""
    checkpoints: Checkpoints
    word = 'saving'

    def write(self, step, values):
        self.checkpoints.check(step)
        self.checkpoints.save(step)


##################################################################################
# What test and eval write
##################################################################################

def write_grid(run, name, sample, z, labels, size):
    """Write what sample makes of z [N, z_dim] and labels [N] as a grid of size (rows, columns) -> its path."""
    path = run.path(f'{name}.png')
    save_images(sample(z, labels), size, path)
    return path


def write_walks(run, sample, z, labels):
    """Write the images on straight walks between the first and the second half of z [2 * WALKS, z_dim], a row each.

    labels [WALKS]: the class of a walk; None where there are none.
    """
    start, end = z.reshape(2, WALKS, 1, -1)
    part = np.linspace(0, 1, WALK_STEPS, dtype=np.float32)[:, None]  # [WALK_STEPS, 1]
    walks = ((1 - part) * start + part * end).reshape(WALKS * WALK_STEPS, -1)  # [WALKS * WALK_STEPS, z_dim]
    labels = None if labels is None else np.repeat(labels, WALK_STEPS)
    save_images(sample(walks, labels), (WALKS, WALK_STEPS), run.path('interpolation.png'))


def write_attention(run, step, sections):
    """Write the figure of the attention maps in sections, as draw_attention takes them, where there are any."""
    if sections:
        figure = draw_attention(sections, f'{run.name}, step {step}: where the framed blocks look')
        save_figure(figure, run.path('attention.png'))


def write_explorer(run, *more):
    """Write the page of the maps that training noted, and of one more note, in the place of that of its step."""
    notes, left_out = read_snapshots(run.maps, *(facts['step'] for facts, _ in more))
    for facts, arrays in more:
        before = {known['step']: (known, maps) for known, maps in notes}
        epoch = before[facts['step']][0]['epoch'] if facts['step'] in before else facts['epoch']
        before[facts['step']] = {**facts, 'epoch': epoch}, arrays
        notes = [before[step] for step in sorted(before)]
    if notes:
        write_page(run.path('explorer.html'), run.name, notes, left_out)


def write_scores(run, scores, images, dataset):
    """Print and write scores, {name: what}, and the neighbours of images, uint8, among a Dataset's training images."""
    train_images = dataset.train[0]
    what = '' if dataset.class_names else ' about the turns'
    print(f'{scores["eval_num"]} images of step {scores["step"]}, {scores["weights"]} weights, scored by a classifier '
          f'that is right{what} on {scores["classifier_accuracy"]:.2%} of the test split')
    print_scores(scores['generated'], scores['real'], dataset.class_names, scores['eval_num'])
    if scores['eval_num'] < FEW:
        print(f'Fréchet distances of fewer than {FEW} images are too large: compare them with those of as many alone')
    write_json(scores, run.path('scores.json'))
    images = images[:NEIGHBOUR_ROWS]
    found = train_images[nearest_neighbours(images, train_images, NEIGHBOURS)]  # [rows, NEIGHBOURS, H, W, C]
    figure = draw_neighbours(images, found, f'{run.name}, step {scores["step"]}')
    save_figure(figure, run.path('neighbours.png'))
