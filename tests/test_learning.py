"""The article's network learns to draw digits. These tests have their own file because they need the most memory."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_gan import folders_in, open_model

import SAGAN as module
from datasets import load_dataset
from storage.history import read_history
from utils import draw_z

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def learned(tmp_path_factory, small_data):
    """150 steps on digits: samples before and after, all losses, and the means of the last 30 steps."""
    options = dict(batch_size=20, iteration=150, epoch=1, print_freq=1, sample_freq=100, sample_num=7, g_lr=0.004,
                   d_lr=0.0008, data_dir=str(small_data), **folders_in(tmp_path_factory.mktemp('learned')))
    with pytest.MonkeyPatch.context() as patch, open_model(**options) as model:
        patch.setattr(module, 'STATISTICS_BATCHES', 1)
        z = draw_z(100, 62, 1)
        before = model.sample(z)
        model.train()
        rows = read_history(model.run.result_path('history.csv'))
        rows = [{name: float(value) for name, value in row.items() if value} for row in rows]
        late = {name: np.mean([row[name] for row in rows[-30:]]) for name in rows[0]}
        return SimpleNamespace(before=before, after=model.sample(z), rows=rows, late=late,
                               results=sorted(os.listdir(model.run.results)))


def test_training_starts_at_the_loss_of_random_guessing(learned):
    assert learned.rows[0]['d_loss'] == pytest.approx(2 * np.log(2), abs=0.1)


def test_training_moves_the_losses_away_from_random_guessing(learned):
    assert abs(learned.late['d_loss'] - 2 * np.log(2)) > 0.1
    assert abs(learned.late['g_loss'] - np.log(2)) > 0.1


def test_training_makes_d_prefer_real_images(learned):
    assert learned.late['d_real'] > learned.late['d_fake']


def test_training_moves_gamma_away_from_0(learned):
    assert learned.late['g_gamma'] != 0


def test_training_moves_the_mean_of_the_samples_to_that_of_the_data(learned, small_data):
    images, _ = load_dataset('mnist', str(small_data)).train
    assert abs(learned.before.mean() - 0.5) < 0.05
    assert learned.after.mean() == pytest.approx(images.mean() / 255, abs=0.1)


def test_training_makes_different_images_for_different_z(learned):
    assert learned.after.std(0).mean() > 0.05


def test_training_history_has_every_step(learned):
    assert [row['step'] for row in learned.rows] == list(range(1, 151))


def test_training_writes_a_grid_every_sample_freq_steps(learned):
    assert [name for name in learned.results if name.startswith('SAGAN_train')] == ['SAGAN_train_step00100.png']
