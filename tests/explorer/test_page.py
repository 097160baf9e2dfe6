"""The page of the attention maps: what is noted for it, and in a real browser what it shows, says and does."""

import contextlib
import json
import os
import shutil

import numpy as np
import pytest
from helpers import SMALL

import sampling
from explorer import page
from explorer import snapshots as explorer
from explorer.page import write_page
from explorer.snapshots import LayerMaps, make_snapshot, read_snapshots, write_snapshot
from utils import Stream

GRID = 4, 6  # rows and columns of the places of the hand-made maps
TARGET = 8  # so many places further on, each of their places looks


def looks(seed, grid=GRID, keys=None, size=2, channels=1, count=3):
    """Two layers of G, of which the first looks at one place alone, and one of D, on random images."""
    rng = np.random.default_rng(seed)
    images = rng.random([2, count, grid[0] * size, grid[1] * size, channels])
    keys = keys or grid
    one = np.roll(np.eye(np.prod(GRID)), TARGET, 1).reshape(*GRID, *GRID)[None].repeat(count, 0)
    spread = rng.random([2, count, *grid, *keys]) ** 8
    spread /= spread.sum((-1, -2), keepdims=True)
    return [LayerMaps('generator', seed / 10, images[0], one if grid == GRID else spread[0]),
            LayerMaps('generator', -seed / 10, images[0], spread[0]), LayerMaps('discriminator', 0.5, images[1], spread[1])]


def write(path, *notes, left_out=0):
    write_page(path, 'a <b> run', list(notes), left_out)
    return path


@contextlib.contextmanager
def started():
    """Chromium without a screen, as long as it is used."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which('chromium')
    for argument in '--headless=new', '--no-sandbox', '--disable-background-networking', '--disable-dev-shm-usage':
        options.add_argument(argument)
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('no_proxy', '127.0.0.1,localhost')  # the driver listens here
        with webdriver.Chrome(options=options, service=Service(shutil.which('chromedriver'))) as chromium:
            chromium.set_script_timeout(1000)
            yield chromium


@pytest.fixture(scope='module')
def browser():
    """Where there is no browser the tests are skipped, or fail where CI says that it is there."""
    if not (shutil.which('chromium') and shutil.which('chromedriver')):
        where = 'there is no chromium with chromedriver: apt-get install chromium chromium-driver'
        pytest.fail(where) if os.environ.get('SAGAN_BROWSER') else pytest.skip(where)
    with started() as chromium:
        yield chromium


class Page:
    """A page in the browser, as a user sees it."""

    def __init__(self, browser, path, address='', width=1000):
        self.browser = browser
        browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', {
            'width': width, 'height': 900, 'deviceScaleFactor': 1, 'mobile': False})
        browser.get('about:blank')
        browser.get_log('browser'), browser.get_log('performance')
        browser.get(f'file://{path}{address}')
        self.settle()

    def settle(self):
        """Wait until the page is drawn."""
        self.browser.execute_async_script("""
            const done = arguments[0], look = () => document.querySelector('main').hidden &&
                document.querySelector('#trouble').hidden ? setTimeout(look, 20) :
                requestAnimationFrame(() => requestAnimationFrame(done));
            look();""")

    def text(self, name):
        return self.find(f'#{name}').text

    def find(self, css):
        return self.browser.find_element('css selector', css)

    def click(self, css):
        self.browser.execute_script('document.querySelector(arguments[0]).click()', css)
        self.settle()

    def keys(self, text, css='#image'):
        """Type keys, one after the other, with the focus on an element."""
        from selenium.webdriver import ActionChains
        self.browser.execute_script('document.querySelector(arguments[0]).focus()', css)
        ActionChains(self.browser).send_keys(text).perform()
        self.settle()

    def point(self, i, j, click=False):
        """Move the mouse to the middle of the place in row i and column j, from 0."""
        from selenium.webdriver import ActionChains
        image = self.find('#image')
        size = image.size
        chain = ActionChains(self.browser).move_to_element_with_offset(
            image, (j + 0.5) / GRID[1] * size['width'] - size['width'] / 2,
            (i + 0.5) / GRID[0] * size['height'] - size['height'] / 2)
        (chain.click() if click else chain).perform()
        self.settle()

    def shares(self, epoch, place):
        return np.array(self.browser.execute_script(
            f'return Array.from(shown({epoch}, {place}).shares)'))

    def colours(self, css):
        """Red, green and blue in the middle of each place of the map or image on a canvas [rows, columns, 3]."""
        rows, columns = GRID
        height, width, values = self.browser.execute_script("""
            const canvas = document.querySelector(arguments[0]), {width, height} = canvas;
            const copy = Object.assign(document.createElement('canvas'), {width, height});
            const context = copy.getContext('2d', {willReadFrequently: true});
            context.drawImage(canvas, 0, 0);
            return [height, width, Array.from(context.getImageData(0, 0, width, height).data)]""", css)
        image = np.array(values).reshape(height, width, 4)[:, :, :3]
        return image[height // rows // 2::height // rows, width // columns // 2::width // columns]

    def errors(self):
        return [entry['message'] for entry in self.browser.get_log('browser')] + [self.text('trouble')] * (
            self.find('#trouble').is_displayed())


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A page of the epochs 1, 2 and 5 of hand-made maps."""
    return write(tmp_path_factory.mktemp('page') / 'page.html', *(
        make_snapshot(looks(epoch), epoch, 10 * epoch, real=True) for epoch in (1, 2, 5)), left_out=2)


