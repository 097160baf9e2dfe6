"""Figures of a run: training curves, attention maps, nearest neighbours, and the animation of the sample grids.

Axes are placed at explicit coordinates, because the automatic layouts of matplotlib differ by fractions of a pixel
between runs.
"""

import contextlib
import itertools
import math
import os
import pathlib
import re
import textwrap

import imageio.v3 as imageio
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogFormatter
from PIL import Image

from utils import atomic_write, enlarge

COLOURS = ('#E69F00', '#56B4E9', '#009E73', '#CC79A7')  # safe for colour-blind readers (Okabe and Ito 2008)
COMPARED_COLOURS = (*COLOURS, '#000000', '#D55E00', '#0072B2')  # one per run in a comparison
MARKED_POINTS = 12  # in a comparison, curves with more points have no markers
SMOOTHED_ROWS = 10  # rows of the history that a smoothed loss averages
ROW_HEIGHT, SECTION_TITLE_HEIGHT, COLOUR_BAR_HEIGHT = 1.7, 0.35, 0.65  # in the attention figure, in inches
# All frames of an animation are in memory at once.
MAX_FRAMES = 150
MAX_FRAME_SIZE = 840  # pixels of the longer side; halving a larger grid loses nothing if enlarge() has doubled it


##################################################################################
# Files
##################################################################################

def save_figure(figure, path):
    """Write a matplotlib figure as PNG."""
    with atomic_write(path) as part:
        figure.savefig(part, format='png', dpi=100)


def train_grids(folder, prefix, steps_per_epoch):
    """Return the names of the training grids in a folder, in training order.

    Grids are named <prefix>_train_step<step>.png. Earlier versions named them <prefix>_train_<epoch>_<index>.png, where
    index is the step within the epoch and epoch counts from 0. If a step has both names, the former is returned.
    """
    old, new = {}, {}  # {step: name}
    for name in os.listdir(folder):
        if match := re.fullmatch(re.escape(prefix) + r'_train_step([0-9]+)\.png', name):
            new[int(match[1])] = name
        elif match := re.fullmatch(re.escape(prefix) + r'_train_([0-9]+)_([0-9]+)\.png', name):
            old[int(match[1]) * steps_per_epoch + int(match[2])] = name
    return [name for _, name in sorted({**old, **new}.items())]


def write_animation(folder, prefix, steps_per_epoch):
    """Write the training grids in a folder, in training order, as <prefix>_progress.gif.

    If there are many grids, only some are used. Small grids are enlarged, large ones are scaled down, and damaged ones
    are skipped.
    """
    names = train_grids(folder, prefix, steps_per_epoch)
    frames = []
    for name in names[::max(1, math.ceil(len(names) / MAX_FRAMES))]:
        with contextlib.suppress(Exception):  # Pillow raises errors of many types for a damaged file
            frame = enlarge(imageio.imread(os.path.join(folder, name), plugin='pillow'))
            frames.append(np.asarray(Image.fromarray(frame).reduce(math.ceil(max(frame.shape) / MAX_FRAME_SIZE))))
    # A run that was resumed with another --sample_num has grids of several sizes, but a GIF has only one.
    frames = [frame for frame in frames if frame.shape == frames[-1].shape]
    if frames:
        animation = imageio.imwrite('<bytes>', np.stack(frames), extension='.gif', duration=200, loop=0)
        with atomic_write(os.path.join(folder, f'{prefix}_progress.gif')) as part:
            pathlib.Path(part).write_bytes(animation)


##################################################################################
# Training curves
##################################################################################

def draw_curves(rows, output="D's mean probability that an image is real", map_shapes=None):
    """Draw the history of a run: losses, gradient penalty, D's output, gammas and Fréchet distance.

    Args:
        rows: the rows that read_history returns, [{column: string}]; a missing value is ''.
        output: title of the panel of the columns d_real and d_fake.
        map_shapes: the rows and columns of the attention maps, {column of a gamma: (rows, columns)}, or None.
    """
    columns = list(rows[0]) if rows else []
    panels = {  # {title: {column: label}}
        'Losses': {'g_loss': 'G', 'd_loss_real': 'D, real', 'd_loss_fake': 'D, generated', 'd_loss': 'D, total'},
        'Gradient penalty (unweighted)': {'d_penalty': 'D'},
        output: {'d_real': 'real images', 'd_fake': 'generated images'},
        'Gamma of the attention layers': gamma_labels(columns, map_shapes or {}),
        'Fréchet distance to the training images': {'frechet_distance': 'generated images'}}
    panels = {title: {column: label for column, label in lines.items() if any(row.get(column) for row in rows)}
              for title, lines in panels.items()}
    panels = {title: lines for title, lines in panels.items() if lines}
    if not panels:
        panels = {'No data yet': {}}

    height = 2.2 * len(panels) + 0.3
    figure = Figure(figsize=(8, height))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    figure.subplots_adjust(left=0.07, right=0.78, bottom=0.5 / height, top=1 - 0.3 / height, hspace=0.25)
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        for (column, label), colour in zip(lines.items(), itertools.cycle(COLOURS), strict=False):
            points = [(int(row['step']), float(row[column])) for row in rows if row.get(column)]
            axis.plot(*zip(*points, strict=True), color=colour, label=label, linewidth=1,
                      marker='.' if len(points) < 50 else '')
        axis.set_title(title, fontsize=10, loc='left')
        axis.grid(alpha=0.3)
        if lines:
            axis.legend(fontsize=8, loc='center left', bbox_to_anchor=(1.01, 0.5), frameon=False)
    axes[-1].set_xlabel('training step')
    return figure


