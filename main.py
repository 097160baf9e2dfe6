"""Train a Self-Attention GAN and draw samples from it: python main.py --help"""

import signal

if __name__ == '__main__':
    # Until training has its own handlers, a signal ends the program at once: no import can lose it, nothing is printed.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import contextlib
import os
import sys

from options import ARTICLE, KEPT, RECIPES, UserError, options_of, parse


def fail(message):
    print('main.py:', *str(message).split('\n'), file=sys.stderr)  # on one line, whatever a path has in it
    sys.exit(2)


def import_tensorflow():
    """Import TensorFlow with its start-up chatter kept off the screen."""
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
    os.environ.setdefault('TF_USE_LEGACY_KERAS', '1')  # else it imports Keras, which nothing here uses
    # Its libraries write to the file descriptor before they read any setting.
    screen = os.dup(2)
    with open(os.devnull, 'w') as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        import tensorflow.compat.v1 as tf
    finally:
        os.dup2(screen, 2)
    tf.logging.set_verbosity(tf.logging.ERROR)
    return tf


@contextlib.contextmanager
def noting_signals(stops):
    """Within, Ctrl-C and SIGTERM are noted in the list stops, which it gives, and end nothing."""
    handlers = {number: signal.signal(number, lambda number, frame: stops.append(number))
                for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stops
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def train(args, typed):
    from datasets import find_dataset
    args = {**args, **RECIPES[args['recipe']], **typed}
    args['dataset_name'], why = find_dataset(args['dataset_name'], args['data_dir'])
    print(why, flush=True)
    with built_model(args) as model:
        from utils import show_all_variables
        show_all_variables()
        stops = []
        model.train(noting_signals(stops))
    if stops:
        sys.exit(128 + stops[0])
    print(why)


def test(args, typed):
    with built_model(settings_of_a_run(args, typed)) as model:
        print(f'Run: {model.model_dir}')
        model.test(args['seed'], args['checkpoint'])


def evaluate(args, typed):
    with built_model(settings_of_a_run(args, typed)) as model:
        print(f'Run: {model.model_dir}')
        model.evaluate(args['seed'], args['checkpoint'])


def settings_of_a_run(args, typed):
    """The options of the run that those typed choose; nothing of it needs to be typed again."""
    from runs import find_run
    choosing = [*options_of('names', 'trains'), 'name']
    wanted = {**(RECIPES[args['recipe']] if 'recipe' in typed else {}), **typed}
    run = find_run(args['checkpoint_dir'], {option: wanted[option] for option in choosing
                                            if wanted.get(option, 'auto') != 'auto'})
    # A run's plan is of no use to it when it is sampled; whether it has averages, loading sees.
    plan = {option: ARTICLE[option] for option in options_of('plans')}
    sampling = {option: typed[option] for option in options_of('samples', 'places') if option in typed}
    return {**run, **plan, **sampling, 'checkpoint_dir': args['checkpoint_dir'], 'name': run.get('name', '')}


@contextlib.contextmanager
def built_model(options):
    """A SAGAN of these options, its graph built, in a session."""
    tf = import_tensorflow()
    from datasets import CLASSES
    from precision import session_config
    from SAGAN import SAGAN
    options = {option: value for option, value in options.items() if option in KEPT}
    with tf.Session(config=session_config(options.get('precision', 'float32'))) as sess:
        model = SAGAN(sess, classes=CLASSES, **options)
        model.build_model()
        yield model


def main():
    try:
        args, typed = parse()
        {'train': train, 'test': test, 'eval': evaluate}[args['phase']](args, typed)
    except UserError as error:
        fail(error)
    except OSError as error:
        fail(f'{error.filename or "a file"}: {error.strerror or error}; free some space or choose another folder')


if __name__ == '__main__':
    main()