def said(place, looked_at, share='100 %', network='generator', epoch=5, held=False):
    row, column = np.unravel_index(place, GRID)
    return 'held: ' * held + (
        f'epoch {epoch}, {network}, row {row + 1}, column {column + 1} looks most at {looked_at}: {share}')


def name(place):
    row, column = np.unravel_index(place, GRID)
    return f'row {row + 1}, column {column + 1}'


def test_an_attention_that_looks_at_one_place(browser, made):
    """By mouse, by keyboard and in words; on the map, that place alone is bright."""
    from selenium.webdriver.common.keys import Keys
    page = Page(browser, made)
    page.point(1, 2)  # place 8
    assert page.text('said') == said(8, name(16)) and page.text('image-title') == f'Point at a place: {name(8)}'
    assert page.text('five') == f'{name(16)}: 100 %'
    colours = page.colours('#map').reshape(-1, 3)
    bright = colours[:, 1] > 140  # the green of the scale's upper end
    assert bright.nonzero()[0].tolist() == [16]
    page.point(0, 1, click=True)
    page.point(3, 3)
    assert page.text('said') == said(1, name(9), held=True)
    assert page.text('image-title').startswith('Held: row 1, column 2')
    page.keys(Keys.ESCAPE)
    page.point(3, 3)
    assert page.text('said') == said(21, name(5))
    page.keys(Keys.ARROW_UP + Keys.ARROW_LEFT + Keys.ARROW_LEFT + Keys.ENTER)
    assert page.text('said') == said(13, name(21), held=True) and page.text('image-title').startswith('Held')
    page.keys(Keys.ARROW_LEFT + Keys.ARROW_LEFT + Keys.ARROW_LEFT)  # to the edge and no further
    assert page.text('said') == said(12, name(20), held=True)
    page.keys(Keys.ARROW_LEFT, '#epoch')  # of the slider, not of the place
    assert page.text('said') == said(12, name(20), epoch=2, held=True)
    assert page.errors() == []


def test_a_place_at_which_none_looks(browser, tmp_path):
    maps = np.zeros([1, *GRID, *GRID])
    maps[..., 0, 0] = 1
    note = make_snapshot([LayerMaps('generator', 0.5, np.zeros([1, 8, 12, 1]), maps)], 1, 5, real=False)
    page = Page(browser, write(tmp_path / 'page.html', note), '#place=2,2&by=looked')
    assert page.text('said') == 'epoch 1, generator, row 2, column 2 is looked at by none with a share that is noted'
    assert page.text('five') == '' and page.errors() == []


