"""The pages of the explorer in Chromium, and layers to show on the attention page."""

import contextlib
import json
import os
import shutil
from unittest import mock

import numpy as np
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from explorer.snapshots import LayerMaps

GRID = 4, 6  # rows and columns of positions
SHIFT = 8  # in the first layer of hand-made maps, position i looks only at position i + SHIFT


def is_installed():
    """Return whether Chromium and its driver are installed."""
    return bool(shutil.which('chromium') and shutil.which('chromedriver'))


@contextlib.contextmanager
def chromium():
    """Start Chromium without a window; yield its driver."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which('chromium')
    for argument in '--headless=new', '--no-sandbox', '--disable-background-networking', '--disable-dev-shm-usage':
        options.add_argument(argument)
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
    service = Service(shutil.which('chromedriver'))
    local = mock.patch.dict(os.environ, no_proxy='127.0.0.1,localhost')  # no proxy between the driver and this process
    with local, webdriver.Chrome(options=options, service=service) as driver:
        driver.set_script_timeout(60)
        yield driver


def make_layers(seed, grid=GRID, keys=None, pixels=2, channels=1, count=3):
    """Return two layers of a generator and one of a discriminator, on random images.

    If the grid is GRID, each position of the first layer looks at exactly one position. All other maps are random.

    Args:
        grid: rows and columns of positions.
        keys: rows and columns of keys. By default, they are those of the positions.
        pixels: height and width of a position.
        count: number of images.
    """
    rng = np.random.default_rng(seed)
    keys = keys or grid
    images = rng.random([2, count, grid[0] * pixels, grid[1] * pixels, channels])
    maps = rng.random([2, count, *grid, *keys]) ** 8
    maps /= maps.sum((-1, -2), keepdims=True)
    first = maps[0]
    if grid == GRID:
        first = np.roll(np.eye(np.prod(GRID)), SHIFT, 1).reshape(1, *GRID, *GRID).repeat(count, 0)
    return [LayerMaps('generator', seed / 10, images[0], first), LayerMaps('generator', -seed / 10, images[0], maps[0]),
            LayerMaps('discriminator', 0.5, images[1], maps[1])]


class Page:
    """A page in the browser. By default, its methods use the elements of the attention page."""

    def __init__(self, driver, path, address='', width=1000):
        self.driver = driver
        driver.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', {
            'width': width, 'height': 900, 'deviceScaleFactor': 1, 'mobile': False})
        driver.get('about:blank')  # otherwise, a new fragment of the same URL would not reload the page
        driver.get_log('browser')
        driver.get_log('performance')
        driver.get(f'file://{path}{address}')
        self.wait_until("!document.querySelector('main').hidden || !document.querySelector('#error').hidden")

    def wait_until(self, condition):
        """Wait until a JavaScript expression is true and the page is drawn."""
        self.driver.execute_async_script(f"""
            const done = arguments[0];
            const poll = () => {condition} ? requestAnimationFrame(() => requestAnimationFrame(done))
                                           : setTimeout(poll, 20);
            poll();""")

    def settle(self):
        """Wait until the last change is drawn."""
        self.wait_until('true')

    def find(self, css):
        return self.driver.find_element('css selector', css)

    def text(self, name):
        return self.find(f'#{name}').text

    def click(self, css):
        self.driver.execute_script('document.querySelector(arguments[0]).click()', css)
        self.settle()

    def press(self, keys, css='#image'):
        """Focus an element and press keys one after another."""
        self.driver.execute_script('document.querySelector(arguments[0]).focus()', css)
        webdriver.ActionChains(self.driver).send_keys(keys).perform()
        self.settle()

    def point(self, row, column, click=False, css='#image', grid=GRID):
        """Move the mouse to the centre of a position of a grid on a canvas. Rows and columns count from 0."""
        image = self.find(css)
        x = ((column + 0.5) / grid[1] - 0.5) * image.size['width']
        y = ((row + 0.5) / grid[0] - 0.5) * image.size['height']
        actions = webdriver.ActionChains(self.driver).move_to_element_with_offset(image, x, y)
        if click:
            actions.click()
        actions.perform()
        self.settle()

    def choose_layer(self, number):
        """Choose a layer from the list; the first is 0."""
        self.driver.execute_script("""
            const select = document.querySelector('#layer');
            select.value = arguments[0];
            select.dispatchEvent(new Event('change', {bubbles: true}));""", number)
        self.settle()

    def set_address(self, address):
        """Replace the part of the address after the #."""
        self.driver.execute_async_script("""
            const [address, done] = arguments;
            window.addEventListener('hashchange', () => done(), {once: true});
            location.hash = address;""", address)
        self.settle()

    def address(self):
        """Return the part of the address from the # onward, once the page has written it."""
        self.wait_until('location.hash === `#${address()}`')
        return self.driver.execute_script('return location.hash')

    def weights(self, snapshot, position):
        """Return the weights that the map shows for a position."""
        return np.array(self.driver.execute_script(
            'return Array.from(mapWeights(arguments[0], arguments[1]))', snapshot, int(position)))

    def colours(self, css):
        """Return the colours in the middle of the positions of GRID on a canvas, [rows, columns, 3]."""
        height, width, values = self.driver.execute_script("""
            const canvas = document.querySelector(arguments[0]), {width, height} = canvas;
            const copy = Object.assign(document.createElement('canvas'), {width, height});
            const context = copy.getContext('2d', {willReadFrequently: true});
            context.drawImage(canvas, 0, 0);
            return [height, width, Array.from(context.getImageData(0, 0, width, height).data)]""", css)
        image = np.array(values).reshape(height, width, 4)[:, :, :3]
        row_height, column_width = height // GRID[0], width // GRID[1]
        return image[row_height // 2::row_height, column_width // 2::column_width]

    def requested_urls(self):
        """Return the addresses that this page has requested since it was opened."""
        events = [json.loads(entry['message'])['message'] for entry in self.driver.get_log('performance')]
        return [event['params']['request']['url'] for event in events if event['method'] == 'Network.requestWillBeSent']

    def parts_outside(self):
        """Return the start of the HTML of each visible element that the right edge of the window cuts off."""
        return self.driver.execute_script("""
            const width = window.innerWidth;
            return [document.documentElement, ...document.querySelectorAll('main *')]
                .filter(part => part.getBoundingClientRect().right > width || part.scrollWidth > width)
                .map(part => part.outerHTML.slice(0, 80))""")

    def brightness(self):
        """Return the average colour values of the background and of the text."""
        return [np.mean([int(part) for part in self.driver.execute_script(
            f'return getComputedStyle(document.body).{name}').strip('rgba()').split(',')[:3]])
            for name in ('backgroundColor', 'color')]

    def errors(self):
        """Return the messages in the browser console and the error message on the page."""
        messages = [entry['message'] for entry in self.driver.get_log('browser')]
        if self.find('#error').is_displayed():
            messages.append(self.text('error'))
        return messages
