"""Import TensorFlow in graph mode without its start-up messages, and shorten its error messages to one line."""

import os

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('TF_USE_LEGACY_KERAS', '1')  # otherwise TensorFlow imports Keras, which is not used here
os.environ.setdefault('TF_FORCE_GPU_ALLOW_GROWTH', 'true')  # otherwise a session reserves all memory of the GPU
# TensorFlow's libraries write to file descriptor 2 before they read any setting.
stderr = os.dup(2)
with open(os.devnull, 'w') as devnull:
    os.dup2(devnull.fileno(), 2)
try:
    import tensorflow.compat.v1 as tf
finally:
    os.dup2(stderr, 2)
    os.close(stderr)

tf.logging.set_verbosity(tf.logging.ERROR)
tf.disable_eager_execution()
tf.enable_resource_variables()


def one_line(error):
    """Return the message of an error as one line, without the graph nodes that TensorFlow adds to it."""
    message = str(getattr(error, 'message', error)).split('\n\t [[')[0].strip()
    return (message or type(error).__name__).splitlines()[-1]
