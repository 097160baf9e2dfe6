"""Print a table of network sizes: python -m benchmarks.sizes

For each row, main.py trains a few steps on random images in a process of its own. The peak memory is that of the whole
process.
"""

import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

import numpy as np

from networks import NETWORKS
from tf1 import tf
from utils import write_png

MAIN = pathlib.Path(__file__).parents[1] / 'main.py'
SIZES = (32, 64, 128)
CHANNELS = {'article': (64,), 'dcgan': (16, 64), 'resnet': (16, 64)}  # values of --ch; the article's network ignores it
BATCH_SIZE = 16
STEPS = 4


def rows():
    """Return the rows of the table, (network, image size, ch)."""
    return [(kind, size, ch) for kind, channels in CHANNELS.items() for size in SIZES for ch in channels]


def parameters(kind, size, ch):
    """Return the numbers of parameters of the generator and of the discriminator, in millions, as strings."""
    with tf.Graph().as_default():
        model = NETWORKS[kind](None, image_shape=(size, size, 3), ch=ch, batch_size=BATCH_SIZE)
        model.discriminator(model.generator(tf.zeros([1, model.config.z_dim])))
        counts = [sum(variable.shape.num_elements() for variable in tf.trainable_variables(scope))
                  for scope in ('generator/', 'discriminator/')]
    return [f'{count / 1e6:.2f}' for count in counts]


def measure(kind, size, ch):
    """Train a few steps and return (median seconds per step, peak memory of the command in GB)."""
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        os.makedirs(f'{folder}/data/random')
        for number in range(BATCH_SIZE * 2):
            pixels = rng.integers(0, 256, [size, size, 3]).astype(np.uint8)  # [H, W, 3]
            write_png(f'{folder}/data/random/{number}.png', pixels)
        command = [sys.executable, MAIN, '--phase', 'train', '--dataset', 'random', '--network', kind, '--ch', ch,
                   '--img_size', size, '--batch_size', BATCH_SIZE, '--sample_num', BATCH_SIZE, '--epoch', 1,
                   '--iteration', STEPS, '--print_freq', 1]
        process = subprocess.Popen(list(map(str, command)), cwd=folder, text=True, stdout=subprocess.PIPE)
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise RuntimeError(f'{kind}, {size} pixels, --ch {ch}: main.py failed')
    times = [float(text) for text in re.findall(r'time: ([0-9.]+)', output)]
    unit = 1 if sys.platform == 'darwin' else 1024  # of ru_maxrss, in bytes
    return statistics.median(np.diff(times)), usage.ru_maxrss * unit / 1e9


def main():
    print('| network | pixels | `--ch` | parameters of G (millions) | of D | seconds per step | peak memory (GB) |')
    print('|---' * 7 + '|')
    for kind, size, ch in rows():
        seconds, memory = measure(kind, size, ch)
        shown_ch = '' if kind == 'article' else ch
        cells = kind, size, shown_ch, *parameters(kind, size, ch), f'{seconds:.2g}', f'{memory:.1f}'
        print(f'| {" | ".join(map(str, cells))} |', flush=True)


if __name__ == '__main__':
    main()
