"""The attention page in Chromium."""

import numpy as np
import pytest
from browser import GRID, SHIFT, Page, make_layers
from selenium.webdriver.common.keys import Keys

from explorer.page import write_page
from explorer.snapshots import LayerMaps, make_snapshot

pytestmark = pytest.mark.slow

EPOCHS = 1, 2, 5  # of the page of hand-made maps; each has ten steps
GRIDS = [(GRID, GRID), ((5, 7), (3, 4)), ((17, 16), (17, 16))]  # dense, pooled keys, only the largest weights


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    """The page of hand-made maps."""
    path = tmp_path_factory.mktemp('page') / 'page.html'
    snapshots = [make_snapshot(make_layers(epoch), epoch, 10 * epoch, real=True) for epoch in EPOCHS]
    write_page(path, 'a <b> run', snapshots, left_out=2)
    return path


@pytest.fixture
def page(open_page, path):
    """The page of hand-made maps in the browser, showing the generator."""
    return open_page(path, '#network=generator')


@pytest.fixture(scope='module', params=GRIDS, ids=['dense', 'pooled', 'largest'])
def random_maps(request, tmp_path_factory):
    """A page of two snapshots of random maps -> (path, grid, keys, LayerMaps of the discriminator in the second)."""
    grid, keys = request.param
    path = tmp_path_factory.mktemp('random') / 'page.html'
    first, second = (make_layers(seed, grid, keys, channels=3) for seed in (2, 3))
    write_page(path, 'run', [make_snapshot(first, 1, 5, True), make_snapshot(second, 2, 10, True)], 0)
    return path, grid, keys, second[2]


def recorded_map(layer, image):
    """Return the weights [N, M] that a snapshot records for the map of an image, and their rounding error [N, 1]."""
    _, rows, columns = layer.maps.shape[:3]
    weights = layer.maps[image].reshape(rows * columns, -1)
    if len(weights) > 256:
        weights = np.where(weights >= np.sort(weights, 1)[:, [-32]], weights, 0)
    return weights, weights.max(1, keepdims=True) / 255


def position_name(position):
    row, column = np.unravel_index(position, GRID)
    return f'row {row + 1}, column {column + 1}'


def status(position, epoch=5, held=False):
    """Return the expected status of a position of the first layer."""
    state = 'generator, held' if held else 'generator'
    target = (position + SHIFT) % np.prod(GRID)
    return f'epoch {epoch}, {state}: {position_name(position)} looks most at {position_name(target)} (100%)'


# ---- Selecting a position

def test_pointing_selects_a_position(page):
    page.point(1, 2)
    assert page.text('status') == status(8)
    assert page.text('image-title') == f'Position: {position_name(8)}'
    assert page.text('map-title') == f'Where {position_name(8)} looks'
    assert page.text('top') == f'{position_name(16)}: 100%'


def test_map_is_bright_only_where_the_position_looks(page):
    page.point(1, 2)
    green = page.colours('#map')[:, :, 1].ravel()  # the bright end of the colour scale is yellow
    assert (green > 140).nonzero()[0].tolist() == [8 + SHIFT]


def test_click_holds_a_position(page):
    page.point(0, 1, click=True)
    page.point(3, 3)
    assert page.text('status') == status(1, held=True)
    assert page.text('image-title') == f'Held: {position_name(1)}'


def test_second_click_releases_a_position(page):
    page.point(0, 1, click=True)
    page.point(0, 1, click=True)
    page.point(3, 3)
    assert page.text('status') == status(21)


def test_click_elsewhere_holds_another_position(page):
    page.point(0, 1, click=True)
    page.point(2, 2, click=True)
    assert page.text('status') == status(14, held=True)


def test_escape_releases_a_position(page):
    page.point(0, 1, click=True)
    page.press(Keys.ESCAPE)
    page.point(3, 3)
    assert page.text('status') == status(21)


def test_arrow_keys_move_the_position(page):
    page.point(3, 3)
    page.press(Keys.ARROW_UP + Keys.ARROW_LEFT + Keys.ARROW_LEFT)
    assert page.text('status') == status(13)


