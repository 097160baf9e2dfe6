"""The notebook, executed from top to bottom with three steps on a small data set."""

import json

import pytest
from helpers import ROOT

NOTEBOOK = ROOT / 'notebooks' / 'attention.ipynb'


def code_cells(cells):
    return [cell for cell in cells if cell['cell_type'] == 'code']


@pytest.fixture(scope='module')
def executed(tmp_path_factory, small_data):
    """The cells of the notebook after their execution in notebooks/, with all files under a temporary folder."""
    import nbformat
    from nbclient import NotebookClient
    folder = tmp_path_factory.mktemp('notebook')
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    settings = code_cells(notebook.cells)[0]
    assert 'STEPS = 300\n' in settings.source and '\nFOLDERS = {' in settings.source
    folders = {name: str(folder / name) for name in ('checkpoint_dir', 'result_dir', 'log_dir')}
    settings.source += (f'\nSTEPS, FOLDERS = 3, {({"data_dir": str(small_data), **folders})}\n'
                        'import SAGAN\nSAGAN.STATISTICS_BATCHES = 1')
    with pytest.MonkeyPatch.context() as patch:
        for name in 'IPYTHONDIR', 'JUPYTER_CONFIG_DIR', 'JUPYTER_DATA_DIR', 'JUPYTER_RUNTIME_DIR':
            patch.setenv(name, str(folder / 'jupyter'))
        NotebookClient(notebook, timeout=600, resources={'metadata': {'path': str(NOTEBOOK.parent)}}).execute()
    return notebook.cells


def outputs(cells, kind):
    return [output for cell in code_cells(cells) for output in cell['outputs'] if output['output_type'] == kind]


@pytest.mark.slow
def test_notebook_trains_the_run(executed):
    text = ''.join(output['text'] for output in outputs(executed, 'stream'))
    assert 'Finished at step 3 of 3' in text and 'considers this image real with probability 0.' in text


@pytest.mark.slow
def test_notebook_draws_a_figure_for_each_subject(executed):
    assert [sum('image/png' in output['data'] for output in outputs([cell], 'display_data'))
            for cell in code_cells(executed)] == [0, 0, 0, 1, 1, 1, 1, 3, 0]


def test_notebook_is_stored_without_outputs():
    cells = code_cells(json.loads(NOTEBOOK.read_text(encoding='utf-8'))['cells'])
    assert len(cells) == 9
    assert all(cell['outputs'] == [] and cell['execution_count'] is None for cell in cells)
