"""The Self-Attention GAN (Zhang et al. 2018, arXiv:1805.08318): its networks, its training and its sampling."""

import functools
import glob
import json
import os
import pathlib
import signal
import sys
import time

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig
from tqdm import tqdm

from metrics import all_scores, classifier_score, frechet_distance, load_classifier, nearest, print_scores
from ops import BFLOAT16_GRADIENTS, attention, bn, conv2d, deconv2d, linear, lrelu
from utils import (
    UserError,
    check_folder,
    checkpoint_steps,
    draw_attention,
    draw_curves,
    draw_neighbours,
    export_images,
    grid_size,
    load_mnist,
    open_history,
    read_history,
    replacing,
    save_figure,
    save_images,
    to_uint8,
    write_progress,
)

# Options that make another run of the same network: each stands in the name of the run's folder where it is not this.
RUN_DEFAULTS = {'g_lr': 0.001, 'd_lr': 0.0002, 'beta1': 0.5, 'lr_decay': 'none', 'seed': 0}

# One stream of random numbers for each use, so that none depends on how often another was drawn from.
TRAIN_Z, SHUFFLE, FIXED_Z, EPOCH_Z, TEST_Z, FIGURE_Z, WALK_Z, EXPORT_Z, EVAL_Z, STATISTICS_Z = range(10)

WALKS, WALK_STEPS = 8, 10  # rows and columns of the picture of walks between two z
NEIGHBOUR_ROWS, NEIGHBOURS = 8, 6  # rows of the picture of nearest training images, and images in one
FIGURE_ROWS = 4  # images a network of the figure of attention maps
QUICK_EVAL_NUM = 5000  # images that --eval_freq scores
SAMPLE_BATCH = 512  # images that one call makes when sampling, to bound the memory
STATISTICS_BATCHES = 12  # of SAMPLE_BATCH images, to take the statistics of the averaged weights from


