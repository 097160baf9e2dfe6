"""Measure the speed of training, sampling, attention and the attention page: python -m benchmarks.speed

The variants take turns (A B C A B C ...), so that other load on the machine affects all of them alike. The times are
medians, except those of whole_loop, which are means. The output is Markdown.
"""

import contextlib
import dataclasses
import io
import multiprocessing
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time
from unittest import mock

import numpy as np

import networks
from datasets import Dataset, load_dataset
from datasets.digits import make_digits
from explorer.page import write_page
from explorer.snapshots import SNAPSHOT_IMAGES, make_snapshot, read_snapshots, write_snapshot
from ops import attention
from options import RECIPES
from SAGAN import SAGAN
from tf1 import tf
from training.losses import sigmoid_loss
from training.precision import session_config

MAIN = pathlib.Path(__file__).parents[1] / 'main.py'
ROUNDS = 12
STEPS = 3  # steps of a variant per round


def two_call_step(model):
    """Build the lineage's training step: one call updates D, a second one G, and each computes G(z).

    Returns:
        (inputs, z, the D step, d_loss, the G step, g_loss).
    """
    config = model.config
    x, z = tf.placeholder(tf.float32, [None, *config.image_shape]), tf.placeholder(tf.float32, [None, config.z_dim])
    fake = model.generator(z)
    _, real_logit, _ = model.discriminator(x)
    _, fake_logit, _ = model.discriminator(fake, reuse=True)
    d_loss = sigmoid_loss(real_logit, 1.) + sigmoid_loss(fake_logit, 0.)
    g_loss = sigmoid_loss(fake_logit, 1.)
    d_step = tf.train.AdamOptimizer(config.d_lr, config.beta1).minimize(
        d_loss, var_list=tf.trainable_variables('discriminator/'))
    g_step = tf.train.AdamOptimizer(config.g_lr, config.beta1).minimize(
        g_loss, var_list=tf.trainable_variables('generator/'))
    return x, z, d_step, d_loss, g_step, g_loss


def step_gflop(batch_size):
    """Return the GFLOP of a training step, with 2 FLOP per multiplication in a convolution or matrix product.

    If a forward pass takes g FLOP in G and d FLOP in D, a step takes 3 g + 8 d. G needs one forward pass, and gradients
    with respect to its weights and inputs. D runs on real images, on fake images, and on fake images again after its
    update. The first two passes need gradients with respect to weights and inputs, the third only for the inputs.
    """
    with tf.Graph().as_default(), tf.Session() as sess:
        model = SAGAN(sess)
        model.generator(tf.placeholder(tf.float32, [1, model.config.z_dim]))
        model.discriminator(tf.placeholder(tf.float32, [1, *model.config.image_shape]))
        flop = {'generator': 0, 'discriminator': 0}
        for op in tf.get_default_graph().get_operations():
            if op.type == 'Conv2D':  # per output, one multiplication per weight of an output channel
                count = op.outputs[0].shape.num_elements() * op.inputs[1].shape[:3].num_elements()
            elif op.type == 'Conv2DBackpropInput':  # transposed: the same per input
                count = op.inputs[2].shape.num_elements() * op.inputs[1].shape[:3].num_elements()
            elif op.type in ('MatMul', 'BatchMatMulV2'):
                count = op.outputs[0].shape.num_elements() * op.inputs[0].shape.as_list()[-1]
            else:
                continue
            flop[op.name.split('/')[0]] += 2 * count
    return batch_size * (3 * flop['generator'] + 8 * flop['discriminator']) / 1e9


def medians(variants, rounds=ROUNDS):
    """Run the variants, {name: function}, alternately, and return {name: median seconds per call} after a warm-up."""
    times = {name: [] for name in variants}
    for _ in range(rounds + 1):
        for name, function in variants.items():
            for _ in range(STEPS):
                start = time.perf_counter()
                function()
                times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values[STEPS:])) for name, values in times.items()}


