"""Data sets, grids of images, plots and folders."""

import contextlib
import csv
import gzip
import hashlib
import json
import math
import os
import pathlib
import queue
import re
import shutil
import threading
import urllib.request
import zlib
from http.client import HTTPException

import imageio.v3 as imageio
import numpy as np
from matplotlib import get_data_path
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy import ndimage
from tqdm import tqdm

FILES = ('train-images-idx3-ubyte', 'train-labels-idx1-ubyte', 't10k-images-idx3-ubyte', 't10k-labels-idx1-ubyte')

# Where the files, gzipped, come from, and the digests that tell that they arrived whole, in the order of FILES.
SOURCES = {
    'mnist': {
        'mirrors': ('https://storage.googleapis.com/cvdf-datasets/mnist/',
                    'https://ossci-datasets.s3.amazonaws.com/mnist/'),
        'algorithm': 'sha256',
        'digests': ('440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609',
                    '3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c',
                    '8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6',
                    'f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6')},
    'fashion-mnist': {
        'mirrors': ('http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/',),
        'algorithm': 'md5',
        'digests': ('8d4fb7e6c68d591d4c3dfef9ec88bf0d', '25c81989df183df01b3e8a0aad5dffbe',
                    'bef4ecab320f06d8554ea6380940ec79', 'bb300cfdad3c16e7a12a480ee83cd310')},
}
PATIENCE = 6  # seconds without a byte after which a mirror is given up, so that two mirrors take less than 15

FONTS = ('DejaVuSans', 'DejaVuSans-Oblique', 'DejaVuSerif', 'DejaVuSerif-Italic', 'STIXGeneral', 'STIXGeneralItalic',
         'STIXGeneralBolIta', 'cmr10', 'cmss10', 'cmtt10')

COLOURS = ('#E69F00', '#56B4E9', '#009E73', '#CC79A7')  # told apart by the colour-blind (Okabe and Ito 2008)


class UserError(Exception):
    """Something that the user can put right: its text is one line that says what is wrong and what to do."""


@contextlib.contextmanager
def replacing(path):
    """Give a temporary name to write to: it becomes path when the block ends well, and is removed when it does not."""
    part = f'{path}.part'
    try:
        yield part
        os.replace(part, path)
    finally:
        pathlib.Path(part).unlink(missing_ok=True)


def find_dataset(name, data_dir='data'):
    """Make sure that the files of a data set lie in <data_dir>/<name>: fetch mnist and fashion-mnist, make digits.

    name 'auto' is mnist where it is at hand or can be downloaded, else digits.
    Returns (the name of the data set found, a sentence that says which it is and why).
    Raises UserError where a data set cannot be had, OSError where the folder cannot be written.
    """
    if name == 'auto':
        try:
            return find_dataset('mnist', data_dir)
        except UserError as error:
            name, why = find_dataset('digits', data_dir)
            return name, f'{why}, instead of MNIST: {error}'

    folder = os.path.join(data_dir, name)
    missing = [file for file in FILES if not find_file(folder, file)]
    if not missing:
        return name, f'Data set: {name} in {folder}'
    if name == 'digits':
        make_digits(check_folder(folder))
        return name, f'Data set: digits, the built-in one, in {folder}'
    download(name, folder, missing)
    return name, f'Data set: {name}, downloaded to {folder}'


def find_file(folder, name):
    """Path of the IDX file of that name in folder, plain or gzipped; None where there is neither."""
    paths = os.path.join(folder, name), os.path.join(folder, name + '.gz')
    return next((path for path in paths if os.path.isfile(path)), None)


def load_mnist(dataset_name, data_dir='data'):
    """Read the four IDX files, plain or gzipped, in <data_dir>/<dataset_name>.

    Returns (train_images, train_labels), (test_images, test_labels): uint8 [N, 28, 28, 1] and uint8 [N] in 0..9.
    Raises UserError, which names the file, where one is missing, damaged or of another form.
    """
    folder = os.path.join(data_dir, dataset_name)
    arrays = []
    for name in FILES:
        path = find_file(folder, name)
        if not path:
            raise UserError(f'{os.path.join(folder, name)}.gz is missing: put the four files of {dataset_name} there')
        arrays.append(read_idx(path, (28, 28) if 'images' in name else ()))
    train_images, train_labels, test_images, test_labels = arrays
    for images, labels, name in (train_images, train_labels, 'train'), (test_images, test_labels, 't10k'):
        if len(images) != len(labels):
            raise UserError(f'{folder}: {len(images)} images in {name}-images and {len(labels)} labels in '
                            f'{name}-labels do not belong together: put files of one data set there')
    return (train_images[..., None], train_labels), (test_images[..., None], test_labels)


