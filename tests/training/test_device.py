"""The device line. GPU machines are simulated by faking what TensorFlow and the driver report."""

import subprocess
from types import SimpleNamespace

import pytest

from tf1 import tf
from training import device
from training.device import bfloat16_unit, device_line, missing_gpu_reason

# Logged by TensorFlow 2.21 on a machine without a driver.
NO_DRIVER = '''WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795730433.069820   18286 cudart_stub.cc:31] Could not find cuda drivers on your machine, \
GPU will not be used.
E0000 00:00:1795730434.436342   18286 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error: Failed call to \
cuInit: UNKNOWN ERROR (303)
'''
# Logged by TensorFlow 2.17 without CUDA's libraries.
NO_LIBRARIES = '''2024-09-13 19:15:45.018171: I tensorflow/core/platform/cpu_feature_guard.cc:210] This TensorFlow \
binary is optimized
2024-09-13 19:15:45.508856: E external/local_xla/xla/stream_executor/cuda/cuda_fft.cc:485] Unable to register cuFFT \
factory: Attempting to register factory for plugin cuFFT when one has already been registered
2024-09-13 19:15:46.018171: W tensorflow/core/common_runtime/gpu/gpu_device.cc:1956] Cannot dlopen some GPU libraries. \
Please make sure the missing libraries mentioned above are installed properly if you would like to use GPU.
Skipping registering GPU devices...
'''


@pytest.fixture(autouse=True)
def cpu_with_two_cores(monkeypatch, tmp_path):
    """A machine with two cores, without bfloat16, a GPU or a driver."""
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    monkeypatch.setattr(device, 'available_cores', lambda: [0, 1])
    monkeypatch.setattr(device, 'bfloat16_unit', lambda: None)
    monkeypatch.setattr(device, 'DRIVER', str(tmp_path / 'version'))
    monkeypatch.setenv('PATH', '')


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """An NVIDIA driver without the libraries that TensorFlow needs."""
    (tmp_path / 'version').touch()
    monkeypatch.setattr(device, 'missing_gpu_reason', lambda: 'Cannot dlopen some GPU libraries')


def test_device_line_counts_the_cores():
    assert device_line() == 'Device: CPU, 2 cores'


def test_device_line_of_one_core(monkeypatch):
    monkeypatch.setattr(device, 'available_cores', lambda: [1])
    assert device_line() == 'Device: CPU, 1 core'


def test_device_line_names_the_unit_for_bfloat16(monkeypatch):
    monkeypatch.setattr(device, 'bfloat16_unit', lambda: 'AMX')
    assert device_line() == 'Device: CPU, 2 cores, supports bfloat16 (AMX)'


@pytest.mark.parametrize('count, expected', [(1, 'GPU 0, NVIDIA T4'), (3, 'GPU 0 of 3, NVIDIA T4')])
def test_device_line_names_the_gpu(monkeypatch, count, expected):
    gpus = [f'/physical_device:GPU:{number}' for number in range(count)]
    names = dict(zip(gpus, ['NVIDIA T4', 'NVIDIA A100', 'NVIDIA H100'], strict=False))
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: gpus)
    monkeypatch.setattr(tf.config.experimental, 'get_device_details', lambda gpu: {'device_name': names[gpu]})
    assert device_line() == f'Device: {expected}'


@pytest.mark.parametrize('visible, shown', [('', 'empty'), ('-1', '-1')])
def test_device_line_names_the_choice_of_the_user(monkeypatch, driver, visible, shown):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    assert device_line() == f'Device: CPU, 2 cores (CUDA_VISIBLE_DEVICES is {shown})'


def test_device_line_reports_a_gpu_that_is_not_used(driver):
    assert device_line() == ('Device: CPU, 2 cores\nThe NVIDIA GPU is not used (Cannot dlopen some GPU libraries): '
                             "pip install 'tensorflow[and-cuda]'")


def test_device_line_finds_the_driver_through_nvidia_smi(tmp_path, monkeypatch):
    """As in WSL2, where /proc has no driver folder."""
    (tmp_path / 'nvidia-smi').touch(mode=0o755)
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setattr(device, 'missing_gpu_reason', lambda: 'failed call to cuInit: UNKNOWN ERROR (303)')
    assert device_line() == ('Device: CPU, 2 cores\nThe NVIDIA GPU is not used (failed call to cuInit: UNKNOWN ERROR '
                             '(303)): check that nvidia-smi lists the GPU, and update the driver')


def test_device_line_refers_to_wsl2_on_windows(driver, monkeypatch):
    monkeypatch.setattr(device, 'is_windows', lambda: True)
    assert device_line() == ('Device: CPU, 2 cores\nThe NVIDIA GPU is not used (TensorFlow supports GPUs on Windows '
                             'only in WSL2): see docs/gpu.md')


@pytest.mark.parametrize('log, reason', [
    (NO_DRIVER, 'failed call to cuInit: INTERNAL: CUDA error: Failed call to cuInit: UNKNOWN ERROR (303)'),
    (NO_LIBRARIES, 'Cannot dlopen some GPU libraries'),
    ('I0000 00:00:1 1 port.cc:153] oneDNN custom operations are on.\n', "TensorFlow's log gives no reason")])
def test_missing_gpu_reason_is_the_last_error_in_the_log(monkeypatch, log, reason):
    monkeypatch.setattr(tf.test, 'is_built_with_cuda', lambda: True)
    monkeypatch.setattr(subprocess, 'run', lambda *_, **options: SimpleNamespace(stderr=log))
    assert missing_gpu_reason() == reason


def test_missing_gpu_reason_without_cuda(monkeypatch):
    monkeypatch.setattr(tf.test, 'is_built_with_cuda', lambda: False)
    assert missing_gpu_reason() == 'this TensorFlow was built without CUDA'


@pytest.mark.slow
@pytest.mark.skipif(bool(device.gpu_names()) or device.has_nvidia_driver(), reason='this machine has an NVIDIA driver')
def test_missing_gpu_reason_is_read_from_the_log_of_tensorflow(monkeypatch):
    """The installed TensorFlow, on a machine without a driver."""
    monkeypatch.setattr(tf.test, 'is_built_with_cuda', lambda: True)
    monkeypatch.setenv('TF_CPP_MIN_LOG_LEVEL', '3')
    assert 'cuInit' in missing_gpu_reason()


@pytest.mark.parametrize('flags, unit', [
    ('fpu avx512f avx512_bf16', 'AVX-512'), ('fpu avx512_bf16 amx_bf16', 'AMX'), ('asimd bf16', 'Arm BF16'),
    ('fpu avx512f avx2', None)])
def test_bfloat16_unit_reads_the_flags_of_the_processor(tmp_path, monkeypatch, flags, unit):
    monkeypatch.delenv('TF_ENABLE_ONEDNN_OPTS', raising=False)
    cpuinfo = tmp_path / 'cpuinfo'
    cpuinfo.write_text(f'flags : {flags}\n')
    assert bfloat16_unit(str(cpuinfo)) == unit


def test_bfloat16_unit_is_none_without_cpuinfo(tmp_path):
    assert bfloat16_unit(str(tmp_path / 'none')) is None


def test_bfloat16_unit_is_none_without_onednn(tmp_path, monkeypatch):
    monkeypatch.setenv('TF_ENABLE_ONEDNN_OPTS', '0')
    cpuinfo = tmp_path / 'cpuinfo'
    cpuinfo.write_text('flags : amx_bf16\n')
    assert bfloat16_unit(str(cpuinfo)) is None
