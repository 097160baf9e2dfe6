"""The playground page, with a stand-in worker that computes simple formulas. test_playground.py checks the networks."""

import base64
import hashlib
import io
import json
import re

import numpy as np
import pytest
from browser import Page
from PIL import Image
from scipy import ndimage, stats
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from tiny_gan import TinyGAN, open_model

from explorer.page import compressed
from explorer.playground import build_page, render_page
from tf1 import tf

# The generator's pixels are 0.5 + z[0] / 4 + label / 100 + the sum of gammas / 10. The discriminator's output is the
# average pixel plus label / 100 plus the sum of gammas / 10. Position i gives three quarters of its attention to the
# position after it, and the rest to all others.
WORKER = """
const rows = count => Float32Array.from({length: count * count}, (_, i) =>
  i % count === (Math.floor(i / count) + 1) % count ? 0.75 : 0.25 / (count - 1));
const sum = values => values.reduce((total, value) => total + value, 0);
onmessage = ({data: {kind, id, z, pixels, label, gammas = []}}) => {
  const shift = label / 100 + sum(gammas) / 10, maps = gammas.map((_, i) => rows(i === 0 ? 49 : 16));
  if (kind === 'load') postMessage({kind: 'ready'});
  else if (kind === 'judge') postMessage({kind: 'judged', id, output: sum(pixels) / pixels.length + shift, maps});
  else postMessage({kind: 'generated', id, pixels: new Float32Array(784).fill(0.5 + z[0] / 4 + shift), maps});
};
"""
G, D = '#generator', '#discriminator'
GAMMA = 0.4
RNG = np.random.default_rng(0)
SAMPLES = RNG.integers(0, 256, [4, 28, 28, 1], np.uint8)


def layers(*gammas):
    """Return at most two layers: the first has 7 x 7 positions, the second 4 x 4."""
    return [{'name': 'attention', 'positions': grid, 'keys': grid, 'gamma': gamma, 'block': 'article'}
            for grid, gamma in zip([[7, 7], [4, 4]], gammas, strict=False)]


METADATA = {
    'run': 'a <b> run', 'step': 70, 'image_shape': [28, 28, 1], 'z_dim': 20, 'z_name': 'uniform',
    'class_names': [], 'output': 'probability', 'layers': {'generator': layers(GAMMA), 'discriminator': layers(GAMMA)},
    'coordinates': [3, 0, 1, 2, 4, 5, 6, 7], 'graph': {},
    'samples': {'count': 0, 'images': compressed(b''), 'labels': []}}
CLASSES = {'class_names': ['zero', '<img src=x onerror="document.title=1">', 'two']}
WITH_SAMPLES = {'samples': {'count': 4, 'images': compressed(SAMPLES.tobytes()), 'labels': [1, 2, 0, 1]}}


def script_text(html, attributes):
    return re.search(f'<script{attributes}>(.*?)</script>', html, re.DOTALL)[1]


# ---- The file

def test_file_allows_only_its_own_script():
    html = render_page(METADATA, b'', WORKER)
    digest = base64.b64encode(hashlib.sha256(script_text(html, '').encode()).digest()).decode()
    assert f"default-src 'none'; script-src 'sha256-{digest}'; worker-src blob:;" in html


def test_file_escapes_the_names_of_classes():
    html = render_page({**METADATA, 'class_names': ['</script><b>']}, b'', WORKER)
    metadata = script_text(html, ' type="application/json" id="playground"')
    assert json.loads(metadata)['class_names'] == ['</script><b>']


def test_file_refers_to_no_external_addresses():
    assert not re.search(r'(src|href)="(?!data:)|https?://|@import|url\(', render_page(METADATA, b'', ''))


