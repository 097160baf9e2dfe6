"""The command-line options, each declared once in OPTIONS, and what they define: parser, config and run name."""

import argparse
import dataclasses
import os
import re
import sys
from typing import Any, NamedTuple

from system import join_command

VERSION = '1.0'
GAN_TYPES = 'gan', 'lsgan', 'hinge', 'wgan-gp', 'wgan-lp', 'dragan', 'r1'
ATTENTION_BLOCKS = 'article', 'paper', 'none'
# The heights and widths that each network supports. A tuple lists the sides of square images.
IMAGE_SIZES = {'article': range(4, 1025, 4), 'dcgan': (32, 64, 128), 'resnet': (32, 64, 128)}
MAX_PIXELS = 512 ** 2 - 1  # at 512 x 512, the article's network has 2**31 weights in a layer, too many for TensorFlow
# (H, W, C) of the images of each built-in data set. By default, image folders are converted to FOLDER_SHAPE.
SHAPES = {'auto': (28, 28, 1), 'mnist': (28, 28, 1), 'fashion-mnist': (28, 28, 1), 'cifar10': (32, 32, 3),
          'cifar100': (32, 32, 3), 'digits': (28, 28, 1)}
FOLDER_SHAPE = 64, 64, 3
FEW_IMAGES = 5000  # with fewer training images, --augment auto means true


class UserError(Exception):
    """A mistake that the user can fix. The message is one line: what failed (cause): how to fix it."""


##################################################################################
# Types of options
##################################################################################

class OptionType(NamedTuple):
    """The values that an option accepts."""
    metavar: str  # as --help shows it
    description: str  # completes "'x' is not ..."
    parse: Any  # string -> value; raises ValueError for any other string


def integer(low, high=1000000):
    """Return the type of an integer from low to high, inclusive."""
    def parse_integer(text):
        if not re.fullmatch('[0-9]+', text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)
    return OptionType(f'{low}..{high}', f'an integer from {low} to {high}', parse_integer)


def multiple_of_8(low, high):
    """Return the type of a multiple of 8 from low to high, inclusive."""
    def parse_multiple(text):
        value = integer(low, high).parse(text)
        if value % 8:
            raise ValueError
        return value
    return OptionType(f'{low}..{high}', f'a multiple of 8 from {low} to {high}', parse_multiple)


def number(low, high):
    """Return the type of a number that is at least low and less than high."""
    def parse_number(text):
        if not text.isascii() or not low <= float(text) < high:
            raise ValueError
        return float(text)
    return OptionType(f'{low:g}..<{high:g}', f'a number that is at least {low:g} and less than {high:g}', parse_number)


def choice(*values):
    """Return the type of a choice among these words or integers."""
    by_text = {str(value): value for value in values}

    def parse_choice(text):
        if text not in by_text:
            raise ValueError
        return by_text[text]
    return OptionType(f'{{{",".join(by_text)}}}', f'one of {", ".join(by_text)}', parse_choice)


def matching(metavar, description, pattern):
    """Return the type of a string that matches a regular expression from start to end."""
    def parse_text(text):
        if not re.fullmatch(pattern, text):
            raise ValueError
        return text
    return OptionType(metavar, description, parse_text)


def checkpoint_path(metavar, description, separator):
    """Return the type of a path that TensorFlow does not read as a pattern.

    Args:
        separator: that of the operating system. On Windows, TensorFlow reads a backslash as a separator.
    """
    if separator == '\\':
        return matching(metavar, f'{description} (the characters []*? are not allowed)', r'[^][*?\0]+')
    return matching(metavar, f'{description} (the characters []*?\\ are not allowed)', r'[^][*?\\\0]+')


def parse_boolean(text):
    """Return True for true and False for false, in upper or lower case."""
    return choice('true', 'false').parse(text.lower()) == 'true'


def parse_auto_or_boolean(text):
    """Return 'auto', or a boolean as parse_boolean does."""
    return text if text == 'auto' else parse_boolean(text)


