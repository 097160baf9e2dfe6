"""The outputs of training, one callback each. default_callbacks lists the callbacks in the order in which they run."""

import collections
import contextlib
import pathlib

import numpy as np
from tqdm import tqdm

from evaluation.attention import real_images, take_snapshot, write_attention_page
from evaluation.figures import draw_curves, save_figure, write_animation
from evaluation.metrics import METRICS
from evaluation.samples import write_grid
from explorer.snapshots import SNAPSHOT_IMAGES, snapshot_paths, write_snapshot
from ops import layers_by_column
from options import UserError
from storage.history import open_history, read_history
from storage.run import MODEL
from tf1 import one_line, tf
from utils import Stream, make_folder

QUICK_EVAL_NUM = 5000  # images that --eval_freq scores
COLLAPSE_STEPS = 500  # before a warning
LOW_LOSS = 0.04  # relative to Objective.chance_loss
LOW_VARIETY = 0.2  # relative to the variety of the training images
VARIETY_IMAGES, VARIETY_CLASSES = 64, 8  # number of samples whose variety is measured, and of classes among them
SCORES = {metric.history: metric.title for metric in METRICS if metric.history}  # {column of the history: title}


class Callback:
    """An action after training steps. A subclass overrides the methods that it needs.

    The model that the methods receive is the SAGAN being trained, with its config, run and session. step is the number
    of steps taken so far, so the first step is 1.
    """

    activity = ''  # shown by the progress bar while on_step runs

    def start(self, model, step):
        """Prepare for training to continue after this step."""

    def is_due(self, model, step, is_last):
        """Return whether on_step runs after this step. is_last is True if training ends after this step."""
        return True

    def on_step(self, model, step, values):
        """Act on the model after a step.

        Args:
            values: {name: number}, the losses of the step and the values that earlier callbacks have added.
        """

    def close(self):
        """Release what start opened. Runs at the end of training, even if start or on_step failed."""


def every(freq, step):
    """Return whether step is a multiple of freq. A freq of 0 means never."""
    return freq > 0 and step % freq == 0


def is_scored(config, step):
    """Return whether --eval_freq scores samples after this step."""
    return every(config.steps_per_epoch * config.eval_freq, step)


def is_recorded(config, step):
    """Return whether the values of this step go into the history and the summaries."""
    return every(config.print_freq, step) or is_scored(config, step)


def epoch_and_index(step, steps_per_epoch):
    """Return the epoch of a step, counted from 0, and its index in the epoch, counted from 1. The first step is 1."""
    epoch, index = divmod(step - 1, steps_per_epoch)
    return epoch, index + 1


def default_callbacks(dataset, scorer, progress):
    """Return the callbacks of a training run. A callback that reads a value runs after the callback that adds it.

    Args:
        dataset: the Dataset to train on.
        scorer: the function that load_scorer returns, or None if --eval_freq is 0.
        progress: the ProgressBar.
    """
    summaries = Summaries()
    return [Scores(scorer), BestCheckpoint(), History(), summaries, progress, TrainGrid(summaries),
            CollapseWarning(dataset), EpochGrid(), Curves(), Animation(), Snapshots(dataset), AttentionPage(),
            Checkpoint(), StoppedRun(dataset)]


@contextlib.contextmanager
def running(callbacks, model, step, progress):
    """Start callbacks and close them at the end.

    Args:
        progress: a ProgressBar, which shows the activity of the callbacks.

    Yields:
        A function (step, values, is_last) that runs the callbacks that are due. If a callback fails, the others still
        run. A UserError or an error of the operating system is raised after all have run. Any other error is printed.
    """
    def run_due(step, values, is_last):
        failure = None
        for callback in callbacks:
            try:
                if callback.is_due(model, step, is_last):
                    if callback.activity:
                        progress.show(callback.activity)
                    callback.on_step(model, step, values)
            except Exception as error:
                # An OSError without errno comes from a library, such as Pillow, not from the system.
                if isinstance(error, UserError) or getattr(error, 'errno', None) is not None:
                    failure = error
                else:
                    tqdm.write(f'{type(callback).__name__} failed at step {step}: {one_line(error)}')
        if failure is not None:
            raise failure

    with contextlib.ExitStack() as stack:  # calls every close, even if one of them fails
        for callback in callbacks:
            stack.callback(callback.close)
            callback.start(model, step)
        yield run_due