def read_idx(path, shape):
    """Read an IDX file of uint8 items of that shape, (28, 28) for images and () for labels -> uint8 [N, *shape].

    Raises UserError where the file is damaged or holds something else.
    """
    way_out = 'replace it, or delete it to have it fetched anew'
    try:
        with (gzip.open if path.endswith('.gz') else open)(path, 'rb') as file:
            data = file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f'{path} is not a whole gzip file ({error}): {way_out}') from error

    form = 'labels' if shape == () else f'{shape[0]} x {shape[1]} images'
    header = np.frombuffer(data[:8 + 4 * len(shape)].ljust(8 + 4 * len(shape), b'\0'), '>u4')  # [magic, N, *shape]
    if header[0] != 0x801 + len(shape):
        raise UserError(f'{path} does not begin like an IDX file of {form}: {way_out}')
    if tuple(header[2:]) != shape:
        raise UserError(f'{path} holds images of {header[2]} x {header[3]}, not {form}: {way_out}')
    items = np.frombuffer(data, np.uint8)[header.nbytes:]
    if len(items) != header[1] * math.prod(shape) or len(items) == 0:
        raise UserError(f'{path} holds {len(items)} bytes where its header tells of {header[1]} {form}: {way_out}')
    if shape == () and items.max() > 9:
        raise UserError(f'{path} holds the label {items.max()}, which is not a digit: {way_out}')
    return items.reshape(-1, *shape)


def download(name, folder, missing):
    """Fetch the missing files, gzipped, of a data set into folder, each from the first mirror that has it whole.

    Raises UserError, which names the folder and the files, where no mirror gives one.
    """
    source = SOURCES[name]
    mirrors = list(source['mirrors'])
    for file in missing:
        while True:
            try:
                fetch(f'{mirrors[0]}{file}.gz', os.path.join(folder, file + '.gz'), source['algorithm'],
                      source['digests'][FILES.index(file)])
                break
            except ConnectionError as error:
                mirrors.pop(0)
                if not mirrors:
                    raise UserError(f'{name} cannot be downloaded ({error}): put {", ".join(FILES)} (or .gz) in '
                                    f'{folder}, or use --dataset digits, which needs no network') from error


def fetch(url, path, algorithm, digest):
    """Download url to path, showing a progress bar; path appears once the digest is right.

    Raises ConnectionError where the file does not come, or not whole, or nothing arrives for PATIENCE seconds.
    """
    chunks = queue.Queue()

    def receive():
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as response:
                chunks.put(response.length)
                while chunk := response.read(1 << 16):
                    chunks.put(chunk)
            chunks.put(b'')
        except (OSError, HTTPException) as error:
            chunks.put(error)

    def next_chunk():
        try:
            chunk = chunks.get(timeout=PATIENCE)
        except queue.Empty:
            raise ConnectionError(f'{url}: no answer within {PATIENCE} s') from None
        if isinstance(chunk, Exception):
            raise ConnectionError(f'{url}: {chunk}') from chunk
        return chunk

    # In a thread of its own, because looking up a host's name obeys no timeout.
    threading.Thread(target=receive, daemon=True).start()
    length = next_chunk()
    check = hashlib.new(algorithm)
    check_folder(os.path.dirname(path))
    with replacing(path) as part:
        with open(part, 'wb') as file, tqdm(desc=os.path.basename(path), total=length, unit='B', unit_scale=True,
                                            disable=None) as bar:
            while chunk := next_chunk():
                file.write(chunk)
                check.update(chunk)
                bar.update(len(chunk))
        if check.hexdigest() != digest:
            raise ConnectionError(f'{url}: not the expected file, its {algorithm} is {check.hexdigest()}')


def make_digits(folder, train=60000, test=10000, seed=0):
    """Draw the built-in data set into folder, as the four IDX files of MNIST; the same seed gives the same bytes."""
    rng = np.random.default_rng(seed)
    glyphs = draw_glyphs()
    for images_name, labels_name, count in (FILES[0], FILES[1], train), (FILES[2], FILES[3], test):
        labels = rng.permutation(np.arange(count) % 10).astype(np.uint8)
        chunks = np.split(labels, range(1000, count, 1000))
        images = np.concatenate([bend_glyphs(glyphs, chunk, rng) for chunk in
                                 tqdm(chunks, desc=f'Drawing {count} digits', leave=False, disable=None)])
        for name, items in (images_name, images), (labels_name, labels):
            header = np.array([0x800 + items.ndim, *items.shape], '>u4').tobytes()
            with replacing(os.path.join(folder, name + '.gz')) as part:
                # Without a time or a name in the gzip header, so that the same digits are the same bytes.
                pathlib.Path(part).write_bytes(gzip.compress(header + items.tobytes(), compresslevel=1, mtime=0))


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


