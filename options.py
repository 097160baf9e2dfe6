"""Every option once, in OPTIONS, and what follows from it: the parser, the run's name, what config.json may hold."""

import argparse
import re
from typing import Any, NamedTuple


class UserError(Exception):
    """Something that the user can put right: its text is one line that says what is wrong and what to do."""


##################################################################################
# What an option takes
##################################################################################

class Kind(NamedTuple):
    """What an option takes: as --help shows it, as an error tells it, and text -> value or ValueError."""
    shown: str
    told: str
    read: Any


def whole(low, high=1000000):
    """A whole number from low to high."""
    def read(text):
        if not re.fullmatch('[0-9]+', text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)
    return Kind(f'{low}..{high}', f'a whole number from {low} to {high}', read)


def eights(low, high):
    """A multiple of 8 from low to high."""
    def read(text):
        if whole(low, high).read(text) % 8:
            raise ValueError
        return int(text)
    return Kind(f'{low}..{high}', f'a multiple of 8 from {low} to {high}', read)


def real(low, high):
    """A number from low up and below high."""
    def read(text):
        if not text.isascii() or not low <= float(text) < high:
            raise ValueError
        return float(text)
    return Kind(f'{low:g}..{high:g}', f'a number from {low:g} up and below {high:g}', read)


def one_of(*choices):
    """One of these words or numbers."""
    values = {str(choice): choice for choice in choices}

    def read(text):
        if text not in values:
            raise ValueError
        return values[text]
    return Kind(f'{{{",".join(values)}}}', f'one of {", ".join(values)}', read)


def matching(shown, told, pattern):
    """A text that matches a pattern as a whole."""
    def read(text):
        if not re.fullmatch(pattern, text):
            raise ValueError
        return text
    return Kind(shown, told, read)


def read_truth(text):
    return one_of('true', 'false').read(text.lower()) == 'true'


def read_attention(text):
    return {'true': 'article', 'false': 'none'}.get(text.lower()) or one_of('article', 'paper', 'none').read(text)


def read_checkpoint(text):
    return text if text in ('latest', 'best') else whole(0, 10**12).read(text)


def read_dataset(text):
    if not text.isprintable() or text.startswith('.') or not 0 < len(text) <= 100 or '/' in text:
        raise ValueError
    return text


TRUTH = Kind('{true,false}', 'true or false', read_truth)
ATTENTION = Kind('{article,paper,none}', 'one of article (or true), paper, none (or false)', read_attention)
DATASET = Kind('{auto,mnist,fashion-mnist,cifar10,digits,FOLDER}', 'auto, mnist, fashion-mnist, cifar10, digits, or '
               'the name of one folder of pictures in --data_dir', read_dataset)
CHECKPOINT = Kind('{latest,best,STEP}', 'latest, best, or a step', read_checkpoint)
CHECKPOINTS = matching('FOLDER', 'the name of a folder without any of []*?\\', r'[^][*?\\\0]+')
FOLDER = matching('FOLDER', 'the name of a folder', r'[^\0]+')
RUN = matching('NAME', 'a name of at most 100 letters, digits and ._- that begins with a letter or digit, and not with '
               'classifier_', r'(?!classifier_)[A-Za-z0-9][A-Za-z0-9._-]{0,99}')

##################################################################################
# The table
##################################################################################


class Option(NamedTuple):
    """An option: typed as --name, where a trailing _name is left out, and an attribute of SAGAN."""
    name: str
    default: Any
    takes: Kind
    group: str  # of --help
    help: str
    suffixes: Any = {}  # of the run's name, {value: suffix}; else it is _<name><value>


# The heights and widths that each network takes; where they are counted up, images are squares.
SIZES = {'article': range(4, 1025, 4), 'dcgan': (32, 64, 128), 'resnet': (32, 64, 128)}
MOST_PIXELS = 512 ** 2 - 1  # with more, a layer of the article's network has 2**31 weights, too many for TensorFlow
GROUPS = 'run', 'network', 'objective', 'data', 'output', 'several machines'