def parse_attention(text):
    """Return the name of an attention block. For older commands, true stands for article and false for none."""
    name = {'true': 'article', 'false': 'none'}.get(text.lower(), text)
    return choice(*ATTENTION_BLOCKS).parse(name)


def parse_checkpoint(text):
    """Return 'latest', 'best' or the number of a step."""
    if text in ('latest', 'best'):
        return text
    return integer(0, 10**12).parse(text)


def parse_dataset(text, separator=os.sep):
    """Return the name or the path of a data set, without trailing slashes.

    Args:
        separator: that of the operating system. The returned path has forward slashes, which Windows also accepts.
    """
    name = text.replace(separator, '/').rstrip('/')
    is_hidden = name.startswith('.') and '/' not in name
    if not name.isprintable() or is_hidden or not 0 < len(last_component(name)) <= 100:
        raise ValueError
    return name


BOOLEAN = OptionType('{true,false}', 'true or false', parse_boolean)
AUTO_OR_BOOLEAN = OptionType('{auto,true,false}', 'auto, true or false', parse_auto_or_boolean)
ATTENTION = OptionType(choice(*ATTENTION_BLOCKS).metavar,
                       f'one of {", ".join(ATTENTION_BLOCKS)}, true (article) or false (none)', parse_attention)
DATASET = OptionType(choice(*SHAPES, 'NAME').metavar,
                     f'{", ".join(SHAPES)}, the name of a data set in --data_dir, or a path', parse_dataset)
CHECKPOINT = OptionType('{latest,best,STEP}', 'latest, best or a step', parse_checkpoint)
CHECKPOINT_FOLDER = checkpoint_path('FOLDER', 'the name of a folder', os.sep)
SOURCE = checkpoint_path('RUN', 'a run or a path', os.sep)
FOLDER = matching('FOLDER', 'the name of a folder', r'[^\0]+')
FILE = matching('FILE', 'the name of a file', r'[^\0]+')
FEATURES = FILE._replace(metavar='FILE[:INPUT:OUTPUT]')
ONE_NAME = r'(?!classifier_)[A-Za-z0-9][A-Za-z0-9._-]{0,254}'  # longer names are not valid folder names
RUN_NAME = matching('NAME', 'a name of at most 255 letters, digits, dots, underscores and hyphens that starts with a '
                    'letter or digit, but not with classifier_', f'{ONE_NAME}(,{ONE_NAME})*')

##################################################################################
# The options
##################################################################################


class Option(NamedTuple):
    """An option. On the command line, it is --<name>, without a trailing _name. The code reads config.<name>."""
    name: str
    default: Any
    type: OptionType
    group: str  # of --help
    help: str
    suffixes: Any = {}  # of the run's name, {value: suffix}; the suffix of other values is _<name><value>


EARLIER_FLAGS = {'--patience': 'timeout'}
GROUPS = 'run', 'network', 'objective', 'data', 'output', 'several workers'