def merge(images, size):
    """Lay images [N, H, W, C] out on a grid of size (rows, columns), row by row -> [rows*H, columns*W, C].

    Cells beyond the last image are 0.
    """
    count, height, width, channels = images.shape
    rows, columns = size
    grid = np.zeros([rows * columns, height, width, channels], images.dtype)
    grid[:count] = images
    grid = grid.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return grid.reshape(rows * height, columns * width, channels)


def grid_size(count):
    """(rows, columns) of the grid nearest to a square that holds count images, wider rather than higher."""
    columns = math.ceil(math.sqrt(count))
    return math.ceil(count / columns), columns


def to_uint8(images):
    """[0, 1] -> 0..255; what is not a number becomes 0."""
    return np.uint8(np.round(255 * np.clip(np.nan_to_num(images), 0, 1)))


def save_images(images, size, path):
    """Write images [N, H, W, C] in [0, 1] as one PNG, a grid of size (rows, columns)."""
    write_image(path, to_uint8(merge(images, size)))


def write_image(path, pixels):
    """Write pixels, uint8 [H, W, C], as PNG."""
    with replacing(path) as part:
        imageio.imwrite(part, pixels[:, :, 0] if pixels.shape[2] == 1 else pixels, extension='.png')


def export_images(folder, images, z):
    """Write images [N, H, W, C] in [0, 1] as folder/00000.png ... and, with their z [N, z_dim], as folder/samples.npz.

    samples.npz holds the arrays images, uint8 [N, H, W, C], and z. What was exported there before is replaced.
    """
    part = f'{folder}.part'
    shutil.rmtree(part, ignore_errors=True)
    try:
        os.makedirs(part)
        pixels = to_uint8(images)
        for number, image in enumerate(pixels):
            write_image(os.path.join(part, f'{number:05d}.png'), image)
        np.savez_compressed(os.path.join(part, 'samples.npz'), images=pixels, z=z)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_progress(folder, prefix):
    """Write the grids <prefix>_train_<epoch>_<step>.png of a folder, in that order, as <prefix>_progress.gif."""
    found = [re.fullmatch(re.escape(prefix) + r'_train_(\d+)_(\d+)\.png', name) for name in os.listdir(folder)]
    names = [match[0] for match in sorted(filter(None, found), key=lambda match: (int(match[1]), int(match[2])))]
    grids = [imageio.imread(os.path.join(folder, name)) for name in names]
    # A run that went on with another --sample_num has grids of two sizes; a GIF holds one.
    grids = [grid for grid in grids if grid.shape == grids[-1].shape]
    if grids:
        with replacing(os.path.join(folder, f'{prefix}_progress.gif')) as part:
            imageio.imwrite(part, np.stack(grids), extension='.gif', duration=200, loop=0)


def save_figure(figure, path):
    """Write a figure of matplotlib as PNG."""
    with replacing(path) as part:
        figure.savefig(part, format='png', dpi=100)


def read_history(path):
    """The rows of the CSV file that open_history keeps: a list of {column: text}."""
    with open(path, newline='') as file:
        return list(csv.DictReader(file))


def draw_curves(path):
    """Draw the history that open_history keeps in path -> a figure: losses, probabilities and gammas over steps."""
    rows = read_history(path)
    panels = {
        'Losses': {'g_loss': 'G', 'd_loss_real': 'D on real', 'd_loss_fake': 'D on fake', 'd_loss': 'D, both'},
        "D's mean probability of being real": {'d_real': 'real images', 'd_fake': 'generated images'},
        'Gamma of the attention layers': {'g_gamma': 'generator', 'd_gamma': 'discriminator'},
        'Fréchet distance to the training images': {'frechet_distance': 'generated images'}}
    panels = {title: {name: label for name, label in lines.items() if any(row.get(name) for row in rows)}
              for title, lines in panels.items()}
    panels = {title: lines for title, lines in panels.items() if lines} or {'No row yet': {}}

    height = 2.2 * len(panels) + 0.3
    # Figures are laid out by numbers: matplotlib's own layouts differ by fractions of a pixel from run to run.
    figure = Figure(figsize=(8, height))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    figure.subplots_adjust(left=0.07, right=0.78, bottom=0.5 / height, top=1 - 0.3 / height, hspace=0.25)
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        for (name, label), colour in zip(lines.items(), COLOURS, strict=False):
            points = [(int(row['step']), float(row[name])) for row in rows if row[name]]
            axis.plot(*zip(*points, strict=True), color=colour, label=label, linewidth=1,
                      marker='.' if len(points) < 50 else '')
        axis.set_title(title, fontsize=10, loc='left')
        axis.grid(alpha=0.3)
        if lines:
            axis.legend(fontsize=8, loc='center left', bbox_to_anchor=(1.01, 0.5), frameon=False)
    axes[-1].set_xlabel('training step')
    return figure


