"""The objectives: one function a loss, of logits [B, 1]."""

import tensorflow.compat.v1 as tf


def sigmoid_loss(logit, label):
    """Mean sigmoid cross-entropy of logit [B, 1] against one label, 0. or 1., for all (Goodfellow et al. 2014)."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(logits=logit, labels=tf.fill(tf.shape(logit), label)))
