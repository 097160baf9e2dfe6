"""The Self-Attention GAN (Zhang et al. 2018, arXiv:1805.08318): its default network, training and sampling.

In this repository, "the article" is the TensorFlow 1 tutorial "SAGAN on MNIST", the source of the default network and
options. "The paper" is Zhang et al.
"""

import contextlib
import dataclasses
import functools
import math
import os
import time

import numpy as np

from datasets import CLASS_NAMES, dataset_digest, load_dataset, native_shape, saved_name
from datasets.batches import batch, batches_per_epoch, prefetch
from distributed.cluster import Cluster
from evaluation import phases
from evaluation.scores import load_scorer
from ops import (
    ATTENTIONS,
    attention_layers,
    bn,
    check_labels,
    conv2d,
    deconv2d,
    gammas_of,
    linear,
    lrelu,
    projection,
    update_u,
)
from options import (
    UserError,
    check_image_size,
    check_worker_share,
    complete_options,
    make_config,
    options_of,
    resolve_rates,
    shape_of,
)
from storage.branch import describe_changes
from storage.checkpoints import Checkpoints, describe_variables
from storage.run import (
    MODEL,
    Diverged,
    Run,
    checkpoint_steps,
    image_shape_of,
    list_runs,
    missing_checkpoint,
    read_metadata,
)
from tf1 import tf
from training.augment import NUM_RANDOM, augment
from training.callbacks import default_callbacks, running
from training.device import gpu_names
from training.losses import OBJECTIVES, uniform_noise
from training.precision import BFLOAT16_GRADIENTS
from training.progress import ProgressBar
from training.stop import Stop
from utils import (
    Stream,
    check_folder,
    draw_labels,
    draw_z,
    grid_size,
    list_first,
    make_folder,
    proportional_labels,
    show_all_variables,
    to_uint8,
)

SAMPLE_PIXELS = 512 * 28 * 28  # maximum number of pixels per call of the sampling graph
STATISTICS_BATCHES = 12  # batches of images for the batch norm statistics of the averaged weights


