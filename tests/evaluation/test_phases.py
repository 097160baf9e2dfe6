"""The phases test, eval and export, on a tiny network."""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
from types import SimpleNamespace

import imageio.v3 as imageio
import numpy as np
import pytest
from helpers import snapshot
from tiny_gan import TinyGAN, folders_in, open_model, random_dataset

import SAGAN as module
from datasets import Dataset
from evaluation import phases
from options import UserError
from tf1 import tf
from utils import Stream, draw_z, to_uint8

GRIDS = ['SAGAN_test_000.png', 'SAGAN_test_001.png']


@pytest.fixture(scope='module', autouse=True)
def quick():
    """One batch of statistics, and a classifier that is trained for a few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, 'STATISTICS_BATCHES', 1)
        patch.setattr('evaluation.classifier.MIN_STEPS', 3)
        patch.setattr('evaluation.classifier.EPOCHS', 1)
        yield


@pytest.fixture(scope='module')
def shared_model(tmp_path_factory, small_data):
    """A model of 8 x 8 digits with a checkpoint of step 3. Tests use the fixture model."""
    with open_model(TinyGAN, image_shape=(8, 8, 1), attention='paper', sample_num=5, test_num=2, eval_num=20,
                    data_dir=str(small_data), **folders_in(tmp_path_factory.mktemp('run'))) as model:
        model.save(3)
        yield model


@pytest.fixture
def model(shared_model, tmp_path, monkeypatch):
    """The model with an empty results folder, and with its graph as the default."""
    monkeypatch.setattr(shared_model.run, 'results', str(tmp_path / 'results'))
    monkeypatch.setattr(shared_model.run, 'snapshots', str(tmp_path / 'results' / 'SAGAN_maps'))
    with shared_model.sess.graph.as_default():
        yield shared_model


def set_options(monkeypatch, model, **options):
    monkeypatch.setattr(model, 'config', dataclasses.replace(model.config, **options))


##################################################################################
# test
##################################################################################

@pytest.fixture(scope='module')
def tested(shared_model, tmp_path_factory):
    """The output of test, and the folder that it writes to."""
    folder, output = tmp_path_factory.mktemp('tested'), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
        patch.setattr(shared_model.run, 'results', str(folder))
        phases.test(shared_model)
    return SimpleNamespace(folder=folder, output=output.getvalue())


def test_test_writes_grids_figures_and_the_page(tested):
    assert sorted(os.listdir(tested.folder)) == [
        'SAGAN_attention.png', 'SAGAN_explorer.html', 'SAGAN_interpolation.png', *GRIDS]


def test_test_writes_grids_of_sample_num_images(tested, model):
    images = model.sample(draw_z(5, 62, 0, Stream.TEST_Z, 1))
    grid = imageio.imread(tested.folder / 'SAGAN_test_001.png')
    assert grid.shape == (2 * 8 * 24, 3 * 8 * 24)  # enlarged 24 times
    np.testing.assert_array_equal(grid[:8 * 24:24, :8 * 24:24], to_uint8(images[0, :, :, 0]))


def test_test_reports_step_and_weights(tested):
    assert tested.output == f'Grids and figures of step 3, ema weights:\n{tested.folder}\n'


@pytest.mark.slow
def test_model_test_writes_the_same_files_again(tested, model):
    model.test()
    assert snapshot(pathlib.Path(model.run.results)) == snapshot(tested.folder)


@pytest.mark.slow
def test_test_of_another_seed_writes_other_files(model, monkeypatch):
    set_options(monkeypatch, model, test_num=1)
    phases.test(model, seed=1)
    assert sorted(os.listdir(model.run.results)) == [
        'SAGAN_attention_seed1.png', 'SAGAN_explorer_seed1.html', 'SAGAN_interpolation_seed1.png',
        'SAGAN_test_000_seed1.png']


def page_data(folder, suffix=''):
    """Return the arrays on the attention page, as text."""
    return pathlib.Path(folder, f'SAGAN_explorer{suffix}.html').read_text().split('id="data"')[1].split('</script>')[0]


@pytest.mark.slow
def test_test_with_another_seed_changes_the_page(tested, model, monkeypatch):
    set_options(monkeypatch, model, test_num=1)
    phases.test(model, seed=1)
    assert page_data(model.run.results, '_seed1') != page_data(tested.folder)


@pytest.mark.slow
def test_test_exports_single_images(model, monkeypatch):
    set_options(monkeypatch, model, export=2)
    phases.test(model)
    z = draw_z(2, 62, 0, Stream.EXPORT_Z)
    folder = pathlib.Path(model.run.results, 'samples')
    assert sorted(os.listdir(folder)) == ['00000.png', '00001.png', 'samples.npz']
    with np.load(folder / 'samples.npz') as arrays:
        np.testing.assert_array_equal(arrays['z'], z)
        np.testing.assert_array_equal(arrays['arr_0'], np.repeat(model.pixels(z), 3, 3))


@pytest.mark.slow
def test_test_without_attention_writes_neither_attention_figure_nor_page(tmp_path):
    with open_model(TinyGAN, image_shape=(8, 8, 1), attention='none', sample_num=5, test_num=2,
                    **folders_in(tmp_path)) as model:
        model.save(3)
        phases.test(model)
    assert sorted(os.listdir(model.run.results)) == ['SAGAN_interpolation.png', *GRIDS]


@pytest.mark.slow
def test_test_writes_grids_and_figures_if_weights_are_not_finite(tmp_path):
    with open_model(TinyGAN, image_shape=(8, 8, 1), attention='paper', ema=0., sample_num=5, test_num=2,
                    **folders_in(tmp_path)) as model:
        tf.trainable_variables()[0].load(np.full([62, 4 * 4 * 8], np.nan), model.sess)
        model.save(3)
        phases.test(model)
    assert {'SAGAN_attention.png', 'SAGAN_interpolation.png', *GRIDS} < set(os.listdir(model.run.results))


##################################################################################
# eval
##################################################################################

@pytest.fixture(scope='module')
def evaluated(shared_model):
    """The output of eval, and the scores that it writes."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        phases.evaluate(shared_model)
    scores = json.loads(pathlib.Path(shared_model.run.result_path('scores.json')).read_text())
    return SimpleNamespace(output=output.getvalue(), scores=scores, files=sorted(os.listdir(shared_model.run.results)))


