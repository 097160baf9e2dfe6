"""Speed of training and sampling, in one process: python -m benchmarks.speed

The variants run in turn (A B C A B C ...), so that whatever else the machine does falls on all of them; the figures are
medians. The table that it prints is Markdown.
"""

import contextlib
import io
import multiprocessing
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from unittest import mock

import numpy as np

from datasets import idx
from datasets.idx import make_digits
from explorer import snapshots as explorer
from ops import attention
from options import RECIPES
from SAGAN import SAGAN
from tf1 import tf
from training.losses import sigmoid_loss
from training.precision import session_config

MAIN = pathlib.Path(__file__).parents[1] / 'main.py'
ROUNDS = 12
STEPS = 3  # steps of a variant in a round


def two_call_loop(model):
    """The lineage's training step: one operation updates D, another, in a second call, G; G(z) is computed in both.

    Returns (inputs, z, the D step, d_loss, the G step, g_loss).
    """
    x, z = tf.placeholder(tf.float32, [None, *model.image_shape]), tf.placeholder(tf.float32, [None, model.z_dim])
    fake = model.generator(z)
    real_logit, fake_logit = model.discriminator(x)[1], model.discriminator(fake, reuse=True)[1]
    d_loss = sigmoid_loss(real_logit, 1.) + sigmoid_loss(fake_logit, 0.)
    g_loss = sigmoid_loss(fake_logit, 1.)
    d_step = tf.train.AdamOptimizer(model.d_lr, model.beta1).minimize(d_loss, None,
                                                                      tf.trainable_variables('discriminator/'))
    g_step = tf.train.AdamOptimizer(model.g_lr, model.beta1).minimize(g_loss, None,
                                                                      tf.trainable_variables('generator/'))
    return x, z, d_step, d_loss, g_step, g_loss


def step_gflop(batch_size):
    """GFLOP of a training step, counted from the graph: 2 for each multiplication of a convolution or matrix product.

    With G and D those of a forward pass of each network, a step is 3 G + 8 D: G forward, and backward to its weights
    and inputs; D forward on real, on fake, and on fake once more after its update, backward to weights and inputs for
    the first two of these, and to the inputs alone for the third.
    """
    with tf.Graph().as_default(), tf.Session() as sess:
        model = SAGAN(sess)
        model.generator(tf.placeholder(tf.float32, [1, model.z_dim]))
        model.discriminator(tf.placeholder(tf.float32, [1, *model.image_shape]))
        flop = {'generator': 0, 'discriminator': 0}
        for op in tf.get_default_graph().get_operations():
            if op.type == 'Conv2D':  # every output takes a kernel's volume of multiplications
                count = op.outputs[0].shape.num_elements() * op.inputs[1].shape[:3].num_elements()
            elif op.type == 'Conv2DBackpropInput':  # a deconvolution: every input gives as many
                count = op.inputs[2].shape.num_elements() * op.inputs[1].shape[:3].num_elements()
            elif op.type in ('MatMul', 'BatchMatMulV2'):
                inner = op.inputs[0].shape.as_list()[-1]
                count = op.outputs[0].shape.num_elements() * inner
            else:
                continue
            flop[op.name.split('/')[0]] += 2 * count
    return batch_size * (3 * flop['generator'] + 8 * flop['discriminator']) / 1e9


def medians(variants, rounds=ROUNDS):
    """Run the variants {name: function} in turn -> {name: median seconds of a call}; the first round warms up."""
    times = {name: [] for name in variants}
    for _ in range(rounds + 1):
        for name, function in variants.items():
            for _ in range(STEPS):
                start = time.perf_counter()
                function()
                times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values[STEPS:])) for name, values in times.items()}


def training_step(batch_size, precision='float32', two_calls=False, **options):
    """Build one variant of training in a graph of its own -> the function that takes a step."""
    with tf.Graph().as_default():
        sess = tf.Session(config=session_config(precision))
        model = SAGAN(sess, batch_size=batch_size, precision=precision, classes=10, **options)
        images = np.random.rand(batch_size, *model.image_shape)
        z = np.random.uniform(-1, 1, [batch_size, model.z_dim])
        if two_calls:
            with mock.patch('ops.matmul', tf.matmul):  # the gradient that the lineage's fully connected layers take
                model.inputs, model.z, d_step, d_loss, g_step, g_loss = two_call_loop(model)
            calls = [d_step, d_loss], [g_step, g_loss]
        else:
            model.build_model()
            calls = [[model.train_step, model.losses]]
        sess.run(tf.global_variables_initializer())
    feed = {model.inputs: images, model.z: z}
    if model.conditional:
        feed.update({labels: np.arange(batch_size) % 10 for labels in (model.labels, model.z_labels)})
    return lambda: [sess.run(call, feed) for call in calls]