def query_points(image):
    """Choose the positions of an attention map whose looks are drawn, from the ink of an image [H, W] in [0, 1].

    A position (row, column) of the map [H/4, W/4] stands for a block of 4 x 4 pixels. Returns {what it is: position}:
    the block with the most ink; the first and the last block, row by row, with at least half as much; and, of the
    blocks with the least ink, the one nearest to the middle.
    """
    height, width = image.shape
    ink = np.nan_to_num(image).reshape(height // 4, 4, width // 4, 4).mean((1, 3))  # [H/4, W/4]
    inked = np.argwhere(ink >= ink.max() / 2)
    empty = np.argwhere(ink <= ink.min() + 0.01)
    middle = np.array([(height // 4 - 1) / 2, (width // 4 - 1) / 2])
    points = {'stroke': np.argwhere(ink == ink.max())[0], 'top end': inked[0], 'bottom end': inked[-1],
              'background': empty[((empty - middle) ** 2).sum(1).argmin()]}
    return {name: (int(row), int(column)) for name, (row, column) in points.items()}


def look_of(beta, point, shape):
    """Where one position looks: beta [N, N], a position (row, column) of a map of that shape -> [*shape]."""
    return beta[point[0] * shape[1] + point[1]].reshape(shape)


def draw_attention(sections, title):
    """Draw where the query points of images look -> a figure, one row an image.

    sections: [(what they are, images [K, H, W, 1] in [0, 1], attention maps [K, N, N], N = H/4 * W/4)].
    The maps lie under the outline of the image. One colour scale serves all of them.
    """
    count = sum(len(images) for _, images, _ in sections)
    _, height, width, _ = sections[0][1].shape
    shape = height // 4, width // 4
    looks = [[(name, point, look_of(beta, point, shape)) for name, point in query_points(image[:, :, 0]).items()]
             for _, images, maps in sections for image, beta in zip(images, maps, strict=True)]
    highest = max(np.nan_to_num(look).max() for row in looks for _, _, look in row)
    frame = -0.5, width - 0.5, height - 0.5, -0.5  # enlarges a map to the image's size

    height = 1.7 * count + 0.35 * len(sections) + 1.1  # inches: of a row 1.7, of a section's title 0.35
    figure = Figure(figsize=(8, height))
    figure.suptitle(title, fontsize=11, y=1 - 0.15 / height)
    remaining = iter(looks)
    top = height - 0.3
    for what, images, _ in sections:
        figure.text(0.5, (top - 0.2) / height, what, fontsize=10, ha='center')
        bottom = top - 0.35 - 1.7 * len(images)
        axes = figure.add_gridspec(len(images), 5, left=0.01, right=0.99, bottom=bottom / height,
                                   top=(top - 0.5) / height, wspace=0.02, hspace=0.18).subplots(squeeze=False)
        top = bottom
        for row, image in zip(axes, images[:, :, :, 0], strict=True):
            row[0].imshow(image, cmap='gray', vmin=0, vmax=1)
            for axis, colour, (name, (i, j), look) in zip(row[1:], COLOURS, next(remaining), strict=False):
                shown = axis.imshow(look, cmap='viridis', vmin=0, vmax=highest or 1, extent=frame)
                if image.min() < 0.5 < image.max():
                    axis.contour(image, [0.5], colors='white', linewidths=0.8)
                for place in row[0], axis:
                    place.add_patch(Rectangle((4 * j - 0.5, 4 * i - 0.5), 4, 4, fill=False, color=colour, linewidth=2))
                axis.set_title(name, fontsize=9)
            for axis in row:
                axis.set_axis_off()
    place = figure.add_axes([0.05, 0.5 / height, 0.9, 0.12 / height])
    bar = figure.colorbar(shown, cax=place, orientation='horizontal')
    bar.set_label(f'share of the attention of the framed block (evenly spread: {1 / math.prod(shape):.3f})', fontsize=9)
    return figure


def check_folder(path):
    """Make the folder where it is missing -> path. Raises UserError where it cannot be made or written."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise UserError(f'{path} cannot be made ({error.strerror}): choose another folder') from error
    if not os.access(path, os.W_OK):
        raise UserError(f'{path} cannot be written: choose another folder or change its permissions')
    return path


def checkpoint_steps(folder):
    """The steps of the checkpoints SAGAN.model-<step> in a folder, newest first."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    found = [re.fullmatch(r'SAGAN\.model-(\d+)\.index', name) for name in names]
    return sorted((int(match[1]) for match in found if match), reverse=True)


def find_run(checkpoint_dir, wanted):
    """Find, below checkpoint_dir, the run trained last among those whose options agree with wanted.

    wanted: {option: value}; a seed in it only decides between runs that differ in nothing else.
    Returns the options of the run: what its config.json says, or what its folder's name says where it has none, as
    the folders of older repositories.
    Raises UserError where there is no such run.
    """
    runs = []
    for folder in sorted(pathlib.Path(checkpoint_dir).glob('SAGAN_*')):
        steps = checkpoint_steps(folder / 'SAGAN')
        if not steps:
            continue
        config = folder / 'config.json'
        named = re.fullmatch(r'SAGAN_(.+)_(\d+)_(\d+)', folder.name)
        if config.exists():
            try:
                options = dict(json.loads(config.read_text()))
            except ValueError as error:
                raise UserError(f'{config} is damaged ({error}): delete {folder}, or put the file right') from error
        elif named:
            options = {'dataset_name': named[1], 'batch_size': int(named[2]), 'z_dim': int(named[3])}
        else:
            continue
        trained = (folder / 'SAGAN' / f'SAGAN.model-{steps[0]}.index').stat().st_mtime
        runs.append((options.get('seed') == wanted.get('seed'), trained, folder, options))
    agreeing = [run for run in runs if all(run[3].get(option, value) == value
                                           for option, value in wanted.items() if option != 'seed')]
    if not agreeing:
        there_is = ', '.join(run[2].name for run in runs) or 'nothing'
        typed = ' '.join(f'--{option.removesuffix("_name")} {value}' for option, value in wanted.items()
                         if option != 'seed')
        raise UserError(f'no trained run {typed and f"with {typed} "}in {checkpoint_dir} (there is {there_is}): '
                        'train first, with --phase train')
    return max(agreeing, key=lambda run: run[:2])[3]


def open_history(path, step, names):
    """Open the CSV file of a run to append rows to it, without the rows that an interrupted run wrote after step.

    names: the columns, step first.
    """
    rows = []
    if os.path.exists(path):
        with open(path, newline='') as file:
            rows = [row for row in csv.reader(file) if len(row) == len(names) and row[0].isdecimal()]
    with replacing(path) as part, open(part, 'w', newline='') as file:
        csv.writer(file, lineterminator='\n').writerows([names, *(row for row in rows if int(row[0]) <= step)])
    return open(path, 'a')


def draw_neighbours(images, neighbours, title):
    """Draw images uint8 [N, H, W, 1] beside their neighbours [N, K, H, W, 1], nearest first -> a figure."""
    height = 1.1 * len(images) + 0.6
    figure = Figure(figsize=(1.1 * (neighbours.shape[1] + 1), height))
    figure.suptitle(f'{title}: samples and the training images nearest to them, by pixels', fontsize=9,
                    y=1 - 0.15 / height)
    axes = figure.subplots(len(images), neighbours.shape[1] + 1, squeeze=False)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.05 / height, top=1 - 0.55 / height, wspace=0.05, hspace=0.05)
    axes[0][0].set_title('sample', fontsize=9)
    axes[0][1].set_title('nearest', fontsize=9)
    for row, image, found in zip(axes, images, neighbours, strict=True):
        for axis, shown in zip(row, [image, *found], strict=True):
            axis.imshow(shown[:, :, 0], cmap='gray', vmin=0, vmax=255)
            axis.set_axis_off()
    return figure


def show_all_variables():
    """Print the trainable variables of the graph, each with its shape and its number of parameters, and the total."""
    import tensorflow.compat.v1 as tf

    total = 0
    for variable in tf.trainable_variables():
        count = variable.shape.num_elements()
        total += count
        print(f'{variable.op.name:<40} {str(variable.shape.as_list()):<20} {count:>12,}')
    print(f'{len(tf.trainable_variables())} trainable variables, {total:,} parameters')
