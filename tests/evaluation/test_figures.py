import io

import imageio.v3 as imageio
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from evaluation import figures
from ops import attention
from storage.history import read_history
from storage.run import save_figure


def one_place_attention(sess, query, key):
    """beta [1, 12, 12] of the layer on a map of 3 x 4 where position query looks at position key and nowhere else."""
    x = np.zeros([1, 3, 4, 8], np.float32)
    x[0, key[0], key[1], 0] = x[0, query[0], query[1], 1] = 10
    attention(tf.constant(x), is_training=False)
    for variable in tf.global_variables():
        value = np.ones if variable.op.name.endswith(('bn/gamma', 'moving_variance')) else np.zeros
        variable.load(value(variable.shape), sess)
    for name, channel in ('f', 0), ('g', 1):  # the kernel's middle tap copies a channel
        w = next(v for v in tf.global_variables() if v.op.name == f'attention/{name}_conv/w')
        kernel = np.zeros(w.shape)
        kernel[1, 1, channel] = 1
        w.load(kernel, sess)
    return sess.run('attention/attention_map:0')


def test_the_map_drawn_for_a_point_is_its_row_of_the_tensor(sess, monkeypatch):
    query, key = (1, 3), (2, 0)
    beta = one_place_attention(sess, query, key)
    beta = beta.reshape(1, 3, 4, 3, 4)
    look = beta[0][query]
    assert look[key] == pytest.approx(1) and look.sum() == pytest.approx(1)
    np.testing.assert_allclose(beta[0, 0, 0], 1 / 12)  # the others look everywhere alike

    monkeypatch.setattr(figures, 'query_points', lambda image, grid: {'a': query, 'b': (0, 0), 'c': key, 'd': (1, 1)})
    figure = figures.draw_attention([('what', np.zeros([1, 12, 16, 1]), beta)], 'title')
    images = [axis.images[0] for axis in figure.axes if axis.images]
    np.testing.assert_allclose(images[1].get_array(), look)
    np.testing.assert_allclose(images[2].get_array(), 1 / 12)
    assert images[1].get_extent() == images[0].get_extent()  # enlarged to the image
    assert {image.get_clim() for image in images[1:5]} == {(0, look.max())}


def test_query_points():
    image = np.zeros([12, 16])
    image[0:4, 4:8] = 0.6
    image[4:8, 8:12] = 1
    image[8:12, 12:16] = 0.6
    image[8:12, 0:4] = 0.3  # too faint for an end
    assert figures.query_points(image, (3, 4)) == {
        'stroke': (1, 2), 'top end': (0, 1), 'bottom end': (2, 3), 'background': (1, 1)}


def test_figure_of_attention_holds_both_networks_and_survives_a_failed_run():
    images, maps = np.random.rand(2, 28, 28, 1), np.full([2, 7, 7, 7, 7], 1 / 49)
    figure = figures.draw_attention([('one', images, maps), ('two', images, maps)], 'title')
    assert len(figure.axes) == 2 * 2 * 5 + 1
    assert [text.get_text() for text in figure.texts] == ['title', 'one', 'two']
    figures.draw_attention([('nan', np.full([1, 28, 28, 1], np.nan), np.full([1, 7, 7, 7, 7], np.nan))], 'title')


HISTORY = 'step,d_loss,d_loss_real,d_loss_fake,g_loss,d_real,d_fake'


@pytest.mark.parametrize('rows', ['', '1,1,2,3,4,.5,.5,0,0', '1' + 8 * ',nan' + '\n2,1,2,3,inf,.5,.5,0,0'])
def test_curves_of_a_degenerate_run(tmp_path, rows):
    (tmp_path / 'history.csv').write_text(f'{HISTORY},g_gamma,d_gamma\n{rows}')
    for name in 'a.png', 'b.png':
        save_figure(figures.draw_curves(read_history(tmp_path / 'history.csv')), tmp_path / name)
    assert imageio.imread(tmp_path / 'a.png').std() > 0
    assert (tmp_path / 'a.png').read_bytes() == (tmp_path / 'b.png').read_bytes()


def test_curves_show_the_history(tmp_path):
    (tmp_path / 'history.csv').write_text(f'{HISTORY}\n50,1,2,3,4,.5,.6\n100,7,8,9,10,.7,.8\n')  # without attention
    figure = figures.draw_curves(read_history(tmp_path / 'history.csv'))
    lines = {line.get_label(): line.get_xydata().tolist() for axis in figure.axes for line in axis.lines}
    assert lines == {'G': [[50, 4], [100, 10]], 'D on real': [[50, 2], [100, 8]], 'D on fake': [[50, 3], [100, 9]],
                     'D, in all': [[50, 1], [100, 7]], 'real images': [[50, .5], [100, .7]],
                     'generated images': [[50, .6], [100, .8]]}