def sampling(count):
    """-> the function that makes count images."""
    with tf.Graph().as_default():
        sess = tf.Session(config=session_config('float32'))
        model = SAGAN(sess)
        model.build_model()
        sess.run(tf.global_variables_initializer())
    z = np.random.uniform(-1, 1, [count, model.z_dim])
    return lambda: model.sample(z)


def matrix_product(size, dtype):
    """-> the function that multiplies two matrices of size x size."""
    with tf.Graph().as_default():
        sess = tf.Session()
        matrix = tf.Variable(tf.cast(tf.random_uniform([size, size]), dtype))
        corner = tf.matmul(matrix, matrix)[0, 0]
        sess.run(tf.global_variables_initializer())
    return lambda: sess.run(corner)


def whole_loop(blocks=2, steps=300):
    """(seconds a step of SAGAN.train with all that surrounds a step, of the bare step), in alternating blocks.

    What is printed, summed up, noted and drawn is as often as by default; the time is that between the printed lines.
    """
    with tempfile.TemporaryDirectory() as folder, tf.Graph().as_default(), tf.Session() as sess:
        os.makedirs(f'{folder}/digits')
        make_digits(f'{folder}/digits', train=20000, test=100)
        model = SAGAN(sess, dataset_name='digits', data_dir=folder, checkpoint_dir=folder, result_dir=folder,
                      log_dir=folder, iteration=steps, epoch=0)
        model.build_model()
        (images, _), _ = idx.load_mnist('digits', folder)
        feed = {model.inputs: images[:64] / 255, model.z: np.random.uniform(-1, 1, [64, model.z_dim])}
        loop, bare = [], []
        for _ in range(blocks):
            model.epoch += 1
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                model.train()
            times = [float(text) for text in re.findall(r'time: ([\d.]+)', printed.getvalue())]
            loop.append((times[-1] - times[0]) / (steps - model.print_freq))
            start = time.perf_counter()
            for _ in range(steps):
                sess.run([model.train_step, model.losses], feed)
            bare.append((time.perf_counter() - start) / steps)
    return np.mean(loop), np.mean(bare)


def attention_cost(side, batch_size=8, channels=64):
    """Attention alone, forward and backward, on [B, side, side, C] -> (median seconds, MB that it adds to the peak)."""
    with tf.Graph().as_default(), tf.Session() as sess:
        x = tf.Variable(tf.random_normal([batch_size, side, side, channels]))
        gradients = tf.gradients(attention(x), tf.trainable_variables())
        total = tf.add_n([tf.reduce_sum(gradient) for gradient in gradients])
        sess.run(tf.global_variables_initializer())
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds = medians({'attention': lambda: sess.run(total)}, rounds=4)['attention']
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3


def print_ratios():
    """Print what a step with other options takes beside one of the default, as a table."""
    print('\n| beside the default, of 1 | float32 | bfloat16 |\n|---|---|---|')
    variants = {'--sn true': dict(sn=True), '--conditional true': dict(conditional=True),
                '--attention none': dict(attention='none'), '--attention paper': dict(attention='paper'),
                **{f'--gan_type {name}': dict(gan_type=name) for name in ('wgan-gp', 'wgan-lp', 'dragan')},
                '--recipe paper --network article': {**RECIPES['paper'], 'network': 'article', 'conditional': True}}
    ratios = {}
    for precision in 'float32', 'bfloat16':
        times = medians({name: training_step(64, precision, **options) for name, options in
                         {'default': {}, **variants}.items()}, rounds=8)
        ratios[precision] = {name: times[name] / times['default'] for name in variants}
    for name in variants:
        print(f'| `{name}` | {ratios["float32"][name]:.2f} | {ratios["bfloat16"][name]:.2f} |')


