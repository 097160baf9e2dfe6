"""Describe the device on which TensorFlow computes."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

from system import available_cores, is_windows
from tf1 import tf

DRIVER = '/proc/driver/nvidia/version'  # on Linux, if the NVIDIA driver is loaded
LIST_GPUS = "import tensorflow as tf; tf.config.list_physical_devices('GPU')"
# {processor flag: name of the unit that multiplies bfloat16 in hardware}
BFLOAT16_FLAGS = {'amx_bf16': 'AMX', 'avx512_bf16': 'AVX-512', 'bf16': 'Arm BF16'}


def device_line():
    """Return the line that names the device.

    A second line follows if the machine has an NVIDIA driver but TensorFlow sees no GPU.
    """
    gpus = gpu_names()
    if len(gpus) == 1:
        return f'Device: GPU 0, {gpus[0]}'
    if gpus:
        return f'Device: GPU 0 of {len(gpus)}, {gpus[0]}'
    cores = len(available_cores())
    line = 'Device: CPU, 1 core' if cores == 1 else f'Device: CPU, {cores} cores'
    unit = bfloat16_unit()
    if unit is not None:
        line += f', supports bfloat16 ({unit})'
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    if visible in ('', '-1'):  # the user's choice
        return f'{line} (CUDA_VISIBLE_DEVICES is {visible or "empty"})'
    if has_nvidia_driver():
        return f'{line}\n{missing_gpu_line()}'
    return line


def gpu_names():
    """Return the names of the GPUs that TensorFlow sees. A process computes on the first one."""
    gpus = tf.config.list_physical_devices('GPU')
    return [tf.config.experimental.get_device_details(gpu).get('device_name', 'unknown model') for gpu in gpus]


def has_nvidia_driver():
    """Return whether this machine has an NVIDIA driver."""
    return os.path.exists(DRIVER) or shutil.which('nvidia-smi') is not None


def missing_gpu_line():
    """Return one line that reports why TensorFlow sees no GPU, and how to fix it."""
    if is_windows():
        return 'The NVIDIA GPU is not used (TensorFlow supports GPUs on Windows only in WSL2): see docs/gpu.md'
    reason = missing_gpu_reason()
    fix = "pip install 'tensorflow[and-cuda]'"
    if 'cuInit' in reason:
        fix = 'check that nvidia-smi lists the GPU, and update the driver'
    return f'The NVIDIA GPU is not used ({reason}): {fix}'


def missing_gpu_reason():
    """Return TensorFlow's reason for seeing no GPU. tf1 hides TensorFlow's log, so another process writes it."""
    if not tf.test.is_built_with_cuda():
        return 'this TensorFlow was built without CUDA'
    log = subprocess.run([sys.executable, '-c', LIST_GPUS], stderr=subprocess.PIPE, text=True,
                         env={**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '0'}).stderr
    # As in "E0000 00:00:17 18 a.cc:52] message" or, in older versions, "2025-01-31 12:00:00.0: E a.cc:52] message".
    messages = re.findall(r'^(?:[WE][0-9]{4} |[^]\n]*: [WE] )[^]\n]*\] (.*)', log, re.MULTILINE)
    if not messages:
        return "TensorFlow's log gives no reason"
    return messages[-1].split('. ')[0]


def bfloat16_unit(cpuinfo='/proc/cpuinfo'):
    """Return the name of the processor's unit that multiplies bfloat16, or None if TensorFlow cannot use one."""
    # oneDNN, TensorFlow's library for CPUs, may be turned off. macOS and Windows do not list the flags.
    if os.environ.get('TF_ENABLE_ONEDNN_OPTS') == '0' or not os.path.exists(cpuinfo):
        return None
    flags = pathlib.Path(cpuinfo).read_text().split()
    for flag, name in BFLOAT16_FLAGS.items():
        if flag in flags:
            return name
    return None
