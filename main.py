"""Train a Self-Attention GAN and draw samples from it: python main.py --help"""

import signal

if __name__ == '__main__':
    # Until training installs its handlers, Ctrl-C ends the program without a traceback, even during an import.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import contextlib
import os
import sys

from distributed import slurm
from distributed.heartbeat import watch_workers
from distributed.launcher import EXIT_LOST, SIGNALS, WorkerLost, check_workers, gpu_of, read_task, start_workers
from options import (
    DEFAULTS,
    UserError,
    check_image_size,
    check_worker_share,
    command_line,
    known_options,
    options_of,
    parse,
    resolve,
    resolve_shape,
    shape_of,
    value_of,
)


def train(typed):
    """Train a new run, or resume an existing one."""
    from datasets import load_dataset, native_shape, saved_name
    from storage.branch import choose_start, report_new_run, resolve_augment, retry_advice
    from storage.run import Diverged
    from training.stop import Stop
    if value_of(typed, 'dataset_name') != 'auto':
        name = saved_name(typed['dataset_name'], value_of(typed, 'data_dir'))
        typed = {**typed, 'dataset_name': name}
    typed, inherited, source = choose_start(typed)
    options, args = resolve(typed, inherited), {**DEFAULTS, **typed}
    addresses, index = read_task()
    if index is None:
        print('TF_CONFIG makes this process a parameter server or an evaluator. Training uses neither: nothing to do')
        return
    if slurm.in_step():
        if args['workers'] > 1:
            raise UserError('--workers cannot be used in a Slurm step, whose tasks are the workers: omit it')
        os.environ['CUDA_VISIBLE_DEVICES'] = gpu_of(slurm.local_rank())
    check_worker_share(options['batch_size'], len(addresses) or args['workers'])
    check_workers(args['workers'])
    own_shape = native_shape(options['dataset_name'], options['data_dir'])
    options = resolve_shape(options, own_shape)
    image_shape = shape_of(options, own_shape)
    check_image_size(options['network'], *image_shape[:2])
    if index > 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # worker 0 prints for all
    stop = Stop(SIGNALS)
    # Preparing the data set and importing TensorFlow can take a long time, so the heartbeat starts first.
    with watch_workers(addresses, index, args['timeout']):
        options['dataset_name'], message = choose_dataset(options)
        if message and (not addresses or args['workers'] == 1):  # otherwise the parent process has printed it
            print(message, flush=True)
        dataset_args = options['dataset_name'], options['data_dir'], image_shape
        if args['workers'] > 1 and not addresses:
            load_dataset(*dataset_args, limit=1)  # prepares the user's own images once, before the workers start
            sys.exit(start_workers(args['workers'], args['timeout'], [f'--dataset={options["dataset_name"]}']))
        if len(addresses) > 1:
            print(f'Training with {len(addresses)} workers', flush=True)
        dataset = load_dataset(*dataset_args)
        print(dataset.description, flush=True)
        options = resolve_augment(options, len(dataset.train[0]), dataset.class_names)
        with open_model(options, image_shape, dataset.class_names, addresses, index) as model:
            if source is None:
                report_new_run(model.config, model.run)
            try:
                model.train(stop, dataset, source)
            except Diverged as error:
                raise UserError(f'{error.cause}. {retry_advice(model.config, model.run, typed)}') from error
    if stop.requested is not None:
        print('Next:', command_line(typed))
        sys.exit(128 + stop.requested)
    locations = {name: typed[name] for name in options_of('location') if name in typed}
    print('Next:', command_line({'phase': 'test', **locations}))


def choose_dataset(options):
    """Make sure that the data set is available. Return its name, and a message that reports a download or a choice.

    Raises:
        UserError: if the data set is not available, or if auto would select digits although there is a run on MNIST.
    """
    from datasets import find_dataset
    from storage.run import RunNotFound, find_runs
    name, data_dir, checkpoint_dir = options['dataset_name'], options['data_dir'], options['checkpoint_dir']
    mnist_run = None
    if name == 'auto':
        with contextlib.suppress(RunNotFound):
            mnist_run = find_runs(checkpoint_dir, {'dataset_name': 'mnist'})[0].name
            name = 'mnist'
    try:
        return find_dataset(name, data_dir)
    except UserError as error:
        if mnist_run is None:
            raise
        raise UserError(f'{checkpoint_dir} holds {mnist_run}, a run on MNIST, but MNIST is not in {data_dir}: set '
                        '--data_dir to the folder that contains mnist/, or use --dataset digits') from error


def test(typed):
    """Draw samples from a trained run."""
    with open_run(typed) as model:
        model.test(value_of(typed, 'sample_seed'), value_of(typed, 'checkpoint'))
    ignored = [name for name in (*options_of('sampling'), 'sample_seed') if name != 'weights']
    exported = {name: value for name, value in typed.items() if name not in ignored}
    print('To play with both networks in a browser:', command_line({**exported, 'phase': 'export'}))


def evaluate(typed):
    """Compute the scores of a trained run."""
    features, reference = typed.get('features'), typed.get('reference')
    if reference and not features:
        raise UserError('--reference requires --features: name the network that computed the reference')
    with open_run(typed) as model:
        from evaluation import phases
        phases.evaluate(model, value_of(typed, 'sample_seed'), value_of(typed, 'checkpoint'), features, reference)


