"""Figures: from arrays and rows of numbers to figures of matplotlib, which other files write.

They are laid out by numbers: matplotlib's own layouts differ by fractions of a pixel from run to run.
"""

import itertools
import math
import textwrap

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

COLOURS = ('#E69F00', '#56B4E9', '#009E73', '#CC79A7')  # told apart by the colour-blind (Okabe and Ito 2008)


def draw_curves(rows, output="D's mean probability of being real"):
    """Draw a history, rows {column: text}, '' for no value -> a figure: losses, D's output, gammas, scores."""
    gammas = {name: {'g': 'generator', 'd': 'discriminator'}[name[0]] + name[7:].replace('_', ' ')
              for name in (rows[0] if rows else {}) if name[1:].startswith('_gamma')}
    panels = {
        'Losses': {'g_loss': 'G', 'd_loss_real': 'D on real', 'd_loss_fake': 'D on fake', 'd_loss': 'D, in all'},
        'Gradient penalty, before its weight': {'d_penalty': 'D'},
        output: {'d_real': 'real images', 'd_fake': 'generated images'},
        'Gamma of the attention layers': gammas,
        'Fréchet distance to the training images': {'frechet_distance': 'generated images'}}
    panels = {title: {name: label for name, label in lines.items() if any(row.get(name) for row in rows)}
              for title, lines in panels.items()}
    panels = {title: lines for title, lines in panels.items() if lines} or {'No row yet': {}}

    height = 2.2 * len(panels) + 0.3
    figure = Figure(figsize=(8, height))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    figure.subplots_adjust(left=0.07, right=0.78, bottom=0.5 / height, top=1 - 0.3 / height, hspace=0.25)
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        for (name, label), colour in zip(lines.items(), itertools.cycle(COLOURS), strict=False):
            points = [(int(row['step']), float(row[name])) for row in rows if row.get(name)]
            axis.plot(*zip(*points, strict=True), color=colour, label=label, linewidth=1,
                      marker='.' if len(points) < 50 else '')
        axis.set_title(title, fontsize=10, loc='left')
        axis.grid(alpha=0.3)
        if lines:
            axis.legend(fontsize=8, loc='center left', bbox_to_anchor=(1.01, 0.5), frameon=False)
    axes[-1].set_xlabel('training step')
    return figure


def ink_of(image):
    """What of an image [H, W, C] in [0, 1] is drawn on its ground -> [H, W] in [0, 1].

    Of a grey image what is bright; of one in colour, how far a pixel is from the mean colour of the border.
    """
    image = np.nan_to_num(image)
    if image.shape[2] == 1:
        return image[:, :, 0]
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).mean(0)
    return np.abs(image - border).mean(2)


