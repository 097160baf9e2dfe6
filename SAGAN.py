"""The Self-Attention GAN (Zhang et al. 2018, arXiv:1805.08318): its networks, its training and its sampling."""

import contextlib
import os
import time

import numpy as np

import ops
from datasets import CLASS_NAMES, dataset_digest, load_dataset
from datasets.batches import batch, batches_per_epoch
from distributed.cluster import Cluster
from evaluation.metrics import load_scorer
from explorer.snapshots import IMAGES
from ops import ATTENTIONS, bn, conv2d, deconv2d, linear, lrelu, projection
from options import KEPT, UserError, check_share, check_size, options_of, resolved
from options import image_shape as shape_of
from sampling import Sampler
from storage.checkpoints import Checkpoints, not_finite
from storage.run import MODEL, Run
from tf1 import tf
from training.callbacks import training_records, writing
from training.losses import OBJECTIVES
from training.precision import BFLOAT16_GRADIENTS
from utils import Stream, draw_labels, show_all_variables

QUICK_EVAL_NUM = 5000  # images that --eval_freq scores
NEVER = contextlib.nullcontext(())


class SAGAN(Sampler):
    """A generator and a discriminator, each with a self-attention layer unless attention is 'none'.

    image_shape: (H, W, C), that of the data set if None. classes: their names, or how many there are; if None those of
    the data set, and none for own pictures. cluster: the workers that train together; if None this process trains
    alone. options: any of those in options.py that config.json holds, by name; one that is not given has the article's
    value.
    Raises TypeError for an unknown one, UserError for what cannot go together.
    """

    kind = 'article'  # its name among --network

    def __init__(self, sess, image_shape=None, classes=None, cluster=None, **options):
        vars(self).update(resolved({'network': self.kind, **options}))
        if self.network != self.kind:
            raise TypeError(f'{type(self).__name__} is the network {self.kind}; networks.NETWORKS has {self.network}')
        self.sess, self.image_shape = sess, tuple(image_shape or shape_of(self.options))
        self.label = str(self.label)  # a number, too, may be given as one
        self.cluster = cluster or Cluster()
        classes = CLASS_NAMES.get(self.dataset_name, ()) if classes is None else classes
        self.class_names = list(map(str, range(classes))) if isinstance(classes, int) else list(classes)
        self.classes = len(self.class_names)
        check_size(self.kind, *self.image_shape[:2])
        check_share(self.batch_size, self.cluster.size)
        if self.conditional and not self.classes:
            raise UserError('--conditional true takes a --dataset with classes: choose another, or leave it out')
        if self.label and not self.conditional:
            raise UserError(f'--label {self.label} takes a run of --conditional true')
        self.asked = self.label and self.class_number(self.label)
        self.objective = OBJECTIVES[self.gan_type]
        # A penalty is of one image, and batch norm would tie it to the others of its batch.
        self.d_norm = not (self.sn or self.objective.penalty)
        self.sigmas = None  # what layers note of their spectral normalization: see ops.sigma_of
        self.run = Run(self.options)
        self.model_dir = self.run.name

    def class_number(self, label):
        """The number of a class, given by its name or number, as text. Raises UserError where there is none."""
        if label in self.class_names:
            return self.class_names.index(label)
        if label.isascii() and label.isdigit() and int(label) < self.classes:
            return int(label)
        names = ', '.join(name if name == str(number) else f'{number} {name}'
                          for number, name in enumerate(self.class_names))
        raise UserError(f'--label {label} is none of the classes: choose one of {names}')

    @property
    def options(self):
        """All options that stand in config.json, {name: value}."""
        return {name: getattr(self, name) for name in KEPT}

    ##################################################################################
    # Networks
    ##################################################################################

    def generator(self, z, is_training=True, reuse=False, labels=None):
        """z [B, z_dim] and, in a conditional run, labels [B] -> images [B, H, W, C] in [0, 1]."""
        height, width, channels = self.image_shape
        batch_size, sn, classes = tf.shape(z)[0], self.sigmas, self.classes
        with tf.variable_scope('generator', reuse=reuse, use_resource=True):
            x = tf.nn.relu(bn(linear(z, 1024, 'g_fc1', sn=sn), is_training, 'g_bn1', labels, classes))  # [B, 1024]
            x = linear(x, height // 4 * (width // 4) * 128, 'g_fc2', sn=sn)
            x = tf.nn.relu(bn(x, is_training, 'g_bn2', labels, classes))  # [B, 7*7*128]
            x = tf.reshape(x, [-1, height // 4, width // 4, 128])  # [B, 7, 7, 128]
            x = ATTENTIONS[self.attention](x, is_training, sn=sn)  # [B, 7, 7, 128]
            x = deconv2d(x, [batch_size, height // 2, width // 2, 64], 4, 4, 2, 2, name='g_dc3', sn=sn)
            x = tf.nn.relu(bn(x, is_training, 'g_bn3', labels, classes))  # [B, 14, 14, 64]
            x = deconv2d(x, [batch_size, height, width, channels], 4, 4, 2, 2, name='g_dc4', sn=sn)
            return tf.nn.sigmoid(x)  # [B, 28, 28, 1]

    def discriminator(self, x, is_training=True, reuse=False, labels=None):
        """x [B, H, W, C] in [0, 1] and, in a conditional run, labels [B] -> (probability, logit, features [B, 1024]).

        The probability [B, 1] is that of being real, and the logit [B, 1] its logit, where the objective makes them so.
        """
        def norm(x, scope):
            return bn(x, is_training, scope) if self.d_norm else x

        height, width, _ = self.image_shape
        sn = self.sigmas
        with tf.variable_scope('discriminator', reuse=reuse, use_resource=True):
            x = lrelu(conv2d(x, 64, 4, 4, 2, 2, name='d_conv1', sn=sn))  # [B, 14, 14, 64]
            x = lrelu(norm(conv2d(x, 128, 4, 4, 2, 2, name='d_conv2', sn=sn), 'd_bn2'))  # [B, 7, 7, 128]
            x = ATTENTIONS[self.attention](x, is_training, norm=self.d_norm, sn=sn)  # [B, 7, 7, 128]
            x = tf.reshape(x, [-1, height // 4 * (width // 4) * 128])  # [B, 7*7*128]
            features = lrelu(norm(linear(x, 1024, 'd_fc4', sn=sn), 'd_bn4'))  # [B, 1024]
            logit = linear(features, 1, 'd_fc5', sn=sn)  # [B, 1]
            if labels is not None:
                logit += projection(features, labels, self.classes, sn=sn)
            return tf.nn.sigmoid(logit), logit, features

    ##################################################################################
    # The graph
    ##################################################################################

    def build_model(self):
        """Build the graph: one training step, the networks for sampling, and what saves the variables.

        Sets the placeholders: inputs [B, H, W, C]; z [B, z_dim]; labels and z_labels [B], those of inputs and of z, or
        None; step, the number of steps before this one; lr_scale, which multiplies both learning rates.
        Raises UserError where the graph has networks already.
        """
        if tf.global_variables('generator/'):
            raise UserError('this graph has a generator already: call tf.reset_default_graph(), then make a new '
                            'session and a new SAGAN')
        tf.set_random_seed(self.seed)
        self.inputs = tf.placeholder(tf.float32, [None, *self.image_shape], name='real_images')
        self.z = tf.placeholder(tf.float32, [None, self.z_dim], name='z')
        self.step = tf.placeholder_with_default(0., [], name='step')
        self.lr_scale = tf.placeholder_with_default(1., [], name='lr_scale')
        self.labels, self.z_labels = (tf.placeholder(tf.int32, [None], name=name) if self.conditional else None
                                      for name in ('labels', 'z_labels'))
        with self.cluster.whole_batch(self.batch_size, gathers=not self.objective.penalty):
            self.build_training_step()
        self.build_sampling()
        finite = tf.reduce_all([tf.reduce_all(tf.is_finite(variable)) for variable in tf.global_variables()])
        self.checkpoints, self.best_checkpoints = (
            Checkpoints(self.sess, os.path.join(self.run.folder, folder), self.averages, finite, keep)
            for folder, keep in ((MODEL, self.keep), ('best', 1)))
        self.loaded = self.checkpoints  # which of them the weights are from

    def build_training_step(self):
        """Set d_step, the operation that updates D on (inputs, G(z)), and train_step, which does that, then updates G
        through the updated D on the same z, then the moving average of G's variables.

        Sets also losses, {name: scalar}, where g_loss is that of the updated D: fetching it updates D; gammas, {column
        of the history: scalar}; batch_number, a placeholder, on which the noise of a penalty depends.
        """
        gradients, mine = BFLOAT16_GRADIENTS if self.precision == 'bfloat16' else {}, self.cluster.mine
        # A scope of its own, so that <network>/attention/attention_map:0 is the map to draw, not one of these.
        with tf.name_scope('training'), tf.get_default_graph().gradient_override_map(gradients):
            self.sigmas = g_sigmas = {} if self.sn else None
            z_labels, labels = mine(self.z_labels), mine(self.labels)
            fake = self.generator(mine(self.z), labels=z_labels)
            self.g_variables = tf.global_variables('generator/')
            self.sigmas = d_sigmas = {} if self.sn else None
            _, real_logit, _ = self.discriminator(mine(self.inputs), labels=labels)
            # One pass after the other: they move the same statistics, and the same order gives the same bits.
            with tf.control_dependencies([real_logit]):
                _, fake_logit, _ = self.discriminator(fake, reuse=True, labels=z_labels)
            self.batch_number = tf.placeholder_with_default(0, [], name='batch_number')
            penalties = self.build_penalty(fake, labels)
        d_loss_real, d_loss_fake = self.objective.loss(real_logit)[0], self.objective.loss(fake_logit)[1]
        d_loss = tf.add_n([d_loss_real, d_loss_fake, *(self.ld * penalty for penalty in penalties.values())])
        output = tf.nn.sigmoid if self.objective.probability else tf.identity
        d_real, d_fake = tf.reduce_mean(output(real_logit)), tf.reduce_mean(output(fake_logit))
        self.d_step = ops.move(d_sigmas, self.minimize(d_loss, self.d_lr, 'discriminator/'))

        # Resource variables are read where the graph says so: these reads come after D's update.
        with tf.control_dependencies([self.d_step]), tf.name_scope('training'):
            self.sigmas = {} if self.sn else None
            _, fake_logit, _ = self.discriminator(fake, reuse=True, labels=z_labels)
        g_loss = self.objective.loss(fake_logit)[2]
        self.train_step = ops.move(g_sigmas, self.minimize(g_loss, self.g_lr, 'generator/'))
        self.averages = []
        if self.ema:
            ema = tf.train.ExponentialMovingAverage(self.ema, num_updates=self.step)
            with tf.name_scope('averages'), tf.control_dependencies([self.train_step]):
                self.train_step = ema.apply(self.g_variables)
            self.averages = [ema.average(variable) for variable in self.g_variables]
        self.losses = {'d_loss': d_loss, 'd_loss_real': d_loss_real, 'd_loss_fake': d_loss_fake,
                       'g_loss': g_loss, 'd_real': d_real, 'd_fake': d_fake, **penalties}
        self.losses = self.cluster.mean_of_step(self.losses)
        self.gammas = ops.gammas_of(ops.attention_layers())

    def minimize(self, loss, learning_rate, scope):
        """The operation of a step of Adam on the variables of a scope, at learning_rate times lr_scale."""
        adam = tf.train.AdamOptimizer(learning_rate * self.lr_scale, self.beta1, self.beta2)
        variables = tf.trainable_variables(scope)
        return adam.apply_gradients(self.cluster.mean_of_gradients(adam.compute_gradients, loss, variables))

    def build_penalty(self, fake, labels):
        """The objective's penalty on inputs and fake, G(z) -> {column of the history: scalar}, empty without one."""
        def logit_of(images):
            return self.discriminator(images, reuse=True, labels=labels)[1]

        if not self.objective.penalty:
            return {}
        key = tf.stack([self.seed, 2 * self.batch_number])  # every second: an objective may need two of them
        return {'d_penalty': self.objective.penalty(logit_of, self.inputs, fake, key, self.cluster.mine)}

    ##################################################################################
    # Training
    ##################################################################################

    def train(self, stopping=NEVER, dataset=None):
        """Train to the end of the last epoch, from the newest checkpoint if there is one.

        stopping: a context, entered before the first step; once what it gives is true, training saves and returns.
        dataset: as load_dataset has it, which is read if it is None.
        Raises UserError or OSError for what the user can put right.
        """
        start = time.time()
        dataset = dataset or load_dataset(self.dataset_name, self.data_dir, self.image_shape)
        facts = {'images': len(dataset.train[0]), 'class_names': list(dataset.class_names)}
        steps_a_pass = batches_per_epoch(facts['images'], self.batch_size, self.dataset_name)
        steps_an_epoch = self.iteration or max(1, steps_a_pass // self.n_critic)
        last_step = self.epoch * steps_an_epoch
        with self.run.held() if self.cluster.leads else contextlib.nullcontext():
            step = self.begin(dataset, facts)
            if step >= last_step:
                if self.cluster.leads and not os.path.exists(self.run.config_path):
                    self.run.write_config({**facts, **self.options})
                print(f'This run is complete at step {step}: a larger --epoch than {self.epoch} goes on from there')
                return
            if step:
                print(f'Going on from step {step} of {last_step}')
            else:
                show_all_variables()
            if self.cluster.leads:
                self.check_room(step, steps_an_epoch, last_step)
            if self.lr_decay == 'linear':
                print(f'Learning rates: constant to step {last_step // 2}, then falling to zero at step {last_step}')
            score = (self.eval_freq and self.cluster.leads and
                     load_scorer(self.dataset_name, dataset, self.checkpoint_dir))
            with stopping as noted:
                stops = self.cluster.heed(noted)
                with writing(self.records(step, steps_an_epoch, last_step, stops, score, facts, dataset)) as write_due:
                    while step < last_step:
                        parts = range(step * self.n_critic, (step + 1) * self.n_critic)
                        batches = [self.batch(dataset.train, number) for number in parts]
                        lr_scale = linear_decay(step, last_step) if self.lr_decay == 'linear' else 1.
                        values = self.train_batch(batches, step, lr_scale)
                        step += 1
                        write_due(step, values)
                        if stops:
                            break
                self.cluster.wait(self.sess)
            how, then = ('Stopped', ': the same command goes on from there') if stops else ('Finished', '')
            minutes = (time.time() - start) / 60
            print(f'{how} and saved at step {step} of {last_step} after {minutes:.1f} minutes{then}\n'
                  f'Checkpoints: {self.run.folder}\nResults: {self.run.results}')

    def begin(self, dataset, facts):
        """Initialise all variables, or restore the newest checkpoint, the same at all workers -> its step."""
        step = 0
        self.sess.run(tf.global_variables_initializer())
        if self.cluster.leads:
            self.run.check(self.options, facts)
            _, step = self.load()
        trained = {name: getattr(self, name) for name in options_of('names', 'trains', 'plans')}
        return self.cluster.share(self.sess, step, tf.global_variables(), lambda: {
            'their data': dataset_digest(dataset), 'their options': str(trained)})

    def check_room(self, step, steps_an_epoch, last_step):
        """Raise UserError where the disk cannot hold the checkpoints that training writes from a step on."""
        saves = -(-last_step // self.save_freq) - step // self.save_freq
        scores = self.eval_freq and self.epoch // self.eval_freq - step // steps_an_epoch // self.eval_freq
        growth = self.checkpoints.growth(saves) + self.best_checkpoints.growth(scores)
        # Where the oldest goes, the newest is written before.
        self.checkpoints.check_room(growth + (saves + scores > growth))

    def batch(self, data, number):
        """Batch number number of training, as train_batch takes it; data: (images [N, H, W, C], labels [N])."""
        images, labels = batch(*data, self.batch_size, self.seed, number, self.flip)
        z = self.draw_z(self.batch_size, self.seed, Stream.TRAIN_Z, number)
        return images, z, labels, draw_labels(self.batch_size, self.classes or 1, self.seed, Stream.TRAIN_LABELS, number)

    def train_batch(self, batches, step, lr_scale=1.):
        """One training step: D is updated on each of n_critic batches, then G on the z of the last -> {loss: number}.

        batches: (images [B, H, W, C] in [0, 1], z [B, z_dim]) each and, in a conditional run, the labels [B] of these
        images and those to give z. step: the number of steps before this one. Raises UserError where a loss is no
        finite number.
        """
        self.stale = True
        fed = [self.inputs, self.z, self.labels, self.z_labels] if self.conditional else [self.inputs, self.z]
        *feeds, last = [{**dict(zip(fed, values, strict=False)), self.batch_number: number, self.step: step,
                         self.lr_scale: lr_scale} for number, values in enumerate(batches, step * self.n_critic)]
        for feed in feeds:
            self.sess.run(self.d_step, feed)
        _, losses = self.cluster.run(self.sess, [self.train_step, self.losses], last)
        for name, value in losses.items():
            if not np.isfinite(value):
                raise not_finite(name, step + 1)
        return losses

    def records(self, step, steps_an_epoch, last_step, stops, score, facts, dataset):
        """What training leaves from a step on; score: of images, as load_scorer has it, 0 for none; facts: of the data
        set, for config.json.
        """
        if not self.cluster.leads:
            return []
        real = self.real_images(IMAGES, dataset)
        output = "D's mean probability of being real" if self.objective.probability else "D's mean output"
        return training_records(
            self.run, {**facts, **self.options}, step, steps_an_epoch, last_step, stops, graph=self.sess.graph,
            sample=self.sample, draw=lambda *key: self.draw_grid(self.seed, *key),
            note=self.gammas and (lambda epoch, step: self.note(epoch, step, real)),
            score=lambda: score(self.pixels(self.draw_z(QUICK_EVAL_NUM, self.seed, Stream.EVAL_Z))), losses=self.losses,
            gammas=self.gammas, output=output, checkpoints=self.checkpoints, best=self.best_checkpoints)

    def save(self, step):
        """Write a checkpoint of all variables, the optimizers' among them; the newest --keep stay."""
        self.checkpoints.save(step)

    def load(self, checkpoint='latest'):
        """Restore a checkpoint -> (found, step); (False, 0) where there is none.

        checkpoint: 'latest', the newest one that is whole; 'best', the one that --eval_freq kept; or a step. Where it
        has no averages, they start at the weights.
        Raises UserError where a checkpoint is of another network, or damaged.
        """
        self.stale = True
        self.loaded = self.best_checkpoints if checkpoint == 'best' else self.checkpoints
        return self.loaded.load(checkpoint)


def linear_decay(step, last_step):
    """What a learning rate is multiplied by: 1 in the first half of the steps, then falling linearly to 0."""
    return min(1., 2 * (1 - step / last_step))
