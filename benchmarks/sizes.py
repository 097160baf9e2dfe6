"""The table of the other networks' sizes: python -m benchmarks.sizes

Each step is measured in a process of its own, so that its peak of memory is its own.
"""

import multiprocessing
import re
import resource
import statistics
import time

import numpy as np

from networks import NETWORKS
from ops import attention_layers
from tf1 import tf

KINDS, SIZES, CHANNELS, BATCH_SIZE = ('dcgan', 'resnet'), (32, 64, 128), (16, 64), 16


def networks_of(kind, size, ch, **options):
    """Both networks of images [B, size, size, 3], built once for sampling in the graph at hand."""
    model = NETWORKS[kind](None, image_shape=(size, size, 3), ch=ch, batch_size=BATCH_SIZE, **options)
    images = model.generator(tf.placeholder(tf.float32, [None, model.z_dim]), is_training=False)
    return model.discriminator(images, is_training=False)


def shapes(kind, size):
    """The maps of G and of D, as the table has them: channels, in units of ch, at sizes, and where attention is."""
    with tf.Graph().as_default():
        networks_of(kind, size, 8)
        layers = {}  # {network/layer: its map}, the last one that it makes
        for op in tf.get_default_graph().get_operations():
            layer = re.match(r'(?:generator|discriminator)/(?:Reshape|g_dc|g_block|d_conv|d_block)[0-9]*', op.name)
            shape = op.outputs[0].shape.as_list() if layer and op.outputs and op.outputs[0].shape.ndims == 4 else [0]
            if layer and shape[-1] and shape[-1] % 8 == 0 and shape[0] is None:
                layers[layer[0]] = f'{shape[3] // 8} at {shape[1]}'
        attended = {key: [layer.queries[0] for layer in attention_layers() if layer.name[0] == key] for key in 'gd'}
    return '; '.join(
        f'{", ".join(shape for layer, shape in layers.items() if layer[0] == key)}, attention at '
        f'{" and ".join(map(str, attended[key]))}' for key in 'gd')


def parameters(kind, size):
    """The millions of parameters of G and of D, at each of CHANNELS, as the table has them."""
    found = []
    for ch in CHANNELS:
        with tf.Graph().as_default():
            networks_of(kind, size, ch)
            found.append(', '.join(f'{sum(v.shape.num_elements() for v in tf.trainable_variables(scope)) / 1e6:.2f}'
                                   for scope in ('generator/', 'discriminator/')))
    return '; '.join(found)


def measure(kind, size, ch, results):
    """Seconds of a training step, the median of 3, and the peak of memory in GB, of the options' defaults otherwise."""
    rng = np.random.default_rng(0)
    with tf.Session() as sess:
        model = NETWORKS[kind](sess, image_shape=(size, size, 3), ch=ch, batch_size=BATCH_SIZE)
        model.build_model()
        sess.run(tf.global_variables_initializer())
        batch = rng.random([BATCH_SIZE, size, size, 3]), model.draw_z(BATCH_SIZE, 0)
        times = []
        for step in range(4):
            start = time.perf_counter()
            model.train_batch([batch], step)
            times.append(time.perf_counter() - start)
    results.put((statistics.median(times[1:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))


def main():
    print('| network | px | maps of G; of D | millions of parameters of G, of D, at --ch '
          f'{"; ".join(map(str, CHANNELS))} | s a step | GB |\n' + '|---' * 6 + '|')
    spawn = multiprocessing.get_context('spawn')
    for kind in KINDS:
        for size in SIZES:
            found = []
            for ch in CHANNELS:
                results = spawn.Queue()
                process = spawn.Process(target=measure, args=(kind, size, ch, results))
                process.start()
                found.append(results.get())
                process.join()
            steps, memory = ('; '.join(f'{value:.2g}' for value in values) for values in zip(*found, strict=True))
            row = kind, size, shapes(kind, size), parameters(kind, size), steps, memory
            print(f'| {" | ".join(map(str, row))} |', flush=True)


if __name__ == '__main__':
    main()
