"""TensorFlow in the graph mode of its version 1, its start-up chatter kept off the screen, and its errors in a line."""

import os

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
    os.close(screen)

tf.logging.set_verbosity(tf.logging.ERROR)
tf.disable_eager_execution()
tf.enable_resource_variables()


def one_line(error):
    """What is said of an error, without the graph that TensorFlow prints around it."""
    said = str(getattr(error, 'message', error)).split('\n\t [[')[0].strip()
    return (said or type(error).__name__).splitlines()[-1]