def gamma_labels(columns, map_shapes):
    """Return the labels of the gamma columns of a history, for example {'g_gamma_2': 'generator, 14 x 14'}.

    The shape of the map is left out if it is unknown, or if the network has only one attention layer. Layers with maps
    of the same shape are numbered.

    Args:
        map_shapes: {column: (rows, columns)}.
    """
    networks = {'g': 'generator', 'd': 'discriminator'}
    labels = {}
    for prefix, network in networks.items():
        own_columns = [column for column in columns if re.fullmatch(f'{prefix}_gamma(_[0-9]+)?', column)]
        shapes = [tuple(map_shapes.get(column, ())) for column in own_columns]
        for number, (column, shape) in enumerate(zip(own_columns, shapes, strict=True), 1):
            labels[column] = network
            if shapes.count(shape) > 1 and (shape or number > 1):
                labels[column] += f', layer {number}'
            if shape and len(shapes) > 1:
                labels[column] += ', {} x {}'.format(*shape)
    return labels


def draw_comparison(histories):
    """Draw the histories of several runs: the losses, the gammas and the Fréchet distance, one panel each.

    The losses are moving averages, because those of single steps would hide the differences between runs.

    Args:
        histories: {label of a run: the rows that read_history returns}.
    """
    columns = list(dict.fromkeys(column for rows in histories.values() for column in rows[0]))
    titles = {'g_loss': 'Loss of G, smoothed', 'd_loss': 'Loss of D, smoothed'}
    titles.update({column: f'Gamma of the {label}' for column, label in gamma_labels(columns, {}).items()})
    titles['frechet_distance'] = 'Fréchet distance to the training images'
    titles = {column: title for column, title in titles.items()
              if any(row.get(column) for rows in histories.values() for row in rows)}
    num_rows = max(1, math.ceil(len(titles) / 2))
    legend_height = 0.22 * len(histories) + 0.6
    height = 2.4 * num_rows + legend_height
    figure = Figure(figsize=(10, height))
    axes = figure.subplots(num_rows, 2, squeeze=False).ravel()
    figure.subplots_adjust(left=0.06, right=0.98, bottom=legend_height / height, top=1 - 0.3 / height,
                           wspace=0.15, hspace=0.35)
    styles = list(itertools.product(('-', '--', ':'), COMPARED_COLOURS))
    for axis, (column, title) in itertools.zip_longest(axes, titles.items(), fillvalue=(None, None)):
        if column is None:
            axis.set_axis_off()
            continue
        for rows, (line_style, colour) in zip(histories.values(), itertools.cycle(styles), strict=False):
            points = [(int(row['step']), float(row[column])) for row in rows if row.get(column)]
            if points:
                steps, values = zip(*points, strict=True)
                if column in ('g_loss', 'd_loss'):
                    values = moving_average(values, SMOOTHED_ROWS)
                axis.plot(steps, values, color=colour, linestyle=line_style, linewidth=1.2,
                          marker='.' if len(points) <= MARKED_POINTS else '')
        if column == 'frechet_distance':
            axis.set_yscale('log')  # the distances of the first epochs are much larger
            axis.yaxis.set_major_formatter(LogFormatter())  # 10 instead of 10^1, which would be in larger type
            axis.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
        axis.set_title(title, fontsize=10, loc='left')
        axis.grid(alpha=0.3)
        axis.set_xlabel('training step', fontsize=8)
        axis.tick_params(which='both', labelsize=8)
    handles = [Line2D([], [], color=colour, linestyle=line_style, label=label)
               for label, (line_style, colour) in zip(histories, itertools.cycle(styles), strict=False)]
    figure.legend(handles=handles, loc='lower left', bbox_to_anchor=(0.05, 0.1 / height), fontsize=9, frameon=False)
    return figure