class Playground(Page):
    """A playground in the browser."""

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def settle(self):
        """Wait until the worker has computed the current state and the page shows it."""
        self.wait_until("""!element('error').hidden || !drawingChanged && Object.values(sides).every(
            side => side.result && side.result.input === side.input && side.result.gammas === side.gammas)""")

    def pixels(self, side):
        """Return the newest image of a side, [H, W, C]."""
        return np.array(self.run(f'return Array.from({side}.result.pixels)')).reshape(
            self.run('return playground.image_shape'))

    def z(self):
        return np.array(self.run('return Array.from(generator.input.z)'))

    def text_of(self, css):
        return self.find(css).text

    def set(self, css, value):
        """Set the value of an input as a user does."""
        self.run("""
            const input = document.querySelector(arguments[0]);
            input.value = arguments[1];
            for (const type of ['input', 'change'])
                input.dispatchEvent(new Event(type, {bubbles: true}));""", css, value)
        self.settle()

    def stroke(self, *points):
        """Draw a line through points (x, y), in pixels of the 28 x 28 image."""
        canvas = self.find('#drawing')
        self.run('arguments[0].scrollIntoView({block: "center"})', canvas)
        width, height = canvas.size['width'], canvas.size['height']
        actions = ActionChains(self.driver, duration=20)
        for i, (x, y) in enumerate(points):
            actions.move_to_element_with_offset(canvas, (x / 28 - 0.5) * width, (y / 28 - 0.5) * height)
            if i == 0:
                actions.click_and_hold()
        actions.release().perform()
        self.settle()

    def choose_file(self, path):
        """Open an image file and wait for the image or for an error message."""
        self.run('window.before = discriminator.input')
        self.find('#file').send_keys(str(path))
        self.wait_until("discriminator.input !== before || !element('file-error').hidden")
        self.settle()


@pytest.fixture
def open_playground(driver, tmp_path):
    """Return a function that opens a page with changed metadata. The test fails if the last page reports an error."""
    pages = []

    def open_in_browser(metadata=None, worker=WORKER, width=1000):
        path = tmp_path / f'{len(pages)}.html'
        path.write_text(render_page({**METADATA, **(metadata or {})}, b'1234', worker), encoding='utf-8')
        pages.append(Playground(driver, path, width=width))
        pages[-1].settle()
        return pages[-1]
    yield open_in_browser
    assert pages[-1].errors() == []


@pytest.fixture
def page(open_playground):
    return open_playground()


slow = pytest.mark.slow


# ---- Generator

@slow
def test_page_shows_the_image_that_the_worker_generates(page):
    expected = 0.5 + page.z()[0] / 4 + GAMMA / 10
    colours = page.run("""
        const canvas = document.querySelector('#generator .image');
        return Array.from(canvas.getContext('2d').getImageData(5, 5, 1, 1).data)""")
    assert colours == [*[round(255 * expected)] * 3, 255]


@slow
def test_same_seed_gives_the_same_sample(page):
    page.set('#seed', 5)
    first = page.z()
    page.click('#new-sample')
    assert not np.array_equal(page.z(), first)
    page.set('#seed', 5)
    assert np.array_equal(page.z(), first)


@slow
def test_new_sample_shows_its_seed(page):
    page.click('#new-sample')
    seed, z = page.run('return element("seed").value'), page.z()
    page.set('#seed', seed)
    assert np.array_equal(page.z(), z)


@slow
@pytest.mark.parametrize('z_name, distribution', [('uniform', stats.uniform(-1, 2)), ('normal', stats.norm())])
def test_samples_have_the_distribution_of_the_run(open_playground, z_name, distribution):
    page = open_playground({'z_name': z_name})
    values = page.run('return Array.from({length: 100}, (_, seed) => Array.from(drawZ(seed))).flat()')
    assert stats.kstest(values, distribution.cdf).pvalue > 0.01


@slow
def test_slider_moves_its_coordinate_only(page):
    before = page.z()
    page.set('#coordinates [aria-label="z[3]"]', 0.25)
    assert np.array_equal(np.nonzero(page.z() != before)[0], [3])
    assert page.z()[3] == 0.25


@slow
def test_last_slider_moves_the_coordinate_with_the_given_number(page):
    page.set('#coordinates input[type=number]', 19)
    page.set('#coordinates [aria-label="z[19]"]', -0.5)
    assert page.z()[19] == -0.5


