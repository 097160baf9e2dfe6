"""The attention maps of a model, for the figure and for the attention page."""

import numpy as np

from datasets import load_dataset
from evaluation.figures import draw_attention, save_figure
from explorer.page import write_page
from explorer.snapshots import SNAPSHOT_IMAGES, LayerMaps, make_snapshot, read_snapshots
from options import UserError
from utils import Stream

FIGURE_ROWS = 4  # images per layer in the figure


def real_images(config, count, dataset=None):
    """Return the first count images of the test split, [count, H, W, C] in [0, 1].

    Args:
        config: the Config of a run.
        dataset: a Dataset, or None to load the data set that the config names.

    Returns:
        The images, or None if the data set cannot be loaded or has fewer than count test images.
    """
    if dataset is None:
        try:
            dataset = load_dataset(config.dataset_name, config.data_dir, config.image_shape, count)
        except UserError:
            return None
    images, _ = dataset.test
    if len(images) < count:
        return None
    return images[:count].astype(np.float32) / 255


def layer_maps(model, z, labels, real):
    """Return the LayerMaps of all attention layers, the generator's first.

    Args:
        z: [N, z_dim], the generator's input.
        labels: [N], or None if the model is not conditional.
        real: real images [N, H, W, C] for the discriminator. If None, the discriminator gets the generated images.
    """
    generated = model.sample(z, labels)
    judged = generated if real is None else real
    layers = []
    for network, images, maps in [('generator', generated, model.attention_maps(z=z, labels=labels)),
                                  ('discriminator', judged, model.attention_maps(images=judged))]:
        gammas = model.sess.run([layer.gamma for layer in model.layers[network]])
        layers += [LayerMaps(network, gamma, images, beta) for (gamma,), beta in zip(gammas, maps, strict=True)]
    return layers


def take_snapshot(model, real, epoch, step, key=None):
    """Return a snapshot for the attention page.

    The generated images are of the class that --label names, or else of each class in turn.

    Args:
        real: SNAPSHOT_IMAGES real images [N, H, W, C] for the discriminator. If None, it gets the generated images.
        epoch: number of completed epochs; 0 if unknown.
        step: number of completed training steps.
        key: integers that seed z. By default, z is that of the sample grids during training.
    """
    config = model.config
    if key is None:
        key = config.seed, Stream.FIXED_Z
    if config.conditional and model.target_class is None:
        rows = -(-SNAPSHOT_IMAGES // config.num_classes)
        z = np.repeat(model.draw_z(rows, *key), config.num_classes, 0)[:SNAPSHOT_IMAGES]
    else:
        z = model.draw_z(SNAPSHOT_IMAGES, *key)
    labels = model.sampled_labels(SNAPSHOT_IMAGES)
    return make_snapshot(layer_maps(model, z, labels, real), epoch, step, real is not None)


def attention_sections(model, z):
    """Return one section for draw_attention per attention layer of the networks that --attention_of selects.

    Args:
        z: [N, z_dim]. Each section has one image per z.
    """
    real = real_images(model.config, len(z))
    titles = {'generator': 'Generator, on its own images',
              'discriminator': f'Discriminator, on {"generated images" if real is None else "real test images"}'}
    sections = []
    for network, gamma, images, maps in layer_maps(model, z, model.sampled_labels(len(z)), real):
        if model.config.attention_of in (network, 'both'):
            size = ', {} x {} positions'.format(*maps.shape[1:3]) if len(model.layers[network]) > 1 else ''
            sections.append((f'{titles[network]}{size} (gamma {gamma:.3f})', images, maps))
    return sections


def write_attention_figure(model, step, seed, suffix=''):
    """Write the attention figure, unless the networks that --attention_of selects have no attention layer."""
    sections = attention_sections(model, model.draw_z(FIGURE_ROWS, seed, Stream.FIGURE_Z))
    if sections:
        figure = draw_attention(sections, f'{model.run.name}, step {step}: attention of the framed positions')
        save_figure(figure, model.run.result_path('attention.png', suffix))


def write_attention_page(run, snapshot=None, suffix='', with_saved=True):
    """Write the attention page of a run if there are any snapshots.

    Args:
        snapshot: a snapshot to show with those that training has saved, or None. It replaces the saved snapshot of the
            same step, but keeps the saved epoch.
        with_saved: whether to show the saved snapshots. They have the classes and z of training, whatever the class or
            seed in suffix.
    """
    if not with_saved:
        snapshots, left_out = [snapshot], 0
    elif snapshot is None:
        snapshots, left_out = read_snapshots(run.snapshots)
    else:
        metadata, arrays = snapshot
        step = metadata['step']
        snapshots, left_out = read_snapshots(run.snapshots, step)
        by_step = {saved['step']: (saved, maps) for saved, maps in snapshots}
        if step in by_step:
            saved, _ = by_step[step]
            metadata = {**metadata, 'epoch': saved['epoch']}
        by_step[step] = metadata, arrays
        snapshots = [by_step[key] for key in sorted(by_step)]
    if snapshots:
        write_page(run.result_path('explorer.html', suffix), run.name, snapshots, left_out)