def seconds_a_step(folder, cores, batch_size, workers=1, steps=40):
    """Seconds a step of main.py's training on so many cores, of the second half of the steps."""
    command = [sys.executable, MAIN, '--dataset', 'digits', '--data_dir', folder, '--batch_size', batch_size,
               '--epoch', 1, '--iteration', steps, '--print_freq', steps // 2, '--workers', workers, '--sample_freq',
               steps + 1, '--name', f'{cores}_{batch_size}_{workers}_{time.time()}']
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    done = subprocess.run([str(part) for part in command], cwd=folder, check=True, capture_output=True, text=True,
                          preexec_fn=lambda: os.sched_setaffinity(0, allowed))
    half, whole = map(float, re.findall(r'time: ([0-9.]+)', done.stdout))
    return (whole - half) / (steps - steps // 2)


def print_workers(rounds=2):
    """Print the rates of one process and of two workers, in turns, as a table."""
    print('\n| batch size | 1 process, 1 core | 2 workers, a core each | 1 process, 2 cores | workers, of 2 cores | '
          'of a step is averaging |\n' + '|---' * 6 + '|')
    with tempfile.TemporaryDirectory() as folder:
        os.makedirs(f'{folder}/digits')
        make_digits(f'{folder}/digits', train=2000, test=100)
        for batch in 64, 256:
            times = np.median([[seconds_a_step(folder, 1, batch), seconds_a_step(folder, 2, batch, 2),
                                seconds_a_step(folder, 2, batch), seconds_a_step(folder, 1, batch // 2)]
                               for _ in range(rounds)], 0)
            one, workers, both, half = times
            print(f'| {batch} | {batch / one:.0f} images/s | {batch / workers:.0f} | {batch / both:.0f} | '
                  f'{both / workers:.2f} | {1 - half / workers:.0%} |', flush=True)


def print_page(rounds=4):
    """Print how long a browser takes to draw a page of images of 128 x 128, in colour, and maps of 32 x 32 places."""
    if not (shutil.which('chromium') and shutil.which('chromedriver')):
        print('\nThere is no chromium with chromedriver to draw the page of the attention maps.')
        return
    import test_explorer  # not above: it needs what the tests need
    with tempfile.TemporaryDirectory() as folder, test_explorer.started() as browser:
        for epoch in range(1, 21):
            looks = test_explorer.looks(epoch, (32, 32), size=4, channels=3, count=explorer.IMAGES)
            explorer.write_snapshot(folder, explorer.make_snapshot(looks, epoch, epoch, real=True))
        path = f'{folder}/page.html'
        explorer.write_page(path, 'benchmark', *explorer.read_snapshots(folder))
        seconds = medians({'page': lambda: test_explorer.Page(browser, path)}, rounds)['page']
        megabytes = os.path.getsize(path) / 1e6
    print(f'\nA page of attention maps, of {megabytes:.1f} MB, 128 x 128 images and 32 x 32 places, is drawn in '
          f'{seconds:.2f} s.')


def main():
    # First, and each in a process of its own: a peak of memory never falls, and passes on to what a process starts.
    with multiprocessing.get_context('spawn').Pool(1, maxtasksperchild=1) as pool:
        costs = {side: pool.apply(attention_cost, [side]) for side in (7, 14, 28, 56)}
    size = 4096
    times = medians({
        'two': training_step(64, two_calls=True), 'fused': training_step(64, ema=0), 'average': training_step(64),
        'bfloat16': training_step(64, 'bfloat16', ema=0), 'average bfloat16': training_step(64, 'bfloat16'),
        'sample 64': sampling(64), 'sample 1000': sampling(1000),
        'product': matrix_product(size, tf.float32), 'product bfloat16': matrix_product(size, tf.bfloat16)})
    gflop = step_gflop(64)
    products = {name: 2 * size ** 3 / times[name] / 1e9 for name in ('product', 'product bfloat16')}

    print('| training at batch 64 | s a step | images/s | ratio | GFLOP/s | of a matrix product\'s |')
    print('|---|---|---|---|---|---|')
    for name, label, product in [('two', 'two calls a step, as in the lineage', 'product'),
                                 ('fused', 'one call a step', 'product'),
                                 ('average', 'and the moving average', 'product'),
                                 ('bfloat16', 'one call a step, bfloat16', 'product bfloat16'),
                                 ('average bfloat16', 'and the moving average', 'product bfloat16')]:
        print(f'| {label} | {times[name]:.3f} | {64 / times[name]:.0f} | {times["two"] / times[name]:.2f} | '
              f'{gflop / times[name]:.0f} | {gflop / times[name] / products[product]:.0%} |')
    print(f'\nA step is {gflop:.1f} GFLOP; a {size} x {size} matrix product runs at {products["product"]:.0f} GFLOP/s '
          f'in float32 and {products["product bfloat16"]:.0f} in bfloat16.')
    print(f'\nSampling: {64 / times["sample 64"]:.0f} images/s at batch 64, '
          f'{1000 / times["sample 1000"]:.0f} for 1000.')

    print_ratios()
    print_workers()
    loop, bare = whole_loop()
    print(f'\nThe loop of --phase train takes {loop:.3f} s a step, the bare step {bare:.3f} s: '
          f'{bare / loop:.0%} of its rate.')

    times = medians({batch: training_step(batch) for batch in (16, 64, 256)}, rounds=4)
    print('\n| batch size | s a step | images/s |\n|---|---|---|')
    for batch, seconds in times.items():
        print(f'| {batch} | {seconds:.3f} | {batch / seconds:.0f} |')

    print('\n| attention alone, batch 8, 64 channels | N | ms | peak MB | of these one map [B, N, N] |')
    print('|---|---|---|---|---|')
    for side, (seconds, megabytes) in costs.items():
        print(f'| {side} x {side} | {side ** 2} | {1e3 * seconds:.1f} | {megabytes:.0f} | '
              f'{8 * side ** 4 * 4 / 1e6:.1f} |')
    print_page()


if __name__ == '__main__':
    main()
