"""The built-in data sets: their names and classes, and how missing files are downloaded or drawn."""

import os

from datasets import cifar, idx
from datasets.digits import make_digits
from datasets.download import Source, download_files
from options import UserError
from utils import make_folder

DIGIT_NAMES = tuple('0123456789')
# The names of the classes that are known without the data.
CLASS_NAMES = {
    'mnist': DIGIT_NAMES,
    'fashion-mnist': ('T-shirt', 'trouser', 'pullover', 'dress', 'coat', 'sandal', 'shirt', 'sneaker', 'bag', 'boot'),
    'digits': DIGIT_NAMES,
    'cifar10': cifar.CLASS_NAMES}
FORMATS = {'mnist': idx, 'fashion-mnist': idx, 'digits': idx, 'cifar10': cifar, 'cifar100': cifar}
CIFAR_VERSIONS = {'cifar10': cifar.CIFAR10, 'cifar100': cifar.CIFAR100}
SOURCES = {
    'mnist': Source(
        mirrors=('https://storage.googleapis.com/cvdf-datasets/mnist/',
                 'https://ossci-datasets.s3.amazonaws.com/mnist/'),
        algorithm='sha256',
        digests={f'{idx.FILES[0]}.gz': '440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609',
                 f'{idx.FILES[1]}.gz': '3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c',
                 f'{idx.FILES[2]}.gz': '8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6',
                 f'{idx.FILES[3]}.gz': 'f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6'}),
    'fashion-mnist': Source(
        mirrors=('http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/',),
        algorithm='md5',
        digests={f'{idx.FILES[0]}.gz': '8d4fb7e6c68d591d4c3dfef9ec88bf0d',
                 f'{idx.FILES[1]}.gz': '25c81989df183df01b3e8a0aad5dffbe',
                 f'{idx.FILES[2]}.gz': 'bef4ecab320f06d8554ea6380940ec79',
                 f'{idx.FILES[3]}.gz': 'bb300cfdad3c16e7a12a480ee83cd310'}),
    'cifar10': Source(
        mirrors=('https://www.cs.toronto.edu/~kriz/',), algorithm='md5',
        digests={cifar.CIFAR10.archive: 'c32a1d4ab5d03f1284b67883e8d87530'}),
    'cifar100': Source(
        mirrors=('https://www.cs.toronto.edu/~kriz/',), algorithm='md5',
        digests={cifar.CIFAR100.archive: '03b5dce01913d631647c71ecec9e9cb8'})}


def complete(name, folder):
    """Make sure that the folder of a built-in data set holds all its files: download or draw the missing ones.

    Returns:
        A message that reports what was downloaded or drawn, or ''.

    Raises:
        UserError: if a file cannot be downloaded, if the folder holds the Python version of CIFAR, or if the folder of
            the digits holds other files.
    """
    if name in CIFAR_VERSIONS:
        cifar.refuse_python_version(folder)
        missing = [] if cifar.is_complete(folder) else [CIFAR_VERSIONS[name].archive]
    else:
        missing = idx.missing_files(folder)
    if not missing:
        return ''
    if name == 'digits':
        check_folder_of_digits(folder)
        make_digits(make_folder(folder))
        return f'The built-in digits were written to {folder}'
    if name not in CIFAR_VERSIONS:
        missing = [f'{file}.gz' for file in missing]
    download_files(folder, SOURCES[name], missing)
    return f'{", ".join(missing)} downloaded to {folder}'


def check_folder_of_digits(folder):
    """Raise UserError if a folder holds other files, with which the digits must not be mixed."""
    drawn = {f'{file}.gz' for file in idx.FILES}
    foreign = [name for name in sorted(os.listdir(folder)) if not name.startswith('.') and not name.endswith('.part')
               and name not in drawn] if os.path.isdir(folder) else []
    if foreign:
        raise UserError(f'the built-in digits cannot be written to {folder} (it holds {foreign[0]}): rename that '
                        'folder; to train on it, use --dataset with the new name')
