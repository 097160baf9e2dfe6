import io
import os

import imageio.v3 as imageio
import numpy as np
import pytest

from evaluation import figures
from ops import attention
from storage.history import read_history
from tf1 import tf
from utils import save_images, write_png

HISTORY = 'step,d_loss,d_loss_real,d_loss_fake,g_loss,d_real,d_fake'


def uniform_maps(count, grid, keys=None):
    """Return attention maps [count, *grid, *keys] whose weights are all equal."""
    keys = keys or grid
    return np.full([count, *grid, *keys], 1 / np.prod(keys))


def random_maps(count, grid, keys, rng):
    maps = rng.random([count, *grid, *keys])
    return maps / maps.sum((3, 4), keepdims=True)


def image_axes(figure):
    return [axis for axis in figure.axes if axis.images]


def colour_bar_labels(figure):
    return [axis.get_xlabel() for axis in figure.axes if axis.get_xlabel()]


##################################################################################
# Files
##################################################################################

def write_grid(folder, name, brightness, shape=(8, 8)):
    save_images(np.full([1, *shape, 1], brightness), (1, 1), str(folder / f'SAGAN_train_{name}.png'))


def read_frames(folder):
    """Return the mean brightness of each frame of the animation, in [0, 1]."""
    frames = imageio.imread(folder / 'SAGAN_progress.gif', index=None)
    return [frame.mean() / 255 for frame in frames]


@pytest.mark.parametrize('rows', ['', '1,1,2,3,4,.5,.5,0,0', '1' + 8 * ',nan' + '\n2,1,2,3,inf,.5,.5,0,0'],
                         ids=['empty', 'one row', 'not finite'])
def test_save_figure_writes_the_same_bytes_for_the_same_history(tmp_path, rows):
    (tmp_path / 'history.csv').write_text(f'{HISTORY},g_gamma,d_gamma\n{rows}')
    for name in 'a.png', 'b.png':
        figures.save_figure(figures.draw_curves(read_history(tmp_path / 'history.csv')), tmp_path / name)
    assert imageio.imread(tmp_path / 'a.png').std() > 0
    assert (tmp_path / 'a.png').read_bytes() == (tmp_path / 'b.png').read_bytes()


def test_write_animation_sorts_grids_by_step(tmp_path):
    for level, step in enumerate(['00300', '01000', '100000']):
        write_grid(tmp_path, f'step{step}', level / 4)
    figures.write_animation(str(tmp_path), 'SAGAN', 100)
    np.testing.assert_allclose(read_frames(tmp_path), [0, 1 / 4, 2 / 4], atol=0.01)


def test_write_animation_sorts_grids_with_names_of_earlier_versions(tmp_path):
    names = '00_0300', '02_0300', '10_0100', '100_0001'
    for level, name in enumerate(names):
        write_grid(tmp_path, name, level / 4)
    figures.write_animation(str(tmp_path), 'SAGAN', 1000)
    np.testing.assert_allclose(read_frames(tmp_path), [0, 1 / 4, 2 / 4, 3 / 4], atol=0.01)


def test_write_animation_shows_a_step_once_if_a_run_was_repeated_from_an_earlier_step(tmp_path):
    for level, name in enumerate(['00_0300', '01_0200', '01_0500', 'step01200', 'step01500', 'step01800']):
        write_grid(tmp_path, name, level / 8)
    figures.write_animation(str(tmp_path), 'SAGAN', 1000)
    np.testing.assert_allclose(read_frames(tmp_path), [0, 3 / 8, 4 / 8, 5 / 8], atol=0.01)


def test_write_animation_enlarges_the_grids_of_earlier_versions(tmp_path):
    write_png(tmp_path / 'SAGAN_train_00_0300.png', np.full([7, 8, 1], 255, np.uint8))
    write_grid(tmp_path, 'step00600', 0.5, shape=(7, 8))
    figures.write_animation(str(tmp_path), 'SAGAN', 1000)
    np.testing.assert_allclose(read_frames(tmp_path), [1, 0.5], atol=0.01)
    assert imageio.imread(tmp_path / 'SAGAN_progress.gif', index=None).shape[1:3] == (490, 560)