# By role:
# command   concerns one command and is not saved with the run
# identity  begins the run's name
# training  changes what is trained; part of the run's name unless it has the article's value
# schedule  may change when a run resumes
# sampling  may change when a trained run is sampled
# location  names a folder
OPTIONS = {
    'command': [
        Option('phase', 'train', choice('train', 'test', 'eval', 'export', 'compare'), 'run',
               'train, draw samples, compute scores, export a SavedModel and a playground, or compare runs'),
        Option('from_name', '', SOURCE, 'run',
               'start the new run --name from another run, given by name, folder, or path of a checkpoint'),
        Option('checkpoint', 'latest', CHECKPOINT, 'run',
               'checkpoint that test, eval, export and --from restore; best is the one with the smallest Fréchet '
               'distance (see --eval_freq)'),
        Option('recipe', 'article', choice('article', 'fast', 'paper'), 'run',
               "defaults of other options: the article's, those that train fastest, or the paper's (listed in "
               'docs/options.md)'),
        Option('features', '', FEATURES, 'output',
               'network whose features eval compares, instead of those of the classifier: a frozen graph or a '
               'SavedModel, for example the Inception graph of the original FID'),
        Option('reference', '', FILE, 'output',
               'npz file with the mean mu and covariance sigma of the features to compare with, instead of those of '
               'the training split; requires --features'),
        Option('sample_seed', 0, integer(0, 2**31 - 1), 'run', 'seed of the z that test and eval draw'),
        Option('workers', 1, integer(1, 64), 'several workers', 'processes on this machine that train together'),
        Option('timeout', 60, integer(1, 86400), 'several workers',
               'seconds without a heartbeat after which a worker is considered lost')],
    'identity': [
        Option('dataset_name', 'auto', DATASET, 'data',
               'auto is mnist if it is present or can be downloaded, else the built-in digits; NAME is your own data '
               'in --data_dir, or a path'),
        Option('batch_size', 64, integer(1), 'data', 'images per batch, shared by all workers'),
        Option('z_dim', 62, integer(1), 'network', 'length of the noise vector')],
    'training': [
        Option('precision', 'float32', choice('float32', 'bfloat16'), 'network',
               'number format of convolutions and matrix products; bfloat16 is faster on processors that support it',
               {'bfloat16': '_bfloat16'}),
        Option('attention', 'article', ATTENTION, 'network', "attention block: the article's, the paper's, or none",
               {'none': '_noattention'}),
        Option('g_lr', 0.001, number(1e-9, 1), 'objective', 'learning rate of the generator'),
        Option('d_lr', 0.0002, number(1e-9, 1), 'objective', 'learning rate of the discriminator'),
        Option('beta1', 0.5, number(0, 1), 'objective', "decay rate of Adam's first moment"),
        Option('lr_decay', 'none', choice('none', 'linear'), 'objective',
               'linear: both learning rates decay to zero over the second half of the steps'),
        Option('seed', 0, integer(0, 2**31 - 1), 'run', 'seed of all random numbers in training'),
        Option('gan_type', 'gan', choice(*GAN_TYPES), 'objective', 'objective of both networks'),
        Option('ld', 10., number(0, 1e6), 'objective',
               'weight of the gradient penalty of wgan-gp, wgan-lp, dragan and r1'),
        Option('n_critic', 1, integer(1, 1000), 'objective', 'discriminator updates per generator update'),
        Option('beta2', 0.999, number(0, 1), 'objective', "decay rate of Adam's second moment"),
        Option('z_name', 'uniform', choice('uniform', 'normal'), 'network', 'distribution of z',
               {'normal': '_znormal'}),
        Option('sn', False, BOOLEAN, 'network', 'spectral normalization of both networks', {True: '_sn'}),
        Option('conditional', False, BOOLEAN, 'network', 'condition both networks on the class',
               {True: '_conditional'}),
        Option('network', 'article', choice(*IMAGE_SIZES), 'network',
               "the article's network, the DCGAN-like one, or the paper's ResNet; dcgan and resnet change the defaults "
               'of other options (listed in docs/options.md)',
               {'dcgan': '_dcgan', 'resnet': '_resnet'}),
        Option('ch', 64, multiple_of_8(8, 1024), 'network',
               'base number of channels of dcgan and resnet, a multiple of 8'),
        Option('img_size', 0, integer(0, 508), 'data',
               "height and width in pixels; 0 means the data set's own size, 64 for image folders"),
        Option('c_dim', 0, choice(0, 1, 3), 'data',
               "channels; 0 means the data set's own number, 3 for image folders"),
        Option('flip', False, BOOLEAN, 'data', 'mirror each image with probability 1/2', {True: '_flip'}),
        Option('augment', 'auto', AUTO_OR_BOOLEAN, 'data',
               'augment all images that D sees (colour, translation, cutout); auto is true for fewer than '
               f'{FEW_IMAGES} training images',
               {True: '_augment', False: ''})],
    'schedule': [
        Option('epoch', 20, integer(1), 'run', 'epochs; a larger number continues a finished run'),
        Option('iteration', 0, integer(0), 'run', 'steps per epoch; 0 means one pass over the data'),
        Option('ema', 0.999, number(0, 1), 'objective',
               "decay of the moving average of the generator's weights; 0 turns it off"),
        Option('print_freq', 50, integer(1), 'output', 'steps between printed losses'),
        Option('sample_freq', 300, integer(1), 'output', 'steps between sample grids'),
        Option('save_freq', 1000, integer(1), 'output', 'steps between checkpoints'),
        Option('keep', 3, integer(1, 1000), 'output', 'number of newest checkpoints to keep'),
        Option('eval_freq', 0, integer(0), 'output', 'epochs between evaluations during training; 0 turns them off')],
    'sampling': [
        Option('weights', 'ema', choice('ema', 'raw'), 'output',
               'weights to sample with: their moving average, or the raw weights'),
        Option('label', '', matching('CLASS', 'the number or the name of a class', r'[^\0-\x1f]+'), 'output',
               'the class that test and eval sample from a conditional run, by number or name'),
        Option('sample_num', 64, integer(1), 'output', 'images per grid; rounded up to whole rows of classes'),
        Option('test_num', 10, integer(1), 'output', 'grids that test writes'),
        Option('attention_of', 'both', choice('generator', 'discriminator', 'both'), 'output',
               'network whose attention maps test draws'),
        Option('export', 0, integer(0), 'output', 'single images that test writes'),
        Option('eval_num', 10000, integer(1), 'output', 'images that eval scores')],
    'location': [
        Option('name', '', RUN_NAME, 'run',
               "name of the run's folder, by default derived from the options; compare accepts A,B,C"),
        Option('data_dir', 'data', FOLDER, 'data', 'folder of the data sets'),
        Option('checkpoint_dir', 'checkpoint', CHECKPOINT_FOLDER, 'output', 'folder of the checkpoints'),
        Option('result_dir', 'results', FOLDER, 'output', 'folder of the sample grids and figures'),
        Option('log_dir', 'logs', FOLDER, 'output', 'folder of the TensorBoard summaries')]}