def moving_average(values, width):
    """Return the mean of each value and of up to width - 1 values before it."""
    sums = np.cumsum([0, *values])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    return (sums[ends] - sums[starts]) / (ends - starts)


##################################################################################
# Attention maps
##################################################################################

def draw_attention(sections, title):
    """Draw attention maps, one row per image: the image, then the maps of four of its positions.

    The map of a position (the query) shows its attention weights over all keys. A key is a position or, if the layer
    pools its keys, a block of positions. Maps with the same number of keys share a colour scale.

    Args:
        sections: [(section title, images, attention maps)]. images are [K, H, W, C] in [0, 1], attention maps
            [K, rows, columns, key rows, key columns]. The weights of position (i, j) of image k are
            attention_maps[k, i, j].
    """
    chosen_maps = [choose_maps(images, attention_maps) for _, images, attention_maps in sections]
    max_weights = {}  # {number of keys: largest weight}
    for chosen in chosen_maps:
        for _, _, weights in itertools.chain.from_iterable(chosen):
            max_weights[weights.size] = max(max_weights.get(weights.size, 0), np.nan_to_num(weights).max())

    num_rows = sum(len(images) for _, images, _ in sections)
    height = (ROW_HEIGHT * num_rows + SECTION_TITLE_HEIGHT * len(sections) + COLOUR_BAR_HEIGHT * len(max_weights)
              + 0.45)
    figure = Figure(figsize=(8, height))
    top = height - 0.3
    height += write_title(figure, title, 11)
    colour_scales = {}  # {number of keys: a map drawn with this scale}
    for (section_title, images, attention_maps), chosen in zip(sections, chosen_maps, strict=True):
        num_keys = math.prod(attention_maps.shape[3:])
        position_size, key_size = sizes_in_pixels(images.shape, attention_maps.shape)
        if key_size != position_size:
            section_title += f'; each key covers {key_size[0]} x {key_size[1]} pixels'
        figure.text(0.5, (top - 0.2) / height, section_title, fontsize=10, ha='center')
        bottom = top - SECTION_TITLE_HEIGHT - ROW_HEIGHT * len(images)
        axes = figure.add_gridspec(len(images), 5, left=0.01, right=0.99, bottom=bottom / height,
                                   top=(top - 0.5) / height, wspace=0.02, hspace=0.18).subplots(squeeze=False)
        top = bottom
        for row, image, image_maps in zip(axes, images, chosen, strict=True):
            colour_scales[num_keys] = draw_maps(row, image, image_maps, position_size, key_size,
                                                max_weights[num_keys])

    draw_colour_bars(figure, colour_scales)
    return figure


def sizes_in_pixels(images_shape, maps_shape):
    """Return (height, width) of a position and (height, width) of a key, in pixels.

    Args:
        images_shape: (K, H, W, C).
        maps_shape: (K, rows, columns, key rows, key columns).
    """
    _, height, width, _ = images_shape
    _, rows, columns, key_rows, key_columns = maps_shape
    position_size = height // rows, width // columns
    key_size = math.ceil(rows / key_rows) * position_size[0], math.ceil(columns / key_columns) * position_size[1]
    return position_size, key_size


def draw_colour_bars(figure, colour_scales):
    """Draw one colour bar per number of keys at the bottom of a figure.

    Args:
        colour_scales: {number of keys: a map drawn with this scale}.
    """
    height = figure.get_figheight()
    for number, (num_keys, colour_scale) in enumerate(colour_scales.items(), 1):
        bottom = COLOUR_BAR_HEIGHT * (len(colour_scales) - number) + 0.5
        axis = figure.add_axes([0.05, bottom / height, 0.9, 0.12 / height])
        bar = figure.colorbar(colour_scale, cax=axis, orientation='horizontal')
        layers = f' in layers with {num_keys} keys' if len(colour_scales) > 1 else ''
        bar.set_label(f'attention weights of the framed position{layers} (uniform: {1 / num_keys:.3g})', fontsize=9)


def choose_maps(images, attention_maps):
    """Choose the maps to draw: for each image a list of (name, query position, weights [key rows, key columns])."""
    return [[(name, query, image_maps[query])
             for name, query in choose_queries(foreground(image), image_maps.shape[:2]).items()]
            for image, image_maps in zip(images, attention_maps, strict=True)]


def foreground(image):
    """Return how much each pixel of an image [H, W, C] belongs to the object: [H, W] in [0, 1].

    This is the brightness of a grey image. In colour, it is the difference from the mean colour of the border.
    """
    image = np.nan_to_num(image)
    if image.shape[2] == 1:
        return image[:, :, 0]
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).mean(0)
    return np.abs(image - border).mean(2)


