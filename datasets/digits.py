"""The built-in data set: digits in the fonts of matplotlib, distorted to look handwritten."""

import functools
import os
import pathlib

import numpy as np
from matplotlib import get_data_path
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import ndimage
from tqdm import tqdm

from datasets.idx import FILES, write_idx

FONTS = ('DejaVuSans', 'DejaVuSans-Oblique', 'DejaVuSerif', 'DejaVuSerif-Italic', 'STIXGeneral', 'STIXGeneralItalic',
         'STIXGeneralBolIta', 'cmr10', 'cmss10', 'cmtt10')
CHUNK_SIZE = 1000  # digits drawn at once


def make_digits(folder, train=60000, test=10000, seed=0):
    """Draw the built-in data set and write it to a folder as the four IDX files. The same seed gives the same bytes."""
    rng = np.random.default_rng(seed)
    for names, count in (FILES[:2], train), (FILES[2:], test):
        for name, items in zip(names, draw_digits(count, rng), strict=True):
            write_idx(os.path.join(folder, name + '.gz'), items)


def draw_digits(count, rng):
    """Draw the same number of digits of each class, in random order.

    Returns:
        images uint8 [N, 28, 28] and labels uint8 [N].
    """
    glyphs = render_glyphs()
    labels = rng.permutation(np.arange(count) % 10).astype(np.uint8)
    chunks = np.split(labels, range(CHUNK_SIZE, count, CHUNK_SIZE))
    progress = tqdm(chunks, desc=f'Drawing {count} digits', leave=False, disable=None)
    return np.concatenate([distort_glyphs(glyphs, chunk, rng) for chunk in progress]), labels


@functools.cache
def render_glyphs():
    """Render the ten digits in each of the FONTS. Glyph i shows the digit i % 10.

    Returns:
        distance_fields: float32 [G*96, 96], one glyph below the other. The signed distance to the outline in pixels,
            positive inside.
        centres: [G, 2], the row and column of the centre of mass.
        heights: [G], in pixels.
    """
    distance_fields, centres, heights = [], [], []
    for font in FONTS:
        for digit in '0123456789':
            figure = Figure(figsize=(1, 1), dpi=96)
            figure.text(0.5, 0.5, digit, font=pathlib.Path(get_data_path(), 'fonts', 'ttf', font + '.ttf'),
                        size=60, ha='center', va='center')
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            ink = np.asarray(canvas.buffer_rgba())[:, :, 0] < 128  # [96, 96]
            distance_fields.append(ndimage.distance_transform_edt(ink) - ndimage.distance_transform_edt(~ink))
            centres.append(ndimage.center_of_mass(ink))
            heights.append(np.ptp(np.nonzero(ink)[0]) + 1)
    return np.concatenate(distance_fields).astype(np.float32), np.array(centres), np.array(heights)


def distort_glyphs(glyphs, labels, rng):
    """Draw one digit per label [B] in a random font, as if by hand.

    Rotation, shear, scale, shift, stroke width and an elastic deformation are random.

    Args:
        glyphs: the result of render_glyphs.

    Returns:
        uint8 [B, 28, 28].
    """
    def uniform(low, high):
        return rng.uniform(low, high, [len(labels), 1, 1])

    distance_fields, centres, heights = glyphs
    glyph = labels + 10 * rng.integers(len(FONTS), size=len(labels))  # [B]
    zoom = heights[glyph][:, None, None] / 20  # the digits of MNIST are 20 pixels high
    noise = rng.standard_normal([2, len(labels), 28, 28], dtype=np.float32)
    deformation = uniform(3, 11) * ndimage.gaussian_filter(noise, (0, 0, 4, 4), mode='nearest')  # [2, B, 28, 28]

    # Find the position in the glyph that each pixel of the image shows.
    y, x = np.mgrid[:28, :28] - 13.5
    y, x = y + deformation[0] + uniform(-1, 1), x + deformation[1] + uniform(-1, 1)  # [B, 28, 28]
    angle = uniform(-0.2, 0.2)
    y, x = np.cos(angle) * y - np.sin(angle) * x, np.sin(angle) * y + np.cos(angle) * x
    x += uniform(-0.35, 0.15) * y
    row = centres[glyph, 0, None, None] + y * zoom / uniform(0.85, 1.05)
    column = centres[glyph, 1, None, None] + x * zoom / uniform(0.85, 1.35)
    row = np.clip(row, 0, 95) + 96 * glyph[:, None, None]  # the next rows belong to another glyph
    distance = ndimage.map_coordinates(distance_fields, [row, column], order=1, mode='nearest') / zoom
    return np.uint8(255 * np.clip(distance + uniform(0.4, 1.2), 0, 1))