def test_enter_holds_a_position(page):
    page.point(3, 3)
    page.press(Keys.ENTER)
    assert page.text('status') == status(21, held=True)


def test_arrow_keys_stop_at_the_edge(page):
    page.point(2, 1)
    page.press(Keys.ARROW_LEFT * 3)
    assert page.text('status') == status(12)


def test_arrow_keys_on_the_slider_change_the_training_step(page):
    page.point(2, 1)
    page.press(Keys.ARROW_LEFT, '#snapshot')
    assert page.text('status') == status(13, epoch=2)


# ---- The position to show first

def opening(open_page, tmp_path, image, weights, keys=GRID):
    """Return the opening status of a page with a generator and a discriminator.

    Args:
        image: the image that both networks show, [H, W, C] in [0, 1].
        weights: {position: (key, weight)}. The rest of each row is uniform.
    """
    maps = np.full([24, np.prod(keys)], 1.)
    for position in range(24):
        key, weight = weights.get(position, (0, 1 / np.prod(keys)))
        maps[position] = (1 - weight) / (np.prod(keys) - 1)
        maps[position, key] = weight
    maps = maps.reshape(1, *GRID, *keys)
    layers = [LayerMaps(network, 0.5, image[None], maps) for network in ('generator', 'discriminator')]
    write_page(tmp_path / 'page.html', 'run', [make_snapshot(layers, 1, 5, True)], 0)
    return open_page(tmp_path / 'page.html').text('status')


def image_with_ink(positions, background=0, ink=1):
    """Return an image of 2 x 2 pixels per position of GRID."""
    image = np.full([*GRID, *np.shape(ink)], background, float).reshape(24, -1)
    image[positions] = ink
    return image.reshape(*GRID, -1).repeat(2, 0).repeat(2, 1)


def test_page_opens_at_the_inked_position_that_looks_most_sharply_at_another(open_page, tmp_path):
    weights = {0: (9, 0.9), 8: (8, 0.8), 9: (0, 0.7), 14: (9, 0.5), 15: (8, 0.6)}  # 0 is empty, 8 looks at itself
    status = opening(open_page, tmp_path, image_with_ink([8, 9, 14, 15]), weights)
    assert status == f'epoch 1, discriminator: {position_name(15)} looks most at {position_name(8)} (60%)'


def test_page_opens_at_the_position_with_contrast_in_a_colour_image(open_page, tmp_path):
    weights = {0: (9, 0.9), 14: (9, 0.5)}
    image = image_with_ink([8, 9, 14], background=[1, 1, 0.9], ink=[0.9, 0.1, 0.1])
    assert position_name(14) in opening(open_page, tmp_path, image, weights)


def test_page_with_pooled_keys_opens_at_a_position_outside_its_key(open_page, tmp_path):
    weights = {8: (1, 0.9), 14: (1, 0.6)}  # key 1 covers the positions 2, 3, 8 and 9
    status = opening(open_page, tmp_path, image_with_ink([8, 14]), weights, keys=(2, 3))
    assert position_name(14) in status


def test_page_of_an_empty_image_opens_at_the_sharpest_position(open_page, tmp_path):
    assert position_name(20) in opening(open_page, tmp_path, np.zeros([8, 12, 1]), {20: (3, 0.9)})


# ---- Controls and text

def test_page_starts_with_the_last_snapshot(page):
    assert page.text('snapshot-name') == 'epoch 5, step 50'


def test_page_shows_its_title(page):
    assert page.text('title') == 'a <b> run'


def test_page_reports_snapshots_that_were_left_out(page):
    assert page.text('contents') == 'Snapshots: 3 of 5. Images: 3.'


@pytest.mark.parametrize('address, keys, start', [
    ('#network=generator', 'd', 'epoch 5, discriminator:'),
    ('', 'g', 'epoch 5, generator:'),
    ('', '[', 'epoch 2, discriminator:'),
    ('', ']', 'epoch 5, discriminator:'),
    ('#epoch=1', ']', 'epoch 2, discriminator:'),
    ('#epoch=1', '[', 'epoch 1, discriminator:')])