def test_evaluate_writes_scores_and_neighbours(evaluated):
    assert evaluated.files == ['SAGAN_neighbours.png', 'SAGAN_scores.json']


def test_evaluate_writes_what_was_scored(evaluated):
    scores = dict(evaluated.scores)
    assert 0 < scores.pop('classifier_accuracy') <= 1
    del scores['generated'], scores['real'], scores['images']
    assert scores == {'step': 3, 'weights': 'ema', 'seed': 0, 'dataset': 'mnist', 'eval_num': 20}


def test_evaluate_writes_the_same_kinds_of_scores_for_generated_and_real_images(evaluated):
    assert evaluated.scores['generated'].keys() == evaluated.scores['real'].keys()


def test_evaluate_writes_the_number_of_images_of_each_score(evaluated):
    """There are 20 samples and 100 test images."""
    assert evaluated.scores['images']['classifier_score'] == [20, 20]
    assert evaluated.scores['images']['kid'] == [20, 100]


def test_evaluate_prints_its_plan_first(evaluated):
    assert ('\nPlan: draw 20 samples, train the classifier (less than a minute, only once), compute features '
            'of 420 images, compute the scores: less than a minute in all\n') in evaluated.output.split('Drawing')[0]


def test_evaluate_reports_step_weights_and_classifier(evaluated):
    accuracy = evaluated.scores['classifier_accuracy']
    assert (f'20 images of step 3, ema weights, scored by a classifier that recognises {accuracy:.2%} of the images of '
            'the test split\n') in evaluated.output


