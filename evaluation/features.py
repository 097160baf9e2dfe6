"""Features of a network that the user supplies, and the statistics to compare them with.

Published FIDs are computed from the features of an Inception network and from the statistics of a data set's features.
"""

import os
import re
import zipfile
from typing import NamedTuple

import numpy as np

from evaluation.metrics import Statistics, fit_gaussian
from options import UserError
from tf1 import one_line, tf

INPUT, OUTPUT = 'ExpandDims', 'pool_3'  # of the Inception graph of Heusel et al. 2017
BATCH_SIZE = 50
FIX = ('pass a frozen graph as FILE:INPUT:OUTPUT, or a SavedModel with a signature whose input is named images and '
       'whose output is named features')


class Reference(NamedTuple):
    """Statistics that samples are compared with instead of the training split."""
    name: str
    features: np.ndarray | None  # [N, D]; None if only their statistics are known
    statistics: Statistics


def load_features(spec, channels):
    """Load a network that computes features of images.

    Args:
        spec: the value of --features, either a frozen graph as FILE or FILE:INPUT:OUTPUT, or the folder of a
            SavedModel. INPUT and OUTPUT are the names of tensors.
        channels: those of the images, 1 or 3. Grey images are repeated in three channels if the network expects colour.

    Returns:
        extract(images, progress): uint8 [M, H, W, C] -> features [M, D], None. progress is a Progress that counts
        images, or None.

    Raises:
        UserError: if the network cannot be loaded. extract raises UserError if the images do not fit the network.
    """
    sess = tf.Session(graph=tf.Graph())
    with sess.graph.as_default():
        if os.path.isdir(spec):
            images, features = load_saved_model(sess, spec)
        else:
            images, features = load_frozen_graph(spec)

    is_grey = images.shape.rank == 4 and images.shape.as_list()[3] == 1
    is_repeated = channels == 1 and not is_grey
    if is_repeated:
        print(f'Grey images are repeated in three channels for {spec}')

    def extract(pixels, progress=None):
        batches = []
        for start in range(0, len(pixels), BATCH_SIZE):
            batch = pixels[start:start + BATCH_SIZE]
            if is_repeated:
                batch = np.repeat(batch, 3, axis=3)
            try:
                values = sess.run(features, {images: batch.astype(images.dtype.as_numpy_dtype)})
                batches.append(np.float32(values.reshape(len(batch), -1)))
            except (tf.errors.OpError, ValueError) as error:
                shape = ' x '.join(map(str, pixels.shape[1:]))
                raise UserError(f'{spec} cannot process images of {shape} ({one_line(error)}): {FIX}') from error
            if progress is not None:
                progress.update(len(batch))
        return np.concatenate(batches), None

    return extract


def load_frozen_graph(spec):
    """Import a frozen graph into the default graph. Return its tensors of images and of features."""
    path, input_name, output_name = split_spec(spec)
    graph_def = tf.GraphDef()
    try:
        with open(path, 'rb') as file:
            graph_def.ParseFromString(file.read())
        with tf.Graph().as_default():
            original, _ = tf.import_graph_def(graph_def, name='', return_elements=[input_name, output_name])
        # A new placeholder allows batches of any size, even if the graph was frozen with batches of one image.
        shape = [None, *original.shape.as_list()[1:]] if original.shape.rank == 4 else [None, None, None, None]
        images = tf.placeholder(original.dtype, shape)
        features, = tf.import_graph_def(graph_def, {input_name: images}, [output_name], name='')
    except OSError as error:
        raise UserError(f'{path} cannot be read ({error.strerror}): {FIX}') from error
    except Exception as error:  # protobuf and TensorFlow raise errors of many types for a file that is not a graph
        raise UserError(f'{path} has no tensors {input_name} and {output_name} ({one_line(error)}): {FIX}') from error
    return images, features


def split_spec(spec):
    """Return the path and the names of the tensors of images and features in FILE or FILE:INPUT:OUTPUT.

    Each name may end with :0, as TensorFlow prints it. On Windows, FILE may contain a colon.
    """
    name = r'([^:]*[^:0-9][^:]*)(?::[0-9]+)?'
    match = re.fullmatch(f'(.+?):{name}:{name}', spec)
    path, input_name, output_name = match.groups() if match else (spec, INPUT, OUTPUT)
    return path, f'{input_name}:0', f'{output_name}:0'


def load_saved_model(sess, folder):
    """Load a SavedModel into a session. Return its tensors of images and of features."""
    try:
        signatures = tf.saved_model.load(sess, ['serve'], folder).signature_def
        for signature in signatures.values():
            if 'images' in signature.inputs and 'features' in signature.outputs:
                return tuple(sess.graph.get_tensor_by_name(info.name) for info in (
                    signature.inputs['images'], signature.outputs['features']))
    except (tf.errors.OpError, OSError, RuntimeError, ValueError) as error:
        raise UserError(f'{folder} is not a SavedModel ({one_line(error)}): {FIX}') from error
    raise UserError(f'{folder} has no signature with an input images and an output features (signatures: '
                    f'{", ".join(signatures) or "none"}): {FIX}')


def check_reference(reference, extract, images):
    """Raise UserError if the features of images [N, H, W, C] differ in size from those of a Reference."""
    features, _ = extract(images)
    expected, size = len(reference.statistics.mean), features.shape[1]
    if size != expected:
        raise UserError(f'--reference {reference.name} is from another network (its features have {expected} '
                        f'dimensions, those of --features have {size}): pass statistics of the same network')


def load_reference(path):
    """Read the value of --reference: an npz file with mu [D] and sigma [D, D], or with activations [N, D].

    Returns:
        A Reference.

    Raises:
        UserError: if the file cannot be read or does not hold such arrays.
    """
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in ('activations', 'mu', 'sigma') if name in file.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f'{path} cannot be read ({one_line(error)}): pass an npz file with mu and sigma') from error
    name = os.path.basename(path)
    if 'activations' in arrays:
        features = arrays['activations']
        if features.ndim < 2 or len(features) < 2:
            raise UserError(f'{path} is damaged (activations is not [N, D] with at least two images): pass another '
                            'file')
        features = features.reshape(len(features), -1)
        check_numbers(path, activations=features)
        return Reference(name, features, fit_gaussian(features))
    if len(arrays) != 2:
        raise UserError(f'{path} holds neither mu and sigma nor activations: pass an npz file with either')
    mu, sigma = arrays['mu'].reshape(-1), arrays['sigma']
    if sigma.shape != (len(mu), len(mu)):
        raise UserError(f'{path} is damaged (mu has {len(mu)} values, but sigma is {list(sigma.shape)}): pass another '
                        'file')
    check_numbers(path, mu=mu, sigma=sigma)
    return Reference(name, None, Statistics(mu.astype(np.float64), sigma.astype(np.float64)))


def check_numbers(path, **arrays):
    """Raise UserError if an array in the file at path is not made of finite numbers."""
    for name, array in arrays.items():
        if array.dtype.kind not in 'fiu' or not np.isfinite(array).all():
            raise UserError(f'{path} is damaged ({name} holds values that are not finite numbers): pass another file')
