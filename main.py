"""Train a Self-Attention GAN and draw samples from it: python main.py --help"""

import signal

if __name__ == '__main__':
    # Until training has its own handlers, a signal ends the program at once: no import can lose it, nothing is printed.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import contextlib
import os
import shlex
import sys

from distributed.launcher import LOST, SIGNALS, WorkerLost, read_task, start_workers
from options import (
    ARTICLE,
    KEPT,
    RECIPES,
    UserError,
    check_share,
    check_size,
    flag,
    image_shape,
    options_of,
    parse,
    with_recipe,
)


def fail(message):
    print('main.py:', *str(message).split('\n'), file=sys.stderr)  # on one line, whatever a path has in it
    sys.exit(2)


@contextlib.contextmanager
def noting_signals():
    """Within, Ctrl-C and SIGTERM end nothing: they are noted in the list that it gives."""
    stops = []
    handlers = {number: signal.signal(number, lambda number, frame: stops.append(number)) for number in SIGNALS}
    try:
        yield stops
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def train(args, typed):
    from datasets import load_dataset
    wanted = with_recipe(args, typed)
    check_size(wanted['network'], *image_shape(wanted)[:2])
    addresses, index = read_task()
    check_share(args['batch_size'], len(addresses) or args['workers'])
    if index > 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # worker 0 tells for all
    args['dataset_name'], why = dataset_to_train_on(args)
    if not addresses or args['workers'] == 1:  # who started this worker has told it
        print(why, flush=True)
    typed = {**typed, 'dataset_name': args['dataset_name']}
    data = args['dataset_name'], args['data_dir'], image_shape(with_recipe(args, typed))
    if args['workers'] > 1 and not addresses:
        load_dataset(*data, most=1)  # so that own pictures are prepared once, not by each worker
        sys.exit(start_workers(args['workers'], args['patience'], [f'--dataset={args["dataset_name"]}']))
    if len(addresses) > 1:
        print(f'{len(addresses)} workers train together', flush=True)
    dataset = load_dataset(*data)
    args = with_recipe(args, typed, bool(dataset.class_names))
    with built_model(args, dataset.class_names, addresses, index, args['patience']) as model:
        model.train(noting_signals(), dataset)
        stops = model.cluster.agreed
    if stops:
        sys.exit(128 + stops[0])
    places = [part for name in options_of('places') if name in typed for part in (flag(name), typed[name])]
    python = sys.executable.removeprefix(os.getcwd() + os.sep)
    print('Next:', shlex.join([python, sys.argv[0], '--phase', 'test', *places]))


def dataset_to_train_on(args):
    """Find the data set, as find_dataset does. Raises UserError where a run of MNIST would go on with digits."""
    from datasets import find_dataset
    from storage.run import RunNotFound, find_run
    name, folder = args['dataset_name'], args['data_dir']
    if name == 'auto':
        with contextlib.suppress(RunNotFound):
            _, _, (run, *_) = find_run(args['checkpoint_dir'], {'dataset_name': 'mnist'})
            name = 'mnist'
    try:
        return find_dataset(name, folder)
    except UserError as error:
        if name == args['dataset_name']:
            raise
        raise UserError(f'{args["checkpoint_dir"]} holds {run}, a run of MNIST, which is not in {folder}: give its '
                        '--data_dir, or --dataset digits for a run of digits') from error


def test(args, typed):
    with built_model(*settings_of_a_run(args, typed)) as model:
        model.test(args['sample_seed'], args['checkpoint'])


def evaluate(args, typed):
    with built_model(*settings_of_a_run(args, typed)) as model:
        model.evaluate(args['sample_seed'], args['checkpoint'])


def export(args, typed):
    with built_model(*settings_of_a_run(args, typed)) as model:
        model.export_model(args['checkpoint'])


def settings_of_a_run(args, typed):
    """The options of the run that those typed choose, of which none needs to be typed again -> options, class names.

    The names are None where an older run does not tell them. Raises UserError where there is no such run.
    """
    from storage.run import RunNotFound, find_run, name_some, tell_rest
    choosing = [*options_of('names', 'trains'), 'name']
    wanted = {**(RECIPES[args['recipe']] if 'recipe' in typed else {}), **typed}
    if 'label' in typed:
        wanted.setdefault('conditional', True)
    try:
        run, facts, (name, *others) = find_run(args['checkpoint_dir'], {
            option: wanted[option] for option in choosing if wanted.get(option, 'auto') != 'auto'})
    except RunNotFound as error:
        if 'label' not in typed:
            raise
        raise UserError(f'--label {typed["label"]} takes a run of --conditional true: {error}') from error
    tell_rest(os.path.join(args['checkpoint_dir'], name, 'config.json'), facts)
    print(f'Run: {name}' + (f', trained last of {1 + len(others)} that match; --name takes another: '
                            f'{name_some(others)}' if others else ''), flush=True)
    # A run's plan is of no use to it when it is sampled; whether it has averages, loading sees.
    plan = {option: ARTICLE[option] for option in options_of('plans')}
    sampling = {option: typed[option] for option in options_of('samples', 'places') if option in typed}
    # However it was trained, it is sampled in float32, the format that --phase export writes.
    fixed = {'checkpoint_dir': args['checkpoint_dir'], 'precision': 'float32'}
    return {**run, **plan, **sampling, **fixed}, facts.get('class_names')


@contextlib.contextmanager
def built_model(options, class_names, *workers):
    """A SAGAN of these options, its graph built, in a session; workers: as Cluster takes them."""
    from distributed.cluster import Cluster
    from networks import NETWORKS
    from tf1 import one_line, tf
    from training.precision import session_config
    options = {option: value for option, value in options.items() if option in KEPT}
    cluster = Cluster(*workers)
    with cluster.session(session_config(options['precision'])) as sess:
        model = NETWORKS[options['network']](sess, classes=class_names, cluster=cluster, **options)
        try:
            model.build_model()
            yield model
        except tf.errors.ResourceExhaustedError as error:
            raise MemoryError(one_line(error)) from error


def main():
    try:
        args, typed = parse()
        {'train': train, 'test': test, 'eval': evaluate, 'export': export}[args['phase']](args, typed)
    except UserError as error:
        fail(error)
    except ModuleNotFoundError as error:
        fail(f'{sys.executable} has no module {error.name}: install requirements.txt for it, as README.md '
             'says, or start with the python that has it')
    except MemoryError as error:
        fail(f'memory does not suffice ({error}): take a smaller --batch_size, --img_size or --ch')
    except WorkerLost as error:
        sys.stdout.flush()
        print('main.py:', error, file=sys.stderr, flush=True)
        os._exit(LOST)  # the runtime would wait for who is gone
    except BrokenPipeError:  # as of "| head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        fail(f'{error.filename or "a file"}: {error.strerror or error}; free some space or choose another folder')


if __name__ == '__main__':
    main()