@slow
def test_note_says_how_the_sample_was_made(page):
    page.set('#seed', 8)
    page.set('#coordinates [aria-label="z[3]"]', 0.25)
    assert page.text('sample-note') == 'z from seed 8, changed'


@slow
def test_walk_interpolates_between_the_kept_samples(page):
    page.set('#seed', 1)
    start = page.z()
    page.click('#keep-start')
    page.set('#seed', 2)
    end = page.z()
    page.click('#keep-end')
    page.set('#walk', 25)
    np.testing.assert_allclose(page.z(), 0.75 * start + 0.25 * end, atol=1e-6)


@slow
def test_walk_needs_two_samples(page):
    page.click('#keep-start')
    assert not page.find('#walk').is_enabled()
    page.click('#keep-end')
    assert page.find('#walk').is_enabled()


@slow
def test_class_button_sets_the_label_of_the_generator(open_playground):
    page = open_playground(CLASSES)
    before = page.pixels('generator')
    page.click(f'{G} .classes input[value="2"]')
    np.testing.assert_allclose(page.pixels('generator') - before, 0.02, atol=1e-6)


@slow
def test_run_without_classes_has_no_class_buttons(page):
    assert not any(field.is_displayed() for field in page.driver.find_elements('css selector', '.class-field'))


# ---- Gamma

@slow
@pytest.mark.parametrize('trained', [GAMMA, -GAMMA])
@pytest.mark.parametrize('position, factor', [(0, 0), (1, 1), (1.5, 1.5), (2, 2)])
def test_gamma_slider_spans_zero_to_twice_the_trained_value(open_playground, trained, position, factor):
    page = open_playground({'layers': {'generator': layers(trained), 'discriminator': []}})
    page.set(f'{G} .gammas input', position)
    np.testing.assert_allclose(page.pixels('generator'), 0.5 + page.z()[0] / 4 + factor * trained / 10, atol=1e-6)


@slow
def test_buttons_switch_attention_off_and_on(page):
    shown = []
    for button in 1, 2:
        page.click(f'{D} .marks button:nth-child({button})')
        shown.append(page.text_of(f'{D} .gammas output'))
    assert shown == ['0.000', '0.400']


@slow
def test_gamma_that_was_never_trained_starts_at_zero(open_playground):
    page = open_playground({'layers': {'generator': layers(0), 'discriminator': layers(0)}})
    assert page.text_of(f'{G} .gammas output') == '0.000'
    page.set(f'{G} .gammas input', 0.5)
    assert page.text_of(f'{G} .gammas output') == '0.500'


@slow
@pytest.mark.parametrize('gamma, label', [(0, '2'), (-0.5, '2 × trained')])
def test_gamma_slider_names_its_end(open_playground, gamma, label):
    page = open_playground({'layers': {'generator': layers(gamma), 'discriminator': layers(gamma)}})
    assert page.text_of(f'{G} .marks span') == label


@slow
def test_each_layer_has_its_gamma(open_playground):
    page = open_playground({'layers': {'generator': layers(0.2, 0.8), 'discriminator': layers(0.2, 0.8)}})
    page.click(f'{G} .gammas .marks:last-child button')
    assert [output.text for output in page.driver.find_elements('css selector', f'{G} .gammas output')] == [
        '0.200', '0.000']


def wait_for_comparison(page, side):
    page.wait_until(f'{side}.without && {side}.without.input === {side}.input')


@slow
def test_difference_shows_what_attention_changes(page):
    wait_for_comparison(page, 'generator')
    assert page.text('difference-note') == 'The largest change is 4.0% of the range from black to white.'


@slow
@pytest.mark.parametrize('trained, brightest', [(GAMMA, 'red'), (-GAMMA, 'blue')])
def test_difference_is_orange_where_attention_brightens(open_playground, trained, brightest):
    page = open_playground({'layers': {'generator': layers(trained), 'discriminator': []}})
    wait_for_comparison(page, 'generator')
    red, _, blue, _ = page.run(
        "return Array.from(element('difference').getContext('2d').getImageData(5, 5, 1, 1).data)")
    assert ('red' if red > blue else 'blue') == brightest


