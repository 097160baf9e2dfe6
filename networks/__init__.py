"""The registry of networks, by value of --network."""

from networks.dcgan import DCGAN
from networks.resnet import ResNet
from SAGAN import SAGAN

NETWORKS = {network.kind: network for network in (SAGAN, DCGAN, ResNet)}


def build(sess, network='article', **options):
    """Return the model of this name with its graph built. Arguments and errors are those of SAGAN."""
    model = NETWORKS[network](sess, network=network, **options)
    model.build_model()
    return model