def options_of(*roles):
    """Return the names of the options that have one of these roles."""
    return [option.name for role in roles for option in OPTIONS[role]]


ALL = {option.name: option for role in OPTIONS.values() for option in role}
DEFAULTS = {name: option.default for name, option in ALL.items()}
SAVED = options_of('identity', 'training', 'schedule', 'sampling', 'location')  # in config.json
# Defaults of options that neither the user nor config.json sets. No option of a run is auto.
ARTICLE = {**{name: ALL[name].default for name in SAVED}, 'dataset_name': 'mnist', 'augment': False}

# What config.json and a Config hold besides options.
DATASET_METADATA = 'image_shape', 'class_names', 'class_counts', 'images', 'reading', 'digest'
SOURCE_METADATA = 'source', 'source_step', 'previous_steps'

# The defaults that a network or a recipe changes. A recipe takes precedence over its network.
PAPER = {'gan_type': 'hinge', 'sn': True, 'attention': 'paper', 'g_lr': 0.0001, 'd_lr': 0.0004, 'beta1': 0.,
         'beta2': 0.9, 'z_dim': 128, 'z_name': 'normal'}
# The default learning rates of dcgan, for which None stands: see resolve_rates.
SMALL_IMAGE_RATES = {'g_lr': 0.001, 'd_lr': 0.004}  # 32 pixels
LARGE_IMAGE_RATES = {'g_lr': 0.0005, 'd_lr': 0.002}  # 64 and 128 pixels
NETWORK_DEFAULTS = {'dcgan': {**PAPER, 'g_lr': None, 'd_lr': None}, 'resnet': PAPER}
# conditional None means true if the data set has classes. img_size None means the data set's own size. If a side is
# shorter than 32 pixels, img_size None means the longer side, but at least 32.
RECIPES = {
    'article': {},
    'paper': {**PAPER, 'network': 'resnet', 'conditional': None, 'img_size': None},
    'fast': {'network': 'dcgan', 'ch': 32, 'attention': 'none', 'gan_type': 'gan', 'sn': False, 'g_lr': 0.0045,
             'd_lr': 0.0022, 'beta1': 0., 'beta2': 0.99, 'z_dim': 62, 'z_name': 'uniform', 'batch_size': 128,
             'lr_decay': 'linear', 'ema': 0.995, 'epoch': 1, 'iteration': 1200, 'precision': 'bfloat16',
             'conditional': None, 'img_size': None}}