@slow
def test_difference_of_gamma_zero_is_empty(page):
    page.click(f'{G} .marks button')
    wait_for_comparison(page, 'generator')
    assert page.text('difference-note') == 'No pixel changes.'


@slow
def test_output_without_attention_is_shown_beside_the_output(page):
    wait_for_comparison(page, 'discriminator')
    assert page.text('output') == 'Probability that the image is real: 0.040'
    assert page.text('output-note') == 'Without attention: 0.000.'


# ---- Drawing

@slow
def test_stroke_is_as_wide_as_in_mnist(page):
    page.stroke((14, 6), (14, 22))
    rows = page.pixels('discriminator')[10:18, :, 0]
    np.testing.assert_allclose(rows.sum(1), 2.5, atol=0.1)


@slow
def test_stroke_is_where_the_pen_was(page):
    page.stroke((6, 20), (22, 20))
    image = page.pixels('discriminator')[:, :, 0]
    assert (image[20, 6:22] > 0.9).all()
    assert image[:18].max() == 0 and image[23:].max() == 0


@slow
def test_stroke_changes_the_output(page):
    page.stroke((6, 20), (22, 20))
    average = page.pixels('discriminator').mean()
    assert page.text('output') == f'Probability that the image is real: {average + GAMMA / 10:.3f}'


@slow
def test_position_follows_the_pen(page):
    page.stroke((2, 2), (26, 14))
    assert page.text_of(f'{D} .map-title') == 'Where row 4, column 7 looks'


@slow
def test_eraser_removes_ink(page):
    page.stroke((6, 20), (22, 20))
    page.click('input[value=eraser]')
    page.stroke((2, 20), (26, 20))
    assert page.pixels('discriminator').max() == 0


@slow
def test_clear_empties_the_drawing(page):
    page.stroke((6, 20), (22, 20))
    page.click('#clear')
    assert page.pixels('discriminator').max() == 0


@slow
def test_invert_swaps_black_and_white(page):
    page.stroke((6, 20), (22, 20))
    before = page.pixels('discriminator')
    page.click('#invert')
    np.testing.assert_allclose(page.pixels('discriminator'), 1 - before, atol=1e-6)


@slow
def test_right_button_does_not_draw(page):
    ActionChains(page.driver).context_click(page.find('#drawing')).perform()
    page.settle()
    assert page.pixels('discriminator').max() == 0


@slow
def test_finger_draws(page):
    box = page.run("""
        element('drawing').scrollIntoView({block: 'center'});
        const {left, top, width, height} = element('drawing').getBoundingClientRect();
        return {left, top, width, height}""")
    for kind, part in [('touchStart', 0.2), ('touchMove', 0.5), ('touchMove', 0.8), ('touchEnd', None)]:
        points = [] if part is None else [{'x': box['left'] + part * box['width'], 'y': box['top'] + box['height'] / 2}]
        page.driver.execute_cdp_cmd('Input.dispatchTouchEvent', {'type': kind, 'touchPoints': points})
    page.settle()
    assert (page.pixels('discriminator')[14, 6:22, 0] > 0.9).all()


@slow
def test_arrow_keys_draw_while_the_pen_is_down(page):
    page.point(3, 1, css='#drawing', grid=(7, 7))
    page.press(Keys.SPACE + Keys.ARROW_RIGHT * 12 + Keys.SPACE + Keys.ARROW_DOWN * 9, '#drawing')
    image = page.pixels('discriminator')[:, :, 0]
    assert (image[14, 6:18] > 0.9).all()
    assert image[16:].max() == 0
    assert page.text('cursor-note') == 'Pen at x 18, y 23, up: Space lowers it.'
    assert page.text_of(f'{D} .map-title') == 'Where row 6, column 5 looks'