def test_write_animation_keeps_only_grids_of_the_newest_size(tmp_path):
    write_grid(tmp_path, 'step00001', 0.5, shape=(8, 16))
    write_grid(tmp_path, 'step00002', 1)
    figures.write_animation(str(tmp_path), 'SAGAN', 100)
    np.testing.assert_allclose(read_frames(tmp_path), [1], atol=0.01)


def test_write_animation_writes_nothing_without_grids(tmp_path):
    figures.write_animation(str(tmp_path), 'SAGAN', 100)
    assert not os.listdir(tmp_path)


def test_write_animation_skips_grids_that_cannot_be_read(tmp_path):
    for step in range(1, 6):
        write_grid(tmp_path, f'step0000{step}', step / 5)
    whole = (tmp_path / 'SAGAN_train_step00002.png').read_bytes()
    for step, content in (2, whole[:50]), (3, b''), (4, b'not an image'):
        (tmp_path / f'SAGAN_train_step0000{step}.png').write_bytes(content)
    (tmp_path / 'SAGAN_train_step00006.png').mkdir()
    figures.write_animation(str(tmp_path), 'SAGAN', 100)
    np.testing.assert_allclose(read_frames(tmp_path), [1 / 5, 1], atol=0.01)


def test_write_animation_thins_out_many_grids(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, 'MAX_FRAMES', 3)
    for step in range(7):
        write_grid(tmp_path, f'step0000{step}', step / 6)
    figures.write_animation(str(tmp_path), 'SAGAN', 100)
    np.testing.assert_allclose(read_frames(tmp_path), [0, 3 / 6, 6 / 6], atol=0.01)


def test_write_animation_scales_large_grids_down(tmp_path):
    for step in 1, 2:
        save_images(np.random.default_rng(step).random([1, 1024, 512, 3]), (1, 1),
                    str(tmp_path / f'SAGAN_train_step0000{step}.png'))
    figures.write_animation(str(tmp_path), 'SAGAN', 100)
    assert imageio.imread(tmp_path / 'SAGAN_progress.gif', index=None).shape[:3] == (2, 512, 256)


##################################################################################
# Training curves
##################################################################################

def test_draw_curves_plots_the_columns_of_the_history(tmp_path):
    (tmp_path / 'history.csv').write_text(f'{HISTORY}\n50,1,2,3,4,.5,.6\n100,7,8,9,10,.7,.8\n')
    figure = figures.draw_curves(read_history(tmp_path / 'history.csv'))
    lines = {line.get_label(): line.get_xydata().tolist() for axis in figure.axes for line in axis.lines}
    assert lines == {'G': [[50, 4], [100, 10]], 'D, real': [[50, 2], [100, 8]], 'D, generated': [[50, 3], [100, 9]],
                     'D, total': [[50, 1], [100, 7]], 'real images': [[50, .5], [100, .7]],
                     'generated images': [[50, .6], [100, .8]]}


def test_draw_curves_leaves_out_missing_values():
    rows = [{'step': '5', 'd_loss': '1', 'frechet_distance': ''}, {'step': '9', 'd_loss': '2', 'frechet_distance': '3'}]
    assert [axis.lines[0].get_xydata().tolist() for axis in figures.draw_curves(rows).axes] == [
        [[5, 1], [9, 2]], [[9, 3]]]


def test_draw_curves_titles_the_panels_that_have_data():
    rows = [{'step': '5', 'd_loss': '1', 'd_real': '2', 'd_fake': '-1', 'd_penalty': '0.5'}]
    titles = [axis.get_title(loc='left') for axis in figures.draw_curves(rows, "D's mean output").axes]
    assert titles == ['Losses', 'Gradient penalty (unweighted)', "D's mean output"]


def test_draw_curves_labels_each_gamma():
    rows = [{'step': '5', 'g_gamma': '1', 'g_gamma_2': '2', 'd_gamma': '3'}]
    assert [line.get_label() for line in figures.draw_curves(rows).axes[0].lines] == [
        'generator', 'generator, layer 2', 'discriminator']