def flag(name):
    """Return an option as it is written on the command line."""
    return '--' + name.removesuffix('_name')


def as_typed(value):
    """Return a value as it is written on the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def command_line(options):
    """Return the command that runs this program with these options, {option: value}."""
    words = [word for name, value in options.items() for word in (flag(name), as_typed(value))]
    return join_command([sys.executable.removeprefix(os.getcwd() + os.sep), sys.argv[0], *words])


##################################################################################
# The command line
##################################################################################

DESCRIPTION = '''Self-Attention GAN. Train on MNIST, then draw samples:

  python main.py --phase train
  python main.py --phase test'''


def parse(arguments=None):
    """Parse a command line and return the options given on it, {option: value}.

    Args:
        arguments: a list of words, or None for the command line of this program. If the list is empty or contains
            --help, the usual commands and all options are printed, and the program exits. If it contains --version,
            the version is printed, and the program exits.

    Raises:
        UserError: if an option is unknown or does not accept its value.
    """
    def refuse(message):
        raise UserError(message)

    parser = argparse.ArgumentParser(
        usage='python main.py --phase PHASE [--OPTION VALUE ...]', description=DESCRIPTION, allow_abbrev=False,
        argument_default=argparse.SUPPRESS, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = refuse
    parser.add_argument('--version', action='version', version=f'SAGAN-tensorflow {VERSION}',
                        help='print the version and exit')
    groups = {group: parser.add_argument_group(group) for group in GROUPS}
    for option in ALL.values():
        default = '' if option.default == '' else f' (default: {as_typed(option.default)})'
        groups[option.group].add_argument(flag(option.name), dest=option.name, metavar=option.type.metavar,
                                          type=argument_type(option), help=option.help + default)
    for words, name in EARLIER_FLAGS.items():
        parser.add_argument(words, dest=name, type=argument_type(ALL[name]), help=argparse.SUPPRESS)
    if arguments is None:
        arguments = sys.argv[1:]
    namespace, unknown = parser.parse_known_args(arguments or ['--help'])
    if unknown:
        import difflib  # not needed otherwise, and --help must be fast
        similar = difflib.get_close_matches(unknown[0], map(flag, ALL), 1)
        advice = f'did you mean {similar[0]}?' if similar else '--help lists the options'
        raise UserError(f'unrecognised arguments: {" ".join(unknown)}: {advice}')
    typed = vars(namespace)
    for name, value in typed.items():
        if isinstance(value, list):  # argparse's result for --option=--
            raise UserError(f'argument {flag(name)}: expected one argument')
    return typed


def value_of(typed, name):
    """Return the value of an option on the command line, or else its default.

    Args:
        typed: the options given on the command line, as parse returns them.
    """
    return typed.get(name, DEFAULTS[name])


def argument_type(option):
    """Return a function that parses the value of an option and raises the error that argparse expects."""
    def parse_text(text):
        try:
            return option.type.parse(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f'{text!r} is not {option.type.description}') from None
    return parse_text


##################################################################################
# The config
##################################################################################

@dataclasses.dataclass(frozen=True)  # otherwise the class would accept new attributes
class Config(dataclasses.make_dataclass('Values', [*SAVED, *DATASET_METADATA, *SOURCE_METADATA], frozen=True)):
    """The saved options of a run, and the metadata of its data set and of the run that it started from.

    Metadata of the data set:
        image_shape: (H, W, C).
        class_names: a tuple, empty if there are no classes.
        class_counts: number of training images of each class; empty if unknown.
        images: size of the training split, or None if unknown.
        reading: a tuple, see datasets.dataset.Dataset.
        digest: a hash of the training split, or None if unknown.

    Metadata of the run that this run started from:
        source: the folder of the run that --from named, or None without --from.
        source_step: the step of its checkpoint, or None without --from.
        previous_steps: number of earlier steps that count towards the warm-up of the moving average.

    A Config is immutable: dataclasses.replace(config, epoch=3) returns a changed copy.
    """

    @property
    def num_classes(self):
        """The number of classes, or 0 if the data set has no classes."""
        return len(self.class_names)

    @property
    def label_counts(self):
        """The class counts that generated labels follow: equal counts if class_counts is unknown."""
        return self.class_counts or self.num_classes * (1,)

    @property
    def steps_per_epoch(self):
        """The number of generator updates per epoch. Requires images unless iteration is set."""
        if self.iteration > 0:
            return self.iteration
        return max(1, self.images // self.batch_size // self.n_critic)

    @property
    def last_step(self):
        """The step at which training ends. The first step is 1."""
        return self.epoch * self.steps_per_epoch


def resolve(typed, inherited=None):
    """Return the options of a run, {option: value}.

    A value comes from the command line, else from the recipe, else from inherited, else from the network's defaults.
    img_size, g_lr and d_lr may be None, which resolve_shape resolves. conditional may be None, which make_config
    resolves. augment may be auto, which storage.branch.resolve_augment resolves.

    Args:
        typed: the options given on the command line, as parse returns them.
        inherited: options of the run that is resumed, or that the new run starts from.
    """
    options = {**(inherited or {}), **RECIPES[value_of(typed, 'recipe')],
               **{name: value for name, value in typed.items() if name in SAVED}}
    return {**defaults_of(options), **{name: DEFAULTS[name] for name in ('dataset_name', 'augment')}, **options}


def defaults_of(options):
    """Return the defaults of all saved options, {option: value}: the article's, changed by the network in options."""
    return {**ARTICLE, **NETWORK_DEFAULTS.get(options.get('network'), {})}


