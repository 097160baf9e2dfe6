import numpy as np
import pytest
from PIL import Image

from datasets.bit_depth import Scale, choose_scale, describe_scale, kind_of, scale_to_8_bits, value_range


def make_image(values, dtype=np.uint16):
    """Return an image of one row."""
    return Image.fromarray(np.array([values], dtype))


def grey(image, scale):
    return np.asarray(scale_to_8_bits(image, scale)).tolist()[0]


@pytest.mark.parametrize('image, kind', [
    (make_image([1]), 'I'), (make_image([1], '>u2'), 'I'), (make_image([1], np.int32), 'I'),
    (make_image([1], np.float32), 'F'), (make_image([1], np.uint8), None), (Image.new('RGB', (1, 1)), None),
    (Image.new('1', (1, 1)), None)])
def test_kind_of_finds_images_of_more_than_8_bits(image, kind):
    assert kind_of(image) == kind


@pytest.mark.parametrize('high, bits', [(0, 8), (255, 8), (256, 10), (1023, 10), (1024, 12), (4095, 12), (4096, 14),
                                        (16383, 14), (16384, 16), (65535, 16)])
def test_choose_scale_returns_the_smallest_usual_bit_depth(high, bits):
    assert choose_scale('I', 0, high) == (0, 2 ** bits - 1, bits)


@pytest.mark.parametrize('kind, low, high', [('I', -1, 100), ('I', 0, 65536), ('F', 0., 1.)])
def test_choose_scale_is_linear_for_other_values(kind, low, high):
    assert choose_scale(kind, low, high) == (low, high, None)


@pytest.mark.parametrize('bits', [8, 10, 12, 14, 16])
@pytest.mark.parametrize('dtype', ['<u2', '>u2', np.int32])
def test_scale_to_8_bits_keeps_the_highest_bits(bits, dtype):
    values = np.array([0, 1, 99, 100, 255]) * 2 ** (bits - 8)
    image = make_image(values + [0, 0, 0, 2 ** (bits - 8) - 1, 2 ** (bits - 8) - 1], dtype)
    assert grey(image, choose_scale('I', 0, 2 ** bits - 1)) == [0, 1, 99, 100, 255]


def test_scale_to_8_bits_maps_integers_linearly():
    """Hounsfield units of a scanner, for example."""
    assert grey(make_image([-1024, 0, 1000, 3071], np.int32), Scale(-1024, 3071, None)) == [0, 64, 126, 255]


def test_scale_to_8_bits_maps_floats_linearly():
    assert grey(make_image([-1, 0, 1, 3], np.float32), Scale(-1., 3., None)) == [0, 64, 128, 255]


def test_scale_to_8_bits_maps_values_that_are_not_finite():
    assert grey(make_image([np.nan, -np.inf, np.inf, 3], np.float32), Scale(-1., 3., None)) == [0, 0, 255, 255]


@pytest.mark.parametrize('values, dtype', [([7, 7], np.float32), ([-7, -7], np.int32)])
def test_scale_to_8_bits_makes_a_constant_data_set_black(values, dtype):
    image = make_image(values, dtype)
    assert grey(image, choose_scale(kind_of(image), *value_range(image))) == [0, 0]


def test_scale_to_8_bits_of_the_largest_floats_does_not_overflow():
    limit = float(np.finfo(np.float32).max)
    assert grey(make_image([-limit, 0, limit], np.float32), Scale(-limit, limit, None)) == [0, 128, 255]


@pytest.mark.parametrize('image, expected', [
    (make_image([3, 5, 4000]), (3, 4000)), (make_image([-5, 70000], np.int32), (-5, 70000)),
    (make_image([-0.5, np.nan, np.inf, 2], np.float32), (-0.5, 2))])
def test_value_range_returns_the_minimum_and_maximum(image, expected):
    assert value_range(image) == expected


def test_value_range_rejects_an_image_without_finite_pixels():
    with pytest.raises(ValueError, match='no pixel is a finite number'):
        value_range(make_image([np.nan, np.inf], np.float32))


@pytest.mark.parametrize('values, expected', [([3, 65535], (3, 3)), ([65535], (0, 0))])
def test_value_range_ignores_transparent_pixels(values, expected):
    image = make_image(values)
    image.info['transparency'] = 65535
    assert value_range(image) == expected


def test_scale_to_8_bits_makes_transparent_pixels_white():
    image = make_image([0, 3, 4095])
    image.info['transparency'] = 3
    assert grey(image, choose_scale('I', 0, 4095)) == [0, 255, 255]


@pytest.mark.parametrize('kind, scale, text', [
    ('I', Scale(0, 4095, 12), '12-bit values'),
    ('F', Scale(-0.123456789, 2.5, None), 'float values from -0.123457 to 2.5'),
    ('I', Scale(-1024, 3071, None), 'integer values from -1024 to 3071')])
def test_describe_scale_names_the_values(kind, scale, text):
    assert describe_scale(kind, scale) == text
