import io
import json

import pytest

from datasets.layout import Labels, arrange, printable, read_labels
from options import UserError

NO_LABELS = Labels([], {}, [])


def files(*folders, count=2):
    """Return the sorted paths of images 0.png, 1.png, ... in each folder. Folders are written as 'a/' or ''."""
    return sorted(f'{folder}{number}.png' for folder in folders for number in range(count))


def classes_in(layout):
    return set(layout.classes.values())


##################################################################################
# Splits
##################################################################################

@pytest.mark.parametrize('train, held_out', [
    ('train', 'test'), ('train', 'val'), ('train', 'valid'), ('training', 'validation'), ('Train', 'Testing'),
    ('TRAINING', 'VALID')])
def test_arrange_uses_folders_with_names_of_splits(train, held_out):
    layout = arrange(files(f'{train}/', f'{held_out}/'), NO_LABELS)
    assert (layout.train, layout.test, layout.held_out) == (files(f'{train}/'), files(f'{held_out}/'), f'{held_out}/')


def test_arrange_takes_classes_from_the_folders_in_the_splits():
    layout = arrange(files('train/a/', 'train/b/', 'valid/a/', 'valid/b/'), NO_LABELS)
    assert layout.classes == {path: path.split('/')[1] for path in layout.train + layout.test}


def test_arrange_prefers_test_to_val():
    layout = arrange(files('train/', 'test/', 'val/', count=3), NO_LABELS)
    assert (layout.train, layout.test) == (files('train/', count=3), files('test/', count=3))
    assert layout.notes == ['The 3 images in val/ are not used, because test images are in test/']


def test_arrange_merges_folders_of_one_split():
    layout = arrange(files('Train/', 'training/', 'val/'), NO_LABELS)
    assert layout.train == files('Train/', 'training/') and layout.test == files('val/')


@pytest.mark.parametrize('folders', [['valid/', 'broken/'], ['train/', 'plane/', 'valid/'], ['test/', 'val/']],
                         ids=['a class named valid', 'classes named train and valid', 'no train'])
def test_arrange_treats_other_folders_as_classes(folders):
    layout = arrange(files(*folders), NO_LABELS)
    assert classes_in(layout) == {folder[:-1] for folder in folders} and layout.held_out is None


@pytest.mark.parametrize('folder', ['train/', 'test/'])
def test_arrange_holds_out_every_tenth_image_of_a_single_split(folder):
    layout = arrange(files(folder, count=10), NO_LABELS)
    assert layout.test == [f'{folder}9.png'] and layout.classes == {}


@pytest.mark.parametrize('folders', [['train/', 'valid/'], ['train/', 'test/', 'other/a/'],
                                     ['train/', 'val/', 'other/a/']])
def test_arrange_leaves_out_images_beside_the_splits(folders):
    layout = arrange(sorted(['cover.png', *files(*folders)]), NO_LABELS)
    beside = ['cover.png', *files(*folders[2:])]
    assert layout.left_out == [(path, f'outside {folders[0]} and {folders[1]}') for path in beside]
    assert (layout.train, layout.test) == (files(folders[0]), files(folders[1]))


@pytest.mark.parametrize('held_out', ['test/', 'valid/'])
def test_arrange_rejects_a_class_that_is_only_held_out(held_out):
    paths = files('train/a/', 'train/b/', f'{held_out}a/', f'{held_out}c/')
    with pytest.raises(UserError, match=f"the class 'c' has no training images .it is only in {held_out}"):
        arrange(paths, NO_LABELS)


@pytest.mark.parametrize('split', ['train', 'test'])
def test_arrange_spreads_classes_of_different_size_evenly(split):
    paths = sorted(files('train/a/', 'test/a/', count=30) + files('train/b/', 'test/b/', count=10))
    layout = arrange(paths, NO_LABELS)
    labels = [layout.classes[path] for path in getattr(layout, split)]
    assert len(labels) == 40 and all(labels[start:start + 4].count('b') == 1 for start in range(0, 40, 4))


##################################################################################
# Enclosing folders, and images beside the classes
##################################################################################

