"""The phases test, eval and export.

Each phase restores a checkpoint ('latest', 'best' or a step), and raises UserError if the checkpoint does not exist.
seed is the seed of z: the same seed gives the same files.
"""

import math
import os

from datasets import load_dataset
from evaluation.attention import real_images, take_snapshot, write_attention_figure, write_attention_page
from evaluation.classifier import has_classifier, load_classifier, training_epochs
from evaluation.features import check_reference, load_features, load_reference
from evaluation.figures import draw_neighbours, save_figure
from evaluation.metrics import MIN_FRECHET_IMAGES, TRAINING_SPLIT, nearest_neighbours
from evaluation.progress import Progress, rough_duration, seconds_per_item
from evaluation.samples import write_grid, write_interpolation, write_single_images
from evaluation.scores import as_json, caution, check_counts, evaluate_samples, print_scores
from explorer.playground import write_playground
from explorer.snapshots import SNAPSHOT_IMAGES
from options import UserError
from storage.run import describe_reading
from tf1 import one_line, tf
from utils import Stream, atomic_folder, list_first, make_folder, write_json

TIMED_IMAGES = 50
# Measured on two cores.
CLASSIFIER_SECONDS = 4e-7  # per pixel
SCORES_SECONDS = 30
PLAYGROUND_IMAGES = 1000  # test images from which the playground chooses
NEIGHBOUR_ROWS, NEIGHBOURS = 8, 6  # generated images in the figure, and nearest training images of each


def test(model, seed=0, checkpoint='latest'):
    """Write test_num grids of sample_num images, the figures, the attention page, and the single images of --export."""
    step = restore(model, checkpoint)
    config, suffix = model.config, file_suffix(model, checkpoint, seed)
    make_folder(model.run.results)
    for number in range(config.test_num):
        write_grid(model, f'test_{number:03d}', seed, Stream.TEST_Z, number, suffix=suffix)
    write_interpolation(model, seed, suffix)
    write_attention_figure(model, step, seed, suffix)
    if model.sampled_gammas:
        # The page of a class or of a seed shows only this checkpoint, because training recorded other images.
        is_own = model.target_class is not None or seed != 0
        key = (seed, Stream.FIGURE_Z) if is_own else None
        snapshot = take_snapshot(model, real_images(config, SNAPSHOT_IMAGES), epoch=0, step=step, key=key)
        write_attention_page(model.run, snapshot, suffix, with_saved=not is_own)
    else:
        print('The network has no attention layers: no attention figure and no attention page are written. --attention '
              'paper trains a network with attention layers')
    written = 'Grids and figures'
    if config.export > 0:
        z, labels = model.draw_z(config.export, seed, Stream.EXPORT_Z), model.proportional_labels(config.export)
        write_single_images(f'{model.run.results}/samples{suffix}', model.pixels(z, labels), z, labels)
        written = 'Grids, figures and single images'
    print(f'{written} of step {step}, {model.sampled_weights} weights:\n{model.run.results}')