def choose_queries(mask, grid):
    """Choose the positions whose attention is drawn, by the amount of foreground in their pixels.

    Args:
        mask: [H, W] in [0, 1], the result of foreground.
        grid: rows and columns of the positions.

    Returns:
        {name: (row, column)}. 'stroke' has the most foreground. 'top end' and 'bottom end' are the first and the last
        position with at least half as much foreground. 'background' is the most central position with the least
        foreground.
    """
    rows, columns = grid
    height, width = mask.shape
    density = mask.reshape(rows, height // rows, columns, width // columns).mean((1, 3))  # [rows, columns]
    dense = np.argwhere(density >= density.max() / 2)
    empty = np.argwhere(density <= density.min() + 0.01)
    centre = np.array([(rows - 1) / 2, (columns - 1) / 2])
    queries = {'stroke': np.argwhere(density == density.max())[0], 'top end': dense[0], 'bottom end': dense[-1],
               'background': empty[((empty - centre) ** 2).sum(1).argmin()]}
    return {name: (int(row), int(column)) for name, (row, column) in queries.items()}


def draw_maps(axes, image, image_maps, position_size, key_size, max_weight):
    """Draw an image [H, W, C] on the first of the axes and its attention maps on the others. Return the last map.

    A map lies under the outline of a grey image, or over the grey version of a colour image.

    Args:
        image_maps: [(name, query position, weights [key rows, key columns])].
        position_size, key_size: height and width in pixels.
        max_weight: upper end of the colour scale.
    """
    height, width, channels = image.shape
    in_colour = channels == 3
    grey = image.mean(2)
    draw_image(axes[0], image)
    for axis, colour, (name, (i, j), weights) in zip(axes[1:], COLOURS, image_maps, strict=True):
        if in_colour:
            axis.imshow(grey, cmap='gray', vmin=0, vmax=1)
        # With an odd number of positions, the last keys reach beyond the image.
        key_rows, key_columns = weights.shape
        extent = -0.5, key_columns * key_size[1] - 0.5, key_rows * key_size[0] - 0.5, -0.5
        drawn_map = axis.imshow(weights, cmap='viridis', vmin=0, vmax=max_weight if max_weight > 0 else 1,
                                alpha=0.6 if in_colour else 1, extent=extent)
        axis.axis((-0.5, width - 0.5, height - 0.5, -0.5))
        if not in_colour and grey.min() < 0.5 < grey.max():
            axis.contour(grey, [0.5], colors='white', linewidths=0.8)
        corner = position_size[1] * j - 0.5, position_size[0] * i - 0.5
        for framed in axes[0], axis:
            framed.add_patch(Rectangle(corner, position_size[1], position_size[0], fill=False, color=colour,
                                       linewidth=2))
        axis.set_title('object' if in_colour and name == 'stroke' else name, fontsize=9)
    for axis in axes:
        axis.set_axis_off()
    return drawn_map


##################################################################################
# Nearest neighbours
##################################################################################

def draw_neighbours(images, neighbours, title):
    """Draw images uint8 [N, H, W, C] beside their neighbours [N, K, H, W, C], nearest first."""
    height = 1.1 * len(images) + 0.6
    figure = Figure(figsize=(1.1 * (neighbours.shape[1] + 1), height))
    top = height - 0.55
    height += write_title(figure, f'{title}: samples and their nearest training images (pixel distance)', 9)
    axes = figure.subplots(len(images), neighbours.shape[1] + 1, squeeze=False)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.05 / height, top=top / height, wspace=0.05, hspace=0.05)
    axes[0][0].set_title('sample', fontsize=9)
    axes[0][1].set_title('nearest', fontsize=9)
    for row, image, image_neighbours in zip(axes, images, neighbours, strict=True):
        for axis, drawn in zip(row, [image, *image_neighbours], strict=True):
            draw_image(axis, drawn / 255)
            axis.set_axis_off()
    return figure


##################################################################################
# Parts of figures
##################################################################################

def write_title(figure, title, fontsize):
    """Write a title at the top of a figure, and make the figure taller if the title needs more than one line.

    Returns:
        The added height in inches.
    """
    lines = textwrap.wrap(title, 100, break_on_hyphens=False)
    growth = 0.17 * (len(lines) - 1)
    height = figure.get_figheight() + growth
    figure.set_figheight(height)
    # The name of a run may contain $, which starts a formula.
    figure.suptitle('\n'.join(lines), fontsize=min(fontsize, 900 / max(map(len, lines))), y=1 - 0.15 / height,
                    parse_math=False)
    return growth


def draw_image(axis, image):
    """Draw a grey or colour image [H, W, C] in [0, 1]."""
    axis.imshow(np.nan_to_num(image) if image.shape[2] == 3 else image[:, :, 0], cmap='gray', vmin=0, vmax=1)