@slow
def test_keyboard_draws_without_attention(open_playground):
    page = open_playground({'layers': {'generator': [], 'discriminator': []}})
    page.press(Keys.SPACE + Keys.ARROW_LEFT * 20, '#drawing')  # from the centre to the edge
    image = page.pixels('discriminator')[:, :, 0]
    assert (image[14, :14] > 0.9).all() and image[:, 16:].max() == 0


@slow
def test_keyboard_erases(page):
    page.stroke((6, 14), (22, 14))
    page.click('input[value=eraser]')
    page.press(Keys.SPACE + Keys.ARROW_LEFT * 28, '#drawing')
    assert page.pixels('discriminator')[:, :18].max() == 0


@slow
def test_keyboard_pen_is_lifted_when_the_drawing_loses_focus(page):
    page.press(Keys.SPACE, '#drawing')
    before = page.pixels('discriminator')
    page.press(Keys.ARROW_DOWN, '#generator .image')
    page.press(Keys.ARROW_DOWN * 4, '#drawing')
    assert np.array_equal(page.pixels('discriminator'), before)


@slow
def test_centre_scales_a_digit_to_20_pixels_and_centres_its_mass(page):
    page.stroke((3, 3), (9, 3), (5, 13))
    page.click('#centre')
    image = page.pixels('discriminator')[:, :, 0]
    rows, columns = np.nonzero(image > 0.2)
    assert abs(max(np.ptp(rows), np.ptp(columns)) + 1 - 20) <= 1
    # The mean centre of MNIST's test images is 14.0. Rows and columns count from 0.
    np.testing.assert_allclose(ndimage.center_of_mass(image), 14, atol=0.25)


@slow
def test_centre_leaves_an_empty_drawing_empty(page):
    page.click('#centre')
    assert page.pixels('discriminator').max() == 0


@slow
def test_images_of_32_pixels_have_digits_of_20_pixels(open_playground):
    worker = WORKER.replace('784', '1024')
    page = open_playground({'image_shape': [32, 32, 1]}, worker)
    page.stroke((3, 3), (9, 3), (5, 13))
    page.click('#centre')
    rows, _ = np.nonzero(page.pixels('discriminator')[:, :, 0] > 0.2)
    assert abs(np.ptp(rows) + 1 - 20) <= 1


@slow
def test_stroke_gives_the_output_and_map_of_tensorflow(driver, tmp_path):
    with open_model(TinyGAN, dataset='mnist', image_shape=(28, 28, 1), classes=10) as model:
        [layer] = model.layers['discriminator']
        rng = np.random.default_rng(0)
        for variable in tf.trainable_variables('discriminator/'):
            variable.load(rng.normal(0, 0.3, variable.shape), model.sess)
        model.refresh_statistics()
        (tmp_path / 'page.html').write_text(build_page(model, 1), encoding='utf-8')
        page = Playground(driver, tmp_path / 'page.html')
        page.settle()
        blank = page.run('return discriminator.result.output')
        page.stroke((8, 4), (20, 4), (11, 25))
        output, attention_map = model.sess.run(
            [model.d_output, layer.attention_map], {model.inputs: page.pixels('discriminator')[None]})
    assert abs(output[0, 0] - blank) > 0.01
    assert page.run('return discriminator.result.output') == pytest.approx(output[0, 0], abs=0.002)
    np.testing.assert_allclose(page.run('return Array.from(discriminator.result.maps[0])'), attention_map.ravel(),
                               atol=0.002)


# ---- Images to start from

@slow
def test_page_starts_with_the_first_test_image(open_playground):
    page = open_playground(WITH_SAMPLES)
    assert (np.rint(255 * page.pixels('discriminator')) == SAMPLES[0]).all()


@slow
def test_button_starts_from_a_test_image_of_its_class(open_playground):
    page = open_playground({**WITH_SAMPLES, **CLASSES})
    page.click('#samples button:nth-child(2)')
    np.testing.assert_allclose(page.pixels('discriminator'), SAMPLES[1] / 255, atol=1e-7)
    assert page.find(f'{D} .classes input[value="2"]').is_selected()