def evaluate(model, seed=0, checkpoint='latest', features=None, reference=None):
    """Score eval_num images and the real test split, and draw some images with their nearest training images.

    The scores of a target class use only the images of this class in the data set.

    Args:
        features: network whose features are compared, as --features names it, or None for the classifier.
        reference: npz file of statistics to compare with, or None for the training split.

    Raises:
        UserError: if the data set is missing, or if its classes differ from those of a conditional run.
    """
    step = restore(model, checkpoint)
    config, suffix = model.config, file_suffix(model, checkpoint, seed)
    dataset = load_dataset(config.dataset_name, config.data_dir, config.image_shape)
    print(dataset.description, flush=True)
    check_classes(model, dataset)
    report_reading(config, dataset)
    compared = dataset
    if model.target_class is not None:
        compared = dataset.of_class(model.target_class)
        print(f'The scores use only images of class {config.class_names[model.target_class]}')
    check_counts(config.eval_num, compared)
    labels = model.proportional_labels(config.eval_num)
    z = model.draw_z(config.eval_num, seed, Stream.EVAL_Z)
    extract = statistics = None
    if features is not None:
        extract = load_features(features, config.image_shape[2])
        if reference is not None:
            statistics = load_reference(reference)
            check_reference(statistics, extract, dataset.test[0][:2])
    report_plan(model, dataset, compared, z, labels, extract, statistics)
    make_folder(model.run.results)
    with Progress(f'Drawing {len(z)} samples', len(z)) as progress:
        images = model.pixels(z, labels, progress)
    if extract is None:
        extract = load_classifier(config.dataset_name, dataset, config.checkpoint_dir)
    scores = evaluate_samples(images, labels, compared, extract, statistics)

    metadata = {'step': step, 'weights': model.sampled_weights, 'seed': seed, 'dataset': config.dataset_name,
                'eval_num': config.eval_num}
    scored = f'{config.eval_num} images of step {step}, {model.sampled_weights} weights, scored'
    reference_name = TRAINING_SPLIT if statistics is None else statistics.name
    if features is not None:
        print(f'{scored} with the features of {features}')
        metadata.update(features=os.path.basename(features.rstrip('/')), reference=reference_name)
        file_name = 'scores_features.json'
    else:
        subject = 'images' if dataset.class_names else 'rotations'
        print(f'{scored} by a classifier that recognises {scores.accuracy:.2%} of the {subject} of the test split')
        metadata['classifier_accuracy'] = scores.accuracy
        file_name = 'scores.json'
    print_scores(scores, dataset.class_names, reference_name)
    report_classes(model, scores.classes)
    print(caution(config.eval_num, len(compared.test[0])))
    write_json({**metadata, **as_json(scores)}, model.run.result_path(file_name, suffix))

    train_images, images = dataset.train[0], images[:NEIGHBOUR_ROWS]
    neighbours = train_images[nearest_neighbours(images, train_images, NEIGHBOURS)]  # [rows, NEIGHBOURS, H, W, C]
    save_figure(draw_neighbours(images, neighbours, f'{model.run.name}, step {step}'),
                model.run.result_path('neighbours.png', suffix))
    print(f'Scores and nearest neighbours:\n{model.run.results}')


def report_plan(model, dataset, compared, z, labels, extract=None, reference=None):
    """Print what evaluate will do, and roughly how long it takes.

    Args:
        compared: the Dataset to compare with: the whole dataset, or the images of one class.
        z, labels: those of the samples.
        extract: the function that load_features returns, or None for the classifier.
        reference: a Reference, or None for the training split.
    """
    config, train_images, test_images = model.config, dataset.train[0], dataset.test[0]
    few = slice(0, TIMED_IMAGES)
    seconds = len(z) * seconds_per_item(model.sample, z[few], None if labels is None else labels[few])
    tasks = [f'draw {len(z)} samples']
    if extract is not None:
        feature_seconds = seconds_per_item(extract, test_images[few])
    else:
        feature_seconds = CLASSIFIER_SECONDS * math.prod(config.image_shape[:2])
        if not has_classifier(config.dataset_name, dataset, config.checkpoint_dir):
            # A training step takes about three times as long as a prediction.
            training_seconds = 3 * feature_seconds * len(train_images) * training_epochs(len(train_images))
            seconds += training_seconds
            tasks.append(f'train the classifier ({rough_duration(training_seconds)}, only once)')
    num_images = len(compared.test[0]) + len(z)
    if reference is None:
        num_images += len(compared.train[0])
    seconds += feature_seconds * num_images + SCORES_SECONDS
    tasks.append(f'compute features of {num_images} images')
    print(f'Plan: {", ".join(tasks)}, compute the scores: {rough_duration(seconds)} in all', flush=True)


def report_classes(model, classes):
    """Print which classes the scores of a conditional model leave out.

    Args:
        classes: those over which frechet_within_classes averages, or None if the model is not conditional.
    """
    if model.target_class is None and classes is not None and 0 < len(classes) < model.config.num_classes:
        rare = [name for label, name in enumerate(model.config.class_names) if label not in classes]
        print(f'The mean within classes leaves out {list_first(rare)} (fewer than {MIN_FRECHET_IMAGES} samples, test '
              'images or training images)')