def test_pooled_keys_are_drawn_as_large_as_what_they_cover():
    """7 x 7 positions of 4 x 4 pixels that look at 4 x 4 keys: a key covers 8 x 8 pixels, the last half outside."""
    maps = np.random.default_rng(0).random([1, 7, 7, 4, 4])
    image = np.zeros([1, 28, 28, 1])
    plain = np.full([1, 7, 7, 7, 7], 1 / 49)
    figure = figures.draw_attention([('what', image, maps), ('plain', image, plain)], 'title')
    assert [text.get_text() for text in figure.texts] == [
        'title', 'what; what it looks at is pooled to 8 x 8 pixels', 'plain']
    looks = [axis for axis in figure.axes if axis.images][1:5]
    for axis, point in zip(looks, figures.query_points(image[0, :, :, 0], (7, 7)).values(), strict=True):
        assert axis.images[0].get_extent() == [-0.5, 31.5, 31.5, -0.5]
        assert (axis.get_xlim(), axis.get_ylim()) == ((-0.5, 27.5), (27.5, -0.5))
        np.testing.assert_allclose(axis.images[0].get_array(), maps[0][point])
    assert [axis.get_xlabel().partition('block')[2] for axis in figure.axes[-2:]] == [
        ', where there are 16 keys (evenly spread: 0.0625)', ', where there are 49 keys (evenly spread: 0.0204)']


def test_curves_say_what_the_output_of_d_is(tmp_path):
    rows = [{'step': '5', 'd_loss': '1', 'd_real': '2', 'd_fake': '-1', 'd_penalty': '0.5'}]
    titles = [axis.get_title(loc='left') for axis in figures.draw_curves(rows, "D's mean output").axes]
    assert titles == ['Losses', 'Gradient penalty, before its weight', "D's mean output"]


def test_a_long_title_takes_lines_of_its_own_and_stays_readable():
    images, maps = np.full([1, 28, 28, 1], 0.5), np.full([1, 7, 7, 7, 7], 1 / 49)
    short, long = (figures.draw_attention([('what', images, maps)], title)
                   for title in ('n' * 50, 'a-' * 9 + 'n' * 250))
    assert [len(line) for line in long.get_suptitle().split('\n')] == [100, 100, 68]
    assert long._suptitle.get_fontsize() == 9
    assert long.get_figheight() - short.get_figheight() == pytest.approx(2 * 0.17)
    below = [figure.get_figheight() * (1 - figure.axes[0].get_position().y1) for figure in (short, long)]
    assert below[1] - below[0] == pytest.approx(2 * 0.17)


def test_colour_and_layers_of_several_sizes():
    """Maps of as many keys share a scale, with a bar that says how many; colour lies in grey under the maps."""
    rng = np.random.default_rng(0)
    images = np.full([1, 32, 32, 3], 0.5)
    images[0, 8:16, 16:24] = [0.9, 0.1, 0.5]  # as bright as its ground, in another colour
    large, small = (maps / maps.sum((3, 4), keepdims=True) for maps in (rng.random([1, 8, 8, 8, 8]),
                                                                       rng.random([1, 4, 4, 2, 2])))
    figure = figures.draw_attention([('a', images, large), ('b', images, small), ('c', images, large)], 'title')
    labels = [axis.get_xlabel() for axis in figure.axes if axis.get_xlabel()]
    assert ['64 keys' in labels[0], '4 keys' in labels[1], len(labels)] == [True, True, 2]
    rows = [axis for axis in figure.axes if axis.images]
    np.testing.assert_allclose(rows[0].images[0].get_array(), images[0])
    for axis, (name, point) in zip(rows[1:5], figures.query_points(figures.ink_of(images[0]), (8, 8)).items(),
                                   strict=True):
        np.testing.assert_allclose(axis.images[0].get_array(), images[0].mean(2))
        np.testing.assert_allclose(axis.images[1].get_array(), large[0][point])
        if name == 'stroke':
            assert 2 <= point[0] < 4 and 4 <= point[1] < 6 and axis.get_title() == 'object'
    limits = [axis.images[-1].get_clim()[1] for axis in rows]
    assert len(set(limits[1:5] + limits[11:15])) == 1 != len(set(limits[1:5] + limits[6:10]))
    colour = figures.draw_neighbours(np.uint8(255 * images), np.uint8(255 * images)[:, None], 'a$\\foo$')
    colour.savefig(io.BytesIO())  # no formula, though it looks like one
    np.testing.assert_allclose(colour.axes[1].images[0].get_array(), np.uint8(255 * images[0]) / 255)