def test_shortcut_selects_a_network_or_a_snapshot(open_page, path, address, keys, start):
    page = open_page(path, address)
    page.press(keys)
    assert page.text('status').startswith(start)


def test_network_button_selects_a_network(page):
    page.click('input[value=discriminator]')
    assert page.text('status').startswith('epoch 5, discriminator:')


def test_strip_selects_a_snapshot(page):
    page.click('#strip button')
    assert page.text('snapshot-name') == 'epoch 1, step 10'


def test_layer_list_shows_positions(page):
    options = page.driver.find_elements('css selector', '#layer option')
    assert [option.text for option in options] == ['1: 4 × 6', '2: 4 × 6']


def test_layer_list_selects_a_layer(page):
    page.choose_layer(1)
    assert page.text('gamma-value') == 'epoch 5: gamma -0.500'


@pytest.mark.parametrize('image', [0, 2])
@pytest.mark.parametrize('epoch', [1, 5])
def test_image_buttons_show_the_image_of_the_snapshot(open_page, path, image, epoch):
    page = open_page(path, f'#network=generator&epoch={epoch}')
    page.click(f'input[name=image][value="{image}"]')
    expected = np.round(255 * make_layers(epoch)[0].images[image, 1::2, 1::2])  # one pixel per position
    assert (page.colours('#image') == expected).all()


def test_colour_image_is_shown_in_colour(open_page, tmp_path):
    layers = make_layers(0, channels=3)
    write_page(tmp_path / 'page.html', 'run', [make_snapshot(layers, 1, 5, True)], 0)
    page = open_page(tmp_path / 'page.html', '#network=generator')
    assert (page.colours('#image') == np.round(255 * layers[0].images[0, 1::2, 1::2])).all()


@pytest.mark.parametrize('network, note', [('generator', 'Generated image'), ('discriminator', 'Real test image')])
def test_note_describes_the_image(open_page, path, network, note):
    assert open_page(path, f'#network={network}').text('image-note') == f'{note}, 4 × 6 positions, 24 keys'


def test_direction_button_shows_what_looks_at_the_position(open_page, path):
    page = open_page(path, '#network=generator&place=2,3')
    page.click('input[value=looked]')
    assert page.text('map-title') == f'What looks at {position_name(8)}'
    assert page.text('status') == (
        f'epoch 5, generator: the largest weight on {position_name(8)} comes from {position_name(8 - SHIFT)} (100%)')


@pytest.fixture
def open_map(open_page, tmp_path):
    """Return a function that opens a page on which all positions of GRID have the same weights [24]."""
    def open_in_browser(weights, address):
        maps = np.tile(np.reshape(weights, GRID), [1, *GRID, 1, 1])
        snapshot = make_snapshot([LayerMaps('generator', 0., np.zeros([1, 8, 12, 1]), maps)], 1, 5, real=False)
        write_page(tmp_path / 'page.html', 'run', [snapshot], 0)
        return open_page(tmp_path / 'page.html', address)
    return open_in_browser


def test_status_reports_a_position_at_which_no_position_looks(open_map):
    page = open_map(np.eye(24)[0], '#place=2,2&by=looked')
    assert page.text('status') == 'epoch 1, generator: all recorded weights on row 2, column 2 are 0'
    assert page.text('top') == ''


def test_scale_ends_at_the_maximum_of_the_map(open_page, path):
    page = open_page(path, '#network=discriminator&image=2&place=2,3')
    largest = make_layers(5)[2].maps[1, 1, 2].max()
    assert page.text('scale-max') == f'{100 * largest:.0f}%'


def test_scale_ends_at_the_maximum_of_the_layer(open_page, path):
    page = open_page(path, '#network=discriminator&image=2&place=2,3')
    page.click('input[value=all]')
    largest = max(make_layers(epoch)[2].maps.max() for epoch in EPOCHS)
    assert page.text('scale-max') == f'{100 * largest:.0f}%'


def test_scale_marks_uniform_attention(page):
    assert page.text('uniform') == '↑ uniform: 4.2%'  # 1 / 24