def training_step(batch_size, precision='float32', two_calls=False, **options):
    """Build a variant of training in its own graph and return the function that takes one step."""
    with tf.Graph().as_default():
        sess = tf.Session(config=session_config(precision))
        model = SAGAN(sess, batch_size=batch_size, precision=precision, classes=10, **options)
        images = np.random.rand(batch_size, *model.config.image_shape)
        z = np.random.uniform(-1, 1, [batch_size, model.config.z_dim])
        if two_calls:
            # With TensorFlow's own gradients, as in the lineage.
            with mock.patch.object(tf.Graph, 'gradient_override_map', lambda *_: contextlib.nullcontext()):
                model.inputs, model.z, d_step, d_loss, g_step, g_loss = two_call_step(model)
            calls = [d_step, d_loss], [g_step, g_loss]
        else:
            model.build_model()
            calls = [[model.train_step, model.losses]]
        sess.run(tf.global_variables_initializer())
    feed = {model.inputs: images, model.z: z}
    if model.config.conditional:
        labels = np.arange(batch_size) % 10
        feed.update({model.labels: labels, model.z_labels: labels})
    return lambda: [sess.run(call, feed) for call in calls]


def sampling(count):
    """Build a model and return the function that samples count images."""
    with tf.Graph().as_default():
        sess = tf.Session(config=session_config('float32'))
        model = SAGAN(sess)
        model.build_model()
        sess.run(tf.global_variables_initializer())
    z = np.random.uniform(-1, 1, [count, model.config.z_dim])
    return lambda: model.sample(z)


def matrix_product(size, dtype):
    """Return the function that multiplies two matrices of size x size."""
    with tf.Graph().as_default():
        sess = tf.Session()
        matrix = tf.Variable(tf.cast(tf.random_uniform([size, size]), dtype))
        corner = tf.matmul(matrix, matrix)[0, 0]
        sess.run(tf.global_variables_initializer())
    return lambda: sess.run(corner)


def whole_loop(blocks=2, steps=300):
    """Compare the training loop with bare steps, in alternating blocks.

    The loop prints, records and draws at the default intervals. Its time is measured between the printed lines.

    Returns:
        (seconds per step of SAGAN.train, seconds per bare step).
    """
    with tempfile.TemporaryDirectory() as folder, tf.Graph().as_default(), tf.Session() as sess:
        os.makedirs(f'{folder}/digits')
        make_digits(f'{folder}/digits', train=20000, test=100)
        model = SAGAN(sess, dataset_name='digits', data_dir=folder, checkpoint_dir=folder, result_dir=folder,
                      log_dir=folder, iteration=steps)
        model.build_model()
        images, _ = load_dataset('digits', folder).train
        feed = {model.inputs: images[:64] / 255, model.z: np.random.uniform(-1, 1, [64, model.config.z_dim])}
        loop, bare = [], []
        for block in range(blocks):
            model.config = dataclasses.replace(model.config, epoch=block + 1)
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                model.train()
            loop.append(seconds_between_lines(printed.getvalue()))
            start = time.perf_counter()
            for _ in range(steps):
                sess.run([model.train_step, model.losses], feed)
            bare.append((time.perf_counter() - start) / steps)
    return np.mean(loop), np.mean(bare)


def loop_with_pauses(seconds=0.01, size=128, blocks=3, steps=500):
    """Compare the training loop with bare steps. A pause replaces each step, to simulate a fast GPU.

    The loop prepares batches of 64 colour images, prints and records. It draws and saves only at the end of a block.

    Returns:
        (seconds per step of SAGAN.train, seconds per bare step).
    """
    noise = np.random.default_rng(0).integers(0, 256, [2064, size, size, 3], np.uint8)
    dataset = Dataset((noise[:2000], None), (noise[2000:], None), ())
    with tempfile.TemporaryDirectory() as folder, tf.Graph().as_default(), tf.Session() as sess:
        model = networks.build(sess, image_shape=(size, size, 3), classes=(), network='dcgan', ch=8,
                               dataset_name='noise', checkpoint_dir=folder, result_dir=folder, log_dir=folder,
                               iteration=steps, sample_freq=steps, save_freq=steps)
        names = list(model.losses)

        def pause(*_):
            time.sleep(seconds)
            return dict.fromkeys(names, 0.)

        model.train_batch = pause
        loop, bare = [], []
        for block in range(blocks):
            model.config = dataclasses.replace(model.config, epoch=block + 1)
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                model.train(dataset=dataset)
            loop.append(seconds_between_lines(printed.getvalue()))
            start = time.perf_counter()
            for _ in range(steps):
                pause()
            bare.append((time.perf_counter() - start) / steps)
    return np.median(loop), np.median(bare)