@slow
def test_button_starts_from_the_generated_image_and_its_class(open_playground):
    page = open_playground(CLASSES)
    page.click(f'{G} .classes input[value="1"]')
    page.click('#use-generated')
    np.testing.assert_allclose(page.pixels('discriminator'), page.pixels('generator'), atol=0.5 / 255 + 1e-6)
    assert page.find(f'{D} .classes input[value="1"]').is_selected()


def save_quarters(path, colours, size=(84, 56)):
    """Write an image file of 4 blocks of one colour each, around the centre. The page cuts off the red sides."""
    width, height = size
    image = Image.new('RGBA', size, 'red')
    for (row, column), colour in zip(np.ndindex(2, 2), colours, strict=True):
        left = width // 2 + (column - 1) * height // 2
        image.paste(colour, (left, row * height // 2, left + height // 2, (row + 1) * height // 2))
    image.save(path)


@slow
def test_file_is_cropped_at_the_centre_and_becomes_grey(page, tmp_path):
    colours = [(255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255), (90, 90, 90, 0)]
    save_quarters(tmp_path / 'image.png', colours)
    page.choose_file(tmp_path / 'image.png')
    # ITU-R BT.601, and white for transparent pixels
    np.testing.assert_allclose(page.pixels('discriminator')[7::14, 7::14, 0], [[0.299, 0.587], [0.114, 1]], atol=0.01)


@slow
def test_colour_file_keeps_its_colours(open_playground, tmp_path):
    page = open_playground({'image_shape': [28, 28, 3]}, WORKER.replace('784', '2352'))
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (10, 20, 30)]
    save_quarters(tmp_path / 'image.png', colours)
    page.choose_file(tmp_path / 'image.png')
    np.testing.assert_allclose(255 * page.pixels('discriminator')[7::14, 7::14].reshape(4, 3), colours, atol=1)


SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">{}</svg>'


def large_png():
    """Return the bytes of an image of 100 megapixels."""
    file = io.BytesIO()
    Image.new('1', (10_000, 10_000)).save(file, 'png')
    return file.getvalue()


@slow
@pytest.mark.parametrize('name, content, cause', [
    ('image.png', b'not an image', 'it is not an image that this browser can read'),
    ('image.png', b'', 'it is not an image that this browser can read'),
    ('large.png', large_png(), 'it has 100 megapixels, and the limit is 50')], ids=['text', 'empty', 'large'])
def test_file_that_cannot_be_shown_is_reported(page, tmp_path, name, content, cause):
    (tmp_path / name).write_bytes(content)
    page.choose_file(tmp_path / name)
    assert page.text('file-error') == f'The file cannot be opened ({cause}): choose another image'


@slow
@pytest.mark.parametrize('part', [
    '<script>document.title = 1</script>', '<image href="http://127.0.0.1:9/x.png"/>',
    '<foreignObject width="9" height="9"><b xmlns="http://www.w3.org/1999/xhtml">x</b></foreignObject>'])
def test_hostile_file_leaves_the_page_working(page, tmp_path, part):
    (tmp_path / 'image.svg').write_text(SVG.format(part))
    page.choose_file(tmp_path / 'image.svg')
    page.click('#clear')
    page.stroke((6, 20), (22, 20))
    assert page.pixels('discriminator')[20, 10, 0] > 0.9
    assert page.driver.title == 'Playground: a <b> run'
    assert all(url.startswith(('file:', 'blob:', 'data:')) for url in page.requested_urls())


# ---- Attention maps

@slow
@pytest.mark.parametrize('css', [f'{G} .image', f'{G} .map', f'{D} .map', '#drawing'])
def test_pointing_selects_a_position(page, css):
    page.point(1, 2, css=css, grid=(7, 7))
    side = css.split()[0] if css != '#drawing' else D
    assert page.text_of(f'{side} .status') == 'row 2, column 3 looks most at row 2, column 4 (75%)'


@slow
def test_click_holds_a_position_until_escape(page):
    page.point(1, 2, click=True, css=f'{G} .image', grid=(7, 7))
    page.point(4, 4, css=f'{G} .image', grid=(7, 7))
    assert page.text_of(f'{G} .map-title') == 'Where row 2, column 3 looks (held)'
    page.press(Keys.ESCAPE, f'{G} .image')
    page.point(4, 4, css=f'{G} .image', grid=(7, 7))
    page.point(4, 5, css=f'{G} .image', grid=(7, 7))
    assert page.text_of(f'{G} .map-title') == 'Where row 5, column 6 looks'


@slow
def test_keys_move_and_hold_a_position(page):
    page.point(1, 2, css=f'{D} .map', grid=(7, 7))
    page.press(Keys.ARROW_DOWN + Keys.ARROW_LEFT + Keys.ENTER, f'{D} .map')
    assert page.text_of(f'{D} .map-title') == 'Where row 3, column 2 looks (held)'


@slow
def test_map_can_show_the_average_of_all_positions(page):
    page.click(f'{D} input[value=average]')
    assert page.text_of(f'{D} .map-title') == 'Where all positions look'
    assert page.text_of(f'{D} .scale-max') == '2.0%'  # every position is looked at equally


@slow
def test_layer_list_selects_the_map(open_playground):
    page = open_playground({'layers': {'generator': layers(0.2, 0.8), 'discriminator': layers(0.2)}})
    page.set(f'{G} .layer', 1)
    assert page.text_of(f'{G} .uniform') == '↑ uniform: 6.3%'  # of 4 x 4 keys
    assert 'column 3' not in page.text_of(f'{D} .layer-field')


@slow
def test_formula_has_the_numbers_of_the_position(page):
    page.point(1, 2, css=f'{G} .image', grid=(7, 7))
    assert page.text_of(f'{G} .formula') == (
        'y(row 2, column 3) = x(row 2, column 3) + 0.400 · [ 0.750 h(row 2, column 4) + 0.005 h(row 1, column 1) + '
        '0.005 h(row 1, column 2) + 46 terms with a total weight of 0.240 ]')


@slow
def test_network_without_attention_shows_no_maps(open_playground):
    page = open_playground({'layers': {'generator': [], 'discriminator': []}})
    page.stroke((6, 20), (22, 20))
    assert page.text('output') == f'Probability that the image is real: {page.pixels("discriminator").mean():.3f}'
    assert not any(part.is_displayed() for part in page.driver.find_elements('css selector', '.map, .with-attention'))


@slow
def test_output_without_a_probability_has_no_meter(open_playground):
    page = open_playground({'output': 'output'})
    assert page.text('output') == 'Output: 0.04'
    assert not page.find('#probability').is_displayed()


# ---- Results that are not finite

NOT_FINITE = WORKER.replace('shift = label / 100 +', 'shift = ((z ?? pixels ?? [0])[0] > 0.9 ? NaN : 0) +')


@slow
def test_result_that_is_not_finite_is_reported_until_the_next_finite_one(open_playground):
    page = open_playground(worker=NOT_FINITE)
    page.set('#coordinates [aria-label="z[0]"]', 1)
    page.click('#invert')
    assert page.text_of(f'{G} .not-finite') == page.text_of(f'{D} .not-finite') == (
        'This network returns values that are not finite (NaN or infinity), so they are not shown: reduce gamma, '
        'change the input, or export another checkpoint.')
    page.set('#coordinates [aria-label="z[0]"]', 0)
    page.click('#invert')
    assert not any(part.is_displayed() for part in page.driver.find_elements('css selector', '.not-finite'))


@slow
def test_weights_that_are_not_finite_cause_no_other_errors(open_playground):
    worker = WORKER.replace('0.75 :', 'NaN :').replace('shift = label', 'shift = NaN + label')
    page = open_playground({'layers': {'generator': layers(0.2, 0.8), 'discriminator': layers(0.2, 0.8)}}, worker)
    page.set(f'{G} .layer', 1)
    page.stroke((6, 20), (22, 20))
    page.press(Keys.ARROW_LEFT + Keys.ENTER, f'{D} .map')
    page.click('#use-generated')
    assert len([part for part in page.driver.find_elements('css selector', '.not-finite') if part.is_displayed()]) == 2


# ---- Requests to the worker

@slow
def test_only_the_newest_state_is_computed(page):
    page.settle()
    requests = page.driver.execute_async_script("""
        const done = arguments[0], requests = [], post = worker.postMessage.bind(worker);
        worker.postMessage = message => { requests.push(message.z[0]); post(message); };
        for (let i = 1; i <= 50; i++) changeCoordinate(0, i / 64);
        const poll = () => generator.result.input === generator.input ? done(requests) : setTimeout(poll, 20);
        poll();""")
    assert requests[:2] == [1 / 64, 50 / 64]
    assert set(requests[2:]) <= {50 / 64}


@slow
def test_failure_of_the_worker_is_reported(driver, open_playground):
    page = open_playground()
    page.run("worker.onmessage({data: {kind: 'error', id: 'generator', message: 'no such class'}})")
    assert page.text('error') == (
        'The page does not work (no such class): reload it, or open an undamaged copy in a browser from 2024 or later')
    page.run("element('error').hidden = true")


@slow
def test_networks_that_cannot_be_loaded_are_reported(driver, tmp_path):
    path = tmp_path / 'page.html'
    path.write_text(render_page(METADATA, b'', "onmessage = () => postMessage({kind: 'error', message: 'no weights'})"))
    assert Page(driver, path).errors() == [
        'The page does not work (no weights): reload it, or open an undamaged copy in a browser from 2024 or later']


# ---- The page as a document

@slow
def test_names_of_classes_are_text(open_playground):
    page = open_playground({**WITH_SAMPLES, **CLASSES})
    labels = [label.text for label in page.driver.find_elements('css selector', f'{G} .classes label')]
    assert labels == CLASSES['class_names']
    assert page.driver.find_elements('css selector', 'img') == []


@slow
def test_page_and_worker_cannot_request_anything(driver, tmp_path):
    worker = WORKER + """
fetch('http://127.0.0.1:9/').then(() => { throw Error('requested'); }, () => {});"""
    path = tmp_path / 'page.html'
    path.write_text(render_page(METADATA, b'', worker))
    page = Playground(driver, path)
    page.settle()
    assert driver.execute_async_script("fetch('http://127.0.0.1:9/').catch(() => arguments[0](true))")
    assert all(url.startswith(('file:', 'blob:', 'data:')) for url in page.requested_urls())
    refused = [message for message in page.errors() if 'Content Security Policy' in message]
    assert len(refused) >= 2


@slow
def test_every_control_has_a_name(open_playground):
    page = open_playground({**WITH_SAMPLES, **CLASSES, 'layers': {
        'generator': layers(0.2, 0.8), 'discriminator': layers(0.2, 0.8)}})
    controls = page.driver.find_elements('css selector', 'input, button, select, canvas[tabindex], meter')
    unnamed = [control.get_attribute('outerHTML') for control in controls
               if control.is_displayed() and not control.accessible_name]
    assert unnamed == []


@slow
@pytest.mark.parametrize('width', [360, 700, 1100])
def test_page_fits_its_window(open_playground, width):
    page = open_playground({**WITH_SAMPLES, 'class_names': ['a' * 200, 'b'], 'run': 'r' * 200, 'layers': {
        'generator': layers(0.2, 0.8), 'discriminator': layers(0.2, 0.8)}}, width=width)
    assert page.parts_outside() == []


@slow
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_page_follows_the_colour_scheme(open_playground, emulate, scheme):
    emulate(prefers_color_scheme=scheme)
    background, text = open_playground().brightness()
    dark, light = sorted([background, text])
    assert dark < 60 and light > 200
    assert (background == light) == (scheme == 'light')
