"""The Self-Attention GAN (Zhang et al. 2018, arXiv:1805.08318): its networks, its training and its sampling."""

import contextlib
import os

import numpy as np
import tensorflow.compat.v1 as tf

from checkpoints import Checkpoints, not_finite
from datasets import batch, load_mnist, steps_of_a_pass
from losses import sigmoid_loss
from metrics import compare, load_scorer, print_scores
from ops import ATTENTION, BFLOAT16_GRADIENTS, attention, bn, conv2d, deconv2d, linear, lrelu
from options import KEPT, UserError, resolved
from records import WALKS, training_records, write_attention, write_grid, write_scores, write_walks, writing
from runs import MODEL, Run, checkpoint_steps, export_images
from utils import Use, check_folder, draw_z, to_uint8

FIGURE_ROWS = 4  # images a layer of the figure of attention maps
SAMPLE_BATCH = 512  # images that one call makes when sampling, to bound the memory
STATISTICS_BATCHES = 12  # of SAMPLE_BATCH images, to take the statistics of the averaged weights from
NEVER = contextlib.nullcontext(())


class SAGAN:
    """A generator and a discriminator, each with a self-attention layer unless attention is False.

    image_shape: (H, W, C), H and W multiples of 4. options: any of those in options.py that config.json holds, by name;
    where one is not given it is the article's. Raises TypeError for an unknown one.
    """

    def __init__(self, sess, image_shape=(28, 28, 1), **options):
        vars(self).update(resolved(options))
        self.sess, self.image_shape = sess, image_shape
        self.run = Run(self.options)
        self.model_dir = self.run.name

    @property
    def options(self):
        """All options that stand in config.json, {name: value}."""
        return {name: getattr(self, name) for name in KEPT}

    ##################################################################################
    # Networks
    ##################################################################################

    def generator(self, z, is_training=True, reuse=False):
        """z [B, z_dim], uniform in [-1, 1] -> images [B, H, W, C] in [0, 1]."""
        height, width, channels = self.image_shape
        batch_size = tf.shape(z)[0]
        with tf.variable_scope('generator', reuse=reuse, use_resource=True):
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

    ##################################################################################
    # The graph
    ##################################################################################

    def build_model(self):
        """Build the graph: one training step, the networks for sampling, and what saves the variables.

        Sets the placeholders: inputs [B, H, W, C]; z [B, z_dim]; step, the number of steps before this one; lr_scale,
        which multiplies both learning rates.
        """
        tf.set_random_seed(self.seed)
        self.inputs = tf.placeholder(tf.float32, [None, *self.image_shape], name='real_images')
        self.z = tf.placeholder(tf.float32, [None, self.z_dim], name='z')
        self.step = tf.placeholder_with_default(0., [], name='step')
        self.lr_scale = tf.placeholder_with_default(1., [], name='lr_scale')
        self.build_training_step()
        self.build_sampling()
        finite = tf.reduce_all([tf.reduce_all(tf.is_finite(variable)) for variable in tf.global_variables()])
        self.checkpoints, self.best_checkpoints = (
            Checkpoints(self.sess, os.path.join(self.run.folder, folder), self.averages, finite, keep)
            for folder, keep in ((MODEL, 3), ('best', 1)))
        self.loaded = self.checkpoints  # which of them the weights are from

    def build_training_step(self):
        """Set train_step, the operation that updates D on (inputs, G(z)), then G through the updated D on the same z,
        then the moving average of G's variables; losses, {name: scalar}; gammas, {column of the history: scalar}.

        g_loss is that of the updated D: fetching it updates D.
        """
        gradients = BFLOAT16_GRADIENTS if self.precision == 'bfloat16' else {}
        # A scope of its own, so that <network>/attention/attention_map:0 is the map to draw, not one of these.
        with tf.name_scope('training'), tf.get_default_graph().gradient_override_map(gradients):
            fake = self.generator(self.z)
            self.g_variables = tf.global_variables('generator/')
            _, real_logit, _ = self.discriminator(self.inputs)
            # One pass after the other: they move the same statistics, and the same order gives the same bits.
            with tf.control_dependencies([real_logit]):
                _, fake_logit, _ = self.discriminator(fake, reuse=True)
        d_loss_real, d_loss_fake = sigmoid_loss(real_logit, 1.), sigmoid_loss(fake_logit, 0.)
        d_loss = d_loss_real + d_loss_fake
        d_real, d_fake = tf.reduce_mean(tf.nn.sigmoid(real_logit)), tf.reduce_mean(tf.nn.sigmoid(fake_logit))
        d_optim = tf.train.AdamOptimizer(self.d_lr * self.lr_scale, beta1=self.beta1).minimize(
            d_loss, var_list=tf.trainable_variables('discriminator/'))

        # Resource variables are read where the graph says so: these reads come after D's update.
        with tf.control_dependencies([d_optim]), tf.name_scope('training'):
            _, fake_logit, _ = self.discriminator(fake, reuse=True)
        g_loss = sigmoid_loss(fake_logit, 1.)
        self.train_step = tf.train.AdamOptimizer(self.g_lr * self.lr_scale, beta1=self.beta1).minimize(
            g_loss, var_list=tf.trainable_variables('generator/'))
        self.averages = []
        if self.ema:
            ema = tf.train.ExponentialMovingAverage(self.ema, num_updates=self.step)
            with tf.name_scope('averages'), tf.control_dependencies([self.train_step]):
                self.train_step = ema.apply(self.g_variables)
            self.averages = [ema.average(variable) for variable in self.g_variables]
        self.losses = {'d_loss': d_loss, 'd_loss_real': d_loss_real, 'd_loss_fake': d_loss_fake,
                       'g_loss': g_loss, 'd_real': d_real, 'd_fake': d_fake}
        self.gammas = gammas_of(tf.get_collection(ATTENTION))

    def build_sampling(self):
        """Set fake_images, G(z) with is_training=False and the weights to sample with; layers, {network: its attention
        layers}, as ops.attention enters them, of that G on z and of D on inputs; sampled_gammas, as gammas.
        """
        sampled = {}  # what takes a variable's place when sampling
        if self.averages and self.weights == 'ema':
            sampled = {variable.op.name: average if variable.trainable else tf.Variable(
                average.read_value(), trainable=False, collections=[tf.GraphKeys.LOCAL_VARIABLES])
                for variable, average in zip(self.g_variables, self.averages, strict=True)}

        def sampling_getter(getter, *args, **kwargs):
            variable = getter(*args, **kwargs)
            return sampled.get(variable.op.name, variable)

        with tf.variable_scope(tf.get_variable_scope(), custom_getter=sampling_getter, auxiliary_name_scope=False):
            self.fake_images = self.generator(self.z, is_training=False, reuse=True)
            self.reset_statistics, self.move_statistics = tf.local_variables_initializer(), tf.no_op()
            if sampled:
                with tf.name_scope('averages'):
                    self.move_statistics = self.generator(self.z, reuse=True).op
        self.discriminator(self.inputs, is_training=False, reuse=True)
        layers = [layer for layer in tf.get_collection(ATTENTION) if not layer.is_training]
        self.layers = {network: [layer for layer in layers if layer.name.startswith(f'{network}/')]
                       for network in ('generator', 'discriminator')}
        self.sampled_gammas = gammas_of(layers)
        self.stale = True  # whether the weights have changed since the statistics to sample with were taken

    ##################################################################################
    # Training
    ##################################################################################

    def train(self, stopping=NEVER):
        """Train to the end of the last epoch, from the newest checkpoint if there is one.

        stopping: a context, entered before the first step; once what it gives is true, training saves and returns.
        Raises UserError or OSError for what the user can put right.
        """
        (images, labels), _ = load_mnist(self.dataset_name, self.data_dir)
        steps_a_pass = steps_of_a_pass(len(images), self.batch_size, self.dataset_name)
        steps_an_epoch = self.iteration or steps_a_pass
        last_step = self.epoch * steps_an_epoch
        with self.run.held():
            self.run.check(self.options)
            self.sess.run(tf.global_variables_initializer())
            found, step = self.load()
            if step >= last_step:
                print(f'This run is complete at step {step}: a larger --epoch than {self.epoch} goes on from there')
                return
            if found:
                print(f'Going on from step {step} of {last_step}')
            if self.lr_decay == 'linear':
                print(f'Learning rates: constant to step {last_step // 2}, then falling to zero at step {last_step}')
            score = self.eval_freq and load_scorer(self.dataset_name, images, labels, self.checkpoint_dir)

            with stopping as stops, writing(training_records(
                    self.run, self.options, step, steps_an_epoch, last_step, stops, graph=self.sess.graph,
                    sample=self.sample, score=score, losses=self.losses, gammas=self.gammas,
                    checkpoints=self.checkpoints, best=self.best_checkpoints)) as write_due:
                while step < last_step:
                    batch_images = batch(images, self.batch_size, self.seed, step)  # [B, H, W, C]
                    z = draw_z(self.batch_size, self.z_dim, self.seed, Use.TRAIN_Z, step)  # [B, z_dim]
                    lr_scale = linear_decay(step, last_step) if self.lr_decay == 'linear' else 1.
                    values = self.train_batch(batch_images, z, step, lr_scale)
                    step += 1
                    write_due(step, values)
                    if stops:
                        break
            if stops:
                print(f'Stopped and saved at step {step}: the same command goes on from there')

    def train_batch(self, images, z, step, lr_scale=1.):
        """One training step on images [B, H, W, C] in [0, 1] and z [B, z_dim] -> {name of a loss: number}.

        step: the number of steps before this one. Raises UserError where a loss is no finite number.
        """
        self.stale = True
        _, values = self.sess.run([self.train_step, self.losses], {
            self.inputs: images, self.z: z, self.step: step, self.lr_scale: lr_scale})
        for name, value in values.items():
            if not np.isfinite(value):
                raise not_finite(name, step + 1)
        return values

    def save(self, step):
        """Write a checkpoint of all variables, the optimizers' among them: the newest three are kept."""
        self.checkpoints.save(step)

    def load(self, checkpoint='latest'):
        """Restore a checkpoint -> (found, step); (False, 0) where there is none.

        checkpoint: 'latest', the newest one that is whole; 'best', the one that --eval_freq kept; or a step. Where it
        has no averages, they start at the weights.
        Raises UserError where a checkpoint is of another network, or where none of them is whole.
        """
        self.stale = True
        self.loaded = self.best_checkpoints if checkpoint == 'best' else self.checkpoints
        return self.loaded.load('latest' if checkpoint == 'best' else checkpoint)

    ##################################################################################
    # Sampling
    ##################################################################################

    def test(self, seed=0, checkpoint='latest'):
        """Write test_num grids of sample_num images, figures, and export single images.

        checkpoint: as in load. The same seed gives the same files. Raises UserError where there is no checkpoint.
        """
        step = self.restore(checkpoint)
        check_folder(self.run.results)
        for number in range(self.test_num):
            z = draw_z(self.sample_num, self.z_dim, seed, Use.TEST_Z, number)  # [sample_num, z_dim]
            write_grid(self.run, f'test_{number:03d}', self.sample(z))
        write_walks(self.run, self.sample, draw_z(2 * WALKS, self.z_dim, seed, Use.WALK_Z))
        write_attention(self.run, step, self.attention_sections(draw_z(FIGURE_ROWS, self.z_dim, seed, Use.FIGURE_Z)))
        if self.export:
            z = draw_z(self.export, self.z_dim, seed, Use.EXPORT_Z)
            export_images(os.path.join(self.run.results, 'samples'), self.sample(z), z)
        print(f'{self.test_num} grids and the figures of step {step}, {self.sampled_weights} weights, are in '
              f'{self.run.results}')

    def evaluate(self, seed=0, checkpoint='latest'):
        """Print and write the scores of eval_num images, beside those of the real test split, and the neighbours.

        checkpoint: as in load. Raises UserError where there is no checkpoint or no data set.
        """
        step = self.restore(checkpoint)
        check_folder(self.run.results)
        train, test = load_mnist(self.dataset_name, self.data_dir)
        images = to_uint8(self.sample(draw_z(self.eval_num, self.z_dim, seed, Use.EVAL_Z)))
        generated, real, accuracy = compare(images, self.dataset_name, train, test, self.checkpoint_dir)
        print(f'{self.eval_num} images of step {step}, {self.sampled_weights} weights, scored by a classifier that is '
              f'right on {accuracy:.2%} of the test split')
        print_scores(generated, real)
        write_scores(self.run, {
            'step': step, 'weights': self.sampled_weights, 'seed': seed, 'dataset': self.dataset_name,
            'eval_num': self.eval_num, 'classifier_accuracy': accuracy, 'generated': generated, 'real': real},
            images, train[0])
        print(f'The scores and the nearest neighbours are in {self.run.results}')

    def restore(self, checkpoint):
        """Restore a checkpoint to sample from, as load does -> its step. Raises UserError where it is not there."""
        found, step = self.load(checkpoint)
        if not found:
            there_is = ', '.join(map(str, checkpoint_steps(self.checkpoints.folder))) or 'none'
            raise UserError(f'no checkpoint {checkpoint} in {self.run.folder} (steps: {there_is}): choose one of '
                            'these, or train first; --eval_freq keeps the best')
        return step

    @property
    def sampled_weights(self):
        """Which weights are sampled: 'ema', the averages, or 'raw', also where what was loaded had no averages."""
        return self.weights if self.averages and self.loaded.averaged else 'raw'

    def sample(self, z):
        """z [N, z_dim] -> images [N, H, W, C] in [0, 1], by the generator with is_training=False."""
        return np.concatenate([self.fetch(self.fake_images, part)
                               for part in np.split(z, range(SAMPLE_BATCH, len(z), SAMPLE_BATCH))])

    def fetch(self, fetches, z):
        """Fetch what the graph for sampling makes of z [N, z_dim], with the statistics that go with the weights."""
        if self.stale:
            self.refresh_statistics()
        return self.sess.run(fetches, {self.z: z})

    def refresh_statistics(self):
        """Take the batch norms' statistics that go with the averaged weights from images that these make.

        They start at the average of the moving statistics, which belongs to many generators, not to the averaged one.
        Sampling does this by itself after load and train_batch; who changes weights otherwise calls it. What is trained
        and saved does not change by it.
        """
        self.sess.run(self.reset_statistics)
        for number in range(STATISTICS_BATCHES):
            z = draw_z(SAMPLE_BATCH, self.z_dim, self.seed, Use.STATISTICS_Z, number)
            self.sess.run(self.move_statistics, {self.z: z})
        self.stale = False

    def attention_sections(self, z):
        """What draw_attention needs for the layers of attention_of's networks, on N images; z [N, z_dim]."""
        maps = {network: [layer.map for layer in layers] for network, layers in self.layers.items()}
        generated, g_maps = self.fetch([self.fake_images, maps['generator']], z)
        images, what = generated, 'generated images'
        with contextlib.suppress(UserError):  # without the data set D looks at what G makes
            images = load_mnist(self.dataset_name, self.data_dir)[1][0][:len(z)].astype(np.float32) / 255
            what = 'real test images'
        d_maps = self.sess.run(maps['discriminator'], {self.inputs: images})
        gammas = iter(self.sess.run(list(self.sampled_gammas.values())))
        sections = []
        for network, title, shown, found in (('generator', 'Generator, on its own images', generated, g_maps),
                                             ('discriminator', f'Discriminator, on {what}', images, d_maps)):
            for layer, beta, gamma in zip(self.layers[network], found, gammas, strict=False):
                if self.attention_of in (network, 'both'):
                    grid = beta.reshape(len(z), *layer.queries, *layer.keys)
                    sections.append((f'{title} (gamma {gamma:.3f})', shown, grid))
        return sections


def gammas_of(layers):
    """The gammas of attention layers, as ops.attention enters them -> {column of the history: scalar}, one a layer.

    The columns are g_gamma and d_gamma, and g_gamma_2 and so on where a network has several layers.
    """
    gammas = {}
    for name, gamma in {layer.name: layer.gamma for layer in layers}.items():
        number = 1 + sum(column[0] == name[0] for column in gammas)
        gammas[f'{name[0]}_gamma' + (f'_{number}' if number > 1 else '')] = gamma[0]
    return gammas


def linear_decay(step, last_step):
    """What a learning rate is multiplied by: 1 in the first half of the steps, then falling linearly to 0."""
    return min(1., 2 * (1 - step / last_step))
