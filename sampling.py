"""What a trained model is asked for: samples, grids, attention maps, scores. SAGAN is a Sampler that can be trained."""

import contextlib

import numpy as np

from datasets import load_dataset
from evaluation.metrics import compare
from explorer.snapshots import IMAGES, LayerMaps, make_snapshot
from ops import attention_layers, gammas_of, move
from options import UserError
from storage.run import checkpoint_steps, export_images
from tf1 import one_line, tf
from training.callbacks import WALKS, write_attention, write_explorer, write_grid, write_scores, write_walks
from utils import Stream, atomic_folder, draw_labels, draw_z, grid_size, make_folder, to_uint8

FIGURE_ROWS = 4  # images a layer of the figure of attention maps
SAMPLE_PIXELS = 512 * 28 * 28  # that one call makes when sampling
STATISTICS_BATCHES = 12  # of sample_batch images, to take the statistics of the averaged weights from


class Sampler:
    """The half of a SAGAN that samples: with the weights as trained, or with their moving average."""

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
            self.sigmas = {} if self.sn else None
            self.fake_images = self.generator(self.z, is_training=False, reuse=True, labels=self.z_labels)
            self.reset_statistics, self.move_statistics = tf.local_variables_initializer(), tf.no_op()
            if sampled:
                self.sigmas = sigmas = {} if self.sn else None
                with tf.name_scope('averages'):
                    images = self.generator(self.z, reuse=True, labels=self.z_labels)
                    self.move_statistics = move(sigmas, images.op)
        self.sigmas = {} if self.sn else None
        self.discriminator(self.inputs, is_training=False, reuse=True, labels=self.labels)
        layers = [layer for layer in attention_layers() if not layer.is_training]
        self.layers = {network: [layer for layer in layers if layer.name.startswith(f'{network}/')]
                       for network in ('generator', 'discriminator')}
        self.sampled_gammas = gammas_of(layers)
        self.stale = True  # whether the weights have changed since the statistics to sample with were taken

    def test(self, seed=0, checkpoint='latest'):
        """Write test_num grids of sample_num images, figures, and export single images.

        checkpoint: as in load; seed: of z, and the same gives the same files. Raises UserError where there is no
        checkpoint.
        """
        step = self.restore(checkpoint, seed)
        for number in range(self.test_num):
            write_grid(self.run, f'test_{number:03d}', self.sample, *self.draw_grid(seed, Stream.TEST_Z, number))
        write_walks(self.run, self.sample, self.draw_z(2 * WALKS, seed, Stream.WALK_Z), self.labels_of(WALKS))
        write_attention(self.run, step, self.attention_sections(self.draw_z(FIGURE_ROWS, seed, Stream.FIGURE_Z)))
        if self.sampled_gammas:
            write_explorer(self.run, self.note(0, step, self.real_images(IMAGES)))
        if self.export:
            z, labels = self.draw_z(self.export, seed, Stream.EXPORT_Z), self.labels_of(self.export)
            export_images(f'{self.run.results}/samples{self.run.variant}', self.pixels(z, labels), z, labels)
        what = 'Grids, figures and single images' if self.export else 'Grids and figures'
        print(f'{what} of step {step}, {self.sampled_weights} weights, are in\n{self.run.results}')

    def evaluate(self, seed=0, checkpoint='latest'):
        """Print and write the scores of eval_num images, beside those of the real test split, and the neighbours.

        checkpoint: as in load. Raises UserError where there is no checkpoint or no data set.
        """
        step = self.restore(checkpoint, seed)
        dataset = load_dataset(self.dataset_name, self.data_dir, self.image_shape)
        names = list(dataset.class_names)
        if self.conditional and self.class_names not in (names, [str(number) for number in range(len(names))]):
            raise UserError(f'{self.run.name} was trained on the classes {", ".join(self.class_names)}, and the data '
                            f'now have {", ".join(names) or "none"}: put them back')
        labels = self.labels_of(self.eval_num)
        images = self.pixels(self.draw_z(self.eval_num, seed, Stream.EVAL_Z), labels)
        generated, real, accuracy = compare(images, labels, self.dataset_name, dataset, self.checkpoint_dir)
        facts = {'step': step, 'weights': self.sampled_weights, 'seed': seed, 'dataset': self.dataset_name,
                 'eval_num': self.eval_num, 'classifier_accuracy': accuracy}
        write_scores(self.run, {**facts, 'generated': generated, 'real': real}, images, dataset)
        print(f'The scores and the nearest neighbours are in\n{self.run.results}')

    def export_model(self, checkpoint='latest'):
        """Write the generator as a SavedModel, from z [B, z_dim] and, in a conditional run, label [B] to images.

        checkpoint: as in load. It computes in float32. Raises UserError where there is no checkpoint.
        """
        step = self.restore(checkpoint)
        self.refresh_statistics()
        # Constants in a graph of their own: TensorFlow 2 loads the graph of this session with wrong statistics.
        frozen = tf.graph_util.convert_variables_to_constants(
            self.sess, self.sess.graph_def, [self.fake_images.op.name])
        names = {'z': self.z.name, 'label': self.z_labels.name} if self.conditional else {'z': self.z.name}
        folder = f'{self.run.results}/saved_model{self.run.variant}'
        with atomic_folder(folder) as part, tf.Graph().as_default() as graph, tf.Session() as sess:
            tf.import_graph_def(frozen, name='')
            describe = tf.saved_model.build_tensor_info
            signature = tf.saved_model.build_signature_def(
                {name: describe(graph.get_tensor_by_name(tensor)) for name, tensor in names.items()},
                {'images': describe(graph.get_tensor_by_name(self.fake_images.name))}, 'tensorflow/serving/predict')
            builder = tf.saved_model.Builder(part)
            builder.add_meta_graph_and_variables(sess, ['serve'], {'serving_default': signature})
            try:
                builder.save()
            except tf.errors.OpError as error:
                raise UserError(f'{folder} cannot be written ({one_line(error)}): free some space') from error
        print(f'The generator of step {step}, {self.sampled_weights} weights, is in\n{folder}')

    def restore(self, checkpoint, seed=0):
        """Restore a checkpoint to sample from, as load does -> its step. Raises UserError where it is not there.

        What is then written has another name for each of checkpoint, weights, label and seed that is not the default's.
        """
        found, step = self.load(checkpoint)
        if not found:
            there_is = ', '.join(map(str, checkpoint_steps(self.checkpoints.folder))) or 'none'
            raise UserError(f'no checkpoint {checkpoint} in {self.run.folder} (steps: {there_is}): choose one of '
                            'these, or train first; --eval_freq keeps the best')
        kind = {'latest': '', 'best': '_best'}.get(checkpoint, f'_step{checkpoint}')
        self.run.variant = kind + '_raw' * (self.weights == 'raw') + (f'_label{self.asked}' if self.label else '') + (
            f'_seed{seed}' if seed else '')
        make_folder(self.run.results)
        return step

    @property
    def sampled_weights(self):
        """Which weights are sampled: 'ema', the averages, or 'raw', also where what was loaded had no averages."""
        return self.weights if self.averages and self.loaded.averaged else 'raw'

    def draw_z(self, count, *key):
        """z [count, z_dim] of the run's distribution; the key: whole numbers on which it depends."""
        return draw_z(count, self.z_dim, *key, distribution=self.z_name)

    def labels_of(self, count):
        """The labels [count] to sample with: those of --label, or each class in turn; None unless conditional."""
        if not self.conditional:
            return None
        return np.full(count, self.asked) if self.label else np.arange(count) % self.classes

    def draw_grid(self, *key):
        """What a grid shows -> z, labels, (rows, columns); where it shows all classes, a row is one z as each class."""
        if not self.conditional or self.label:
            return self.draw_z(self.sample_num, *key), self.labels_of(self.sample_num), grid_size(self.sample_num)
        rows = -(-self.sample_num // self.classes)
        z = np.repeat(self.draw_z(rows, *key), self.classes, 0)
        return z, self.labels_of(len(z)), (rows, self.classes)

    def sample(self, z, labels=None):
        """z [N, z_dim] and labels [N], those of labels_of if None -> images [N, H, W, C] in [0, 1], one by one."""
        return np.concatenate(list(self.samples(z, labels)))

    def pixels(self, z, labels=None):
        """As sample, but as uint8, which takes a quarter of the memory."""
        pixels = np.empty([len(z), *self.image_shape], np.uint8)
        for number, images in enumerate(self.samples(z, labels)):
            pixels[number * self.sample_batch:][:len(images)] = to_uint8(images)
        return pixels

    def samples(self, z, labels):
        """The images of sample, a batch after the other."""
        labels = self.labels_of(len(z)) if labels is None else labels
        for start in range(0, len(z), self.sample_batch):
            part = slice(start, start + self.sample_batch)
            yield self.fetch(self.fake_images, z[part], labels if labels is None else labels[part])

    @property
    def sample_batch(self):
        """How many images one call makes when sampling: as many as have SAMPLE_PIXELS, to bound the memory."""
        height, width, _ = self.image_shape
        return max(1, min(512, SAMPLE_PIXELS // (height * width)))

    def fetch(self, fetches, z, labels=None):
        """Fetch what the graph for sampling makes of z [N, z_dim], with the statistics that go with the weights.

        labels [N]: those of labels_of if None.
        """
        labels = self.labels_of(len(z)) if labels is None else labels
        if self.stale:
            self.refresh_statistics()
        return self.sess.run(fetches, self.feed_of(z, labels))

    def feed_of(self, z, labels):
        """What to feed to sample from z [N, z_dim] and, in a conditional run, labels [N]."""
        return {self.z: z, self.z_labels: labels} if self.conditional else {self.z: z}

    def refresh_statistics(self):
        """Take the batch norms' statistics that go with the averaged weights from images that these make.

        They start at the average of the moving statistics, which belongs to many generators, not to the averaged one.
        Sampling does this by itself after load and train_batch; who changes weights otherwise calls it. What is trained
        and saved does not change by it.
        """
        self.sess.run(self.reset_statistics)
        for number in range(STATISTICS_BATCHES):
            z = self.draw_z(self.sample_batch, self.seed, Stream.STATISTICS_Z, number)
            labels = draw_labels(self.sample_batch, self.classes or 1, self.seed, Stream.STATISTICS_LABELS, number)
            self.sess.run(self.move_statistics, self.feed_of(z, labels))
        self.stale = False

    def attention_sections(self, z):
        """What draw_attention needs for the layers of attention_of's networks, on N images; z [N, z_dim]."""
        real = self.real_images(len(z))
        what = 'generated images' if real is None else 'real test images'
        titles = {'generator': 'Generator, on its own images', 'discriminator': f'Discriminator, on {what}'}
        sections = []
        for network, gamma, images, maps in self.looks(z, self.labels_of(len(z)), real):
            if self.attention_of in (network, 'both'):
                size = ', {} x {} positions'.format(*maps.shape[1:3]) if len(self.layers[network]) > 1 else ''
                sections.append((f'{titles[network]}{size} (gamma {gamma:.3f})', images, maps))
        return sections

    def real_images(self, count, dataset=None):
        """The first images [count, H, W, C] of the test split, in [0, 1]; None where there are not as many.

        dataset: as load_dataset has it, which is read if it is None.
        """
        with contextlib.suppress(UserError):
            dataset = dataset or load_dataset(self.dataset_name, self.data_dir, self.image_shape, most=count)
            if len(dataset.test[0]) >= count:
                return dataset.test[0][:count].astype(np.float32) / 255
        return None

    def looks(self, z, labels, real):
        """What each attention layer looks at -> [LayerMaps]: G's on what it makes of z [N, z_dim] and labels, D's on real
        images [N, H, W, C], or where these are None on what G makes.
        """
        maps = {network: [layer.map for layer in layers] for network, layers in self.layers.items()}
        generated, found = self.fetch([self.fake_images, maps['generator']], z, labels)
        images = {'generator': generated, 'discriminator': generated if real is None else real}
        found += self.sess.run(maps['discriminator'], {self.inputs: images['discriminator']})
        gammas = self.sess.run(list(self.sampled_gammas.values()))
        layers = [(network, layer) for network, layers in self.layers.items() for layer in layers]
        return [LayerMaps(network, gamma, images[network], beta.reshape(len(z), *layer.queries, *layer.keys))
                for (network, layer), gamma, beta in zip(layers, gammas, found, strict=True)]

    def note(self, epoch, step, real):
        """A note of where the layers look, for the page: G on the first of the z that training shows, D on real."""
        z = self.draw_z(-(-IMAGES // self.classes) if self.conditional else IMAGES, self.seed, Stream.FIXED_Z)
        labels = None
        if self.conditional:
            z, labels = np.repeat(z, self.classes, 0)[:IMAGES], np.arange(IMAGES) % self.classes
        return make_snapshot(self.looks(z, labels, real), epoch, step, real is not None)
