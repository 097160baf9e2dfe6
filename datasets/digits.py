"""The built-in data set: digits drawn in the fonts that matplotlib ships, bent as if by hand."""

import functools
import pathlib

import numpy as np
from matplotlib import get_data_path
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import ndimage
from tqdm import tqdm

FONTS = ('DejaVuSans', 'DejaVuSans-Oblique', 'DejaVuSerif', 'DejaVuSerif-Italic', 'STIXGeneral', 'STIXGeneralItalic',
         'STIXGeneralBolIta', 'cmr10', 'cmss10', 'cmtt10')


def draw_digits(count, rng):
    """Draw digits, each of the ten alike in number, in an order drawn from rng -> uint8 [N, 28, 28], labels [N]."""
    glyphs = draw_glyphs()
    labels = rng.permutation(np.arange(count) % 10).astype(np.uint8)
    chunks = np.split(labels, range(1000, count, 1000))
    images = np.concatenate([bend_glyphs(glyphs, chunk, rng) for chunk in
                             tqdm(chunks, desc=f'Drawing {count} digits', leave=False, disable=None)])
    return images, labels


@functools.cache
def draw_glyphs():
    """Draw the ten digits in each of the FONTS.

    Returns the glyphs' distance fields, one below the other, [G*96, 96] float32: pixels inside the outline, negative
    outside; the centers of the ink (row, column) [G, 2]; the heights of the ink in pixels [G]. Glyph i shows i % 10.
    """
    fields, centers, heights = [], [], []
    for font in FONTS:
        for digit in '0123456789':
            figure = Figure(figsize=(1, 1), dpi=96)
            figure.text(0.5, 0.5, digit, font=pathlib.Path(get_data_path(), 'fonts', 'ttf', font + '.ttf'),
                        size=60, ha='center', va='center')
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            ink = np.asarray(canvas.buffer_rgba())[:, :, 0] < 128  # [96, 96]
            fields.append(ndimage.distance_transform_edt(ink) - ndimage.distance_transform_edt(~ink))
            centers.append(ndimage.center_of_mass(ink))
            heights.append(np.ptp(np.nonzero(ink)[0]) + 1)
    return np.concatenate(fields).astype(np.float32), np.array(centers), np.array(heights)


def bend_glyphs(glyphs, labels, rng):
    """Draw one digit a label [B] as if by hand, from what draw_glyphs gives -> uint8 [B, 28, 28].

    Font, rotation, shear, scale, shift, width of the stroke and elastic bending are drawn from rng.
    """
    def uniform(low, high):
        return rng.uniform(low, high, [len(labels), 1, 1])

    fields, centers, heights = glyphs
    glyph = labels + 10 * rng.integers(len(FONTS), size=len(labels))
    zoom = heights[glyph][:, None, None] / 20  # digits of MNIST are 20 pixels high
    noise = rng.standard_normal([2, len(labels), 28, 28], dtype=np.float32)
    bend = uniform(3, 11) * ndimage.gaussian_filter(noise, (0, 0, 4, 4), mode='nearest')  # [2, B, 28, 28]

    # For each pixel of the picture, the place in the glyph that it shows.
    y, x = np.mgrid[:28, :28] - 13.5
    y, x = y + bend[0] + uniform(-1, 1), x + bend[1] + uniform(-1, 1)  # [B, 28, 28]
    angle = uniform(-0.2, 0.2)
    y, x = np.cos(angle) * y - np.sin(angle) * x, np.sin(angle) * y + np.cos(angle) * x
    x += uniform(-0.35, 0.15) * y
    row = centers[glyph, 0, None, None] + y * zoom / uniform(0.85, 1.05)
    column = centers[glyph, 1, None, None] + x * zoom / uniform(0.85, 1.35)
    row = np.clip(row, 0, 95) + 96 * glyph[:, None, None]
    distance = ndimage.map_coordinates(fields, [row, column], order=1, mode='nearest') / zoom
    return np.uint8(255 * np.clip(distance + uniform(0.4, 1.2), 0, 1))