def test_scale_of_uniform_attention_ends_at_its_mark(open_map):
    page = open_map(np.full(24, 1 / 24), '')
    assert page.text('uniform') == 'uniform: 4.2% ↑'
    assert page.text('scale-max') == '4.2%'


def test_scale_reports_that_uniform_attention_exceeds_it(open_map):
    page = open_map(0.99 * np.eye(24)[0] + 0.01 * np.eye(24)[7], '#place=2,2&by=looked')
    assert page.text('uniform') == 'uniform: 4.2% (off the scale)'


def test_gamma_is_that_of_the_snapshot(page):
    assert page.text('gamma-value') == 'epoch 5: gamma 0.500'


def test_play_stops_at_the_last_snapshot(open_page, path):
    page = open_page(path, '#epoch=1')
    page.click('#play')
    assert page.text('play') == 'Pause'
    page.wait_until("document.querySelector('#play').textContent === 'Play'")
    assert page.text('snapshot-name') == 'epoch 5, step 50'


def test_snapshot_without_an_epoch_is_named_by_its_step(open_page, tmp_path):
    write_page(tmp_path / 'page.html', 'run', [make_snapshot(make_layers(1), 0, 70, False)], 0)
    page = open_page(tmp_path / 'page.html', '#network=discriminator')
    assert page.text('snapshot-name') == 'step 70'
    assert page.text('status').startswith('step 70, discriminator:')
    assert page.text('image-note').startswith('Generated image')


# ---- Weights

def test_map_shows_rows_of_the_recorded_map(open_page, random_maps):
    path, _, _, layer = random_maps
    page = open_page(path, '#network=discriminator&image=2')
    weights, tolerance = recorded_map(layer, 1)
    rows = np.array([page.weights(1, position) for position in range(len(weights))])
    assert (abs(rows - weights) <= tolerance).all()