def resolve_shape(options, native_shape):
    """Return options with None for img_size, g_lr and d_lr replaced by numbers.

    If img_size or c_dim equals the data set's own value, it becomes 0.

    Args:
        options: as resolve returns them.
        native_shape: (H, W, C) of the images of the data set.
    """
    height, width, channels = native_shape
    changes = {}
    if options['img_size'] is None:
        changes['img_size'] = 0 if min(height, width) >= 32 else max(32, height, width)
    if options['img_size'] == height == width:
        changes['img_size'] = 0
    if options['c_dim'] == channels:
        changes['c_dim'] = 0
    options = {**options, **changes}
    return resolve_rates(options, shape_of(options, native_shape))


def resolve_rates(options, image_shape):
    """Return options with None for g_lr and d_lr replaced by dcgan's defaults, which are lower above 32 pixels.

    docs/networks.md compares them with other rates.

    Args:
        options: as resolve or complete_options returns them.
        image_shape: (H, W, C) of the run's images.
    """
    if options['network'] != 'dcgan':
        return options
    rates = LARGE_IMAGE_RATES if image_shape[0] > 32 else SMALL_IMAGE_RATES
    return {**options, **{name: rate for name, rate in rates.items() if options[name] is None}}


def known_options(typed):
    """Return the identity and training options that the command line or its recipe sets, {option: value}.

    Values that depend on the data set, such as auto, are left out.
    """
    options = {**RECIPES[value_of(typed, 'recipe')], **typed}
    return {name: options[name] for name in options_of('identity', 'training')
            if options.get(name) not in (None, 'auto')}


