"""The phases test, eval and export.

Each phase restores a checkpoint ('latest', 'best' or a step), and raises UserError if the checkpoint does not exist.
seed is the seed of z: the same seed gives the same files.
"""

import numpy as np

from datasets import load_dataset
from evaluation.attention import real_images, take_snapshot, write_attention_figure, write_attention_page
from evaluation.figures import draw_neighbours, save_figure
from evaluation.metrics import evaluate_samples, nearest_neighbours, print_scores
from evaluation.samples import write_grid, write_interpolation, write_single_images
from explorer.snapshots import SNAPSHOT_IMAGES
from options import UserError
from storage.run import checkpoint_steps, describe_reading, list_names
from tf1 import one_line, tf
from utils import Stream, atomic_folder, make_folder, write_json

MIN_FRECHET_IMAGES = 2048  # with fewer, Fréchet distances are too large
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
        snapshot = take_snapshot(model, real_images(config, SNAPSHOT_IMAGES), epoch=0, step=step)
        write_attention_page(model.run, snapshot, suffix)
    written = 'Grids and figures'
    if config.export:
        z, labels = model.draw_z(config.export, seed, Stream.EXPORT_Z), model.proportional_labels(config.export)
        write_single_images(f'{model.run.results}/samples{suffix}', model.pixels(z, labels), z, labels)
        written = 'Grids, figures and single images'
    print(f'{written} of step {step}, {model.sampled_weights} weights:\n{model.run.results}')


def evaluate(model, seed=0, checkpoint='latest'):
    """Score eval_num images and the real test split, and draw some images with their nearest training images.

    Raises:
        UserError: if the data set is missing, or if its classes differ from those of a conditional run.
    """
    step = restore(model, checkpoint)
    config, suffix = model.config, file_suffix(model, checkpoint, seed)
    make_folder(model.run.results)
    dataset = load_dataset(config.dataset_name, config.data_dir, config.image_shape)
    print(dataset.description, flush=True)
    check_classes(model, dataset)
    report_reading(config, dataset)
    labels = model.proportional_labels(config.eval_num)
    images = model.pixels(model.draw_z(config.eval_num, seed, Stream.EVAL_Z), labels)
    scores = evaluate_samples(images, labels, config.dataset_name, dataset, config.checkpoint_dir)

    subject = 'images' if dataset.class_names else 'rotations'
    print(f'{config.eval_num} images of step {step}, {model.sampled_weights} weights, scored by a classifier that '
          f'recognises {scores.classifier_accuracy:.2%} of the {subject} of the test split')
    print_scores(scores.generated, scores.real, dataset.class_names, config.eval_num)
    if labels is not None and model.target_class is None:
        counts = np.bincount(labels, minlength=config.num_classes)
        rare = [name for name, count in zip(config.class_names, counts, strict=True) if count < 2]
        if rare:
            print(f'The mean within classes leaves out {list_names(rare)} (fewer than two samples): increase '
                  '--eval_num')
    if config.eval_num < MIN_FRECHET_IMAGES:
        print(f'Fréchet distances of fewer than {MIN_FRECHET_IMAGES} images are too large: compare them only with '
              'distances of the same number of images')
    write_json({'step': step, 'weights': model.sampled_weights, 'seed': seed, 'dataset': config.dataset_name,
                'eval_num': config.eval_num, 'classifier_accuracy': scores.classifier_accuracy,
                'generated': scores.generated, 'real': scores.real}, model.run.result_path('scores.json', suffix))

    train_images, images = dataset.train[0], images[:NEIGHBOUR_ROWS]
    neighbours = train_images[nearest_neighbours(images, train_images, NEIGHBOURS)]  # [rows, NEIGHBOURS, H, W, C]
    save_figure(draw_neighbours(images, neighbours, f'{model.run.name}, step {step}'),
                model.run.result_path('neighbours.png', suffix))
    print(f'Scores and nearest neighbours:\n{model.run.results}')


def export(model, checkpoint='latest'):
    """Write the generator as a SavedModel that computes images from z [B, z_dim] and, if conditional, label [B]."""
    step = restore(model, checkpoint)
    model.refresh_statistics()
    # Export constants, because TensorFlow 2 would load this session's graph with the wrong batch norm statistics.
    frozen = tf.graph_util.convert_variables_to_constants(
        model.sess, model.sess.graph_def, [model.fake_images.op.name])
    inputs = {'z': model.z.name}
    if model.config.conditional:
        inputs['label'] = model.z_labels.name
    folder = f'{model.run.results}/saved_model{file_suffix(model, checkpoint)}'
    make_folder(model.run.results)
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
    print(f'Generator of step {step}, {model.sampled_weights} weights:\n{folder}')


def restore(model, checkpoint):
    """Restore a checkpoint and return its step. Raise UserError if there is no such checkpoint."""
    loaded, step = model.load(checkpoint)
    if not loaded:
        folder = model.best_checkpoints.folder if checkpoint == 'best' else model.checkpoints.folder
        steps = ', '.join(map(str, checkpoint_steps(model.checkpoints.folder))) or 'none'
        raise UserError(f'{folder} has no checkpoint {checkpoint} (steps: {steps}): choose one of these, or train '
                        'first; --eval_freq keeps the best')
    if model.config.conditional and not model.config.class_counts:
        print(f'The config.json of {model.run.name} has no class_counts: all classes are sampled equally often')
    return step


def report_reading(config, dataset):
    """Print a message if a Dataset is read differently from when the run of the config was trained."""
    if config.reading != dataset.reading:
        print(f'In training, the data set was read {describe_reading(config.reading)}. For the scores, it is read '
              f'{describe_reading(dataset.reading)}', flush=True)


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
    if seed:
        suffix += f'_seed{seed}'
    return suffix


def check_classes(model, dataset):
    """Raise UserError if a conditional model was trained on classes that differ from those of a Dataset."""
    class_names, names = list(model.config.class_names), list(dataset.class_names)
    numbers = [str(number) for number in range(len(names))]  # the class names of a run whose config.json has none
    if model.config.conditional and class_names not in (names, numbers):
        raise UserError(f'{model.run.name} was trained on the classes {", ".join(class_names)}, but the data set has '
                        f'{", ".join(names) or "none"}: restore the data set')