class Scores(Callback):
    """Score samples from fixed z every --eval_freq epochs and add the scores to the values."""

    activity = 'scoring'

    def __init__(self, scorer):
        self.scorer = scorer

    def is_due(self, model, step, is_last):
        return is_scored(model.config, step)

    def on_step(self, model, step, values):
        z = model.draw_z(QUICK_EVAL_NUM, model.config.seed, Stream.EVAL_Z)
        values.update(self.scorer(model.pixels(z, model.proportional_labels(QUICK_EVAL_NUM))))


class BestCheckpoint(Callback):
    """Save a checkpoint if the Fréchet distance of its samples is the lowest of the run."""

    activity = 'saving'

    def start(self, model, step):
        distances = [float(row['frechet_distance']) for row in read_history(model.run.result_path('history.csv'))
                     if row.get('frechet_distance') and int(row['step']) <= step]
        self.lowest = min(distances, default=np.inf)

    def is_due(self, model, step, is_last):
        return is_scored(model.config, step)

    def on_step(self, model, step, values):
        if values.get('frechet_distance', np.inf) < self.lowest:
            model.best_checkpoints.save_if_finite(step)
            self.lowest = values['frechet_distance']


class History(Callback):
    """Add the gammas of the attention layers to the values, and append the values to the history."""

    file = None

    def start(self, model, step):
        path = model.run.result_path('history.csv')
        rows = read_history(path)
        has_scores = model.config.eval_freq > 0 or any(
            row.get('frechet_distance') for row in rows if int(row['step']) <= step)
        self.columns = ['step', *model.losses, *model.gammas, *(SCORES if has_scores else [])]
        self.file = open_history(path, step, self.columns)

    def is_due(self, model, step, is_last):
        return is_recorded(model.config, step)

    def on_step(self, model, step, values):
        values.update(model.sess.run(model.gammas))
        print(step, *(values.get(name, '') for name in self.columns[1:]), sep=',', file=self.file, flush=True)

    def close(self):
        if self.file:
            self.file.close()


class Summaries(Callback):
    """Write the graph and the values for TensorBoard."""

    writer = None

    def start(self, model, step):
        self.writer = tf.summary.FileWriter(model.run.logs, model.sess.graph)
        # This event makes TensorBoard discard the values that an interrupted run wrote after this step.
        self.writer.add_session_log(tf.SessionLog(status=tf.SessionLog.START), step)

    def is_due(self, model, step, is_last):
        return is_recorded(model.config, step)

    def on_step(self, model, step, values):
        self.writer.add_summary(tf.Summary(value=[
            tf.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]), step)

    def add_image(self, step, path):
        """Add the image at path to the summaries."""
        image = tf.Summary.Image(encoded_image_string=pathlib.Path(path).read_bytes())
        self.writer.add_summary(tf.Summary(value=[tf.Summary.Value(tag='samples', image=image)]), step)

    def close(self):
        if self.writer:
            self.writer.close()


class TrainGrid(Callback):
    """Write a grid of samples from fixed z every --sample_freq steps, and add it to the summaries.

    The first grid is written no later than the first periodic checkpoint, so that a killed run has a grid, too.
    """

    activity = 'drawing'

    def __init__(self, summaries):
        self.summaries = summaries

    def is_due(self, model, step, is_last):
        config = model.config
        first = min(config.sample_freq, config.save_freq, config.last_step)
        return every(config.sample_freq, step) or step == first

    def on_step(self, model, step, values):
        path = write_grid(model, f'train_step{step:05d}', model.config.seed, Stream.FIXED_Z)
        self.summaries.add_image(step, path)