def test_map_shows_columns_of_the_recorded_map(open_page, random_maps):
    path, grid, keys, layer = random_maps
    page = open_page(path, '#network=discriminator&image=2&by=looked')
    weights, tolerance = recorded_map(layer, 1)
    pool = np.ceil(np.divide(grid, keys)).astype(int)
    for position in 0, 9, len(weights) - 1:
        key = np.ravel_multi_index(np.unravel_index(position, grid) // pool, keys)
        assert (abs(page.weights(1, position) - weights[:, key]) <= tolerance[:, 0]).all()


@pytest.mark.parametrize('place, name', [('1,1', 'rows 1–2, columns 1–2'), ('5,7', 'row 5, column 7')])
def test_pooled_key_is_named_by_the_positions_that_it_covers(open_page, tmp_path, place, name):
    write_page(tmp_path / 'page.html', 'run', [make_snapshot(make_layers(1, (5, 7), (3, 4)), 1, 5, True)], 0)
    page = open_page(tmp_path / 'page.html', f'#place={place}&by=looked')
    assert page.text('map-title') == f'What looks at {name}'


@pytest.fixture
def large_layers(tmp_path):
    """A page that records only the largest weights of its layers -> (path, layers)."""
    layers = make_layers(3, (17, 16))
    write_page(tmp_path / 'page.html', 'run', [make_snapshot(layers, 1, 5, True)], 0)
    return tmp_path / 'page.html', layers


def test_page_reports_the_sum_of_weights_that_are_not_recorded(open_page, large_layers):
    path, layers = large_layers
    rest = np.sort(layers[0].maps[0, 0, 0].ravel())[:-32].sum()
    assert open_page(path, '#network=generator&place=1,1').text('omitted') == (
        f'All weights except the 32 largest add up to {100 * rest:.0f}%.')


def test_page_reports_that_a_column_is_incomplete(open_page, large_layers):
    path, _ = large_layers
    page = open_page(path, '#place=1,1&by=looked')
    assert page.text('omitted') == 'Only the 32 largest weights of each position are recorded.'


def test_page_of_complete_maps_reports_no_missing_weights(page):
    assert page.text('omitted') == ''


# ---- Address

def visible_text(page):
    return [page.text(name) for name in ('status', 'map-title', 'scale-max', 'image-title', 'top')]


def test_address_restores_the_view(open_page, path):
    page = open_page(path)
    page.press('g[')
    page.click('input[name=image][value="1"]')
    page.click('input[value=looked]')
    page.click('input[value=all]')
    page.press(Keys.ARROW_DOWN + Keys.ENTER)
    address, expected = page.address(), visible_text(page)
    assert 'epoch 2, generator, held' in expected[0]
    assert visible_text(open_page(path, address)) == expected


def test_address_with_invalid_values_gives_the_initial_view(open_page, path):
    initial = visible_text(open_page(path))
    address = '#network=none&epoch=9&place=99,1&layer=-3&image=x&by=&scale=y'
    assert visible_text(open_page(path, address)) == initial


def test_change_of_the_address_changes_the_view(page):
    page.press('d')
    page.set_address('network=generator&epoch=1&place=2,3')
    assert page.text('status') == status(8, epoch=1)


@pytest.mark.parametrize('step', [4, 8])
def test_address_distinguishes_snapshots_of_one_epoch(open_page, tmp_path, step):
    """An epoch has two snapshots if a run resumed with a different --iteration."""
    snapshots = [make_snapshot(make_layers(step), 1, step, real=True) for step in (4, 8)]
    write_page(tmp_path / 'page.html', 'run', snapshots, 0)
    page = open_page(tmp_path / 'page.html', f'#step={step}')
    page.press('g')
    page = open_page(tmp_path / 'page.html', page.address())
    assert page.text('snapshot-name') == f'epoch 1, step {step}'
    assert 'generator' in page.text('status')


# ---- Keyboard

def press_on_body(page, key, modifiers):
    page.driver.execute_script("""
        const [key, modifiers] = arguments;
        document.body.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true, ...modifiers}));""",
        key, {f'{modifier}Key': True for modifier in modifiers})
    page.settle()


@pytest.mark.parametrize('modifiers', [['ctrl', 'alt'], ['alt'], ['ctrl']])
def test_brackets_work_with_alt_gr(page, modifiers):
    press_on_body(page, '[', modifiers)
    assert page.text('status').startswith('epoch 2,')


@pytest.mark.parametrize('key, modifiers', [('d', ['ctrl']), ('d', ['alt']), ('[', ['meta'])])
def test_shortcuts_of_the_browser_are_left_alone(page, key, modifiers):
    before = page.text('status')
    press_on_body(page, key, modifiers)
    assert page.text('status') == before


def test_shortcut_leaves_the_focus_on_the_layer_list(page):
    page.press('d', '#layer')
    assert 'discriminator' in page.text('status')
    assert page.driver.execute_script('return document.activeElement.id') == 'layer'


# ---- The page as a document

def test_page_requests_nothing(page, path):
    page.press('d]')
    page.click('#play')
    urls = page.requested_urls()
    assert urls
    assert all(url.startswith((f'file://{path}', 'data:')) for url in urls)


def test_page_cannot_request_anything(driver, path):
    page = Page(driver, path)
    assert driver.execute_async_script("fetch('http://127.0.0.1:9/').catch(() => arguments[0](true))")
    assert any('Content Security Policy' in message and "default-src 'none'" in message for message in page.errors())


def test_damaged_page_reports_its_error(driver, path, tmp_path):
    html = path.read_text()
    start = html.index('id="data">') + len('id="data">')
    (tmp_path / 'page.html').write_text(html[:start] + 'AAAA' + html[start + 4:])
    [message] = Page(driver, tmp_path / 'page.html').errors()
    assert message.startswith('The page does not work (')


def test_narrow_page_cuts_nothing_off(open_page, path):
    assert open_page(path, width=360).parts_outside() == []


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_page_follows_the_colour_scheme(open_page, path, emulate, scheme):
    emulate(prefers_color_scheme=scheme)
    background, text = open_page(path).brightness()
    dark, light = sorted([background, text])
    assert dark < 60 and light > 200
    assert (background == light) == (scheme == 'light')


def test_play_is_hidden_if_reduced_motion_is_preferred(open_page, path, emulate):
    emulate(prefers_reduced_motion='reduce')
    assert not open_page(path).find('#play').is_displayed()