def test_each_control_changes_what_it_says(browser, made):
    page = Page(browser, made)
    assert page.text('title') == 'a <b> run' and page.text('epoch-name') == 'epoch 5, step 50'
    assert 'Stages of training: 3; 2 more are left out' in page.text('about')
    assert page.text('gamma-now') == 'epoch 5: gamma 0.500' and '49' not in page.text('image-note')
    seen = [page.text('said')]
    for act in (lambda: page.click('input[value=discriminator]'), lambda: page.keys('g'), lambda: page.keys('['),
                lambda: page.click('#strip button'), lambda: page.keys(']'), lambda: page.keys('d'),
                lambda: page.click('input[name=image][value="2"]'), lambda: page.click('input[value=looked]')):
        act()
        assert page.text('said') != seen[-1]
        seen.append(page.text('said'))
    assert 'epoch 2, discriminator' in seen[-1] and page.text('five-title') == 'Who looks at it most'
    assert page.text('image-note').startswith('A real test image')
    before = page.text('largest')
    page.click('input[value=all]')
    assert page.text('largest') != before
    assert 'evenly spread: 4.2 %' in page.text('even')  # 1 / 24
    page.keys('g')
    page.browser.execute_script("""const layer = document.querySelector('#layer');
        layer.value = 1; layer.dispatchEvent(new Event('change', {bubbles: true}))""")
    page.settle()
    assert page.text('gamma-now') == 'epoch 2: gamma -0.200'
    page.click('#play')
    page.browser.execute_async_script('setTimeout(arguments[0], 1200)')
    assert page.text('epoch-name').startswith('epoch 5') and page.text('play') == 'Play'
    assert page.errors() == []


@pytest.mark.parametrize('grid, keys', [(GRID, GRID), ((5, 7), (3, 4)), ((17, 16), (17, 16))])
def test_what_is_shown_is_the_map(browser, tmp_path, grid, keys):
    """Rows and columns, within a part in 255 of a row's maximum; of more than 256 places the 32 largest of a row."""
    found = looks(3, grid, keys, channels=3)
    page = Page(browser, write(tmp_path / 'page.html', make_snapshot(looks(2, grid, keys, channels=3), 1, 5, True),
                               make_snapshot(found, 2, 10, True)), '#network=discriminator&image=2')
    maps = found[2].maps[1].reshape(np.prod(grid), -1)  # [N, M]
    most = maps.max(1, keepdims=True)
    kept = maps >= np.sort(maps, 1)[:, [-32]] if len(maps) > 256 else np.full(maps.shape, True)
    rows = np.array([page.shares(1, place) for place in range(len(maps))])
    assert (abs(rows - maps * kept) <= most / 255).all()
    if len(maps) > 256:
        page.browser.execute_script("location.hash = 'network=discriminator&image=2&place=1,1'")
        page.settle()
        assert page.text('partial') == f'All others together: {100 * (1 - (maps[0] * kept[0]).sum()):.0f} %.'
    if grid == GRID:  # the images of each epoch: a place is 2 x 2 pixels
        for key, seed in ('g', 3), ('[', 2):
            page.keys(key)
            image = looks(seed, grid, keys, channels=3)[0].images[1, 1::2, 1::2]
            assert (page.colours('#image') == np.round(255 * image)).all()
        page.keys('d]')
    page.click('input[value=looked]')
    assert ('Partial' in page.text('partial')) == (len(maps) > 256)
    pooled = [-(-places // count) for places, count in zip(grid, keys, strict=True)]
    for place in 0, 9, len(maps) - 1:
        i, j = np.unravel_index(place, grid)
        key = i // pooled[0] * keys[1] + j // pooled[1]
        np.testing.assert_allclose(page.shares(1, place), rows[:, key], atol=1e-7)
    if keys == (3, 4):
        assert 'rows 5, ' not in page.text('map-title') and 'row' in page.text('map-title')
    assert page.errors() == []


def test_the_address_restores_the_view(browser, made):
    from selenium.webdriver.common.keys import Keys
    page = Page(browser, made)
    page.keys('d[')
    page.click('input[name=image][value="1"]')
    page.click('input[value=looked]')
    page.click('input[value=all]')
    page.keys(Keys.ARROW_DOWN + Keys.ENTER)
    browser.execute_async_script('setTimeout(arguments[0], 400)')  # it is noted a moment later

    def seen(page):
        return [page.text(part) for part in ('said', 'map-title', 'largest', 'image-title', 'five')]

    views = [seen(page)]
    address = browser.execute_script('return location.hash')
    for again in address, '', '#network=none&epoch=9&place=99,1&layer=-3&image=x&by=&scale=y', address:
        page = Page(browser, made, again)
        views.append(seen(page))
        assert page.errors() == []
    assert views[0] == views[1] == views[4] and views[0][3].startswith('Held')
    assert 'epoch 2, discriminator' in views[0][0]
    assert views[2] == views[3] and views[2] != views[0]  # what is not understood is the view to begin with
    browser.execute_script("location.hash = 'epoch=1&place=2,3'")  # the rest is as to begin with
    page.settle()
    assert page.text('said') == said(8, name(16), epoch=1)


def test_stages_of_one_epoch(browser, tmp_path):
    """As of a run that went on with another --iteration: the address tells them apart."""
    path = write(tmp_path / 'page.html', *(make_snapshot(looks(step), 1, step, real=True) for step in (4, 8)))
    for step in 4, 8:
        page = Page(browser, path, f'#step={step}')
        page.keys('d')
        browser.execute_async_script('setTimeout(arguments[0], 400)')
        page = Page(browser, path, browser.execute_script('return location.hash'))
        assert page.text('epoch-name') == f'epoch 1, step {step}' and 'discriminator' in page.text('said')


def test_keys_of_other_keyboards_and_the_focus(browser, made):
    page = Page(browser, made)
    for key, held_down, epoch in ('[', 'ctrlKey: true, altKey: true', 2), ('[', 'altKey: true', 1), (
            ']', 'ctrlKey: true', 2), ('d', 'ctrlKey: true', 2):
        browser.execute_script(f"document.body.dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}', "
                               f'{held_down}, bubbles: true}}))')
        page.settle()
        assert page.text('said').startswith(f'epoch {epoch}, generator')
    options = [option.text for option in browser.find_elements('css selector', '#layer option')]
    assert options == ['1: 4 × 6', '2: 4 × 6']
    page.keys('d', '#layer')
    assert browser.execute_script('return document.activeElement.id') == 'layer'
    assert 'discriminator' in page.text('said')


def test_nothing_leaves_the_page(browser, made):
    page = Page(browser, made)
    page.keys('d]')
    page.click('#play')
    events = [json.loads(entry['message'])['message'] for entry in browser.get_log('performance')]
    asked = [event['params']['request']['url'] for event in events if event['method'] == 'Network.requestWillBeSent']
    assert [url for url in asked if not url.startswith((f'file://{made}', 'data:'))] == [] and asked
    assert browser.execute_async_script("fetch('http://127.0.0.1:9/').catch(() => arguments[0](true))")
    assert any('Content Security Policy' in message and "default-src 'none'" in message for message in page.errors())


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_a_narrow_page_cuts_nothing_off(browser, made, scheme):
    browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': [
        {'name': 'prefers-color-scheme', 'value': scheme}, {'name': 'prefers-reduced-motion', 'value': 'reduce'}]})
    page = Page(browser, made, width=360)
    beyond = browser.execute_script("""
        return [...document.querySelectorAll('main *')].filter(part => part.getBoundingClientRect().right > 360)
            .map(part => part.outerHTML.slice(0, 80))""")
    assert beyond == [] and browser.execute_script('return document.documentElement.scrollWidth') <= 360
    ground, ink = (np.mean([int(part) for part in browser.execute_script(
        f'return getComputedStyle(document.body).{name}').strip('rgba()').split(',')[:3]])
        for name in ('backgroundColor', 'color'))
    assert (ground > 200 and ink < 60) if scheme == 'light' else (ground < 60 and ink > 200)
    assert not page.find('#play').is_displayed()
    browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': []})