@pytest.mark.parametrize('folder', ['flowers/', 'flowers/flowers/', 'train/'])
def test_arrange_ignores_a_folder_that_encloses_the_classes(folder):
    assert classes_in(arrange(files(f'{folder}a/', f'{folder}b/'), NO_LABELS)) == {'a', 'b'}


def test_arrange_ignores_a_folder_that_encloses_the_splits():
    layout = arrange(files('data/train/a/', 'data/train/b/', 'data/test/a/', 'data/test/b/'), NO_LABELS)
    assert layout.held_out == 'data/test/' and classes_in(layout) == {'a', 'b'}
    assert all(path.startswith('data/test/') for path in layout.test) and len(layout.test) == 4


@pytest.mark.parametrize('train, test', [('images/', 'images/'), ('train/', 'test/')])
def test_arrange_ignores_a_folder_that_encloses_the_classes_of_a_split(train, test):
    layout = arrange(files(f'train/{train}a/', f'train/{train}b/', f'test/{test}a/'), NO_LABELS)
    assert classes_in(layout) == {'a', 'b'}


def test_arrange_does_not_ignore_the_only_class_folder_of_the_test_split():
    layout = arrange(files('train/a/', 'train/b/', 'test/a/'), NO_LABELS)
    assert classes_in(layout) == {'a', 'b'}


@pytest.mark.parametrize('paths, named', [
    (['cover.png', *files('a/', 'b/')], 'cover.png'),
    (['0.png', '1.png', '2.png', *files('a/', 'b/')], '0.png and 2 more'),
    (['cover.png', *files('flowers/a/', 'flowers/b/')], 'cover.png'),
    (files('test/', 'train/a/', 'train/b/'), 'test/0.png and 1 more')])
def test_arrange_names_images_that_prevent_classes(paths, named):
    layout = arrange(paths, NO_LABELS)
    assert layout.classes == {}
    assert layout.notes == [f'No classes, because there are images beside the class folders ({named}). To use '
                            'classes, move them into these folders']


@pytest.mark.parametrize('paths', [files(''), files('a/'), files('', 'a/'), files('train/', 'test/')])
def test_arrange_gives_no_reason_without_class_folders(paths):
    layout = arrange(paths, NO_LABELS)
    assert (layout.classes, layout.notes) == ({}, [])


##################################################################################
# Differences from earlier versions
##################################################################################

@pytest.mark.parametrize('folders', [
    [''], ['a/'], ['a/', 'b/'], ['', 'a/', 'b/'], ['train/'], ['train/', 'test/'], ['train/a/', 'train/b/', 'test/a/'],
    ['train/', 'test/', 'val/'], ['train/', 'test/', 'other/', ''], ['train/a/', 'test/a/'], ['valid/', 'broken/']])
def test_arrange_reads_as_before(folders):
    assert arrange(files(*folders), NO_LABELS).reading == []


@pytest.mark.parametrize('folders, reading', [
    (['train/', 'valid/'], ['splits train/ and valid/']),
    (['Test/', 'train/'], ['splits train/ and Test/']),
    (['data/train/', 'data/test/'], ['splits data/train/ and data/test/']),
    (['flowers/a/', 'flowers/b/'], ['classes in flowers/']),
    (['train/images/a/', 'train/images/b/', 'test/images/a/'], ['classes in train/images/'])])
def test_arrange_reports_how_earlier_versions_differ(folders, reading):
    assert arrange(files(*folders), NO_LABELS).reading == reading


##################################################################################
# Labels
##################################################################################

def csv_file(*rows, header='file_name,label'):
    return '\n'.join([header, *rows]).encode()


def json_file(*rows):
    return json.dumps({'labels': rows}).encode()


def labels_of(contents, images):
    """Return the Labels of images beside files {path: bytes}."""
    paths = sorted([*contents, *images])
    return read_labels('own', paths, images, lambda path: io.BytesIO(contents[path]))


def classes_of(content, name='labels.csv', images=('a.png', 'b.png')):
    return labels_of({name: content}, list(images)).classes