def export(typed):
    """Write the generator of a trained run as a SavedModel, and the playground."""
    if 'label' in typed:
        raise UserError('--label requires --phase test or eval: omit it, because the exported generator has an input '
                        'for the class')
    with open_run(typed) as model:
        from evaluation import phases
        phases.export(model, value_of(typed, 'checkpoint'))


def compare(typed):
    """Compare trained runs: those that --name lists, or else all that have the options on the command line."""
    from evaluation import compare
    from storage.run import find_runs
    checkpoint_dir = value_of(typed, 'checkpoint_dir')
    wanted = wanted_options(typed)
    if 'name' in typed:
        names = dict.fromkeys(typed['name'].split(','))  # without repetition
        runs = [run for name in names for run in find_runs(checkpoint_dir, {**wanted, 'name': name})]
    else:
        runs = find_runs(checkpoint_dir, wanted)
    locations = {name: typed[name] for name in options_of('location') if name in typed and name != 'name'}
    runs = [run._replace(options={**run.options, **locations}) for run in runs]
    compare.compare(runs, checkpoint_dir, value_of(typed, 'result_dir'))


def open_run(typed):
    """Open the model of the trained run that the options on the command line select."""
    from storage.run import image_shape_of, sampling_options
    run = select_run(typed)
    changes = {name: typed[name] for name in options_of('sampling', 'location') if name in typed}
    options = sampling_options(run, value_of(typed, 'checkpoint_dir'), changes)
    return open_model(options, image_shape_of(run.options, run.metadata), run.metadata.get('class_names'))


def select_run(typed):
    """Return the most recently trained StoredRun that has the options on the command line, and print its name.

    Raises:
        UserError: if there is no such run.
    """
    from storage.run import RunNotFound, find_runs, report_unknown_keys
    from utils import list_first
    checkpoint_dir = value_of(typed, 'checkpoint_dir')
    wanted = wanted_options(typed)
    if 'name' in typed:
        wanted['name'] = typed['name']
    runs = find_runs(checkpoint_dir, wanted)
    if 'label' in typed:
        try:
            runs = find_runs(checkpoint_dir, {'conditional': True, **wanted})
        except RunNotFound as error:
            raise UserError(f'--label {typed["label"]} requires a run with --conditional true (not conditional: '
                            f'{list_first([run.name for run in runs])}): choose another run, or omit --label'
                            ) from error
    run, *others = runs
    report_unknown_keys(os.path.join(checkpoint_dir, run.name), run.metadata)
    if others:
        print(f'Run: {run.name}, the latest of {1 + len(others)} matching runs; choose another with --name: '
              f'{list_first([other.name for other in others])}', flush=True)
    else:
        print(f'Run: {run.name}', flush=True)
    return run


def wanted_options(typed):
    """Return the options that a trained run must have to be selected by the command line, {option: value}."""
    from datasets import saved_name
    wanted = known_options(typed)
    if 'dataset_name' in wanted:
        wanted['dataset_name'] = saved_name(wanted['dataset_name'], value_of(typed, 'data_dir'))
    return wanted


@contextlib.contextmanager
def open_model(options, image_shape, class_names, *workers):
    """Open a session and yield a model whose graph is built. workers is passed on to Cluster."""
    import networks
    from distributed.cluster import Cluster
    from tf1 import one_line, tf
    from training.device import device_line
    from training.precision import session_config
    cluster = Cluster(*workers)
    if cluster.is_chief:
        print(device_line(), flush=True)
    with cluster.session(session_config(options['precision'])) as sess:
        try:
            yield networks.build(sess, image_shape=image_shape, classes=class_names, cluster=cluster, **options)
        except tf.errors.ResourceExhaustedError as error:
            raise MemoryError(one_line(error)) from error


def fail(message):
    """Print a message on one line, even if a path in it contains line breaks, and exit with code 2."""
    print('main.py:', *str(message).split('\n'), file=sys.stderr)
    sys.exit(2)


def main():
    try:
        typed = parse()
        phase = value_of(typed, 'phase')
        if 'from_name' in typed and phase != 'train':
            raise UserError('--from requires --phase train: to select a trained run, use --name')
        if ',' in value_of(typed, 'name') and phase != 'compare':
            raise UserError(f'--name {typed["name"]} requires --phase compare: use a single name')
        phases = {'train': train, 'test': test, 'eval': evaluate, 'export': export, 'compare': compare}
        if phase == 'train' or slurm.rank() == 0:  # the other tasks of a Slurm step have nothing to do
            phases[phase](typed)
    except UserError as error:
        fail(error)
    except ModuleNotFoundError as error:
        fail(f'{sys.executable} has no module {error.name}: install requirements.txt as described in '
             'README.md, or use a Python interpreter that has this module')
    except MemoryError as error:
        fail(f'out of memory ({error}): reduce --batch_size, --img_size or --ch')
    except WorkerLost as error:
        sys.stdout.flush()
        print('main.py:', error, file=sys.stderr, flush=True)
        os._exit(EXIT_LOST)  # TensorFlow's runtime would wait for the lost worker
    except BrokenPipeError:  # standard output was closed, for example by "| head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(141)  # 128 + SIGPIPE, a signal that Windows lacks
    except OSError as error:
        fail(f'{error.filename or "a file"} cannot be read or written ({error.strerror or error}): free some disk '
             'space or choose another folder')


if __name__ == '__main__':
    if sys.stdout is not None:
        sys.stdout.reconfigure(errors='backslashreplace')  # a terminal may be unable to print a path
    main()