# By their role: what is for one command alone, and SAGAN does not know; what names a run; what trains it otherwise, and
# stands in its name where it is not the article's; what plans it, and may change when it goes on; what a sample may
# take otherwise than its run; and where files lie.
OPTIONS = {
    'commands': [
        Option('phase', 'train', one_of('train', 'test', 'eval', 'export'), 'run',
               'train, sample what was trained, score it, or write it as a SavedModel'),
        Option('checkpoint', 'latest', CHECKPOINT, 'run',
               'what test, eval and export restore; best is what --eval_freq kept'),
        Option('recipe', 'article', one_of('article', 'paper'), 'run',
               "defaults of other options: the article's, or the paper's network, objective, attention, spectral "
               'normalization, classes, rates and z'),
        Option('sample_seed', 0, whole(0, 2**31 - 1), 'run', 'seed of the z that test and eval draw'),
        Option('workers', 1, whole(1, 64), 'several machines', 'processes on this machine that train together'),
        Option('patience', 60, whole(1, 86400), 'several machines', 'seconds to wait for a worker that does not come')],
    'names': [
        Option('dataset_name', 'auto', DATASET, 'data',
               'auto is mnist where it is at hand or can be downloaded, else built-in digits; FOLDER: own pictures'),
        Option('batch_size', 64, whole(1), 'data', 'images a step'),
        Option('z_dim', 62, whole(1), 'network', 'length of the noise vector')],
    'trains': [
        Option('precision', 'float32', one_of('float32', 'bfloat16'), 'network',
               'number format of the heavy operations; bfloat16 is faster where the processor has it',
               {'bfloat16': '_bfloat16'}),
        Option('attention', 'article', ATTENTION, 'network', "the article's layer, the paper's, or none",
               {'none': '_noattention'}),
        Option('g_lr', 0.001, real(1e-9, 1), 'objective', "the generator's learning rate"),
        Option('d_lr', 0.0002, real(1e-9, 1), 'objective', "the discriminator's learning rate"),
        Option('beta1', 0.5, real(0, 1), 'objective', "Adam's decay of the mean gradient"),
        Option('lr_decay', 'none', one_of('none', 'linear'), 'objective',
               'linear lets both learning rates fall to zero over the second half of the steps'),
        Option('seed', 0, whole(0, 2**31 - 1), 'run', 'seed of all random numbers of a training'),
        Option('gan_type', 'gan', one_of('gan', 'lsgan', 'hinge', 'wgan-gp', 'wgan-lp', 'dragan'), 'objective',
               'what D and G minimise'),
        Option('ld', 10., real(0, 1e6), 'objective', 'weight of the gradient penalty of wgan-gp, wgan-lp and dragan'),
        Option('n_critic', 1, whole(1, 1000), 'objective', "updates of D for each of G's"),
        Option('beta2', 0.999, real(0, 1), 'objective', "Adam's decay of the mean square of the gradient"),
        Option('z_name', 'uniform', one_of('uniform', 'normal'), 'network', 'what z is drawn from',
               {'normal': '_znormal'}),
        Option('sn', False, TRUTH, 'network', 'spectral normalization of both networks', {True: '_sn'}),
        Option('conditional', False, TRUTH, 'network', 'whether both networks know the classes',
               {True: '_conditional'}),
        Option('network', 'article', one_of(*SIZES), 'network',
               "the article's, the DCGAN-like one, or the paper's", {'dcgan': '_dcgan', 'resnet': '_resnet'}),
        Option('ch', 64, eights(8, 1024), 'network', 'channels of which those of dcgan and resnet are multiples'),
        Option('img_size', 0, whole(0, 508), 'data', "pixels a side; 0 is the data set's own, of own pictures 64"),
        Option('c_dim', 0, one_of(0, 1, 3), 'data', "channels; 0 is the data set's own, of own pictures 3"),
        Option('flip', False, TRUTH, 'data', 'mirror half of the images of a batch', {True: '_flip'})],
    'plans': [
        Option('epoch', 20, whole(1), 'run', 'epochs; a larger number continues a finished run'),
        Option('iteration', 0, whole(0), 'run', 'steps an epoch; 0 is a whole pass through the data'),
        Option('ema', 0.999, real(0, 1), 'objective', "decay of the average of the generator's weights; 0 is none"),
        Option('print_freq', 50, whole(1), 'output', 'steps between two lines of losses'),
        Option('sample_freq', 300, whole(1), 'output', 'steps between two grids'),
        Option('save_freq', 1000, whole(1), 'output', 'steps between two checkpoints'),
        Option('keep', 3, whole(1, 1000), 'output', 'newest checkpoints that stay'),
        Option('eval_freq', 0, whole(0), 'output', 'epochs between two scores while training; 0 is never')],
    'samples': [
        Option('weights', 'ema', one_of('ema', 'raw'), 'output',
               'what to sample with: the moving average of the weights, or the weights as trained'),
        Option('label', '', matching('CLASS', 'the number or the name of a class', r'[^\0-\x1f]+'), 'output',
               'the class that test and eval sample, of a conditional run, by its number or name'),
        Option('sample_num', 64, whole(1), 'output', 'images in a grid; with classes up to a whole row of them'),
        Option('test_num', 10, whole(1), 'output', 'grids that test writes'),
        Option('attention_of', 'both', one_of('generator', 'discriminator', 'both'), 'output',
               'whose attention maps the figure of test shows'),
        Option('export', 0, whole(0), 'output', 'single images that test writes'),
        Option('eval_num', 10000, whole(1), 'output', 'images that eval scores')],
    'places': [
        Option('name', '', RUN, 'run', "name of the run's folder, instead of one made of the options"),
        Option('data_dir', 'data', FOLDER, 'data', 'folder of the data sets'),
        Option('checkpoint_dir', 'checkpoint', CHECKPOINTS, 'output', 'folder of the checkpoints'),
        Option('result_dir', 'results', FOLDER, 'output', 'folder of the grids and figures'),
        Option('log_dir', 'logs', FOLDER, 'output', 'folder of the TensorBoard summaries')]}