def test_draw_curves_names_the_maps_of_several_layers():
    rows = [{'step': '5', 'g_gamma': '1', 'g_gamma_2': '2', 'g_gamma_3': '2', 'd_gamma': '3'}]
    shapes = {'g_gamma': [7, 7], 'g_gamma_2': [14, 14], 'g_gamma_3': [14, 14], 'd_gamma': [7, 7]}
    lines = figures.draw_curves(rows, map_shapes=shapes).axes[0].lines
    assert [line.get_label() for line in lines] == [
        'generator, 7 x 7', 'generator, layer 2, 14 x 14', 'generator, layer 3, 14 x 14', 'discriminator']


##################################################################################
# The comparison of runs
##################################################################################

def comparison_lines(histories):
    """Return {title of a panel: its curves}."""
    figure = figures.draw_comparison(histories)
    return {axis.get_title(loc='left'): [line.get_xydata().tolist() for line in axis.lines]
            for axis in figure.axes if axis.get_title(loc='left')}


def test_draw_comparison_has_a_panel_per_quantity_and_a_curve_per_run():
    gammas = [{'step': '5', 'g_gamma': '1', 'd_gamma': '2'}]
    distances = [{'step': '5', 'g_gamma': '', 'frechet_distance': '8'}, {'step': '6', 'frechet_distance': '9'}]
    assert comparison_lines({'a': gammas, 'b': distances}) == {
        'Gamma of the generator': [[[5, 1]]], 'Gamma of the discriminator': [[[5, 2]]],
        'Fréchet distance to the training images': [[[5, 8], [6, 9]]]}


def test_draw_comparison_smooths_losses(monkeypatch):
    monkeypatch.setattr(figures, 'SMOOTHED_ROWS', 2)
    rows = [{'step': step, 'g_loss': loss} for step, loss in [('1', '2'), ('2', '4'), ('3', '8')]]
    assert comparison_lines({'a': rows}) == {'Loss of G, smoothed': [[[1, 2], [2, 3], [3, 6]]]}


def test_draw_comparison_gives_each_of_many_runs_its_own_style():
    histories = {f'run {number}': [{'step': '1', 'd_loss': '1'}] for number in range(15)}
    figure = figures.draw_comparison(histories)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(histories)
    styles = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(styles) == 15


def test_draw_comparison_draws_a_figure_without_histories():
    assert figures.draw_comparison({}).axes


##################################################################################
# Attention maps
##################################################################################

QUERY, KEY = (1, 3), (2, 0)


@pytest.fixture
def one_hot_attention(sess):
    """Return the map [1, 3, 4, 3, 4] of a layer in which QUERY attends only to KEY. The other rows are uniform."""
    x = np.zeros([1, 3, 4, 8], np.float32)
    x[0, KEY[0], KEY[1], 0] = x[0, QUERY[0], QUERY[1], 1] = 10
    attention(tf.constant(x), is_training=False)
    for variable in tf.global_variables():
        is_one = variable.op.name.endswith(('bn/gamma', 'moving_variance'))
        variable.load(np.full(variable.shape, float(is_one)), sess)
    for name, channel in ('f', 0), ('g', 1):
        w = next(v for v in tf.global_variables() if v.op.name == f'attention/{name}_conv/w')
        kernel = np.zeros(w.shape)
        kernel[1, 1, channel] = 1  # the centre of the kernel copies a channel
        w.load(kernel, sess)
    return sess.run('attention/attention_map:0').reshape(1, 3, 4, 3, 4)


@pytest.fixture
def one_hot_figure(one_hot_attention, monkeypatch):
    """Draw the map of one_hot_attention, with QUERY as the first query."""
    monkeypatch.setattr(figures, 'choose_queries', lambda mask, grid: {
        'a': QUERY, 'b': (0, 0), 'c': KEY, 'd': (1, 1)})
    return figures.draw_attention([('section', np.zeros([1, 12, 16, 1]), one_hot_attention)], 'title')


def test_draw_attention_draws_the_row_of_a_query(one_hot_figure):
    expected = np.zeros([3, 4])
    expected[KEY] = 1
    _, first, second, *_ = image_axes(one_hot_figure)
    np.testing.assert_allclose(first.images[0].get_array(), expected, atol=1e-6)
    np.testing.assert_allclose(second.images[0].get_array(), np.full([3, 4], 1 / 12), rtol=1e-6)