def test_a_note_is_the_models(build, tmp_path, browser):
    """Of the graph's maps, images and gammas; written, read again and shown."""
    model = build(image_shape=SMALL)
    for gamma in model.sess.run(list(model.gammas.values())):
        assert gamma == 0
    real = np.random.default_rng(0).random([explorer.IMAGES, *SMALL]).astype(np.float32)
    facts, arrays = model.note(2, 30, real)
    assert (facts['epoch'], facts['step'], facts['real']) == (2, 30, True)
    z = model.draw_z(explorer.IMAGES, model.seed, Stream.FIXED_Z)
    generated, beta = model.fetch([model.fake_images, model.layers['generator'][0].map], z)
    assert (arrays['generator'] == np.uint8(np.round(255 * generated))).all()
    assert (arrays['discriminator'] == np.uint8(np.round(255 * real))).all()
    assert (z[:4] == model.draw_grid(model.seed, Stream.FIXED_Z)[0][:4]).all()  # those of the grids
    write_snapshot(tmp_path, (facts, arrays))
    notes, left_out = read_snapshots(tmp_path)
    assert left_out == 0 and notes[0][0] == json.loads(json.dumps(facts))
    page = Page(browser, write(tmp_path / 'page.html', *notes))
    shown = np.array([page.shares(0, place) for place in range(12)])
    assert (abs(shown - beta[0]) <= beta[0].max(1, keepdims=True) / 255 + 1e-7).all()


