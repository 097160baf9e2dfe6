"""The networks."""

from networks.dcgan import DCGAN
from networks.resnet import ResNet
from SAGAN import SAGAN

NETWORKS = {network.kind: network for network in (SAGAN, DCGAN, ResNet)}