def export(model, checkpoint='latest'):
    """Write the generator as a SavedModel, and the playground, a page that runs both networks."""
    step = restore(model, checkpoint)
    model.refresh_statistics()
    suffix = file_suffix(model, checkpoint)
    make_folder(model.run.results)
    folder = f'{model.run.results}/saved_model{suffix}'
    write_saved_model(model, folder)
    config = model.config
    distribution = 'uniform in [-1, 1]' if config.z_name == 'uniform' else 'standard normal'
    print(f'Generator of step {step}, {model.sampled_weights} weights (z is [N, {config.z_dim}], {distribution}):\n'
          f'{folder}', flush=True)
    path = model.run.result_path('playground.html', suffix)
    try:
        write_playground(model, step, path, load_test_images(model))
        print(f'Playground (open it in a browser):\n{path}')
    except UserError as error:
        print(f'No playground: {error}')


def load_test_images(model):
    """Load the first images of a model's data set. If this fails, print the reason and return None."""
    config = model.config
    try:
        dataset = load_dataset(config.dataset_name, config.data_dir, config.image_shape, PLAYGROUND_IMAGES)
        check_classes(model, dataset)
        return dataset
    except UserError as error:
        print(f'The playground has no test images: {error}', flush=True)
        return None


def write_saved_model(model, folder):
    """Write the generator as a SavedModel that computes images from z [B, z_dim] and, if conditional, label [B]."""
    # Export constants, because TensorFlow 2 would load this session's graph with the wrong batch norm statistics.
    frozen = tf.graph_util.convert_variables_to_constants(
        model.sess, model.sess.graph_def, [model.fake_images.op.name])
    inputs = {'z': model.z.name}
    if model.config.conditional:
        inputs['label'] = model.z_labels.name
    with atomic_folder(folder) as part, tf.Graph().as_default() as graph, tf.Session() as sess:
        tf.import_graph_def(frozen, name='')
        tensor_info = tf.saved_model.build_tensor_info
        signature = tf.saved_model.build_signature_def(
            {name: tensor_info(graph.get_tensor_by_name(tensor)) for name, tensor in inputs.items()},
            {'images': tensor_info(graph.get_tensor_by_name(model.fake_images.name))}, 'tensorflow/serving/predict')
        builder = tf.saved_model.Builder(part)
        builder.add_meta_graph_and_variables(sess, ['serve'], {'serving_default': signature})
        try:
            builder.save()
        except tf.errors.OpError as error:
            raise UserError(f'{folder} cannot be written ({one_line(error)}): free some disk space') from error


def restore(model, checkpoint):
    """Restore a checkpoint and return its step. Raise UserError if there is no such checkpoint."""
    step = model.restore(checkpoint)
    if step is None:
        raise UserError(f'{model.missing_checkpoint(checkpoint)}: choose one of these steps, or train first (best '
                        'requires --eval_freq)')
    if model.config.conditional and not model.config.class_counts:
        print(f'The config.json of {model.run.name} has no class_counts: all classes are sampled equally often')
    return step


def report_reading(config, dataset):
    """Print a message if a Dataset is read differently from when the run of the config was trained."""
    if config.reading != dataset.reading:
        print('The data set is read differently than during training. During training: '
              f'{describe_reading(config.reading)}. Now: {describe_reading(dataset.reading)}', flush=True)


def file_suffix(model, checkpoint, seed=0):
    """Return the suffix of file names: a part for each non-default checkpoint, weights, class and seed."""
    suffix = ''
    if checkpoint == 'best':
        suffix += '_best'
    elif checkpoint != 'latest':
        suffix += f'_step{checkpoint}'
    if model.config.weights == 'raw':
        suffix += '_raw'
    if model.target_class is not None:
        suffix += f'_label{model.target_class}'
    if seed != 0:
        suffix += f'_seed{seed}'
    return suffix


def check_classes(model, dataset):
    """Raise UserError if a conditional model was trained on classes that differ from those of a Dataset."""
    class_names, names = list(model.config.class_names), list(dataset.class_names)
    numbers = [str(number) for number in range(len(names))]  # the class names of a run whose config.json has none
    if model.config.conditional and class_names not in (names, numbers):
        raise UserError(f'{model.run.name} was trained on the classes {", ".join(class_names)}, but the data set has '
                        f'{", ".join(names) or "none"}: restore the data set')