def test_pages_stay_small(tmp_path, monkeypatch, capfd):
    """Fewer epochs, then fewer images; damaged notes and those of other layers are left out."""
    for epoch in range(1, 13):
        write_snapshot(tmp_path, make_snapshot(looks(epoch), epoch, epoch, True))
    size = (tmp_path / '1.npz').stat().st_size
    monkeypatch.setattr(page, 'PAGE_BYTES', size * 6.5 * 4 / 3)
    notes, left_out = read_snapshots(tmp_path)
    assert [facts['epoch'] for facts, _ in notes] == [2, 4, 6, 8, 10, 12] and left_out == 6
    kept, left_out = read_snapshots(tmp_path, 5)
    assert [facts['epoch'] for facts, _ in kept] == [2, 4, 5, 6, 8, 10, 12] and left_out == 5
    monkeypatch.setattr(page, 'PAGE_BYTES', 100e6)
    whole = write(tmp_path / 'whole.html', *notes).stat().st_size
    monkeypatch.setattr(page, 'PAGE_BYTES', whole - 1000)
    text = write(tmp_path / 'less.html', *notes).read_text()
    assert len(text) < whole - 1000 and '"images": 1, "images_noted": 3' in text
    (tmp_path / '4.npz').write_bytes(b'PK damaged')
    monkeypatch.setattr(page, 'PAGE_BYTES', 100e6)
    notes, left_out = read_snapshots(tmp_path)
    assert len(notes) == 11 and left_out == 1 and '4.npz is damaged and left out' in capfd.readouterr().out
    other = make_snapshot(looks(1, (5, 7)), 0, 99, True)
    text = write(tmp_path / 'other.html', *notes, other, left_out=left_out).read_text()
    assert '"epochs": [{"epoch": 0, "step": 99' in text and '"left_out": 12' in text


def test_a_note_with_a_wrong_bit(tmp_path):
    """It is read as it is, or left out."""
    write_snapshot(tmp_path, make_snapshot(looks(1), 1, 1, True))
    whole = (tmp_path / '1.npz').read_bytes()
    read = 0
    for place in range(0, len(whole), len(whole) // 150):
        (tmp_path / '1.npz').write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1:])
        read += len(read_snapshots(tmp_path)[0])
    assert 0 < read < 75


def test_a_run_leaves_its_maps(run, tmp_path, small_data, monkeypatch):
    """Noted after each epoch, again where training goes on from before; the same as without a break; test adds its."""
    monkeypatch.setattr(sampling, 'STATISTICS_BATCHES', 1)
    options = ['--dataset', 'mnist', '--data_dir', small_data, '--network', 'dcgan', '--ch', 8, '--img_size', 32,
               '--batch_size', 8, '--iteration', 2, '--save_freq', 2, '--sample_num', 4]
    assert run(*options, '--epoch', 3, '--name', 'whole')[0] == 0
    assert run(*options, '--epoch', 1, '--name', 'parts')[0] == 0
    maps = tmp_path / 'results' / 'parts' / 'SAGAN_maps'
    shutil.copy(maps / '2.npz', maps / '8.npz')  # of steps that a checkpoint before them goes on from
    assert run(*options, '--epoch', 3, '--name', 'parts')[0] == 0
    whole = tmp_path / 'results' / 'whole' / 'SAGAN_maps'
    assert sorted(os.listdir(maps)) == ['2.npz', '4.npz', '6.npz']
    for step in 2, 4, 6:
        for one, other in zip(*(np.load(folder / f'{step}.npz').values() for folder in (maps, whole)), strict=True):
            assert (one == other).all()
    page = tmp_path / 'results' / 'parts' / 'SAGAN_explorer.html'
    assert page.read_text() == (tmp_path / 'results' / 'whole' / 'SAGAN_explorer.html').read_text().replace(
        '"title": "whole"', '"title": "parts"')
    (maps / '6.npz').unlink()
    assert run('--phase', 'test', '--name', 'parts', '--test_num', 1)[0] == 0
    assert '"epochs": [{"epoch": 1, "step": 2, "real": true}, {"epoch": 2, "step": 4, "real": true}, ' \
        '{"epoch": 0, "step": 6, "real": true}]' in page.read_text()
