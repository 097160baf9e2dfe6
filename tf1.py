"""TensorFlow in the graph mode of its version 1, imported with its start-up chatter kept off the screen."""

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