def complete_options(options):
    """Return all saved options, {option: value}. Options that are not given have the defaults of the network.

    For dcgan, g_lr and d_lr may be None, which resolve_rates resolves.

    Args:
        options: {option: value}. Names may lack a trailing _name, as on the command line.

    Raises:
        TypeError: if an option is unknown.
    """
    names = {flag(name)[2:]: name for name in SAVED}
    options = {names.get(name, name): value for name, value in options.items()}
    unknown = sorted(set(options) - set(SAVED))
    if unknown:
        raise TypeError(f'SAGAN has no option {", ".join(unknown)}; its options are {", ".join(SAVED)}')
    return {**defaults_of(options), **{name: normalized(name, value) for name, value in options.items()}}


def make_config(options, image_shape=None, class_names=(), images=None, class_counts=(), reading=()):
    """Return the Config of a run.

    Args:
        options: as complete_options returns them, with numbers for g_lr and d_lr. If conditional is None, it becomes
            true if there are classes.
        image_shape: (H, W, C), or None for the shape of a built-in data set or of an image folder.
        class_names: names of the classes.
        images: number of training images, or None.
        class_counts: number of training images of each class; empty if unknown.
        reading: see datasets.dataset.Dataset.
    """
    if image_shape is None:
        image_shape = shape_of(options, default_shape(options['dataset_name']))
    if options['conditional'] is None:
        options = {**options, 'conditional': len(class_names) > 0}
    return Config(**options, image_shape=tuple(image_shape), class_names=tuple(class_names),
                  images=images, class_counts=tuple(class_counts), reading=tuple(reading), digest=None, source=None,
                  source_step=None, previous_steps=0)


def normalized(name, value):
    """Convert a value to the type of its option.

    An integer becomes a float if the option is a float. A bool for attention becomes the name of a block. A label
    becomes a string. auto for augment becomes false, because only main.py counts the images.
    """
    if name == 'label':
        return str(value)
    if name == 'augment' and value == 'auto':
        return ARTICLE['augment']
    if name == 'attention' and isinstance(value, bool):
        return parse_attention(as_typed(value))
    if isinstance(value, int) and not isinstance(value, bool) and isinstance(ALL[name].default, float):
        return float(value)
    return value


def default_shape(dataset_name):
    """Return the native shape (H, W, C) of a built-in data set, or that of an image folder for any other name."""
    return SHAPES.get(dataset_name, FOLDER_SHAPE)


def shape_of(options, native_shape):
    """Return the shape (H, W, C) of a run's images. native_shape is that of its data set."""
    height, width, channels = native_shape
    if options['img_size'] > 0:
        height = width = options['img_size']
    if options['c_dim'] > 0:
        channels = options['c_dim']
    return height, width, channels


def check_image_size(network, height, width):
    """Raise UserError if a network does not support images of this size."""
    sizes = IMAGE_SIZES[network]
    must_be_square = isinstance(sizes, tuple)
    if must_be_square:
        supported = height == width and height in sizes
        requirement = f'square images of {" or ".join(map(str, sizes))} pixels'
    else:
        supported = height in sizes and width in sizes and height * width <= MAX_PIXELS
        requirement = f'a height and width that are multiples of {sizes.step}, and fewer than 512 x 512 pixels'
    if not supported:
        raise UserError(f'--network {network} requires {requirement}, not {height} x {width}: choose another '
                        '--img_size or --network')


def check_worker_share(batch_size, workers):
    """Raise UserError if workers cannot share a batch evenly."""
    if batch_size % workers:
        raise UserError(f'{workers} workers cannot share --batch_size {batch_size} evenly: choose a multiple of '
                        f'{workers}')


