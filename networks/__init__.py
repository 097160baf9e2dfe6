"""The registry of networks, by value of --network, and the functions that return a model: build and from_run."""

import os

from evaluation import phases
from networks.dcgan import DCGAN
from networks.resnet import ResNet
from options import options_of
from SAGAN import SAGAN
from storage.run import find_runs, image_shape_of, report_unknown_keys, sampling_options
from tf1 import tf
from training.precision import session_config

NETWORKS = {network.kind: network for network in (SAGAN, DCGAN, ResNet)}


def build(sess, network='article', **options):
    """Return a model of the named network, with its graph built. The other arguments and the errors are SAGAN's."""
    model = NETWORKS[network](sess, network=network, **options)
    model.build_model()
    return model


def from_run(name=None, checkpoint='latest', checkpoint_dir='checkpoint', **options):
    """Return the model of a trained run, built with the options of its config.json, and restored.

    The model has its own graph and its own session, model.sess. model.sess.close() frees the memory. The data set is
    not needed if config.json records the shape and the classes of the images.

    Args:
        name: the name of the run, or None for the most recently trained one, whose name is printed.
        checkpoint: 'latest', 'best' or a step.
        checkpoint_dir: the folder of the runs.
        options: sampling and location options of options.py, for example label=7, weights='raw' or data_dir='data'.

    Raises:
        TypeError: if an option is not a sampling or location option.
        UserError: if there is no such run or checkpoint, or if config.json or the checkpoint is damaged.
    """
    accepted = [option for option in options_of('sampling', 'location') if option not in ('name', 'checkpoint_dir')]
    unknown = [option for option in options if option not in accepted]
    if unknown:
        raise TypeError(f'from_run has no option {", ".join(unknown)}; its options are {", ".join(accepted)}. All '
                        'other options come from the run')
    run, *_ = find_runs(checkpoint_dir, {} if name is None else {'name': name})
    report_unknown_keys(os.path.join(checkpoint_dir, run.name), run.metadata)
    with tf.Graph().as_default():
        sess = tf.Session(config=session_config('float32'))
        model = build(sess, image_shape=image_shape_of(run.options, run.metadata),
                      classes=run.metadata.get('class_names'), **sampling_options(run, checkpoint_dir, options))
    step = phases.restore(model, checkpoint)
    if name is None:
        print(f'Run: {run.name}, step {step}', flush=True)
    return model