def test_draw_attention_enlarges_maps_to_the_image(one_hot_figure):
    image, first, *_ = image_axes(one_hot_figure)
    assert first.images[0].get_extent() == image.images[0].get_extent()


def test_draw_attention_shares_one_colour_scale_from_0_to_the_largest_weight(one_hot_figure):
    _, *maps = image_axes(one_hot_figure)
    assert len(maps) == 4
    for axis in maps:
        assert axis.images[0].get_clim() == (0, pytest.approx(1))


def test_draw_attention_has_a_section_for_each_layer():
    images, maps = np.random.default_rng(0).random([2, 28, 28, 1]), uniform_maps(2, (7, 7))
    figure = figures.draw_attention([('one', images, maps), ('two', images, maps)], 'title')
    assert [text.get_text() for text in figure.texts] == ['title', 'one', 'two']
    assert len(figure.axes) == 2 * 2 * 5 + 1  # sections, images, axes per row, and the colour bar


def test_draw_attention_survives_nan():
    figure = figures.draw_attention(
        [('nan', np.full([1, 28, 28, 1], np.nan), np.full([1, 7, 7, 7, 7], np.nan))], 'title')
    figure.savefig(io.BytesIO())


@pytest.fixture(scope='module')
def pooled():
    """Draw maps of 7 x 7 positions over 4 x 4 keys of 8 x 8 pixels. The last keys lie half outside the image.

    Returns:
        The figure and the weights of its four queries.
    """
    image = np.zeros([1, 28, 28, 1])
    maps = random_maps(1, (7, 7), (4, 4), np.random.default_rng(0))
    figure = figures.draw_attention(
        [('pooled', image, maps), ('not pooled', image, uniform_maps(1, (7, 7)))], 'title')
    queries = figures.choose_queries(image[0, :, :, 0], (7, 7)).values()
    return figure, [maps[0][query] for query in queries]


def test_draw_attention_reports_the_size_of_pooled_keys(pooled):
    figure, _ = pooled
    assert [text.get_text() for text in figure.texts] == [
        'title', 'pooled; each key covers 8 x 8 pixels', 'not pooled']


def test_draw_attention_draws_pooled_keys_at_their_size(pooled):
    figure, expected = pooled
    for axis, weights in zip(image_axes(figure)[1:5], expected, strict=True):
        np.testing.assert_allclose(axis.images[0].get_array(), weights)
        assert axis.images[0].get_extent() == [-0.5, 31.5, 31.5, -0.5]


def test_draw_attention_crops_pooled_keys_to_the_image(pooled):
    figure, _ = pooled
    for axis in image_axes(figure)[1:5]:
        assert (axis.get_xlim(), axis.get_ylim()) == ((-0.5, 27.5), (27.5, -0.5))


def test_draw_attention_labels_colour_bars_with_the_number_of_keys(pooled):
    figure, _ = pooled
    assert colour_bar_labels(figure) == [
        'attention weights of the framed position in layers with 16 keys (uniform: 0.0625)',
        'attention weights of the framed position in layers with 49 keys (uniform: 0.0204)']


def test_draw_attention_labels_a_single_colour_bar_without_the_number_of_keys():
    figure = figures.draw_attention([('section', np.zeros([1, 28, 28, 1]), uniform_maps(1, (7, 7)))], 'title')
    assert colour_bar_labels(figure) == ['attention weights of the framed position (uniform: 0.0204)']


def long_and_short_title():
    images, maps = np.full([1, 28, 28, 1], 0.5), uniform_maps(1, (7, 7))
    return [figures.draw_attention([('section', images, maps)], title) for title in ('a-' * 9 + 'n' * 250, 'n' * 50)]


def test_write_title_wraps_a_long_title():
    long, _ = long_and_short_title()
    assert [len(line) for line in long.get_suptitle().split('\n')] == [100, 100, 68]
    assert long._suptitle.get_fontsize() == 9