##################################################################################
# The run
##################################################################################

def as_folder(text):
    """Return text with underscores in place of the characters that TensorFlow reads as a pattern in a path."""
    return re.sub(r'[][*?\\]', '_', text)


def last_component(dataset_name):
    """Return the last component of the name or path of a data set, without .npz or .zip."""
    return dataset_name.split('/')[-1].removesuffix('.npz').removesuffix('.zip')


def run_name(options):
    """Return the name of a run's folder.

    Runs with different training options have different names, unless the values agree to six significant digits. Two
    data sets whose paths have the same last component share a name.
    """
    if options['name']:
        return options['name']
    dataset = last_component(options['dataset_name'])
    name = as_folder(f'SAGAN_{dataset}_{options["batch_size"]}_{options["z_dim"]}')
    for option in OPTIONS['training']:
        value = options[option.name]
        if value != option.default:
            text = value if isinstance(value, str) else f'{value:g}'
            name += option.suffixes.get(value, f'_{option.name}{text}')
    return name


def check_saved_options(values, path):
    """Check the values of a config.json and split them into options and metadata.

    Returns:
        ({option: value}, {key: value} of everything else).

    Raises:
        UserError: if an option does not accept its value.
    """
    options = {name: value for name, value in values.items() if name in SAVED}
    if 'attention' in options:
        options['attention'] = normalized('attention', options['attention'])
    for name, value in options.items():
        if name in ('label', 'name') and value == '':
            continue
        try:
            valid = ALL[name].type.parse(str(value)) == value
        except ValueError:
            valid = False
        if not valid:
            raise UserError(f'{path}: {name} is {value!r}, which is not {ALL[name].type.description}: correct it')
    return options, {name: value for name, value in values.items() if name not in SAVED}


##################################################################################
# The documentation page
##################################################################################

def options_page():
    """Return the text of docs/options.md. Update the file with: python options.py > docs/options.md"""
    lines = ['# Options', '', 'This page is generated from [options.py](../options.py): `python options.py > '
             'docs/options.md`. `0..5` includes 5, and `0..<5` does not.']
    for group in GROUPS:
        lines += ['', f'## {group.capitalize()}', '', '| option | default | values | description |',
                  '|---|---|---|---|']
        for option in ALL.values():
            if option.group == group:
                default = f'`{as_typed(option.default)}`' if option.default != '' else ''
                lines.append(f'| `{flag(option.name)}` | {default} | `{option.type.metavar}` | {option.help} |')
    return '\n'.join([*lines, '', *defaults_table()]) + '\n'


def defaults_table():
    """Return the lines of the table of the defaults that networks and recipes change."""
    columns = {f'--network {name}': values for name, values in NETWORK_DEFAULTS.items()}
    columns |= {f'--recipe {name}': values for name, values in RECIPES.items() if values}
    small, large = SMALL_IMAGE_RATES, LARGE_IMAGE_RATES
    lines = ['## Networks and recipes', '',
             'These networks and recipes change the defaults of other options. In this table, `auto` is not a value',
             'that you can pass. For `--conditional`, it means true if the data set has classes. For `--img_size`, it',
             "means the data set's own size, but at least 32. For `--g_lr`, it means",
             f"{small['g_lr']} for images of 32 pixels and {large['g_lr']} for larger images. For `--d_lr`, it means",
             f"{small['d_lr']} and {large['d_lr']}.", '',
             f'| option | default | {" | ".join(f"`{words}`" for words in columns)} |',
             '|---' * (2 + len(columns)) + '|']
    for option in ALL.values():
        if any(option.name in values for values in columns.values()):
            cells = [option.default, *(values.get(option.name, '') for values in columns.values())]
            texts = ['auto' if value is None else as_typed(value) for value in cells]
            lines.append(f'| `{flag(option.name)}` | {" | ".join(texts)} |')
    return lines


if __name__ == '__main__':
    print(options_page(), end='')