def options_of(*roles):
    """The names of the options that have one of these roles."""
    return [option.name for role in roles for option in OPTIONS[role]]


def flag(name):
    """An option as it is typed."""
    return '--' + name.removesuffix('_name')


ALL = {option.name: option for role in OPTIONS.values() for option in role}
KEPT = options_of('names', 'trains', 'plans', 'samples', 'places')  # what SAGAN takes, and config.json holds
# What an option is where neither the user nor a config.json says it; auto is no data set to train on.
ARTICLE = {**{name: ALL[name].default for name in KEPT}, 'dataset_name': 'mnist'}

# What a recipe sets where the user does not, beside what depends on the data: see with_recipe.
RECIPES = {'article': {}, 'paper': {
    'network': 'resnet', 'gan_type': 'hinge', 'sn': True, 'attention': 'paper', 'g_lr': 0.0001, 'd_lr': 0.0004,
    'beta1': 0., 'beta2': 0.9, 'z_dim': 128, 'z_name': 'normal'}}

# Height, which is the width too, and channels of the data sets; and what own pictures are brought to.
SHAPES = {'auto': (28, 1), 'mnist': (28, 1), 'fashion-mnist': (28, 1), 'digits': (28, 1), 'cifar10': (32, 3)}
OWN_SHAPE = 64, 3

##################################################################################
# What follows from it
##################################################################################


def parse(arguments=None):
    """Read a command line, the program's own if it is None -> ({option: value} of all, the same of those typed).

    Raises UserError for what cannot be read; --help prints, and ends the program.
    """
    def refuse(message):
        raise UserError(message)

    parser = argparse.ArgumentParser(description='Self-Attention GAN on MNIST and other pictures', allow_abbrev=False,
                                     argument_default=argparse.SUPPRESS)
    parser.error = refuse
    groups = {group: parser.add_argument_group(group) for group in GROUPS}
    for option in ALL.values():
        default = '' if option.default == '' else f' (default: {shown(option.default)})'
        groups[option.group].add_argument(flag(option.name), dest=option.name, metavar=option.takes.shown,
                                          type=reader(option), help=option.help + default)
    typed = vars(parser.parse_args(arguments))
    for name, value in typed.items():
        if isinstance(value, list):  # what argparse makes of --option=--
            raise UserError(f'argument {flag(name)}: expected one argument')
    return {**{option.name: option.default for option in ALL.values()}, **typed}, typed