def test_evaluate_warns_of_few_images(evaluated):
    assert evaluated.output.count('With only 20 images, Fréchet distances are too large') == 1


@pytest.fixture
def features_path(tmp_path):
    """A frozen graph whose features are the means of the rows of an image."""
    with tf.Graph().as_default() as graph:
        images = tf.placeholder(tf.float32, [1, 8, 8, 1], 'ExpandDims')
        tf.reduce_mean(images, [2, 3], name='pool_3')
        (tmp_path / 'graph.pb').write_bytes(graph.as_graph_def().SerializeToString())
    return str(tmp_path / 'graph.pb')


@pytest.mark.slow
def test_evaluate_compares_with_user_supplied_statistics(model, features_path, tmp_path, monkeypatch, capsys):
    """The statistics are those of the 130 samples. Fréchet distances need at least 128 images."""
    set_options(monkeypatch, model, eval_num=130)
    dataset = random_dataset((8, 8, 1), train=20, test=130)
    monkeypatch.setattr(phases, 'load_dataset', lambda *args: dataset)
    rows = model.pixels(model.draw_z(130, 0, Stream.EVAL_Z)).mean((2, 3))  # [130, 8]
    np.savez(tmp_path / 'own.npz', mu=rows.mean(0), sigma=np.cov(rows.T))
    phases.evaluate(model, features=features_path, reference=str(tmp_path / 'own.npz'))
    scores = json.loads(pathlib.Path(model.run.result_path('scores.json', '_features')).read_text())
    assert scores['generated']['frechet_to_train'] == pytest.approx(0, abs=1e-2)
    assert scores['real']['frechet_to_train'] > 1
    out = capsys.readouterr().out
    assert 'Fréchet distance to own.npz ' in out
    assert 'Not computed, because --reference holds only statistics: KID to own.npz, precision' in out


def test_evaluate_with_features_needs_no_classifier(model, features_path, capsys):
    phases.evaluate(model, features=features_path)
    scores = json.loads(pathlib.Path(model.run.result_path('scores.json', '_features')).read_text())
    assert (scores['features'], scores['reference']) == ('graph.pb', 'the training split')
    assert 'kid' in scores['generated'] and 'classifier_accuracy' not in scores
    assert '--features gives no class predictions: classifier score, ' in capsys.readouterr().out


def test_evaluate_refuses_missing_features_before_it_writes(model, tmp_path):
    with pytest.raises(UserError, match='missing.pb cannot be read'):
        phases.evaluate(model, features='missing.pb')
    assert not os.path.exists(model.run.results)


##################################################################################
# Classes
##################################################################################

@pytest.fixture(scope='module')
def shared_conditional_model(tmp_path_factory, small_data):
    """A conditional model of two classes with a checkpoint of step 3. Tests use the fixture conditional_model."""
    with open_model(TinyGAN, image_shape=(8, 8, 1), conditional=True, classes=2, sample_num=2, test_num=1,
                    data_dir=str(small_data), **folders_in(tmp_path_factory.mktemp('conditional'))) as model:
        model.config = dataclasses.replace(model.config, class_counts=(19, 1))
        model.save(3)
        yield model


@pytest.fixture
def conditional_model(shared_conditional_model, tmp_path, monkeypatch):
    """The conditional model with an empty results folder, and with its graph as the default."""
    monkeypatch.setattr(shared_conditional_model.run, 'results', str(tmp_path / 'results'))
    with shared_conditional_model.sess.graph.as_default():
        yield shared_conditional_model


def shaded_images(labels, rng):
    """Return bright images for label 0 and dark images for label 1, with random shades."""
    brightness = np.where(labels == 0, 180, 60)[:, None, None, None]
    return np.uint8(brightness + rng.uniform(-40, 40, [len(labels), 1, 8, 1]) + np.zeros([1, 8, 1, 1]))


def classify(images, progress):
    """A classifier for shaded_images. The features [N, 8] are the shades of the columns."""
    shades = images[:, 0, :, 0] / 255
    is_dark = shades.mean(1) < 120 / 255
    return shades, np.where(is_dark[:, None], [0.01, 0.99], [0.99, 0.01])


