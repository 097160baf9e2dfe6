"""The registry of networks, by value of --network."""

from networks.dcgan import DCGAN
from networks.resnet import ResNet
from SAGAN import SAGAN

NETWORKS = {network.kind: network for network in (SAGAN, DCGAN, ResNet)}


def build(sess, network='article', **options):
    """Return a model of the named network, with its graph built. The other arguments and the errors are SAGAN's."""
    model = NETWORKS[network](sess, network=network, **options)
    model.build_model()
    return model