class SAGAN:
    """A generator and a discriminator, each with a self-attention layer unless attention is False.

    The arguments are the options of main.py; iteration is the number of steps an epoch, 0 for a whole pass through the
    data. image_shape: (H, W, C), H and W multiples of 4.
    """

    model_name = 'SAGAN'

    def __init__(self, sess, epoch=20, batch_size=64, z_dim=62, dataset_name='mnist',
                 checkpoint_dir='checkpoint', result_dir='results', log_dir='logs', data_dir='data', iteration=0,
                 g_lr=0.001, d_lr=0.0002, beta1=0.5, lr_decay='none', ema=0.999, weights='ema', sample_num=64,
                 test_num=10, print_freq=50, sample_freq=300, save_freq=1000, precision='float32', attention=True,
                 attention_of='both', export=0, eval_num=10000, eval_freq=0, seed=0, image_shape=(28, 28, 1)):
        self.config = {name: value for name, value in locals().items() if name not in ('self', 'sess')}
        self.sess = sess
        self.epoch = epoch
        self.batch_size = batch_size
        self.z_dim = z_dim
        self.dataset_name = dataset_name
        self.checkpoint_dir = checkpoint_dir
        self.result_dir = result_dir
        self.log_dir = log_dir
        self.data_dir = data_dir
        self.iteration = iteration
        self.g_lr = g_lr
        self.d_lr = d_lr
        self.beta1 = beta1
        self.lr_decay = lr_decay
        self.ema = ema
        self.weights = weights if ema else 'raw'
        self.sample_num = sample_num
        self.test_num = test_num
        self.print_freq = print_freq
        self.sample_freq = sample_freq
        self.save_freq = save_freq
        self.precision = precision
        self.attention = attention
        self.attention_of = attention_of
        self.export = export
        self.eval_num = eval_num
        self.eval_freq = eval_freq
        self.seed = seed
        self.image_shape = image_shape

    @property
    def model_dir(self):
        """Name of the run's folder: two runs that train differently never share one."""
        name = f'{self.model_name}_{self.dataset_name}_{self.batch_size}_{self.z_dim}'
        if self.precision != 'float32':
            name += f'_{self.precision}'
        if not self.attention:
            name += '_noattention'
        for option, default in RUN_DEFAULTS.items():
            if getattr(self, option) != default:
                value = getattr(self, option)
                name += f'_{option}{value}' if isinstance(value, str) else f'_{option}{value:g}'
        return name

    ##################################################################################
    # Networks
    ##################################################################################

    def generator(self, z, is_training=True, reuse=False, custom_getter=None):
        """z [B, z_dim], uniform in [-1, 1] -> images [B, H, W, C] in [0, 1]. custom_getter: of tf.variable_scope."""
        height, width, channels = self.image_shape
        batch_size = tf.shape(z)[0]
        with tf.variable_scope('generator', reuse=reuse, use_resource=True, custom_getter=custom_getter):
            x = tf.nn.relu(bn(linear(z, 1024, 'g_fc1'), is_training, 'g_bn1'))  # [B, 1024]
            x = linear(x, height // 4 * (width // 4) * 128, 'g_fc2')
            x = tf.nn.relu(bn(x, is_training, 'g_bn2'))  # [B, 7*7*128]
            x = tf.reshape(x, [-1, height // 4, width // 4, 128])  # [B, 7, 7, 128]
            if self.attention:
                x = attention(x, is_training)  # [B, 7, 7, 128]
            x = deconv2d(x, [batch_size, height // 2, width // 2, 64], 4, 4, 2, 2, name='g_dc3')
            x = tf.nn.relu(bn(x, is_training, 'g_bn3'))  # [B, 14, 14, 64]
            x = deconv2d(x, [batch_size, height, width, channels], 4, 4, 2, 2, name='g_dc4')
            return tf.nn.sigmoid(x)  # [B, 28, 28, 1]

    def discriminator(self, x, is_training=True, reuse=False):
        """x [B, H, W, C] in [0, 1] -> (probability of being real [B, 1], its logit [B, 1], features [B, 1024])."""
        height, width, _ = self.image_shape
        with tf.variable_scope('discriminator', reuse=reuse, use_resource=True):
            x = lrelu(conv2d(x, 64, 4, 4, 2, 2, name='d_conv1'))  # [B, 14, 14, 64]
            x = lrelu(bn(conv2d(x, 128, 4, 4, 2, 2, name='d_conv2'), is_training, 'd_bn2'))  # [B, 7, 7, 128]
            if self.attention:
                x = attention(x, is_training)  # [B, 7, 7, 128]
            x = tf.reshape(x, [-1, height // 4 * (width // 4) * 128])  # [B, 7*7*128]
            features = lrelu(bn(linear(x, 1024, 'd_fc4'), is_training, 'd_bn4'))  # [B, 1024]
            logit = linear(features, 1, 'd_fc5')  # [B, 1]
            return tf.nn.sigmoid(logit), logit, features

    def build_model(self):
        """Build the graph: the networks for sampling, and one training step.

        Sets inputs [B, H, W, C] and z [B, z_dim], the placeholders, and those of scalars step, the number of steps
        before this one, and lr_scale, which multiplies both learning rates; fake_images, G(z) with is_training=False
        and the weights to sample with; d_loss and g_loss, scalars; train_step, the operation that updates D on
        (inputs, G(z)), then G through the updated D on the same z, then the moving average of G's variables.
        g_loss is that of the updated D: fetching it updates D.
        """
        tf.set_random_seed(self.seed)
        self.inputs = tf.placeholder(tf.float32, [None, *self.image_shape], name='real_images')
        self.z = tf.placeholder(tf.float32, [None, self.z_dim], name='z')
        self.step = tf.placeholder_with_default(0., [], name='step')
        self.lr_scale = tf.placeholder_with_default(1., [], name='lr_scale')

        gradients = BFLOAT16_GRADIENTS if self.precision == 'bfloat16' else {}
        # A scope of its own, so that <network>/attention/attention_map:0 is the map to draw, not one of these.
        with tf.name_scope('training'), tf.get_default_graph().gradient_override_map(gradients):
            fake = self.generator(self.z)
            g_variables = tf.global_variables('generator/')
            _, real_logit, _ = self.discriminator(self.inputs)
            # One pass after the other: they move the same statistics, and the same order gives the same bits.
            with tf.control_dependencies([real_logit]):
                _, fake_logit, _ = self.discriminator(fake, reuse=True)
        d_loss_real, d_loss_fake = sigmoid_loss(real_logit, 1.), sigmoid_loss(fake_logit, 0.)
        self.d_loss = d_loss_real + d_loss_fake
        d_real, d_fake = tf.reduce_mean(tf.nn.sigmoid(real_logit)), tf.reduce_mean(tf.nn.sigmoid(fake_logit))
        d_optim = tf.train.AdamOptimizer(self.d_lr * self.lr_scale, beta1=self.beta1).minimize(
            self.d_loss, var_list=tf.trainable_variables('discriminator/'))

        # Resource variables are read where the graph says so: these reads come after D's update.
        with tf.control_dependencies([d_optim]), tf.name_scope('training'):
            _, fake_logit, _ = self.discriminator(fake, reuse=True)
        self.g_loss = sigmoid_loss(fake_logit, 1.)
        self.train_step = tf.train.AdamOptimizer(self.g_lr * self.lr_scale, beta1=self.beta1).minimize(
            self.g_loss, var_list=tf.trainable_variables('generator/'))

        self.averages, sampled = [], {}  # sampled: what takes a variable's place when sampling
        if self.ema:
            ema = tf.train.ExponentialMovingAverage(self.ema, num_updates=self.step)
            with tf.name_scope('averages'), tf.control_dependencies([self.train_step]):
                self.train_step = ema.apply(g_variables)
            self.averages = [ema.average(variable) for variable in g_variables]
            if self.weights == 'ema':
                sampled = {variable.op.name: average if variable.trainable else tf.Variable(
                    average.read_value(), trainable=False, collections=[tf.GraphKeys.LOCAL_VARIABLES])
                    for variable, average in zip(g_variables, self.averages, strict=True)}

        def sampling_getter(getter, *args, **kwargs):
            variable = getter(*args, **kwargs)
            return sampled.get(variable.op.name, variable)

        self.fake_images = self.generator(self.z, is_training=False, reuse=True, custom_getter=sampling_getter)
        self.reset_statistics, self.move_statistics = tf.local_variables_initializer(), tf.no_op()
        if sampled:
            with tf.name_scope('averages'):
                self.move_statistics = self.generator(self.z, reuse=True, custom_getter=sampling_getter).op
        self.discriminator(self.inputs, is_training=False, reuse=True)

        self.losses = {'d_loss': self.d_loss, 'd_loss_real': d_loss_real, 'd_loss_fake': d_loss_fake,
                       'g_loss': self.g_loss, 'd_real': d_real, 'd_fake': d_fake}
        gammas = {f'{v.op.name[0]}_gamma': v for v in tf.trainable_variables() if v.op.name.endswith('attention/gamma')}
        self.gammas = {name: gamma[0] for name, gamma in gammas.items()}
        self.sampled_gammas = {name: sampled.get(gamma.op.name, gamma)[0] for name, gamma in gammas.items()}
        self.columns = ['step', *self.losses, *self.gammas, 'frechet_distance', 'classifier_score']  # of the history
        self.saver, self.best_saver = tf.train.Saver(max_to_keep=3), tf.train.Saver(max_to_keep=1)

    ##################################################################################
    # Training and sampling
    ##################################################################################

    def train(self):
        """Train to the end of the last epoch, from the newest checkpoint if there is one.

        On Ctrl-C or SIGTERM it saves and ends the program with exit code 130 or 143.
        Raises UserError or OSError for what the user can put right.
        """
        images, labels = load_mnist(self.dataset_name, self.data_dir)[0]
        steps_a_pass = len(images) // self.batch_size
        if steps_a_pass == 0:
            raise UserError(f'--batch_size {self.batch_size} is more than the {len(images)} images of '
                            f'{self.dataset_name}: choose a smaller one')
        steps_an_epoch = self.iteration or steps_a_pass
        last_step = self.epoch * steps_an_epoch

        self.sess.run(tf.global_variables_initializer())
        found, step = self.load()
        if step >= last_step:
            print(f'This run is complete at step {step}: a larger --epoch than {self.epoch} goes on from there')
            return
        if found:
            print(f'Going on from step {step} of {last_step}')
        if self.lr_decay == 'linear':
            print(f'Learning rates: constant to step {last_step // 2}, then falling to zero at step {last_step}')
        result_dir = check_folder(os.path.join(self.result_dir, self.model_dir))
        writer, history = self.open_folders(step)
        if self.eval_freq:
            classify = load_classifier(self.dataset_name, images, labels, self.checkpoint_dir)
            real_features, _ = classify(images)
        best = min((float(row['frechet_distance']) for row in read_history(history.name) if row['frechet_distance']),
                   default=np.inf)
        fixed_z = draw_z(self.sample_num, self.z_dim, self.seed, FIXED_Z)  # [sample_num, z_dim]

        stops = []  # signals that came
        handlers = {number: signal.signal(number, lambda number, frame: stops.append(number))
                    for number in (signal.SIGINT, signal.SIGTERM)}
        start_time = time.time()
        try:
            for epoch in range(step // steps_an_epoch, self.epoch):
                bar = tqdm(desc=f'Epoch {epoch:2d}', initial=step % steps_an_epoch, total=steps_an_epoch,
                           unit=' images', unit_scale=self.batch_size, disable=not sys.stdout.isatty())
                for index in range(step % steps_an_epoch + 1, steps_an_epoch + 1):
                    data_pass, batch = divmod(step, steps_a_pass)
                    order = shuffled(self.seed, data_pass, len(images))
                    batch_images = images[order[batch * self.batch_size:(batch + 1) * self.batch_size]]
                    _, values = self.sess.run([self.train_step, self.losses], {
                        self.inputs: batch_images.astype(np.float32) / 255,  # [B, 28, 28, 1]
                        self.z: draw_z(self.batch_size, self.z_dim, self.seed, TRAIN_Z, step),
                        self.step: step,
                        self.lr_scale: linear_decay(step, last_step) if self.lr_decay == 'linear' else 1})
                    step += 1
                    bar.update()

                    scored = self.eval_freq and index == steps_an_epoch and (epoch + 1) % self.eval_freq == 0
                    if scored or index == steps_an_epoch or step % self.sample_freq == 0:
                        self.refresh_statistics()
                    if scored:
                        values.update(self.quick_scores(classify, real_features, QUICK_EVAL_NUM))
                        if values['frechet_distance'] < best:
                            best = values['frechet_distance']
                            self.save(step, best=True)
                    if step % self.print_freq == 0 or scored:
                        values.update(self.sess.run(self.gammas))
                        print(step, *(values.get(name, '') for name in self.columns[1:]), sep=',', file=history,
                              flush=True)
                        writer.add_summary(tf.Summary(value=[
                            tf.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]), step)
                        bar.set_postfix({tag: f'{value:.3f}' for tag, value in values.items()
                                         if tag.endswith(('_loss', '_gamma'))})
                        if scored:
                            bar.write(f'Step {step}: Fréchet distance {values["frechet_distance"]:.3f}, '
                                      f'classifier score {values["classifier_score"]:.3f}')
                        if bar.disable:
                            print(f'Epoch: [{epoch:2d}] [{index:4d}/{steps_an_epoch:4d}] time: '
                                  f'{time.time() - start_time:.4f}, d_loss: {values["d_loss"]:.8f}, '
                                  f'g_loss: {values["g_loss"]:.8f}', flush=True)
                    if step % self.sample_freq == 0:
                        path = self.save_samples(fixed_z, f'train_{epoch:02d}_{index:04d}')
                        grid = tf.Summary.Image(encoded_image_string=pathlib.Path(path).read_bytes())
                        writer.add_summary(tf.Summary(value=[tf.Summary.Value(tag='samples', image=grid)]), step)
                    if index == steps_an_epoch:
                        z = draw_z(self.sample_num, self.z_dim, self.seed, EPOCH_Z, epoch)
                        self.save_samples(z, f'epoch{epoch:03d}_test_all_classes')
                        save_figure(draw_curves(history.name), self.result_path('curves.png'))
                        write_progress(result_dir, self.model_name)
                    if step % self.save_freq == 0 or step == last_step or stops:
                        self.save(step)
                    if stops:
                        bar.close()
                        print(f'Stopped and saved at step {step}: the same command goes on from there')
                        sys.exit(128 + stops[0])
                bar.close()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            writer.close()
            history.close()

    def test(self, seed=0, checkpoint='latest'):
        """Write test_num grids of sample_num images, figures, and export single images.

        checkpoint: as in load. The same seed gives the same files. Raises UserError where there is no checkpoint.
        """
        step = self.restore(checkpoint)
        folder = check_folder(os.path.join(self.result_dir, self.model_dir))
        for number in range(self.test_num):
            self.save_samples(draw_z(self.sample_num, self.z_dim, seed, TEST_Z, number), f'test_{number:03d}')

        start, end = draw_z(2 * WALKS, self.z_dim, seed, WALK_Z).reshape(2, WALKS, 1, self.z_dim)
        part = np.linspace(0, 1, WALK_STEPS, dtype=np.float32)[:, None]  # [WALK_STEPS, 1]
        walks = ((1 - part) * start + part * end).reshape(-1, self.z_dim)  # [WALKS * WALK_STEPS, z_dim]
        save_images(self.sample(walks), (WALKS, WALK_STEPS), self.result_path('interpolation.png'))

        if self.attention:
            sections = self.attention_sections(draw_z(FIGURE_ROWS, self.z_dim, seed, FIGURE_Z))
            figure = draw_attention(sections, f'{self.model_dir}, step {step}: where the framed blocks look')
            save_figure(figure, self.result_path('attention.png'))
        if self.export:
            z = draw_z(self.export, self.z_dim, seed, EXPORT_Z)
            export_images(os.path.join(folder, 'samples'), self.sample(z), z)
        print(f'{self.test_num} grids and the figures of step {step}, {self.weights} weights, are in {folder}')

    def evaluate(self, seed=0, checkpoint='latest'):
        """Print and write the scores of eval_num images, beside those of the real test split, and the neighbours.

        checkpoint: as in load. Raises UserError where there is no checkpoint or no data set.
        """
        step = self.restore(checkpoint)
        (train_images, train_labels), (test_images, test_labels) = load_mnist(self.dataset_name, self.data_dir)
        classify = load_classifier(self.dataset_name, train_images, train_labels, self.checkpoint_dir)
        images = to_uint8(self.sample(draw_z(self.eval_num, self.z_dim, seed, EVAL_Z)))
        train_features, _ = classify(train_images)
        test_features, test_probabilities = classify(test_images)
        generated = all_scores(*classify(images), train_features, test_features)
        real = all_scores(test_features, test_probabilities, train_features, test_features)
        accuracy = float((test_probabilities.argmax(1) == test_labels).mean())
        print(f'{self.eval_num} images of step {step}, {self.weights} weights, scored by a classifier that is right on '
              f'{accuracy:.2%} of the test split')
        print_scores(generated, real)

        folder = check_folder(os.path.join(self.result_dir, self.model_dir))
        with replacing(self.result_path('scores.json')) as part:
            pathlib.Path(part).write_text(json.dumps({
                'step': step, 'weights': self.weights, 'seed': seed, 'dataset': self.dataset_name,
                'eval_num': self.eval_num, 'classifier_accuracy': accuracy, 'generated': generated, 'real': real},
                indent=2) + '\n')
        images = images[:NEIGHBOUR_ROWS]
        found = train_images[nearest(images, train_images, NEIGHBOURS)]  # [rows, NEIGHBOURS, H, W, C]
        figure = draw_neighbours(images, found, f'{self.model_dir}, step {step}')
        save_figure(figure, self.result_path('neighbours.png'))
        print(f'The scores and the nearest neighbours are in {folder}')

    def quick_scores(self, classify, real_features, count):
        """The two scores that --eval_freq notes, of count images, always of the same z."""
        z = draw_z(count, self.z_dim, self.seed, EVAL_Z)
        features, probabilities = classify(to_uint8(self.sample(z)))
        return {'frechet_distance': frechet_distance(features, real_features),
                'classifier_score': classifier_score(probabilities)[0]}

    def attention_sections(self, z):
        """What draw_attention needs for the networks of attention_of, on as many images as z [N, z_dim] has rows."""
        generated, maps = self.sess.run([self.fake_images, 'generator/attention/attention_map:0'], {self.z: z})
        gammas = self.sess.run(self.sampled_gammas)
        sections = []
        if self.attention_of in ('generator', 'both'):
            sections.append((f'Generator, on its own images (gamma {gammas["g_gamma"]:.3f})', generated, maps))
        if self.attention_of in ('discriminator', 'both'):
            try:
                _, (images, _) = load_mnist(self.dataset_name, self.data_dir)
                images, what = images[:len(z)].astype(np.float32) / 255, 'real test images'
            except UserError:
                images, what = generated, 'generated images'
            maps = self.sess.run('discriminator/attention/attention_map:0', {self.inputs: images})
            sections.append((f'Discriminator, on {what} (gamma {gammas["d_gamma"]:.3f})', images, maps))
        return sections

    def refresh_statistics(self):
        """Take the batch norms' statistics that go with the averaged weights from images that these make.

        They start at the average of the moving statistics, which belongs to many generators, not to the averaged one.
        To be called before sampling where the weights have changed; what is trained and saved does not change by it.
        """
        self.sess.run(self.reset_statistics)
        for number in range(STATISTICS_BATCHES):
            z = draw_z(SAMPLE_BATCH, self.z_dim, self.seed, STATISTICS_Z, number)
            self.sess.run(self.move_statistics, {self.z: z})

    def sample(self, z):
        """z [N, z_dim] -> images [N, H, W, C] in [0, 1], by the generator with is_training=False."""
        return np.concatenate([self.sess.run(self.fake_images, {self.z: part})
                               for part in np.split(z, range(SAMPLE_BATCH, len(z), SAMPLE_BATCH))])

    def save_samples(self, z, name):
        """Write the grid of the images of z [N, z_dim] to the results as SAGAN_<name>.png -> its path."""
        path = self.result_path(f'{name}.png')
        save_images(self.sample(z), grid_size(len(z)), path)
        return path

    def result_path(self, name):
        """Where the result of that name is written."""
        return os.path.join(self.result_dir, self.model_dir, f'{self.model_name}_{name}')

    ##################################################################################
    # The run's folders
    ##################################################################################

    @property
    def checkpoint_folder(self):
        return os.path.join(self.checkpoint_dir, self.model_dir, self.model_name)

    @property
    def best_folder(self):
        return os.path.join(self.checkpoint_dir, self.model_dir, 'best')

    def open_folders(self, step):
        """Make the folders of the run and write config.json.

        Returns the writers of what follows step: of the summaries, and of the history, a CSV file.
        """
        run_dir = check_folder(os.path.join(self.checkpoint_dir, self.model_dir))
        writer = tf.summary.FileWriter(check_folder(os.path.join(self.log_dir, self.model_dir)), self.sess.graph)
        # Makes TensorBoard drop what an interrupted run wrote after this step.
        writer.add_session_log(tf.SessionLog(status=tf.SessionLog.START), step)
        history = open_history(self.result_path('history.csv'), step, self.columns)
        # Last, so that a folder that cannot be made leaves the options of the run as they were.
        with replacing(os.path.join(run_dir, 'config.json')) as part:
            pathlib.Path(part).write_text(json.dumps(self.config, indent=2) + '\n')
        return writer, history

    def save(self, step, best=False):
        """Write a checkpoint of all variables, the optimizers' among them: the newest three are kept, and the best.

        Raises UserError where it cannot be written; the checkpoints before it stay as they are.
        """
        folder, saver = (self.best_folder, self.best_saver) if best else (self.checkpoint_folder, self.saver)
        prefix = os.path.join(check_folder(folder), f'{self.model_name}.model')
        try:
            saver.save(self.sess, prefix, global_step=step, write_meta_graph=False)
        except tf.errors.OpError as error:
            for part in glob.glob(f'{glob.escape(prefix)}-{step}.*'):
                os.remove(part)
            raise UserError(f'the checkpoint of step {step} cannot be written to {folder} '
                            f'({one_line(error)}): free some space, then the same command goes on from the one before '
                            'it') from error

    def restore(self, checkpoint):
        """Restore a checkpoint to sample from, as load does -> its step. Raises UserError where it is not there."""
        found, step = self.load(checkpoint)
        if not found:
            there_is = ', '.join(map(str, checkpoint_steps(self.checkpoint_folder))) or 'none'
            raise UserError(f'no checkpoint {checkpoint} in {os.path.join(self.checkpoint_dir, self.model_dir)} '
                            f'(steps: {there_is}): choose one of these, or train first; --eval_freq keeps the best')
        self.refresh_statistics()
        return step

    def load(self, checkpoint='latest'):
        """Restore a checkpoint -> (found, step); (False, 0) where there is none.

        checkpoint: 'latest', the newest one that is whole; 'best', the one that --eval_freq kept; or a step. Where it
        has no averages, they start at the weights.
        Raises UserError where a checkpoint is of another network, or where none of them is whole.
        """
        folder = self.best_folder if checkpoint == 'best' else self.checkpoint_folder
        steps = [step for step in checkpoint_steps(folder) if checkpoint in ('latest', 'best', step)]
        paths = [os.path.join(folder, f'{self.model_name}.model-{step}') for step in steps]
        for path, step in zip(paths, steps, strict=True):
            try:
                shapes = tf.train.load_checkpoint(path).get_variable_to_shape_map()
                missing = [average for average in self.averages if average.op.name not in shapes]
                variables = [variable for variable in tf.global_variables() if variable not in missing]
                for variable in variables:
                    here, there = variable.shape.as_list(), shapes.get(variable.op.name)
                    if here != there:
                        raise UserError(f'{path} is of another network: {variable.op.name} has the shape {there} there '
                                        f'and {here} here; move it away, or give the options it was trained with')
                if missing:
                    tf.train.Saver(variables).restore(self.sess, path)
                    self.sess.run(tf.variables_initializer(missing))  # to the values of the variables
                    self.weights = 'raw'
                    print(f'{path} has no averaged weights: the raw ones take their place')
                else:
                    self.saver.restore(self.sess, path)
            except tf.errors.OpError as error:
                print(f'{path} is damaged ({one_line(error)}): falling back to the one before it')
                continue
            if checkpoint == 'latest':
                self.saver.recover_last_checkpoints(paths[::-1])
            return True, step
        if steps:
            raise UserError(f'no checkpoint in {folder} is whole: delete the folder to train anew')
        return False, 0


def sigmoid_loss(logit, label):
    """Mean sigmoid cross-entropy of logit [B, 1] against one label, 0. or 1., for all (Goodfellow et al. 2014)."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(logits=logit, labels=tf.fill(tf.shape(logit), label)))


def draw_z(count, z_dim, *key):
    """z [count, z_dim] float32, uniform in [-1, 1], that depends on the key, whole numbers, alone."""
    return np.random.default_rng(key).uniform(-1, 1, [count, z_dim]).astype(np.float32)


def session_config(precision):
    """Configuration of a session that computes in float32, or lets TensorFlow turn what gains by it to bfloat16."""
    config = tf.ConfigProto(allow_soft_placement=True)
    if precision == 'bfloat16':
        if has_fast_bfloat16():
            config.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16 = RewriterConfig.ON
        else:
            print('This processor or this TensorFlow has no fast bfloat16: going on in float32')
    return config


def has_fast_bfloat16(cpuinfo='/proc/cpuinfo'):
    """Whether oneDNN, TensorFlow's library for CPUs, is in use and the processor multiplies bfloat16 by itself."""
    if os.environ.get('TF_ENABLE_ONEDNN_OPTS') == '0' or not os.path.exists(cpuinfo):
        return False
    return not {'amx_bf16', 'avx512_bf16', 'bf16'}.isdisjoint(pathlib.Path(cpuinfo).read_text().split())


def linear_decay(step, last_step):
    """What a learning rate is multiplied by: 1 in the first half of the steps, then falling linearly to 0."""
    return min(1., 2 * (1 - step / last_step))


@functools.lru_cache(maxsize=1)
def shuffled(seed, data_pass, count):
    """The order in which a pass through the data takes its images: a permutation [count]."""
    return np.random.default_rng([seed, SHUFFLE, data_pass]).permutation(count)


def one_line(error):
    """What TensorFlow says of an error, without the graph that it prints below."""
    return error.message.strip().splitlines()[0]