def test_write_title_makes_room_for_extra_lines():
    long, short = long_and_short_title()
    assert long.get_figheight() - short.get_figheight() == pytest.approx(2 * 0.17)
    above = [figure.get_figheight() * (1 - figure.axes[0].get_position().y1) for figure in (long, short)]
    assert above[0] - above[1] == pytest.approx(2 * 0.17)


COLOUR_IMAGE = np.full([32, 32, 3], 0.5)
COLOUR_IMAGE[8:16, 16:24] = [0.9, 0.1, 0.5]  # an object as bright as its background


@pytest.fixture(scope='module')
def in_colour():
    """Draw a colour image with layers of 64, 4 and 64 keys. Return the figure and the maps of the first layer."""
    rng = np.random.default_rng(0)
    images = COLOUR_IMAGE[None]
    large, small = random_maps(1, (8, 8), (8, 8), rng), random_maps(1, (4, 4), (2, 2), rng)
    figure = figures.draw_attention([('a', images, large), ('b', images, small), ('c', images, large)], 'title')
    return figure, large[0]


def test_draw_attention_draws_the_image_in_colour(in_colour):
    figure, _ = in_colour
    np.testing.assert_allclose(image_axes(figure)[0].images[0].get_array(), COLOUR_IMAGE)


def test_draw_attention_draws_maps_over_the_grey_version_of_a_colour_image(in_colour):
    figure, maps = in_colour
    queries = figures.choose_queries(figures.foreground(COLOUR_IMAGE), (8, 8)).values()
    for axis, query in zip(image_axes(figure)[1:5], queries, strict=True):
        grey, weights = axis.images
        np.testing.assert_allclose(grey.get_array(), COLOUR_IMAGE.mean(2))
        np.testing.assert_allclose(weights.get_array(), maps[query])


def test_draw_attention_titles_the_queries_of_a_colour_image(in_colour):
    figure, _ = in_colour
    assert [axis.get_title() for axis in image_axes(figure)[1:5]] == ['object', 'top end', 'bottom end', 'background']


def test_draw_attention_has_one_colour_scale_per_number_of_keys(in_colour):
    figure, _ = in_colour
    limits = [axis.images[-1].get_clim() for axis in image_axes(figure)]
    a, b, c = (set(limits[start:start + 4]) for start in (1, 6, 11))
    assert len(a) == 1 and a == c != b
    assert len(colour_bar_labels(figure)) == 2


##################################################################################
# Queries
##################################################################################

def test_foreground_is_the_brightness_of_a_grey_image():
    image = np.random.default_rng(0).random([4, 6, 1])
    np.testing.assert_array_equal(figures.foreground(image), image[:, :, 0])


def test_foreground_of_a_colour_image_is_its_difference_from_the_border_colour():
    expected = np.zeros([32, 32])
    expected[8:16, 16:24] = (0.4 + 0.4 + 0) / 3
    np.testing.assert_allclose(figures.foreground(COLOUR_IMAGE), expected, atol=1e-12)


def test_choose_queries_follows_the_foreground():
    mask = np.zeros([12, 16])
    mask[0:4, 4:8] = 0.6
    mask[4:8, 8:12] = 1
    mask[8:12, 12:16] = 0.6
    mask[8:12, 0:4] = 0.3  # less than half of the maximum
    assert figures.choose_queries(mask, (3, 4)) == {
        'stroke': (1, 2), 'top end': (0, 1), 'bottom end': (2, 3), 'background': (1, 1)}


##################################################################################
# Nearest neighbours
##################################################################################

def test_draw_neighbours_draws_each_image_before_its_neighbours():
    pixels = np.random.default_rng(0).integers(0, 256, [6, 8, 8, 3]).astype(np.uint8)
    figure = figures.draw_neighbours(pixels[:2], pixels[2:].reshape(2, 2, 8, 8, 3), 'title')
    for axis, index in zip(figure.axes, [0, 2, 3, 1, 4, 5], strict=True):
        np.testing.assert_allclose(axis.images[0].get_array(), pixels[index] / 255)


def test_draw_neighbours_accepts_a_title_that_looks_like_a_formula():
    pixels = np.zeros([1, 8, 8, 1], np.uint8)
    figures.draw_neighbours(pixels, pixels[:, None], 'a$\\foo$').savefig(io.BytesIO())