def seconds_between_lines(printed):
    """Return the seconds per step between the first and the last line that training printed."""
    lines = re.findall(r'\[ *([0-9]+)/ *[0-9]+\] time: ([0-9.]+)', printed)
    (first_step, first_time), (last_step, last_time) = [map(float, line) for line in (lines[0], lines[-1])]
    return (last_time - first_time) / (last_step - first_step)


def attention_cost(side, batch_size=8, channels=64):
    """Run attention forward and backward on [B, side, side, C].

    Returns:
        (median seconds, MB that it adds to the peak memory).
    """
    with tf.Graph().as_default(), tf.Session() as sess:
        x = tf.Variable(tf.random_normal([batch_size, side, side, channels]))
        gradients = tf.gradients(attention(x), tf.trainable_variables())
        total = tf.add_n([tf.reduce_sum(gradient) for gradient in gradients])
        sess.run(tf.global_variables_initializer())
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds = medians({'attention': lambda: sess.run(total)}, rounds=4)['attention']
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3


def print_ratios():
    """Print the time of a step with other options, relative to the default options."""
    print('\n| time of a step, default = 1 | float32 | bfloat16 |\n|---|---|---|')
    variants = {'--sn true': dict(sn=True), '--conditional true': dict(conditional=True),
                '--attention none': dict(attention='none'), '--attention paper': dict(attention='paper')}
    for gan_type in 'wgan-gp', 'wgan-lp', 'dragan', 'r1':
        variants[f'--gan_type {gan_type}'] = dict(gan_type=gan_type)
    variants['--recipe paper --network article --img_size 28'] = {
        **RECIPES['paper'], 'network': 'article', 'conditional': True, 'img_size': 0}
    ratios = {}
    for precision in 'float32', 'bfloat16':
        times = medians({name: training_step(64, precision, **options)
                         for name, options in {'default': {}, **variants}.items()}, rounds=8)
        ratios[precision] = {name: times[name] / times['default'] for name in variants}
    for name in variants:
        print(f'| `{name}` | {ratios["float32"][name]:.2f} | {ratios["bfloat16"][name]:.2f} |')