class CollapseWarning(Callback):
    """Print a line if D's loss stays near 0, and a line if samples from fixed z lose their variety, each at most once.

    Each symptom must last for COLLAPSE_STEPS steps. Early in a healthy run, D wins for some steps, and samples are
    alike.
    """

    def __init__(self, dataset):
        self.dataset = dataset

    def start(self, model, step):
        self.losses = collections.deque(maxlen=COLLAPSE_STEPS)
        self.loss_is_checked = model.objective.chance_loss is not None
        self.real_variety = real_variety(self.dataset, model.config.conditional)
        self.variety_is_checked = True
        self.alike_since = None  # the step since which all samples have been alike, or None

    def on_step(self, model, step, values):
        if self.loss_is_checked:
            self.check_loss(model, step, values['d_loss_real'] + values['d_loss_fake'])  # without a penalty
        if self.variety_is_checked and every(model.config.sample_freq, step):
            self.check_variety(model, step)

    def check_loss(self, model, step, loss):
        self.losses.append(loss)
        mean = sum(self.losses) / len(self.losses)
        if len(self.losses) == COLLAPSE_STEPS and mean < LOW_LOSS * model.objective.chance_loss:
            tqdm.write(f'Step {step}: D separates real and generated images almost perfectly (mean d_loss_real + '
                       f'd_loss_fake {mean:.2g} over {COLLAPSE_STEPS} steps), so G may stop learning. '
                       f'{collapse_advice(model.config)}')
            self.loss_is_checked = False

    def check_variety(self, model, step):
        samples_variety = sample_variety(model)
        if samples_variety >= LOW_VARIETY * self.real_variety:
            self.alike_since = None
        elif self.alike_since is None:
            self.alike_since = step
        elif step - self.alike_since >= COLLAPSE_STEPS:
            tqdm.write(f'Step {step}: the samples are almost the same for every z (their standard deviation is '
                       f'{samples_variety / self.real_variety:.0%} of that of the training images), so G has probably '
                       f'collapsed. {collapse_advice(model.config)}')
            self.variety_is_checked = False


def collapse_advice(config):
    """Return what to try in a new run if training with this Config collapses."""
    measures = ['a lower --d_lr']
    if config.gan_type != 'r1':
        measures.append('--gan_type r1')
    if not config.sn:
        measures.append('--sn true')
    if not config.augment:
        measures.append('--augment true')
    return f'Try in a new run: {", ".join(measures)}'


def variety(images, labels=None):
    """Return the root mean square, over pixels and classes, of the standard deviation within a class.

    images are [N, H, W, C]. Without labels [N], all images are of one class. Classes with one image do not count. If
    no class has more, return 0.
    """
    if labels is None:
        labels = np.zeros(len(images))
    classes = [images[labels == label] for label in np.unique(labels)]
    variances = [members.var(0, ddof=1).mean() for members in classes if len(members) > 1]
    return float(np.sqrt(np.mean(variances))) if variances else 0.