def query_points(ink, grid):
    """Choose the positions of an attention map whose looks are drawn, from the ink [H, W] of an image, in [0, 1].

    grid: rows and columns of the positions; one stands for a block of H/rows x W/columns pixels. Returns {what it is:
    position}: the block with the most ink; the first and the last block, row by row, with at least half as much; and,
    of the blocks with the least ink, the one nearest to the middle.
    """
    rows, columns = grid
    ink = ink.reshape(rows, ink.shape[0] // rows, columns, ink.shape[1] // columns).mean((1, 3))
    inked = np.argwhere(ink >= ink.max() / 2)
    empty = np.argwhere(ink <= ink.min() + 0.01)
    middle = np.array([(rows - 1) / 2, (columns - 1) / 2])
    points = {'stroke': np.argwhere(ink == ink.max())[0], 'top end': inked[0], 'bottom end': inked[-1],
              'background': empty[((empty - middle) ** 2).sum(1).argmin()]}
    return {name: (int(row), int(column)) for name, (row, column) in points.items()}


def draw_attention(sections, title):
    """Draw where the query points of images look -> a figure, one row an image.

    sections: [(what they are, images [K, H, W, C] in [0, 1], maps [K, rows, columns, rows of keys, columns of keys])];
    maps[k, i, j] says where position (i, j) of image k looks: at keys, positions or, pooled, 2 x 2 of them. The maps
    lie under the outline of a grey image, and on the greys of one in colour. One colour scale serves all maps of as
    many keys.
    """
    looks = [[[(name, point, beta[point]) for name, point in query_points(ink_of(image), beta.shape[:2]).items()]
              for image, beta in zip(images, maps, strict=True)] for _, images, maps in sections]
    highest, shown = {}, {}  # of maps of as many keys: the largest share, and one of their pictures
    for (_, _, maps), found in zip(sections, looks, strict=True):
        largest = max(np.nan_to_num(look).max() for row in found for _, _, look in row)
        keys = math.prod(maps.shape[3:])
        highest[keys] = max(highest.get(keys, 0), largest)

    count = sum(len(images) for _, images, _ in sections)
    # In inches: of a row 1.7, of a section's title 0.35, of a scale 0.65.
    height = 1.7 * count + 0.35 * len(sections) + 0.65 * len(highest) + 0.45
    figure = Figure(figsize=(8, height))
    top = height - 0.3
    height += write_title(figure, title, 11)
    for (what, images, maps), found in zip(sections, looks, strict=True):
        block = images.shape[1] // maps.shape[1], images.shape[2] // maps.shape[2]  # pixels of a position
        key = [-(-positions // keys) * size for positions, keys, size in
               zip(maps.shape[1:3], maps.shape[3:5], block, strict=True)]  # pixels of a key
        pooled = f'; what it looks at is pooled to {key[0]} x {key[1]} pixels' if key != list(block) else ''
        figure.text(0.5, (top - 0.2) / height, what + pooled, fontsize=10, ha='center')
        bottom = top - 0.35 - 1.7 * len(images)
        axes = figure.add_gridspec(len(images), 5, left=0.01, right=0.99, bottom=bottom / height,
                                   top=(top - 0.5) / height, wspace=0.02, hspace=0.18).subplots(squeeze=False)
        top = bottom
        keys = math.prod(maps.shape[3:])
        for row, image, looks_of_image in zip(axes, images, found, strict=True):
            shown[keys] = draw_looks(row, image, looks_of_image, block, key, highest[keys] or 1)
    for number, (keys, picture) in enumerate(shown.items(), 1):
        place = figure.add_axes([0.05, (0.65 * (len(shown) - number) + 0.5) / height, 0.9, 0.12 / height])
        bar = figure.colorbar(picture, cax=place, orientation='horizontal')
        of = f', where there are {keys} keys' if len(shown) > 1 else ''
        bar.set_label(f'share of the attention of the framed block{of} (evenly spread: {1 / keys:.3g})', fontsize=9)
    return figure


def draw_looks(axes, image, looks, block, key, highest):
    """Draw an image [H, W, C] on the first of the axes and, on the others, where its points look -> the last picture.

    looks: [(name, position, map)] of its points; block, key: height and width in pixels of a position, and of a key.
    """
    show(axes[0], image)
    grey = image.mean(2)
    frame = -0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5
    for axis, colour, (name, (i, j), look) in zip(axes[1:], COLOURS, looks, strict=True):
        rows, columns = look.shape[0] * key[0], look.shape[1] * key[1]  # more than the image where keys stand out
        if image.shape[2] == 3:
            axis.imshow(grey, cmap='gray', vmin=0, vmax=1)
        shown = axis.imshow(look, cmap='viridis', vmin=0, vmax=highest, alpha=0.6 if image.shape[2] == 3 else 1,
                            extent=(-0.5, columns - 0.5, rows - 0.5, -0.5))
        axis.axis(frame)
        if image.shape[2] == 1 and grey.min() < 0.5 < grey.max():
            axis.contour(grey, [0.5], colors='white', linewidths=0.8)
        for place in axes[0], axis:
            place.add_patch(Rectangle((block[1] * j - 0.5, block[0] * i - 0.5), block[1], block[0], fill=False,
                                      color=colour, linewidth=2))
        axis.set_title('object' if image.shape[2] == 3 and name == 'stroke' else name, fontsize=9)
    for axis in axes:
        axis.set_axis_off()
    return shown


def write_title(figure, title, fontsize):
    """Write a title at the top of a figure, which grows by the lines that a long one takes -> these inches."""
    lines = textwrap.wrap(title, 100, break_on_hyphens=False)
    more = 0.17 * (len(lines) - 1)
    height = figure.get_figheight() + more
    figure.set_figheight(height)
    # A $ in it begins no formula.
    figure.suptitle('\n'.join(lines), fontsize=min(fontsize, 900 / max(map(len, lines))), y=1 - 0.15 / height,
                    parse_math=False)
    return more


def show(axis, image):
    """Draw an image [H, W, C] in [0, 1], grey or in colour."""
    axis.imshow(np.nan_to_num(image) if image.shape[2] == 3 else image[:, :, 0], cmap='gray', vmin=0, vmax=1)


def draw_neighbours(images, neighbours, title):
    """Draw images uint8 [N, H, W, C] beside their neighbours [N, K, H, W, C], nearest first -> a figure."""
    height = 1.1 * len(images) + 0.6
    figure = Figure(figsize=(1.1 * (neighbours.shape[1] + 1), height))
    more = write_title(figure, f'{title}: samples and the training images nearest to them, by pixels', 9)
    axes = figure.subplots(len(images), neighbours.shape[1] + 1, squeeze=False)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.05 / (height + more), top=(height - 0.55) / (height + more),
                           wspace=0.05, hspace=0.05)
    axes[0][0].set_title('sample', fontsize=9)
    axes[0][1].set_title('nearest', fontsize=9)
    for row, image, found in zip(axes, images, neighbours, strict=True):
        for axis, shown in zip(row, [image, *found], strict=True):
            show(axis, shown / 255)
            axis.set_axis_off()
    return figure