@pytest.fixture(params=[(1900, 100)], ids=['95 to 5'])
def real_images(conditional_model, request, monkeypatch):
    """Use a data set with these class counts. Replace generated images with real images of the requested classes."""
    class_counts, rng = request.param, np.random.default_rng(0)
    train_labels, test_labels = (rng.permutation(np.repeat([0, 1], np.array(class_counts) // part)) for part in (1, 2))
    dataset = Dataset((shaded_images(train_labels, rng), train_labels), (shaded_images(test_labels, rng), test_labels),
                      ('0', '1'))
    monkeypatch.setattr(phases, 'load_dataset', lambda *args: dataset)
    monkeypatch.setattr(phases, 'load_classifier', lambda *args: classify)
    monkeypatch.setattr(conditional_model, 'sample_batches', lambda z, labels: [shaded_images(labels, rng) / 255])
    set_options(monkeypatch, conditional_model, class_counts=class_counts)


@pytest.mark.slow
@pytest.mark.parametrize('real_images', [(1000, 1000), (1900, 100)], ids=['balanced', '95 to 5'], indirect=True)
def test_evaluate_scores_real_images_like_the_real_test_split(conditional_model, real_images, monkeypatch):
    set_options(monkeypatch, conditional_model, eval_num=1000)
    phases.evaluate(conditional_model)
    scores = json.loads(pathlib.Path(conditional_model.run.result_path('scores.json')).read_text())
    generated, real = scores['generated'], scores['real']
    # If classes in the ratio 95 to 5 were sampled equally often, frechet_to_train would be 0.5.
    for name in 'frechet_to_train', 'frechet_within_classes':
        assert generated[name] == pytest.approx(real[name], abs=0.002), name
    for name in 'classifier_score', 'class_entropy', 'class_accuracy', 'precision', 'recall', 'density', 'coverage':
        assert generated[name] == pytest.approx(real[name], abs=0.05), name


@pytest.mark.slow
@pytest.mark.parametrize('real_images, reported', [((1000, 1000), False), ((1900, 100), True)],
                         ids=['balanced', '95 to 5'], indirect=['real_images'])
def test_evaluate_reports_classes_with_few_images(conditional_model, real_images, reported, monkeypatch, capsys):
    """With class counts in the ratio 95 to 5, class 0 has 665 of the 700 samples, and class 1 has 35."""
    set_options(monkeypatch, conditional_model, eval_num=700)
    phases.evaluate(conditional_model)
    message = 'The mean within classes leaves out 1 (fewer than 128 samples, test images or training images)\n'
    assert (message in capsys.readouterr().out) == reported


@pytest.mark.slow
@pytest.mark.parametrize('real_images', [(1000, 1000)], ids=['balanced'], indirect=True)
def test_evaluate_of_one_class_compares_with_images_of_this_class(conditional_model, real_images, monkeypatch):
    set_options(monkeypatch, conditional_model, eval_num=1000)
    monkeypatch.setattr(conditional_model, 'target_class', 1)
    phases.evaluate(conditional_model)
    scores = json.loads(pathlib.Path(conditional_model.run.result_path('scores.json', '_label1')).read_text())
    assert scores['images']['frechet_to_train'] == [500, 500]
    # Compared with images of both classes, frechet_to_train would be above 0.4.
    assert scores['generated']['frechet_to_train'] == pytest.approx(scores['real']['frechet_to_train'], abs=0.002)


@pytest.mark.slow
def test_evaluate_of_one_class_reports_it(conditional_model, real_images, monkeypatch, capsys):
    set_options(monkeypatch, conditional_model, eval_num=30)
    monkeypatch.setattr(conditional_model, 'target_class', 1)
    phases.evaluate(conditional_model)
    assert 'The scores use only images of class 1\n' in capsys.readouterr().out


@pytest.mark.slow
def test_test_of_one_class_draws_it_on_the_page(conditional_model, monkeypatch):
    phases.test(conditional_model)
    monkeypatch.setattr(conditional_model, 'target_class', 1)
    phases.test(conditional_model)
    assert page_data(conditional_model.run.results, '_label1') != page_data(conditional_model.run.results)


@pytest.mark.slow
def test_test_exports_the_classes_with_their_frequencies(conditional_model, monkeypatch):
    set_options(monkeypatch, conditional_model, export=40)
    phases.test(conditional_model)
    labels = np.load(f'{conditional_model.run.results}/samples/samples.npz')['arr_1']
    assert np.bincount(labels).tolist() == [38, 2]


def test_restore_reports_a_run_without_class_counts(conditional_model, monkeypatch, capsys):
    set_options(monkeypatch, conditional_model, class_counts=())
    phases.restore(conditional_model, 'latest')
    assert capsys.readouterr().out == ('The config.json of SAGAN_mnist_64_62_conditional has no class_counts: all '
                                       'classes are sampled equally often\n')


def test_restore_of_a_run_with_class_counts_prints_nothing(conditional_model, capsys):
    phases.restore(conditional_model, 'latest')
    assert capsys.readouterr().out == ''


##################################################################################
# export
##################################################################################

@pytest.fixture
def exported(model, capsys):
    phases.export(model)
    return SimpleNamespace(folder=f'{model.run.results}/saved_model', output=capsys.readouterr().out)


def test_export_writes_a_saved_model_with_the_samples_of_the_model(model, exported):
    z = draw_z(3, 62, 0)
    with loaded(exported.folder) as generate:
        np.testing.assert_allclose(generate({'z': z}), model.sample(z), atol=1e-6)


@contextlib.contextmanager
def loaded(folder):
    """Yield a function that runs a SavedModel on {input: value}."""
    with tf.Graph().as_default(), tf.Session() as sess:
        signature = tf.saved_model.load(sess, ['serve'], folder).signature_def['serving_default']
        yield lambda inputs: sess.run(signature.outputs['images'].name,
                                      {signature.inputs[name].name: value for name, value in inputs.items()})


@pytest.fixture
def conditional_export(conditional_model):
    phases.export(conditional_model)
    return f'{conditional_model.run.results}/saved_model'


def test_export_of_a_conditional_model_draws_the_class_of_each_label(conditional_model, conditional_export):
    z, labels = draw_z(3, 62, 0), [1, 0, 1]
    with loaded(conditional_export) as generate:
        np.testing.assert_allclose(generate({'z': z, 'label': labels}), conditional_model.sample(z, labels), atol=1e-6)


@pytest.mark.parametrize('label', [2, 10, -1])
def test_exported_model_refuses_a_label_that_is_not_a_class(conditional_export, label):
    with loaded(conditional_export) as generate, \
            pytest.raises(tf.errors.InvalidArgumentError, match=rf'= {label} is not in \[0, 2\)'):
        generate({'z': draw_z(2, 62, 0), 'label': [0, label]})


def test_exported_model_refuses_z_of_another_length(exported):
    with loaded(exported.folder) as generate, pytest.raises(ValueError, match=r"\(3, 61\).*\(None, 62\)"):
        generate({'z': draw_z(3, 61, 0)})


def test_export_writes_a_graph_of_constants(exported):
    with tf.Graph().as_default() as graph, tf.Session() as sess:
        tf.saved_model.load(sess, ['serve'], exported.folder)
        assert not any('Variable' in operation.type or operation.type == 'VarHandleOp'
                       for operation in graph.get_operations())


def test_export_reports_the_folder_and_the_playground(exported, model):
    assert exported.output == ('Generator of step 3, ema weights (z is [N, 62], uniform in [-1, 1]):\n'
                               f'{exported.folder}\n'
                               f'Playground (open it in a browser):\n{model.run.results}/SAGAN_playground.html\n')


def test_export_writes_the_playground_with_test_images(exported, model):
    page = pathlib.Path(model.run.results, 'SAGAN_playground.html').read_text(encoding='utf-8')
    assert '"step":3,' in page and '"samples":{"count":40,' in page


def test_export_reports_that_the_playground_has_no_test_images_if_the_classes_differ(conditional_model, capsys):
    phases.export(conditional_model)
    assert ('The playground has no test images: SAGAN_mnist_64_62_conditional was trained on the classes 0, 1, but the '
            'data set has 0, 1, 2') in capsys.readouterr().out


def test_export_of_a_network_that_is_too_large_for_a_page_writes_a_saved_model(model, monkeypatch, capsys):
    monkeypatch.setattr('explorer.playground.PAGE_BYTES', 1000)
    phases.export(model)
    assert sorted(os.listdir(model.run.results)) == ['saved_model']
    assert 'No playground: a page of 0.' in capsys.readouterr().out


##################################################################################
# All phases
##################################################################################

@pytest.mark.parametrize('phase', [phases.test, phases.evaluate, phases.export])
@pytest.mark.parametrize('checkpoint, missing', [(5, 'checkpoint 5'), ('best', 'best checkpoint')])
def test_phase_refuses_a_checkpoint_that_does_not_exist(model, phase, checkpoint, missing):
    with pytest.raises(UserError, match=rf'has no {missing} \(steps: 3\): choose one of these steps'):
        phase(model, checkpoint=checkpoint)


def test_phase_that_fails_writes_nothing(model):
    with pytest.raises(UserError):
        phases.test(model, checkpoint=5)
    assert not os.path.exists(model.run.results)


@pytest.mark.parametrize('checkpoint, weights, label, seed, suffix', [
    ('latest', 'ema', None, 0, ''), ('best', 'ema', None, 0, '_best'), (80, 'ema', None, 0, '_step80'),
    ('latest', 'raw', None, 0, '_raw'), ('latest', 'ema', 0, 0, '_label0'), ('latest', 'ema', None, 7, '_seed7'),
    (80, 'raw', 3, 7, '_step80_raw_label3_seed7')])
def test_file_suffix_has_a_part_for_each_choice_that_is_not_the_default(checkpoint, weights, label, seed, suffix):
    model = SimpleNamespace(config=SimpleNamespace(weights=weights), target_class=label)
    assert phases.file_suffix(model, checkpoint, seed) == suffix


def check(class_names, data_names, conditional=True):
    config = SimpleNamespace(conditional=conditional, class_names=class_names)
    model = SimpleNamespace(config=config, run=SimpleNamespace(name='RUN'))
    phases.check_classes(model, SimpleNamespace(class_names=data_names))


@pytest.mark.parametrize('class_names, data_names, conditional', [
    (('cat', 'dog'), ('cat', 'dog'), True), (('0', '1'), ('cat', 'dog'), True), (('cat', 'dog'), ('bird',), False)],
    ids=['the same', 'numbers of an old run', 'not conditional'])
def test_check_classes_accepts(class_names, data_names, conditional):
    check(class_names, data_names, conditional)


@pytest.mark.parametrize('data_names, words', [(('cat', 'cow'), 'cat, cow'), ((), 'none')])
def test_check_classes_refuses_other_classes(data_names, words):
    with pytest.raises(UserError, match=f'RUN was trained on the classes cat, dog, but the data set has {words}: '):
        check(('cat', 'dog'), data_names)


def test_report_reading_names_both_readings(capsys):
    phases.report_reading(SimpleNamespace(reading=()), SimpleNamespace(reading=('12-bit values', '.tif files')))
    assert capsys.readouterr().out == (
        'The data set is read differently than during training. During training: as in earlier versions of this '
        'program. Now: 12-bit values, .tif files\n')


def test_report_reading_is_silent_about_the_same_reading(capsys):
    phases.report_reading(SimpleNamespace(reading=('npz file',)), SimpleNamespace(reading=('npz file',)))
    assert capsys.readouterr().out == ''