def real_variety(dataset, conditional):
    """Return the variety of training images in [0, 1], evenly spaced in the data set, or 0 if it is unknown."""
    images, labels = dataset.train
    count = min(len(images), 512, 2 ** 24 // images[0].size)  # at most 64 MB
    index = np.linspace(0, len(images) - 1, count).astype(int)
    return variety(images[index] / np.float32(255), labels[index] if conditional else None)


def sample_variety(model):
    """Return the variety of samples from fixed z."""
    labels = None
    if model.config.conditional:
        labels = np.arange(VARIETY_IMAGES) % min(model.config.num_classes, VARIETY_CLASSES)
    return variety(model.sample(model.draw_z(VARIETY_IMAGES, model.config.seed, Stream.FIXED_Z), labels), labels)


class EpochGrid(Callback):
    """Write a grid of samples from new z after each epoch."""

    activity = 'drawing'

    def is_due(self, model, step, is_last):
        return every(model.config.steps_per_epoch, step)

    def on_step(self, model, step, values):
        epoch, _ = epoch_and_index(step, model.config.steps_per_epoch)
        write_grid(model, f'samples_epoch{epoch + 1:03d}', model.config.seed, Stream.EPOCH_Z, epoch)


class Curves(Callback):
    """Draw the curves of the history after each epoch."""

    activity = 'drawing'

    def is_due(self, model, step, is_last):
        return every(model.config.steps_per_epoch, step)

    def on_step(self, model, step, values):
        write_curves(model)


def write_curves(model):
    """Draw the history of a run."""
    output = "D's mean probability that an image is real" if model.objective.probability else "D's mean output"
    layers = layers_by_column([layer for layers in model.layers.values() for layer in layers])
    map_shapes = {column: layer.query_shape for column, layer in layers.items()}
    figure = draw_curves(read_history(model.run.result_path('history.csv')), output, map_shapes)
    save_figure(figure, model.run.result_path('curves.png'))


class Animation(Callback):
    """Write the training grids as a GIF, after each epoch and at the end."""

    activity = 'drawing'

    def is_due(self, model, step, is_last):
        return is_last or every(model.config.steps_per_epoch, step)

    def on_step(self, model, step, values):
        write_animation(model.run.results, MODEL, model.config.steps_per_epoch)


class Snapshots(Callback):
    """Write a snapshot of the attention maps after each epoch, for the attention page."""

    activity = 'drawing'

    def __init__(self, dataset):
        self.dataset = dataset

    def start(self, model, step):
        self.real = real_images(model.config, SNAPSHOT_IMAGES, self.dataset)
        for later_step, path in snapshot_paths(model.run.snapshots).items():
            if later_step > step:  # written by an interrupted run
                path.unlink()

    def is_due(self, model, step, is_last):
        return bool(model.gammas) and every(model.config.steps_per_epoch, step)

    def on_step(self, model, step, values):
        epoch, _ = epoch_and_index(step, model.config.steps_per_epoch)
        write_snapshot(make_folder(model.run.snapshots), take_snapshot(model, self.real, epoch + 1, step))


class AttentionPage(Callback):
    """Write the attention page of all snapshots at the end of training."""

    activity = 'drawing'

    def is_due(self, model, step, is_last):
        return step == model.config.last_step

    def on_step(self, model, step, values):
        write_attention_page(model.run)


class Checkpoint(Callback):
    """Save a checkpoint every --save_freq steps and at the end of training."""

    activity = 'saving'

    def is_due(self, model, step, is_last):
        return every(model.config.save_freq, step) or is_last

    def on_step(self, model, step, values):
        model.checkpoints.save_if_finite(step)


class StoppedRun(Callback):
    """If training is stopped early, write a grid, the curves and the attention page of the last step.

    This callback runs after the checkpoint is saved, because the process may be killed soon. It writes neither a
    training grid nor a snapshot. The animation and the page of a resumed run are therefore those of an uninterrupted
    run.
    """

    activity = 'drawing'

    def __init__(self, dataset):
        self.dataset = dataset

    def start(self, model, step):
        pathlib.Path(model.run.result_path('stopped.png')).unlink(missing_ok=True)

    def is_due(self, model, step, is_last):
        return is_last and step < model.config.last_step

    def on_step(self, model, step, values):
        config = model.config
        write_grid(model, 'stopped', config.seed, Stream.FIXED_Z)
        write_curves(model)
        if model.gammas:
            real = real_images(config, SNAPSHOT_IMAGES, self.dataset)
            write_attention_page(model.run, take_snapshot(model, real, epoch=0, step=step))