def reader(option):
    """-> the function that reads the text of an option, as argparse wants it."""
    def read(text):
        try:
            return option.takes.read(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f'{text!r} is not {option.takes.told}') from None
    return read


def shown(value):
    """A value as one types it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def resolved(given):
    """All options that SAGAN takes, those that are not given as the article has them; TypeError for an unknown one."""
    names = {flag(name)[2:]: name for name in KEPT}  # as dataset for dataset_name
    given = {names.get(name, name): value for name, value in given.items()}
    unknown = set(given) - set(KEPT)
    if unknown:
        raise TypeError(f'SAGAN has no option {", ".join(sorted(unknown))}; it takes {", ".join(KEPT)}')
    return {**ARTICLE, **{name: typed_value(name, value) for name, value in given.items()}}


def typed_value(name, value):
    """The value of an option as if it had been typed: attention, once true or false, and 1 where 1.0 is meant."""
    if isinstance(value, bool):
        return ALL[name].takes.read(shown(value)) if ALL[name].takes is ATTENTION else value
    return float(value) if isinstance(value, int) and isinstance(ALL[name].default, float) else value


def image_shape(options):
    """(H, W, C) of the images of a run."""
    size, channels = SHAPES.get(options['dataset_name'], OWN_SHAPE)
    return options['img_size'] or size, options['img_size'] or size, options['c_dim'] or channels


def settled(options):
    """Options with 0 for an img_size or c_dim that is the data set's own: typed or left out, it is the same run."""
    own = dict(zip(('img_size', 'c_dim'), SHAPES.get(options['dataset_name'], OWN_SHAPE), strict=True))
    return {name: 0 if value == own.get(name) else value for name, value in options.items()}


def with_recipe(options, typed, classes=False):
    """Options with what their recipe sets where it was not typed; classes: whether the data set has any."""
    recipe = RECIPES[options['recipe']]
    if recipe:
        size, _ = SHAPES.get(options['dataset_name'], OWN_SHAPE)
        recipe = {**recipe, 'conditional': classes, 'img_size': max(32, size)}
    return settled({**options, **recipe, **typed})


def check_size(network, height, width):
    """Raise UserError where a network does not take images of that size."""
    sizes = SIZES[network]
    squares = isinstance(sizes, tuple)
    if not {height, width} <= set(sizes) or squares and height != width or height * width > MOST_PIXELS:
        told = ', '.join(map(str, sizes)) + ' pixels' if squares else (
            f'multiples of {sizes.step} pixels, fewer than 512 x 512 in all')
        raise UserError(f'--network {network} takes images of {told}, not {height} x {width}: give another --img_size '
                        'or --network')


def check_share(batch_size, workers):
    """Raise UserError where workers cannot share a batch evenly."""
    if batch_size % workers:
        raise UserError(f'{workers} workers cannot share --batch_size {batch_size}: choose a multiple of {workers}')


def as_folder(text):
    """A text as a part of a folder's name that TensorFlow, which looks for checkpoints by patterns, can find."""
    return re.sub(r'[][*?\\]', '_', text)


def run_name(options):
    """The name of the folder of a run: two runs that train differently do not share one."""
    if options['name']:
        return options['name']
    name = as_folder('SAGAN_{dataset_name}_{batch_size}_{z_dim}'.format(**options))
    for option in OPTIONS['trains']:
        value = options[option.name]
        if value != option.default:
            text = value if isinstance(value, str) else f'{value:g}'
            name += option.suffixes.get(value, f'_{option.name}{text}')
    return name


def check_config(values, path):
    """Check what the config.json at path holds -> ({option: value} of the options in it, the rest of it).

    Raises UserError, which names the file, the option and the value, where a value is none that the option takes.
    """
    known = {name: typed_value(name, value) for name, value in values.items() if name in KEPT}
    for name, value in known.items():
        option = ALL[name]
        try:
            agrees = value == option.default == '' or option.takes.read(str(value)) == value
        except ValueError:
            agrees = False
        if not agrees:
            raise UserError(f'{path}: {name} is {value!r}, which is not {option.takes.told}: put it right')
    return known, {name: value for name, value in values.items() if name not in KEPT}