class SAGAN:
    """A generator and a discriminator, each with a self-attention layer unless attention is 'none'.

    Args:
        sess: a TensorFlow session.
        image_shape: (H, W, C), or None for the shape in the run's config.json, or else that of the data set.
        classes: the class names, or the number of classes. None selects the classes in the run's config.json, or else
            those of the data set.
        cluster: the Cluster of the workers that train together, or None to train in this process alone.
        options: saved options (see options.py), as keyword arguments. Omitted options have the defaults of the
            network.

    Raises:
        TypeError: if an option is unknown, or if the option network names another class.
        UserError: if options contradict each other, or if the data set is needed but missing.
    """

    kind = 'article'  # the value of --network

    def __init__(self, sess, image_shape=None, classes=None, cluster=None, **options):
        options = complete_options({'network': self.kind, **options})
        options['dataset_name'] = saved_name(options['dataset_name'], options['data_dir'])
        options = complete_rates(options, image_shape)
        metadata = None
        if options['conditional'] is not None:  # otherwise the run's name depends on the classes
            metadata = read_metadata(options)
        if image_shape is None:
            image_shape = find_image_shape(options, metadata)
        if classes is None:
            classes = find_classes(options, metadata, image_shape)
        elif isinstance(classes, int):
            classes = [str(number) for number in range(classes)]
        self.sess, self.cluster = sess, cluster or Cluster()
        metadata = metadata or {}
        class_counts = metadata.get('class_counts', ())
        if len(class_counts) != len(classes):  # the argument differs from config.json
            class_counts = ()
        self.config = config = make_config(options, image_shape, classes, class_counts=class_counts,
                                           reading=metadata.get('reading', ()))
        if config.network != self.kind:
            raise TypeError(f'{type(self).__name__} is the network {self.kind}, not {config.network}: use '
                            'networks.build')
        check_image_size(self.kind, *config.image_shape[:2])
        check_worker_share(config.batch_size, self.cluster.size)
        if config.conditional and not config.class_names:
            raise UserError('--conditional true requires a --dataset with classes: choose another data set, or use '
                            '--conditional false (--from inherits true from its run)')
        self.target_class = target_class(config)
        self.objective = OBJECTIVES[config.gan_type]
        # A gradient penalty is defined per image, but batch norm makes each logit depend on the whole batch.
        self.d_norm = not config.sn and self.objective.penalty is None
        self.run = Run(config)
        self.model_dir = self.run.name

    ##################################################################################
    # Networks
    ##################################################################################

    def generator(self, z, is_training=True, reuse=False, labels=None, sync=None):
        """Return images [B, H, W, C] in [0, 1] for z [B, z_dim] and, if conditional, labels [B].

        sync is the Cluster whose workers share the batch, or None. Batch norm uses the statistics of the whole batch.
        """
        height, width, channels = self.config.image_shape
        batch_size, sn, num_classes = tf.shape(z)[0], self.config.sn, self.config.num_classes

        def norm(x, scope):
            return bn(x, is_training, scope, labels, num_classes, sync)

        with tf.variable_scope('generator', reuse=reuse, use_resource=True):
            x = tf.nn.relu(norm(linear(z, 1024, 'g_fc1', sn=sn), 'g_bn1'))  # [B, 1024]
            x = linear(x, height // 4 * (width // 4) * 128, 'g_fc2', sn=sn)
            x = tf.nn.relu(norm(x, 'g_bn2'))  # [B, 7*7*128]
            x = tf.reshape(x, [-1, height // 4, width // 4, 128])  # [B, 7, 7, 128]
            x = ATTENTIONS[self.config.attention](x, is_training, sn=sn, sync=sync)  # [B, 7, 7, 128]
            x = deconv2d(x, [batch_size, height // 2, width // 2, 64], 4, 4, 2, 2, name='g_dc3', sn=sn)
            x = tf.nn.relu(norm(x, 'g_bn3'))  # [B, 14, 14, 64]
            x = deconv2d(x, [batch_size, height, width, channels], 4, 4, 2, 2, name='g_dc4', sn=sn)
            return tf.nn.sigmoid(x)  # [B, 28, 28, 1]

    def discriminator(self, x, is_training=True, reuse=False, labels=None, sync=None, batches=1):
        """Judge images x [B, H, W, C] in [0, 1] and, if conditional, their labels [B].

        sync is the Cluster whose workers share the batch, or None. Batch norm uses the statistics of the whole batch.
        batches is the number of batches in x. Batch norm normalizes each by its own statistics.

        Returns:
            (probability [B, 1], logit [B, 1], features [B, 1024]). probability is sigmoid(logit). It is the probability
            that the image is real only if Objective.probability is true.
        """
        height, width, _ = self.config.image_shape
        sn = self.config.sn

        def norm(x, scope):
            return bn(x, is_training, scope, sync=sync, batches=batches) if self.d_norm else x

        with tf.variable_scope('discriminator', reuse=reuse, use_resource=True):
            x = lrelu(conv2d(x, 64, 4, 4, 2, 2, name='d_conv1', sn=sn))  # [B, 14, 14, 64]
            x = lrelu(norm(conv2d(x, 128, 4, 4, 2, 2, name='d_conv2', sn=sn), 'd_bn2'))  # [B, 7, 7, 128]
            x = ATTENTIONS[self.config.attention](x, is_training, norm=self.d_norm, sn=sn, sync=sync,
                                                  batches=batches)  # [B, 7, 7, 128]
            x = tf.reshape(x, [-1, height // 4 * (width // 4) * 128])  # [B, 7*7*128]
            features = lrelu(norm(linear(x, 1024, 'd_fc4', sn=sn), 'd_bn4'))  # [B, 1024]
            logit = linear(features, 1, 'd_fc5', sn=sn)  # [B, 1]
            if labels is not None:
                logit += projection(features, labels, self.config.num_classes, sn=sn)
            return tf.nn.sigmoid(logit), logit, features

    ##################################################################################
    # The graph
    ##################################################################################

    def build_model(self):
        """Build the graph: the training step, the networks for sampling, and the savers.

        Sets these placeholders:
            inputs: real images [B, H, W, C] in [0, 1].
            z: noise [B, z_dim].
            labels, z_labels: the classes [B] of inputs and of z, or None unless the model is conditional.
            step: number of earlier steps that count towards the warm-up of the moving average.
            batch_number: number of batches before this one. It seeds augmentation and the noise of a penalty.
            lr_scale: number by which both learning rates are multiplied.

        Raises:
            UserError: if the graph already has a generator.
        """
        if tf.global_variables('generator/'):
            raise UserError('this graph already has a generator: call tf.reset_default_graph(), then create a new '
                            'session and a new SAGAN')
        config = self.config
        tf.set_random_seed(config.seed)
        self.inputs = tf.placeholder(tf.float32, [None, *config.image_shape], name='real_images')
        self.z = tf.placeholder(tf.float32, [None, config.z_dim], name='z')
        self.step = tf.placeholder_with_default(0., [], name='step')
        self.batch_number = tf.placeholder_with_default(0, [], name='batch_number')
        self.lr_scale = tf.placeholder_with_default(1., [], name='lr_scale')
        self.labels = self.z_labels = None
        if config.conditional:
            self.labels = tf.placeholder(tf.int32, [None], name='labels')
            self.z_labels = tf.placeholder(tf.int32, [None], name='z_labels')
        self.build_training_step()
        self.build_sampling()
        self.cluster.build()
        self.checkpoints = Checkpoints(self.sess, os.path.join(self.run.folder, MODEL), self.averages, config.keep)
        self.best_checkpoints = Checkpoints(self.sess, os.path.join(self.run.folder, 'best'), self.averages, keep=1)
        self.has_averages = bool(self.averages)  # False after loading a checkpoint without them

    def build_training_step(self):
        """Build the training step.

        Sets these operations and tensors:
            d_step: updates D on inputs and G(z).
            train_step: runs d_step, updates G through the updated D on the same z, then updates G's moving averages.
            losses: {name: scalar}. Fetching g_loss runs d_step, because G's loss is computed with the updated D.
            gammas: {column of the history: scalar}.
        """
        config, cluster = self.config, self.cluster
        gradients = BFLOAT16_GRADIENTS if config.precision == 'bfloat16' and not gpu_names() else {}
        labels, z_labels = cluster.local_shard(self.labels), cluster.local_shard(self.z_labels)
        # A separate name scope, so that <network>/attention/attention_map:0 is the map of the sampling graph.
        with tf.name_scope('training'), tf.get_default_graph().gradient_override_map(gradients):
            fake = self.generator(cluster.local_shard(self.z), labels=z_labels, sync=cluster)
            self.g_variables = tf.global_variables('generator/')
            real_view, fake_view = self.augmented(cluster.local_shard(self.inputs), 0), self.augmented(fake, 1)
            real_logit, fake_logit = self.real_and_fake_logits(real_view, fake_view, labels, z_labels)
            penalties = self.build_penalty(fake, labels)
        d_loss_real, d_loss_fake = self.objective.d_loss(real_logit, fake_logit)
        d_loss = tf.add_n([d_loss_real, d_loss_fake, *(config.ld * penalty for penalty in penalties.values())])
        output = tf.nn.sigmoid if self.objective.probability else tf.identity
        d_real, d_fake = tf.reduce_mean(output(real_logit)), tf.reduce_mean(output(fake_logit))
        with tf.control_dependencies([self.minimize(d_loss, config.d_lr, 'discriminator/')]):
            self.d_step = update_u(tf.global_variables('discriminator/'))

        # Reads of resource variables obey control dependencies, so this pass uses the updated D.
        with tf.control_dependencies([self.d_step]), tf.name_scope('training'):
            _, fake_logit, _ = self.discriminator(fake_view, reuse=True, labels=z_labels, sync=cluster)
        g_loss = self.objective.g_loss(fake_logit)
        with tf.control_dependencies([self.minimize(g_loss, config.g_lr, 'generator/')]):
            self.train_step = update_u(self.g_variables)
        self.averages = []
        if config.ema > 0:
            ema = tf.train.ExponentialMovingAverage(config.ema, num_updates=self.step)
            with tf.name_scope('averages'), tf.control_dependencies([self.train_step]):
                self.train_step = ema.apply(self.g_variables)
            self.averages = [ema.average(variable) for variable in self.g_variables]
        losses = {'d_loss': d_loss, 'd_loss_real': d_loss_real, 'd_loss_fake': d_loss_fake, 'g_loss': g_loss,
                  'd_real': d_real, 'd_fake': d_fake, **penalties}
        self.losses = dict(zip(losses, cluster.all_reduce(list(losses.values())), strict=True))
        self.gammas = gammas_of(attention_layers())

    def real_and_fake_logits(self, real, fake, labels, z_labels):
        """Return D's logits [B, 1] for real and for fake images [B, H, W, C], from which the loss of D is computed."""
        if self.config.precision == 'bfloat16':
            # Two passes would convert the large weights and their gradients twice.
            images = tf.concat([real, fake], 0)  # [2B, H, W, C]
            if self.config.conditional:
                labels = tf.concat([labels, z_labels], 0)  # [2B]
            _, logits, _ = self.discriminator(images, labels=labels, sync=self.cluster, batches=2)
            return tf.split(logits, 2)
        # In float32, one pass is hardly faster. With two passes, earlier runs resume bit-identically.
        _, real_logit, _ = self.discriminator(real, labels=labels, sync=self.cluster)
        # Both passes update the same batch norm statistics. A fixed order makes runs bit-identical.
        with tf.control_dependencies([real_logit]):
            _, fake_logit, _ = self.discriminator(fake, reuse=True, labels=z_labels, sync=self.cluster)
        return real_logit, fake_logit

    def minimize(self, loss, learning_rate, scope):
        """Return the operation that applies one Adam step to the variables of a scope."""
        adam = tf.train.AdamOptimizer(learning_rate * self.lr_scale, self.config.beta1, self.config.beta2)
        gradients, variables = zip(*adam.compute_gradients(loss, tf.trainable_variables(scope)), strict=True)
        return adam.apply_gradients(zip(self.cluster.all_reduce(list(gradients)), variables, strict=True))

    def augmented(self, images, draw):
        """Return this worker's images [B, H, W, C] as D sees them in training, augmented if augment is true.

        Args:
            draw: 0 for real images and penalties, 1 for generated images. The random numbers of 0 and 1 differ.
        """
        if not self.config.augment:
            return images
        # The penalties use non-negative keys. Negative keys never coincide with them.
        key = tf.stack([self.config.seed, -1 - 2 * self.batch_number - draw])
        numbers = uniform_noise([self.cluster.size * tf.shape(images)[0], NUM_RANDOM], key)
        return augment(images, self.cluster.local_shard(numbers))

    def build_penalty(self, fake, labels):
        """Return {column of the history: penalty on inputs and fake images}, or {} if the objective has no penalty.

        With augmentation, the penalty is on the gradient with respect to the unaugmented images.
        """
        def logits_of(images):
            _, logit, _ = self.discriminator(self.augmented(images, 0), reuse=True, labels=labels)
            return logit

        if self.objective.penalty is None:
            return {}
        key = tf.stack([self.config.seed, 2 * self.batch_number])  # a penalty may use the next number as a second seed
        return {'d_penalty': self.objective.penalty(logits_of, self.inputs, fake, key, self.cluster)}

    def build_sampling(self):
        """Build G and D with is_training=False, for sampling and attention maps.

        If there are averaged weights and --weights is ema, this G uses them. It then has its own batch norm statistics,
        which refresh_statistics computes.

        Sets:
            fake_images: G(z).
            d_output: D's output [B, 1] for inputs: the probability that an image is real, or the logit if the objective
                has no probability.
            layers: {network: its AttentionLayers}, those of G on z and of D on inputs.
            sampled_gammas: the gammas of these layers, {column of the history: scalar}.
        """
        sampled = {}  # {name of a variable of G: its replacement}
        if self.averages and self.config.weights == 'ema':
            for variable, average in zip(self.g_variables, self.averages, strict=True):
                if variable.trainable:
                    sampled[variable.op.name] = average
                else:
                    sampled[variable.op.name] = tf.Variable(average.read_value(), trainable=False,
                                                            collections=[tf.GraphKeys.LOCAL_VARIABLES])

        def sampled_variable(getter, *args, **kwargs):
            variable = getter(*args, **kwargs)
            return sampled.get(variable.op.name, variable)

        labels = None
        if self.config.conditional:
            labels = check_labels(self.z_labels, self.config.num_classes)
        with tf.variable_scope(tf.get_variable_scope(), custom_getter=sampled_variable, auxiliary_name_scope=False):
            self.fake_images = self.generator(self.z, is_training=False, reuse=True, labels=labels)
            self.reset_statistics, self.move_statistics = tf.local_variables_initializer(), tf.no_op()
            if sampled:
                with tf.name_scope('averages'):
                    images = self.generator(self.z, reuse=True, labels=labels)
                    with tf.control_dependencies([images]):  # computing images also moves the batch norm statistics
                        self.move_statistics = update_u(tf.local_variables())
        probability, logit, _ = self.discriminator(self.inputs, is_training=False, reuse=True, labels=self.labels)
        self.d_output = probability if self.objective.probability else logit
        layers = [layer for layer in attention_layers() if not layer.is_training]
        self.layers = {network: [layer for layer in layers if layer.scope.startswith(f'{network}/')]
                       for network in ('generator', 'discriminator')}
        self.sampled_gammas = gammas_of(layers)
        self.statistics_are_stale = True  # whether the weights have changed since refresh_statistics

    ##################################################################################
    # Training
    ##################################################################################

    def train(self, stop=None, dataset=None, source=None):
        """Train until the last epoch ends. Resume from the newest checkpoint if there is one.

        Args:
            stop: a Stop, or None. Once stop.requested is set, training saves a checkpoint and returns.
            dataset: a Dataset, or None to load the data set that the options name.
            source: the storage.branch.Source that a new run starts from, or None.

        Raises:
            UserError, OSError: if training fails for a reason that the user can fix.
        """
        start = time.time()
        stop = stop or Stop()
        if dataset is None:
            dataset = load_dataset(self.config.dataset_name, self.config.data_dir, self.config.image_shape)
            print(dataset.description, flush=True)
        self.config = self.config_with(dataset)
        graph = self.sess.graph  # a model of networks.from_run has its own graph
        with graph.as_default():
            self.initialize()
            if source is not None and self.cluster.is_chief and not checkpoint_steps(self.checkpoints.folder):
                self.config = self.branch(source)
        lock = contextlib.nullcontext()
        if self.cluster.is_chief:
            for folder in self.run.folder, self.run.logs, self.run.results:
                check_folder(folder)
            lock = self.run.locked()
        with graph.as_default(), lock:
            step, self.config = self.resume()
            config = self.config
            if step >= config.last_step:
                if self.cluster.is_chief and not os.path.exists(self.run.config_path):
                    self.run.write_config(config)
                print(f'This run is complete at step {step}: choose an --epoch larger than '
                      f'{step // config.steps_per_epoch} to continue')
                return
            scorer, callbacks, progress = None, [], ProgressBar()
            if self.cluster.is_chief:
                self.prepare(step)
                if config.eval_freq > 0:
                    scorer = load_scorer(config.dataset_name, dataset, config.checkpoint_dir)
                callbacks = default_callbacks(dataset, scorer, progress)
            prefetched = prefetch(functools.partial(self.batches, dataset), step, config.last_step)
            with stop, running(callbacks, self, step, progress) as run_callbacks, contextlib.closing(prefetched):
                if self.cluster.is_chief:
                    self.run.write_config(config)
                    if config.source is not None and not checkpoint_steps(self.checkpoints.folder):
                        self.save(0)  # from now on, the source is not needed
                while step < config.last_step and stop.requested is None:
                    values = self.train_batch(next(prefetched), step, learning_rate_scale(config, step))
                    step += 1
                    self.cluster.agree_to_stop(self.sess, stop)
                    run_callbacks(step, values, step == config.last_step or stop.requested is not None)
                self.cluster.barrier(self.sess)
            outcome, advice = 'Finished', ''
            if step < config.last_step:
                outcome, advice = 'Stopped', ': run the same command again to resume'
            minutes = (time.time() - start) / 60
            print(f'{outcome} at step {step} of {config.last_step} after {minutes:.1f} minutes{advice}\n'
                  f'Checkpoints: {self.run.folder}\nResults: {self.run.results}')

    def config_with(self, dataset):
        """Return the config with the metadata of a Dataset. Raise UserError if the data set does not fit it."""
        config = self.config
        images = len(dataset.train[0])
        batches_per_epoch(images, config.batch_size, config.dataset_name)
        if config.conditional and len(dataset.class_names) != config.num_classes:
            raise UserError(f'the model has {config.num_classes} classes, but the data set has '
                            f'{len(dataset.class_names)}: choose other classes or another data set')
        return dataclasses.replace(config, images=images, class_names=tuple(dataset.class_names),
                                   class_counts=dataset.class_counts, reading=tuple(dataset.reading),
                                   digest=dataset_digest(dataset))

    def initialize(self):
        """Initialize all variables."""
        # The averages are initialized last, because they copy the variables. In a single session.run, they could copy
        # the values of an earlier initialization.
        self.sess.run(tf.variables_initializer([v for v in tf.global_variables() if v not in self.averages]))
        self.sess.run(tf.variables_initializer(self.averages))

    def branch(self, source):
        """Restore the variables that are shared with a Source.

        Returns:
            The config with source, source_step and previous_steps set.

        Raises:
            UserError: as in Checkpoints.start_from.
        """
        config = self.config
        if not source.metadata:
            print(f'{source.folder} has no config.json: options that are not in its name are assumed to have their '
                  'default values')
        step, new, unused = self.checkpoints.start_from(source, config.beta1, config.beta2)
        print(f'Run {self.run.name} from {source.name}, step {step}: {describe_changes(source, config)}')
        print(describe_variables(tf.global_variables(), new, unused))
        previous_steps = source.previous_steps + step
        if any(average in new for average in self.averages):
            previous_steps = 0  # the warm-up restarts, so that the averages forget the initial values of new weights
        return dataclasses.replace(config, source=source.folder, source_step=step, previous_steps=previous_steps)

    def resume(self):
        """Restore the newest checkpoint of this run if there is one.

        All workers get the chief's variables, step and config.previous_steps.

        Returns:
            (step of the checkpoint, or 0, the config with the source metadata of config.json).
        """
        step, config = 0, self.config
        if self.cluster.is_chief:
            source_metadata = self.run.check_config(config)
            restored = self.restore()
            if restored is not None:
                step, config = restored, dataclasses.replace(config, **source_metadata)
        if self.cluster.size > 1:
            options = {name: getattr(config, name) for name in options_of('identity', 'training', 'schedule')}
            self.cluster.check_equal(self.sess, {'data sets': config.digest, 'options': str(options)})
        step, previous_steps = self.cluster.broadcast(self.sess, [step, config.previous_steps], tf.global_variables())
        return step, dataclasses.replace(config, previous_steps=previous_steps)

    def prepare(self, step):
        """Check the disk space, create the run's folders, and print the networks' sizes or the step to resume from."""
        config = self.config
        self.check_disk_space(step)
        make_folder(self.run.logs)
        make_folder(self.run.results)
        if step > 0:
            print(f'Resuming at step {step} of {config.last_step}')
        else:
            show_all_variables(tf.trainable_variables(), self.run.result_path('variables.txt'))
        if config.lr_decay == 'linear':
            print(f'Learning rates: constant until step {config.last_step // 2}, then decaying to zero at step '
                  f'{config.last_step}')

    def check_disk_space(self, step):
        """Raise UserError if the disk cannot hold the checkpoints that training saves after this step."""
        config = self.config
        saves = -(-config.last_step // config.save_freq) - step // config.save_freq
        if step == 0 and config.source is not None:
            saves += 1  # SAGAN.model-0
        growth = self.checkpoints.growth(saves)
        best_saves = 0
        if config.eval_freq > 0:
            best_saves = config.epoch // config.eval_freq - step // config.steps_per_epoch // config.eval_freq
            growth += self.best_checkpoints.growth(best_saves)
        if saves + best_saves > growth:
            growth += 1  # a new checkpoint is written before the oldest is removed
        self.checkpoints.check_disk_space(growth)

    def batches(self, dataset, step):
        """Return the n_critic batches that train_batch expects. step is the number of steps before this one."""
        config, batches = self.config, []
        for number in range(step * config.n_critic, (step + 1) * config.n_critic):
            images, labels = batch(*dataset.train, config.batch_size, config.seed, number, config.flip)
            z = self.draw_z(config.batch_size, config.seed, Stream.TRAIN_Z, number)
            z_labels = self.draw_labels(config.batch_size, config.seed, Stream.TRAIN_LABELS, number)
            batches.append((images, z, labels, z_labels))
        return batches

    def train_batch(self, batches, step, lr_scale=1.):
        """Take one training step: update D on each of n_critic batches, then G on the z of the last batch.

        Args:
            batches: a list of (images [B, H, W, C] in [0, 1], z [B, z_dim], labels [B] of the images, labels [B] of z).
                Only a conditional run uses the labels.
            step: number of steps before this one.
            lr_scale: number by which both learning rates are multiplied.

        Returns:
            {name of a loss: number}.

        Raises:
            UserError: if a loss is not finite.
        """
        self.statistics_are_stale = True
        placeholders = [self.inputs, self.z]
        if self.config.conditional:
            placeholders += [self.labels, self.z_labels]
        feeds = []
        for number, values in enumerate(batches, step * self.config.n_critic):
            feeds.append({**dict(zip(placeholders, values, strict=False)), self.batch_number: number,
                          self.step: self.config.previous_steps + step, self.lr_scale: lr_scale})
        for feed in feeds[:-1]:
            self.sess.run(self.d_step, feed)
        _, losses = self.sess.run([self.train_step, self.losses], feeds[-1])
        for name, value in losses.items():
            if not np.isfinite(value):
                raise Diverged(name, step + 1)
        return losses

    def save(self, step):
        """Save a checkpoint of all variables, including those of the optimizers. Keep the newest --keep checkpoints."""
        self.checkpoints.save(step)

    def load(self, checkpoint='latest'):
        """Restore a checkpoint. If there is no such checkpoint, print the existing runs and steps.

        Args:
            checkpoint: 'latest' (the newest undamaged one), 'best' (the one with the lowest Fréchet distance, saved by
                a run with --eval_freq), or a step.

        Returns:
            (True, step), or (False, 0) if there is no such checkpoint.

        Raises:
            UserError: if the checkpoint belongs to another network, or is damaged.
        """
        step = self.restore(checkpoint)
        if step is not None:
            return True, step
        runs, _ = list_runs(self.config.checkpoint_dir)
        print(f'{self.missing_checkpoint(checkpoint)}: nothing was restored. Trained runs in '
              f'{self.config.checkpoint_dir}: {list_first([run.name for run in runs]) or "none"}')
        return False, 0

    def restore(self, checkpoint='latest'):
        """Restore a checkpoint and return its step, or None if there is no such checkpoint.

        If the checkpoint has no averages, they start at the restored weights. The argument and the errors are load's.
        """
        self.statistics_are_stale = True  # even if loading fails halfway
        with self.sess.graph.as_default():  # a model of networks.from_run has its own graph
            restored = self.checkpoints_for(checkpoint).restore(checkpoint)
        if restored is None:
            return None
        step, self.has_averages = restored
        return step

    def checkpoints_for(self, checkpoint):
        """Return the Checkpoints object for a value of --checkpoint: 'best' has its own folder."""
        return self.best_checkpoints if checkpoint == 'best' else self.checkpoints

    def missing_checkpoint(self, checkpoint):
        """Return the phrase that reports a missing checkpoint and lists the existing steps."""
        return missing_checkpoint(self.run.folder, checkpoint, checkpoint_steps(self.checkpoints.folder))

    ##################################################################################
    # Sampling
    ##################################################################################

    def test(self, seed=0, checkpoint='latest'):
        """Restore a checkpoint and write samples and figures: see evaluation.phases.test."""
        phases.test(self, seed, checkpoint)

    @property
    def sampled_weights(self):
        """The weights that sampling uses: 'ema', or 'raw' if requested or if the checkpoint has no averages."""
        return self.config.weights if self.has_averages else 'raw'

    def draw_z(self, count, *key):
        """Return z [count, z_dim] from the run's distribution. It depends only on the integers in key."""
        return draw_z(count, self.config.z_dim, *key, distribution=self.config.z_name)

    def draw_labels(self, count, *key):
        """Return random labels [count] in proportion to the class frequencies, or None if the run is not conditional.

        The labels depend only on the integers in key.
        """
        if not self.config.conditional:
            return None
        return draw_labels(count, self.config.label_counts, *key)

    def proportional_labels(self, count):
        """Return labels [count] as sampled_labels does, but in proportion to the class frequencies."""
        if not self.config.conditional or self.target_class is not None:
            return self.sampled_labels(count)
        return proportional_labels(count, self.config.label_counts)

    def sampled_labels(self, count):
        """Return labels [count]: the target class, or else each class in turn.

        Return None if the run is not conditional.
        """
        if not self.config.conditional:
            return None
        if self.target_class is not None:
            return np.full(count, self.target_class)
        return np.arange(count) % self.config.num_classes

    def draw_grid(self, *key):
        """Return (z, labels, (rows, columns)) for a grid.

        In a grid of all classes, each z is repeated for each class. A row has as many z as fit in a nearly square grid,
        but at least one.
        """
        count, num_classes = self.config.sample_num, self.config.num_classes
        if not self.config.conditional or self.target_class is not None:
            return self.draw_z(count, *key), self.sampled_labels(count), grid_size(count)
        z_per_row = max(1, math.isqrt(count) // num_classes)
        columns = z_per_row * num_classes
        rows = -(-count // columns)
        z = np.repeat(self.draw_z(rows * z_per_row, *key), num_classes, 0)  # [rows * columns, z_dim]
        return z, self.sampled_labels(len(z)), (rows, columns)

    def sample(self, z, labels=None):
        """Return images [N, H, W, C] in [0, 1] for z [N, z_dim] and labels [N] (default: sampled_labels).

        Raises:
            ValueError: if z or labels have the wrong shape, z is not finite, or a label is not a class of the model.
        """
        return np.concatenate(list(self.sample_batches(z, labels)))

    def pixels(self, z, labels=None, progress=None):
        """Return the same images as sample, but as uint8, which takes a quarter of the memory.

        progress is a Progress that counts images, or None.
        """
        z, labels = self.sampling_inputs(z, labels)
        pixels = np.empty([len(z), *self.config.image_shape], np.uint8)
        start = 0
        for images in self.sample_batches(z, labels):
            pixels[start:start + len(images)] = to_uint8(images)
            start += len(images)
            if progress is not None:
                progress.update(len(images))
        return pixels

    def sample_batches(self, z, labels=None):
        """Yield the same images as sample, in batches of at most sample_batch_size images."""
        z, labels = self.sampling_inputs(z, labels)
        for start in range(0, len(z), self.sample_batch_size):
            part = slice(start, start + self.sample_batch_size)
            yield self.fetch(self.fake_images, z[part], None if labels is None else labels[part])

    @property
    def sample_batch_size(self):
        """The maximum number of images per call of the sampling graph. It bounds the memory that sampling uses."""
        height, width, _ = self.config.image_shape
        return max(1, min(512, SAMPLE_PIXELS // (height * width)))

    def fetch(self, fetches, z, labels=None):
        """Evaluate tensors of the sampling graph for z [N, z_dim] and labels [N] (default: sampled_labels).

        Refreshes the batch norm statistics first if the weights have changed.

        Raises:
            ValueError: as in sample.
        """
        z, labels = self.sampling_inputs(z, labels)
        if self.statistics_are_stale:
            self.refresh_statistics()
        return self.sess.run(fetches, self.sampling_feed(z, labels))

    def attention_maps(self, images=None, z=None, labels=None):
        """Return the attention maps of the discriminator for images, or those of the generator for z.

        Args:
            images: [N, H, W, C] in [0, 1]. Black is 0 and white is 1.
            z: [N, z_dim].
            labels: the classes [N] of z (default: sampled_labels).

        Returns:
            A list of one array [N, rows, columns, key rows, key columns] per attention layer of the network, from its
            input to its output. map[n, i, j] holds the weights with which position (i, j) of image n attends to each
            key. These weights sum to 1.

        Raises:
            ValueError: if images or z have the wrong shape, type or range, or if both or neither are given.
        """
        if (images is None) == (z is None):
            raise ValueError('attention_maps requires either images or z: use attention_maps(images=images) for the '
                             'discriminator, or attention_maps(z=z) for the generator')
        if images is not None and labels is not None:
            raise ValueError('labels require z: the maps of the discriminator do not depend on them')
        layers = self.layers['discriminator' if z is None else 'generator']
        tensors = [layer.attention_map for layer in layers]
        if z is None:
            images = checked_images(images, self.config.image_shape)
            maps = self.sess.run(tensors, {self.inputs: images})
        else:
            maps = self.fetch(tensors, z, labels)
        return [beta.reshape(-1, *layer.query_shape, *layer.key_shape)
                for layer, beta in zip(layers, maps, strict=True)]

    def judge(self, images, labels=None):
        """Return D's output [N] for images: the probability that each is real, or else the logit (see build_sampling).

        Args:
            images: [N, H, W, C] in [0, 1]. Black is 0 and white is 1.
            labels: the class [N] of each image. A conditional model requires them.

        Raises:
            ValueError: if images or labels have the wrong shape, type or range, or if labels are missing.
        """
        feed = {self.inputs: checked_images(images, self.config.image_shape)}
        if self.config.conditional:
            if labels is None:
                raise ValueError('the model is conditional: use judge(images, labels) with the class of each image')
            feed[self.labels] = checked_labels(labels, len(images), self.config.num_classes)
        elif labels is not None:
            raise ValueError('labels require a model with conditional=True: omit labels')
        return self.sess.run(self.d_output, feed)[:, 0]

    @contextlib.contextmanager
    def fixed_gamma(self, value):
        """Set the gamma of every attention layer to this value inside a with block. 0 turns attention off.

        Use the block only for sampling, attention_maps and judge. The batch norm statistics remain those of the
        learned gammas. The learned gammas are restored at the end.
        """
        if self.statistics_are_stale:
            self.refresh_statistics()
        gammas = [layer.gamma for layers in self.layers.values() for layer in layers]
        learned = self.sess.run(gammas)
        try:
            for gamma in gammas:
                gamma.load([value], self.sess)
            yield
        finally:
            for gamma, values in zip(gammas, learned, strict=True):
                gamma.load(values, self.sess)

    def sampling_inputs(self, z, labels=None):
        """Return z and labels (default: sampled_labels) as arrays. Raise ValueError as in sample."""
        z = checked_z(z, self.config.z_dim, self.config.image_shape)
        if labels is None:
            return z, self.sampled_labels(len(z))
        if not self.config.conditional:
            raise ValueError('labels require a model with conditional=True: omit labels')
        return z, checked_labels(labels, len(z), self.config.num_classes)

    def sampling_feed(self, z, labels):
        """Return the feed_dict of the sampling graph. labels is None if the run is not conditional."""
        feed = {self.z: z}
        if labels is not None:
            feed[self.z_labels] = labels
        return feed

    def refresh_statistics(self):
        """Compute the batch norm statistics of the averaged weights from images that these weights generate.

        The averages of the moving statistics mix the statistics of many generators, so they only serve as initial
        values. The first sample after load or train_batch calls this method. After any other change to the weights,
        call it yourself. Trained and saved variables do not change.
        """
        self.sess.run(self.reset_statistics)
        for number in range(STATISTICS_BATCHES):
            z = self.draw_z(self.sample_batch_size, self.config.seed, Stream.STATISTICS_Z, number)
            labels = self.draw_labels(self.sample_batch_size, self.config.seed, Stream.STATISTICS_LABELS, number)
            self.sess.run(self.move_statistics, self.sampling_feed(z, labels))
        self.statistics_are_stale = False


def checked_z(z, z_dim, image_shape):
    """Return z as a float32 array. Raise ValueError if it is not [N, z_dim], or if a value is not finite."""
    z = np.asarray(z, np.float32)
    if z.shape[-3:] == image_shape:
        raise ValueError(f'z has the shape {list(z.shape)} of images: use [N, {z_dim}], for example model.draw_z(4, '
                         'seed), or pass these images to the discriminator: model.attention_maps(images=images)')
    if z.ndim != 2 or z.shape[1] != z_dim or len(z) == 0:
        raise ValueError(f'z has the shape {list(z.shape)}: use [N, {z_dim}] with at least one row')
    if not np.isfinite(z).all():
        raise ValueError('z has values that are not finite: use finite numbers')
    return z


def checked_images(images, image_shape):
    """Return images as a float32 array. Raise ValueError if they are not floats [N, H, W, C] in [0, 1]."""
    images, wanted = np.asarray(images), ', '.join(map(str, image_shape))
    if images.ndim != 4 or images.shape[1:] != image_shape or len(images) == 0:
        advice = f'use [N, {wanted}] with at least one image'
        if images.ndim == 2 and images.shape != image_shape[:2]:
            advice += ', or attention_maps(z=z) for the maps of the generator'
        raise ValueError(f'images have the shape {list(images.shape)}: {advice}')
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f'images are {images.dtype}: use floats in [0, 1], for example images / 255 for pixel values '
                         'from 0 to 255')
    low, high = images.min(), images.max()  # NaN passes, because a diverged generator produces such images
    if low < -1e-6 or high > 1 + 1e-6:
        raise ValueError(f'images have values from {low:g} to {high:g}: use values in [0, 1], from black to white')
    return images.astype(np.float32)


def checked_labels(labels, count, num_classes):
    """Return labels as an array. Raise ValueError if they are not [count] or not integers in 0..num_classes-1."""
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f'labels are {labels.dtype}: use integers from 0 to {num_classes - 1}')
    if labels.shape != (count,):
        raise ValueError(f'labels have the shape {list(labels.shape)}: use the shape [{count}], one label per image')
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong) > 0:
        raise ValueError(f'label {wrong[0]} is not a class: use integers from 0 to {num_classes - 1}')
    return labels


def find_image_shape(options, metadata):
    """Return the shape (H, W, C) of a run's images: that in its config.json, or else that of the data set.

    Args:
        metadata: the metadata in config.json, or None if the run has no config.json.
    """
    if metadata is None:
        return shape_of(options, native_shape(options['dataset_name'], options['data_dir']))
    return image_shape_of(options, metadata)


def complete_rates(options, image_shape):
    """Return options with numbers for g_lr and d_lr, which may be None.

    Args:
        image_shape: (H, W, C), or None for the shape in the run's config.json, or else that of the data set.
    """
    if None not in (options['g_lr'], options['d_lr']):
        return options
    if image_shape is None:
        metadata = None
        if options['name']:  # otherwise the run's name depends on the rates
            metadata = read_metadata(options)
        image_shape = find_image_shape(options, metadata)
    return resolve_rates(options, image_shape)


def find_classes(options, metadata, image_shape):
    """Return the class names of a run: those in its config.json, or else those of the data set.

    The data set is loaded only if a conditional run needs it. options and metadata are as in find_image_shape.
    """
    if metadata and 'class_names' in metadata:
        return metadata['class_names']
    if options['dataset_name'] in CLASS_NAMES:
        return CLASS_NAMES[options['dataset_name']]
    if options['conditional'] is False:
        return ()
    return load_dataset(options['dataset_name'], options['data_dir'], tuple(image_shape)).class_names


def learning_rate_scale(config, step):
    """Return the number by which both learning rates are multiplied. step is the number of steps before this one.

    Without --lr_decay, the scale is 1. With --lr_decay linear, the scale falls to 0 over the second half of the steps.
    It rises again if a finished run continues with a larger --epoch.
    """
    if config.lr_decay == 'none':
        return 1.
    return min(1., 2 * (1 - step / config.last_step))


def target_class(config):
    """Return the number of the class that --label names, or None. Raise UserError if there is no such class."""
    label, names = config.label, config.class_names
    if not label:
        return None
    if not config.conditional:
        raise UserError(f'--label {label} requires a run with --conditional true: choose another run, or omit --label')
    if label in names:
        return names.index(label)
    if label.isascii() and label.isdigit() and int(label) < len(names):
        return int(label)
    choices = ', '.join(name if name == str(number) else f'{number} {name}' for number, name in enumerate(names))
    raise UserError(f'--label {label} is not a class: choose one of {choices}')
