"""Which file may import which, and how long files and functions may grow."""

import ast
import pathlib
import sys

import pytest

# From the top down: a file imports only what stands below it.
ORDER = ['main', 'networks', 'SAGAN', 'sampling', 'records', 'progress', 'checkpoints', 'runs', 'metrics', 'ops',
         'precision', 'losses', 'cluster', 'collectives', 'workers', 'datasets', 'digits', 'downloads', 'pictures',
         'explorer', 'figures', 'utils', 'tf1', 'options']
STRANGERS = {
    'SAGAN': {'argparse', 'imageio', 'csv', 'json', 'signal', 'sys', 'main', 'matplotlib'},
    'sampling': {'argparse', 'imageio', 'csv', 'json', 'signal', 'sys', 'matplotlib'},
    'records': {'SAGAN', 'sampling'}, 'metrics': {'SAGAN', 'records', 'runs'}, 'ops': {'losses'},
    'losses': {'utils', 'options'}, 'datasets': {'tensorflow', 'tf1'}, 'digits': {'tensorflow', 'tf1'},
    'pictures': {'tensorflow', 'tf1'}, 'downloads': {'tensorflow', 'tf1'},
    'networks': {'os', 'pathlib', 'imageio', 'runs'},
    'workers': {'tensorflow', 'tf1', 'numpy'}, 'cluster': {'ops', 'networks', 'losses'},
    'collectives': {'ops', 'networks', 'losses'},
    'explorer': {'tensorflow', 'tf1', 'runs'}, 'figures': {'tensorflow', 'tf1', 'os', 'pathlib', 'imageio'},
    'utils': {'tensorflow', 'tf1'}}

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted(ROOT.glob('*.py'))


def imports(nodes):
    """The modules that these nodes import, without what stands behind their first dot."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {name.name.split('.')[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split('.')[0])
    return found


def loops(node):
    """How deep loops are nested in a node."""
    deepest = max(map(loops, ast.iter_child_nodes(node)), default=0)
    return deepest + isinstance(node, (ast.For, ast.While))


def test_every_file_has_its_place():
    assert sorted(ORDER) == [path.stem for path in FILES]


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_file(path):
    text = path.read_text()
    tree = ast.parse(text)
    below = set(ORDER[ORDER.index(path.stem) + 1:])
    assert imports(ast.walk(tree)) & set(ORDER) <= below
    assert not imports(tree.body) & STRANGERS.get(path.stem, set())
    if path.stem == 'options':
        assert imports(ast.walk(tree)) <= sys.stdlib_module_names
    assert 'import *' not in text
    assert text.count('\n') <= 350 and max(map(len, text.splitlines())) <= 120
    assert loops(tree) <= 3
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 50, node.name


@pytest.mark.parametrize('name', ['explorer.html', 'explorer.js'])
def test_template(name):
    lines = (ROOT / name).read_text(encoding='utf-8').splitlines()
    assert len(lines) <= 350 and max(map(len, lines)) <= 120