def seconds_per_step(folder, cores, batch_size, workers=1, steps=40):
    """Return the seconds per step of main.py on the given number of cores, over the second half of the steps."""
    command = [sys.executable, MAIN, '--dataset', 'digits', '--data_dir', folder, '--batch_size', batch_size,
               '--epoch', 1, '--iteration', steps, '--print_freq', steps // 2, '--workers', workers, '--sample_freq',
               steps + 1, '--name', f'{cores}_{batch_size}_{workers}_{time.time()}']
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    done = subprocess.run([str(part) for part in command], cwd=folder, check=True, capture_output=True, text=True,
                          preexec_fn=lambda: os.sched_setaffinity(0, allowed))
    *_, half, whole = map(float, re.findall(r'time: ([0-9.]+)', done.stdout))  # the first step is printed, too
    return (whole - half) / (steps - steps // 2)


def print_workers(rounds=2):
    """Print the rates of one process and of two workers, measured alternately."""
    print('\n| batch size | 1 process, 1 core | 2 workers, 1 core each | 1 process, 2 cores | 2 workers : 2 cores | '
          'share of time spent averaging |\n' + '|---' * 6 + '|')
    with tempfile.TemporaryDirectory() as folder:
        os.makedirs(f'{folder}/digits')
        make_digits(f'{folder}/digits', train=2000, test=100)
        for batch in 64, 256:
            times = [[seconds_per_step(folder, 1, batch), seconds_per_step(folder, 2, batch, 2),
                      seconds_per_step(folder, 2, batch), seconds_per_step(folder, 1, batch // 2)]
                     for _ in range(rounds)]
            one, workers, both, half = np.median(times, 0)
            print(f'| {batch} | {batch / one:.0f} images/s | {batch / workers:.0f} | {batch / both:.0f} | '
                  f'{both / workers:.2f} | {1 - half / workers:.0%} |', flush=True)


def print_page(rounds=4):
    """Print how long a browser takes to open an attention page of 128 x 128 images and 32 x 32 positions."""
    sys.path.insert(0, str(MAIN.parent / 'tests'))
    import browser  # needs Selenium, which only the tests require
    if not browser.is_installed():
        print('\nThe attention page was not measured: install chromium and chromedriver.')
        return
    with tempfile.TemporaryDirectory() as folder, browser.chromium() as driver:
        for epoch in range(1, 21):
            layers = browser.make_layers(epoch, (32, 32), pixels=4, channels=3, count=SNAPSHOT_IMAGES)
            write_snapshot(folder, make_snapshot(layers, epoch, epoch, real=True))
        path = f'{folder}/page.html'
        write_page(path, 'benchmark', *read_snapshots(folder))
        seconds = medians({'page': lambda: browser.Page(driver, path)}, rounds)['page']
        megabytes = os.path.getsize(path) / 1e6
    print(f'\nAn attention page of {megabytes:.1f} MB (128 x 128 images, 32 x 32 positions) opens in {seconds:.2f} s.')


def main():
    # Measured first, each in its own process: peak memory never falls, and child processes inherit it.
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

    print('| training at batch 64 | s per step | images/s | ratio | GFLOP/s | relative to a matrix product |')
    print('|---|---|---|---|---|---|')
    for name, label, product in [('two', 'two calls per step, as in the lineage', 'product'),
                                 ('fused', 'one call per step', 'product'),
                                 ('average', 'with moving average', 'product'),
                                 ('bfloat16', 'one call per step, bfloat16', 'product bfloat16'),
                                 ('average bfloat16', 'with moving average', 'product bfloat16')]:
        print(f'| {label} | {times[name]:.3f} | {64 / times[name]:.0f} | {times["two"] / times[name]:.2f} | '
              f'{gflop / times[name]:.0f} | {gflop / times[name] / products[product]:.0%} |')
    print(f'\nA step takes {gflop:.1f} GFLOP. A {size} x {size} matrix product runs at {products["product"]:.0f} '
          f'GFLOP/s in float32 and {products["product bfloat16"]:.0f} in bfloat16.')
    print(f'\nSampling: {64 / times["sample 64"]:.0f} images/s for 64 images, '
          f'{1000 / times["sample 1000"]:.0f} images/s for 1,000.')

    print_ratios()
    print_workers()
    loop, bare = whole_loop()
    print(f'\nThe training loop takes {loop:.3f} s per step, the bare step {bare:.3f} s: the loop reaches '
          f'{bare / loop:.0%} of the rate of bare steps.')
    loop, bare = loop_with_pauses()
    print(f'\nWith 128 x 128 x 3 images and a pause of {1e3 * bare:.1f} ms in place of each step, the loop runs at '
          f'{bare / loop:.0%} of the speed of the pauses alone.')

    times = medians({batch: training_step(batch) for batch in (16, 64, 256)}, rounds=4)
    print('\n| batch size | s per step | images/s |\n|---|---|---|')
    for batch, seconds in times.items():
        print(f'| {batch} | {seconds:.3f} | {batch / seconds:.0f} |')

    print('\n| attention alone, batch 8, 64 channels | N | ms | peak MB | one map [B, N, N] in MB |')
    print('|---|---|---|---|---|')
    for side, (seconds, megabytes) in costs.items():
        print(f'| {side} x {side} | {side ** 2} | {1e3 * seconds:.1f} | {megabytes:.0f} | '
              f'{8 * side ** 4 * 4 / 1e6:.1f} |')
    print_page()


if __name__ == '__main__':
    main()