def test_read_labels_reads_dataset_json():
    content = json_file(['00000/a.png', 3], ['00000/b.png', 0])
    images = ['00000/a.png', '00000/b.png']
    assert classes_of(content, 'dataset.json', images) == {'00000/a.png': 3, '00000/b.png': 0}


def test_read_labels_reads_labels_csv():
    assert classes_of(csv_file('a.png,cat', 'b.png,dog')) == {'a.png': 'cat', 'b.png': 'dog'}


@pytest.mark.parametrize('content', [
    b'\xef\xbb\xbf' + csv_file('a.png,cat', 'b.png,dog'),
    csv_file('a.png,cat', 'b.png,dog', header='File_Name, LABEL'),
    csv_file('1,cat,a.png', '2,dog,b.png', header='id,label,file_name'),
    csv_file('"a.png","cat"', '"b.png", dog '),
    csv_file('a.png,cat', '', 'b.png,dog').replace(b'\n', b'\r\n'),
    csv_file('./a.png,cat', '.\\b.png,dog')], ids=['BOM', 'case', 'columns', 'quotes', 'lines', 'paths'])
def test_read_labels_reads_csv_of_many_kinds(content):
    assert classes_of(content) == {'a.png': 'cat', 'b.png': 'dog'}


def test_read_labels_sorts_integers_as_numbers():
    images = [f'{number}.png' for number in range(12)]
    classes = classes_of(csv_file(*(f'{number}.png,{number}' for number in range(12))), images=images)
    assert sorted(classes.values()) == list(range(12))


def test_read_labels_keeps_labels_with_leading_zeros():
    assert classes_of(csv_file('a.png,01', 'b.png,1')) == {'a.png': '01', 'b.png': '1'}


@pytest.mark.parametrize('path, name', [('labels.csv', 'data/a.png'), ('labels.csv', 'a.png'),
                                        ('data/labels.csv', 'a.png')])
def test_read_labels_ignores_a_folder_that_encloses_all_images(path, name):
    assert classes_of(csv_file(f'{name},cat'), path, ['data/a.png', 'data/b.png']) == {'data/a.png': 'cat'}


def test_read_labels_reads_a_file_in_each_split():
    contents = {'train/labels.csv': csv_file('a.png,cat'), 'test/labels.csv': csv_file('a.png,dog')}
    assert labels_of(contents, ['test/a.png', 'train/a.png']).classes == {'train/a.png': 'cat', 'test/a.png': 'dog'}


def test_read_labels_ignores_a_file_in_another_folder():
    assert labels_of({'a/labels.csv': csv_file('0.png,cat')}, files('a/', 'b/')) == NO_LABELS


@pytest.mark.parametrize('name, content', [('labels.csv', csv_file('a,1', header='id,breed')), ('labels.csv', b''),
                                           ('dataset.json', b'{"images": []}'), ('dataset.json', b'[1]')])
def test_read_labels_ignores_a_file_of_another_kind(name, content):
    labels = labels_of({name: content}, ['a.png'])
    assert labels[:2] == ([], {}) and labels.notes[0].startswith(f'{name} is not used: it')


@pytest.mark.parametrize('name, content', [('labels.csv', csv_file()), ('dataset.json', b'{"labels": null}'),
                                           ('dataset.json', b'{"labels": []}')])
def test_read_labels_reports_a_file_without_labels(name, content):
    assert labels_of({name: content}, ['a.png']) == ([name], {}, [f'No classes, because {name} lists no labels'])


@pytest.mark.parametrize('name', ['x\udcff.png', 'x\ud800.png'])
def test_read_labels_reports_names_that_are_not_unicode(name):
    labels = labels_of({'dataset.json': json_file(['a.png', 1], [name, 1])}, ['a.png'])
    assert labels.notes == ['dataset.json names images that do not exist (x\ufffd.png)']


def test_read_labels_keeps_integers_of_any_length():
    assert classes_of(csv_file('a.png,' + '1' * 5000)) == {'a.png': '1' * 5000}


