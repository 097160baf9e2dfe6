"""Fixtures of the tests that open pages in Chromium."""

import os

import pytest
from browser import Page, chromium, is_installed


@pytest.fixture(scope='package')
def driver():
    """The driver of a running Chromium. Without it, tests are skipped, or fail if SAGAN_BROWSER is set."""
    if not is_installed():
        message = 'Chromium or chromedriver is not installed: apt-get install chromium chromium-driver'
        if os.environ.get('SAGAN_BROWSER'):
            pytest.fail(message)
        pytest.skip(message)
    with chromium() as driver:
        yield driver


@pytest.fixture
def open_page(driver):
    """Return a function that opens a page. The test fails if the last page reports an error."""
    pages = []

    def open_in_browser(path, address='', width=1000):
        pages.append(Page(driver, path, address, width))
        return pages[-1]
    yield open_in_browser
    assert pages[-1].errors() == []


@pytest.fixture
def emulate(driver):
    """Return a function that sets media features of the browser."""
    def set_features(**features):
        driver.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': [
            {'name': name.replace('_', '-'), 'value': value} for name, value in features.items()]})
    yield set_features
    set_features()