def test_read_labels_reports_names_without_an_image():
    labels = labels_of({'labels.csv': csv_file('a.png,cat', 'x.png,cat', 'y.png,dog')}, ['a.png'])
    assert labels.notes == ['labels.csv names images that do not exist (x.png and 1 more)']


@pytest.mark.parametrize('name, content, message', [
    ('labels.csv', csv_file('a.png,1', 'a.png,2'), 'has several labels for a.png (1 and 2): '),
    ('labels.csv', csv_file('a.png,"1\n2"', 'a.png,3'), 'has several labels for a.png (1\ufffd2 and 3): '),
    ('labels.csv', csv_file('a,1', 'b,2'), "names none of the images (its first name is 'a'): "),
    ('labels.csv', csv_file('a.png,') + b'\xff', "cannot be used ('utf-8' codec can't decode"),
    ('labels.csv', csv_file('"a.png,' + 'x' * 200000), 'cannot be used (field larger than field limit'),
    ('dataset.json', b'{"labels": [["a.png", 1]', 'cannot be used (Expecting'),
    ('dataset.json', b'\x80', 'cannot be used ('),
    ('dataset.json', b'[' * 200000, 'cannot be used ('),
    ('dataset.json', b'{"labels": 5}', 'cannot be used ("labels" is not a list): '),
    ('dataset.json', json_file(['a.png', [0, 1]]), "cannot be used (the label of 'a.png' is [0, 1], not an integer): "),
    ('dataset.json', json_file(['a.png', 0.5]), "cannot be used (the label of 'a.png' is 0.5, not an integer): "),
    ('dataset.json', json_file(['a.png', True]), "cannot be used (the label of 'a.png' is True, not an integer): "),
    ('dataset.json', json_file(['a.png']), "cannot be used (['a.png'] is not [file name, label]): ")], ids=range(13))
def test_read_labels_rejects(name, content, message):
    with pytest.raises(UserError) as error:
        labels_of({name: content}, ['a.png'])
    assert str(error.value).startswith(f'own/{name} {message}')


def test_arrange_takes_classes_from_labels_instead_of_folders():
    paths = files('a/', 'b/', count=1)
    layout = arrange(paths, Labels(['labels.csv'], {'a/0.png': 'dog', 'b/0.png': 'cat'}, []))
    assert layout.classes == {'a/0.png': 'dog', 'b/0.png': 'cat'} and layout.reading == ['labels of labels.csv']


def test_arrange_has_no_classes_if_there_are_no_labels():
    layout = arrange(files('00000/', '00001/'), Labels(['dataset.json'], {}, ['a note']))
    assert (layout.classes, layout.notes, layout.left_out) == ({}, ['a note'], [])


def test_arrange_leaves_out_images_without_a_label():
    layout = arrange(files('', count=3), Labels(['labels.csv'], {'0.png': 1, '2.png': 2}, []))
    assert layout.left_out == [('1.png', 'no label in labels.csv')] and layout.train == ['0.png', '2.png']


def test_arrange_gives_one_reason_per_image_left_out():
    layout = arrange(['cover.png', 'train/0.png', 'val/0.png'], Labels(['labels.csv'], {'train/0.png': 1}, []))
    assert layout.left_out == [('cover.png', 'outside train/ and val/'), ('val/0.png', 'no label in labels.csv')]


def test_arrange_never_trains_on_a_test_folder_without_labels():
    labels = {path: int(path[6]) % 2 for path in files('train/', count=10)}
    layout = arrange(files('train/', 'test/', count=10), Labels(['labels.csv'], labels, []))
    assert sorted(layout.train + layout.test) == files('train/', count=10) and layout.test == ['train/9.png']


def test_arrange_rejects_labels_of_the_test_folder_only():
    labels = Labels(['labels.csv'], {'test/0.png': 1, 'test/1.png': 2}, [])
    with pytest.raises(UserError, match='no labels for training images in .*labels.csv: add labels for train/'):
        arrange(files('train/', 'test/'), labels)


def test_printable_replaces_what_a_terminal_cannot_show():
    assert printable('a\nb\x1b\udcff.png') == 'a\ufffdb\ufffd\ufffd.png'
