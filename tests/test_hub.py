"Sets in the hub's form become caches, whatever breaks off; what cannot be used is named; a run goes up whole, with code that runs"
import ast, io, json, os, shutil, signal, sys, time
from pathlib import Path
from unittest.mock import patch
import numpy as np, pytest, torch
from PIL import Image
datasets = pytest.importorskip('datasets')
import huggingface_hub
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import LocalTokenNotFoundError
from cfg_edu import cli, hub
from cfg_edu.cache import open_cache
from cfg_edu.hub import hub_column, hub_dls, hub_parts, hub_tables, prepare_hub, Run
from cfg_edu.pictures import area
from cfg_edu.plan import loaders
from cfg_edu.runs import write_rows

datasets.disable_progress_bars()
names = ['ant', 'bee', 'cat']

@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    "Each test has a folder and a cache of its own, and nothing leaves this machine"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('CFG_EDU_CACHE', str(tmp_path/'cache'))
    monkeypatch.setattr(datasets.config, 'HF_HUB_OFFLINE', True)
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)

def pic(i, mode='RGB', w=11, h=9):
    a = np.random.default_rng(i).integers(0, 256, (h, w, 4), dtype=np.uint8)
    if mode == 'I;16': return Image.fromarray(a.view(np.uint16)[...,0].copy())
    return Image.fromarray(a[...,:3] if mode != 'RGBA' else a).convert(mode)

def put(name='me/set', features=None, group=10, files=1, **parts):
    "A set of Parquet files as the hub has them; the columns of its parts"
    for part, cols in parts.items():
        d = datasets.Dataset.from_dict(cols, features and datasets.Features(features))
        for k in range(files):
            f = Path(name)/f'data/{part}-{k:05}-of-{files:05}.parquet'
            f.parent.mkdir(parents=True, exist_ok=True)
            d.shard(files, k).to_parquet(f, batch_size=group)
    return f'hub:{name}'

def kinds(**other): return dict(image=datasets.Image(), label=datasets.ClassLabel(names=names), **other)
def rows(n, at=0, **other): return dict(image=[pic(at+i) for i in range(n)], label=[i%3 for i in range(n)], **{k: [v(i) for i in range(n)] for k, v in other.items()})
def make(size=6, cache=None, path='hub:me/set', **kwargs): return prepare_hub(path, cache, size, 1, False, **kwargs)
def data(folder): return {f.name: f.read_bytes() for f in next(Path(folder).glob('data-*')).iterdir()}
def small(img, size=6):
    white = Image.new('RGBA', img.size, 'white')
    return np.rint(area(Image.alpha_composite(white, img.convert('RGBA')).convert('RGB'), size)).astype(np.uint8).transpose(2, 0, 1)

def refused(f, *words, kind=(ValueError, OSError)):
    with pytest.raises(kind) as e: f()
    said = str(e.value)
    assert all(w in said for w in words) and '\n' not in said, said


# ---- what a set becomes
def test_every_row_in_its_order_with_its_class(tmp_path):
    train, test = rows(25), rows(8, 100)
    put(features=kinds(), train=train, test=test, files=2)
    x, y, meta = open_cache(make())
    assert (meta['n'], meta['n_train'], meta['vocab'], meta['size']) == (33, 25, names, 6)
    assert np.array_equal(x, np.stack([small(o) for o in train['image']+test['image']])) and y.tolist() == train['label']+test['label']

def test_all_kinds_of_pictures_as_on_a_white_page():
    modes = 'RGB L RGBA P 1 LA'.split()
    imgs = [pic(i, m) for i, m in enumerate(modes*2)]
    put(features=kinds(), train=dict(image=imgs, label=[0, 1]*6), test=rows(3))
    x = open_cache(make())[0]
    assert np.array_equal(x[:12], np.stack([small(o) for o in imgs]))

def test_16_bits_and_small_ones():
    deep = pic(3, 'I;16')
    put(features=kinds(), train=dict(image=[deep, pic(4, w=3, h=3)], label=[0, 1]), test=rows(3))
    x = open_cache(make())[0]
    assert np.array_equal(x[0], small(Image.fromarray(np.rint(np.asarray(deep)/257).astype(np.uint8)))) and x[1].shape == (3, 6, 6)

def test_grey_throughout_is_one_channel_and_else_three():
    grey = dict(image=[pic(i, 'L') for i in range(30)], label=[0, 1, 2]*10)
    put('g', kinds(), train=grey)
    put('c', kinds(), train={**grey, 'image': grey['image'][:-1]+[pic(0)]})
    assert loaders('images', 'hub:g', bs=4, device='cpu').one_batch()[0].shape == (4, 1, 64, 64)
    one, three = hub_dls('hub:g', bs=4, device='cpu'), hub_dls('hub:c', 8, 4, device='cpu')
    assert one.train_ds.tensors[0].shape[1:] == (1, 64, 64) and three.train_ds.tensors[0].shape[1:] == (3, 8, 8)
    x = open_cache(make(64, path='hub:g'))[0]
    assert torch.equal(one.valid_ds.tensors[0], x[len(one.train_ds):,:1]) and one.train_ds.fingerprint

def test_pieces_are_a_thousand_rows_where_the_number_is_known():
    put(features=kinds(), train=rows(30), test=rows(3))
    tables, state = hub_tables('hub:me/set')
    def count(n):
        tables['train'].info.splits, asked = datasets.SplitDict(train=datasets.SplitInfo('train', num_examples=n)), []
        def built(folder, parts, *args): asked.append(parts['train']); raise OSError('enough')
        with patch.object(hub, 'hub_tables', lambda *_: (tables, state)), patch.object(hub, 'build_cache', built): refused(make, 'enough')
        return len(asked[0])
    assert [count(n) for n in (500, 2000, 10**6)] == [1, 2, 3]

def test_pictures_in_folders_of_the_hub():
    "Not Parquet: the library makes classes of the folders, and gives paths"
    for i in range(30):
        f = Path(f'me/folders/train/{names[i%3]}/{i}.png')
        f.parent.mkdir(parents=True, exist_ok=True)
        pic(i).save(f)
    x, y, meta = open_cache(make(path='hub:me/folders'))
    assert meta['vocab'] == names and {(o.tobytes(), int(k)) for o, k in zip(x.numpy(), y)} == {(small(pic(i)).tobytes(), i%3) for i in range(30)}


# ---- what is held out
def test_parts():
    assert hub_parts(['train']) == ['train'] and hub_parts(['all']) == ['all']
    assert hub_parts(['test', 'validation', 'train']) == ['train', 'validation'] and hub_parts(['train', 'extra']) == ['train']
    assert hub_parts(['a', 'b'], 'b, a') == ['b', 'a'] and hub_parts(['train', 'test'], 'train') == ['train']
    for bad in ('c', 'a,c', 'a,a', 'a,b,a', 'a,'): refused(lambda: hub_parts(['a', 'b'], bad), 'split must name one or two of a, b', repr(bad))
    refused(lambda: hub_parts(['a', 'test']), 'split must name')

def test_one_part_gives_up_a_twentieth_of_each_class():
    all_of = rows(200)
    put(features=kinds(), train=all_of, group=100)
    x, y, meta = open_cache(make())
    assert meta['n'] == 200 and meta['n_train'] == 190
    assert (y[190:].bincount(minlength=3) >= 2).all()
    assert sorted((o.tobytes(), int(k)) for o, k in zip(x.numpy(), y)) == sorted((small(o).tobytes(), k) for o, k in zip(all_of['image'], all_of['label']))

def test_split_alone_and_what_is_left_out():
    put(features=kinds(), train=rows(40), test=rows(8, 50), validation=rows(6, 80))
    with pytest.warns(UserWarning, match='left out test'): assert open_cache(make())[2]['n'] == 46
    x = open_cache(make(cache='other', split='test'))[0]
    assert len(x) == 8 and {o.tobytes() for o in x.numpy()} == {small(pic(50+i)).tobytes() for i in range(8)}

def test_too_few_to_hold_one_out():
    put(features=kinds(), train=rows(3))
    refused(make, 'train must hold at least two pictures of a class')


# ---- stopped
def stopped_at(k, cache, **kwargs):
    "Breaks off in the k-th reading; how many pieces have been read when it is finished"
    read, done = hub._Rows.read, []
    def breaks(self, *args):
        if k == len(done) and not Path('broken').exists():
            Path('broken').write_text('')
            raise ConnectionError('the line is dead')
        done.append(args)
        return read(self, *args)
    with patch.object(hub._Rows, 'read', breaks):
        refused(lambda: make(cache=cache, **kwargs), 'the line is dead')
        assert not (Path(cache)/'meta.json').exists()
        make(cache=cache, **kwargs)
    os.remove('broken')
    return done

@pytest.mark.parametrize('parts', [('train', 'test'), ('train',)])
def test_stopped_anywhere_it_ends_with_the_same_bytes_and_reads_nothing_twice(parts):
    put(features=kinds(), **{p: rows(45, 100*i) for i, p in enumerate(parts)})
    whole = make(cache='whole')
    for k in range(5*len(parts)):
        done = stopped_at(k, f'again{k}')
        assert len(done) == len({*done}) == 5*len(parts) and data(f'again{k}') == data(whole)
        assert {f.name for f in Path(f'again{k}').iterdir()} == {f.name for f in whole.iterdir()}

def test_a_killed_process():
    put(features=kinds(), train=rows(60))
    read = hub._Rows.read
    def slow(self, *args):
        time.sleep(.3)
        return read(self, *args)
    child = os.fork()
    if not child:
        try:
            with patch.object(hub._Rows, 'read', slow): make(cache='cut')
        finally: os._exit(1)
    while len([*Path('cut').glob('pieces-*/*.npz')]) < 5: time.sleep(.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert [*Path('cut').glob('pieces-*/*.npz')] and not Path('cut/meta.json').exists()
    assert data(make(cache='cut')) == data(make(cache='whole'))

@pytest.mark.parametrize('parts', [('train', 'test'), ('train',)])
def test_two_processes_make_the_same(parts):
    put(features=kinds(), **{p: rows(45, 100*i) for i, p in enumerate(parts)})
    assert data(prepare_hub('hub:me/set', 'two', 6, 2, False)) == data(make())

def test_a_set_that_changed_meanwhile_is_not_mixed():
    put(features=kinds(), train=rows(45), test=rows(3))
    read, n = hub._Rows.read, []
    def breaks(self, *args):
        n.append(args)
        if len(n) == 3: raise OSError('dead')
        return read(self, *args)
    with patch.object(hub._Rows, 'read', breaks): refused(make, 'dead')
    put(features=kinds(), train=rows(45, 500), test=rows(3))
    folder = make()
    assert np.array_equal(open_cache(folder)[0][0], small(pic(500))) and not [*folder.glob('pieces-*')]

def test_a_connection_that_breaks_in_the_library():
    put(features=kinds(), train=rows(45), test=rows(3))
    def dead(self, *args):
        yield from ()
        raise RuntimeError('peer closed connection')
    with patch.object(datasets.IterableDataset, 'iter', dead): refused(make, 'train is not read to its end', 'continues', 'peer closed')
    make()

def test_a_parquet_file_that_is_cut_short():
    put(features=kinds(), train=rows(45), test=rows(3))
    f = Path('me/set/data/test-00000-of-00001.parquet')
    f.write_bytes(f.read_bytes()[:-100])
    refused(make, 'hub:me/set cannot be read', 'Parquet')
    assert not Path('cache').exists()


# ---- a finished cache
def test_a_finished_cache_asks_nobody(monkeypatch):
    put(features=kinds(), train=rows(45), test=rows(3))
    folder = make()
    monkeypatch.setitem(sys.modules, 'datasets', None)
    (folder/'pieces-held-of-a-killed-one').mkdir()
    assert make(None) == make(6) == folder and not [*folder.glob('pieces-*')]
    assert len(hub_dls('hub:me/set', bs=4, device='cpu').train_ds) == 45
    refused(lambda: make(8), 'size 6 there, 8 asked', 'another out')
    refused(lambda: make(label_column='other'), "label_column 'label' there, 'other' asked")
    refused(lambda: make(path='hub:me/other', cache=folder), 'name')
    (folder/'hub.json').unlink()
    refused(make, 'is another cache')

def test_a_damaged_cache_is_refused():
    put(features=kinds(), train=rows(45), test=rows(3))
    f = next(make().glob('data-*/images.npy'))
    f.write_bytes(f.read_bytes()[:-1])
    refused(make, 'images.npy')

def test_the_library_is_missing_or_old(monkeypatch):
    monkeypatch.setitem(sys.modules, 'datasets', None)
    refused(make, "needs the library datasets", "pip install -U 'datasets>=5.0'")
    monkeypatch.setitem(sys.modules, 'datasets', type(sys)('datasets'))
    sys.modules['datasets'].IterableDataset = object
    refused(make, 'older than 5.0')
    assert not Path('cache').exists()

def test_importing_asks_for_no_library():
    top = {o.module or '' if isinstance(o, ast.ImportFrom) else a.name for o in ast.parse(Path(hub.__file__).read_text()).body
           if isinstance(o, (ast.Import, ast.ImportFrom)) for a in o.names}
    assert 'huggingface_hub' in top and not {'datasets', 'fsspec', 'pyarrow'} & {o.split('.')[0] for o in top}

def test_two_sets_have_two_places():
    places = {hub._place(o) for o in ('hub:a/b', 'hub:a-b', 'hub:a/b:c', 'hub:a/b-c', 'hub:b')}
    assert len(places) == 5 and hub._place('hub:a/b') == hub._place('a/b')
    here = hub._place('hub:me/set')
    put(features=kinds(), train=rows(3))
    assert hub._place('hub:me/set') != here and hub._place(f'hub:{Path("me/set").absolute()}').name[-6:] == hub._place('hub:me/set').name[-6:]


# ---- what cannot be used
def test_names():
    for bad in ('hub:', 'hub:a:b:c', 'hub::c'): refused(lambda: make(path=bad), 'path must be hub:NAME or hub:NAME:CONFIG', repr(bad))
    refused(lambda: make(path='hub:no/where'), 'hub:no/where cannot be read')
    put(features=kinds(), train=rows(3))
    refused(lambda: make(path='hub:me/set:other'), 'hub:me/set:other cannot be read', 'default')
    for bad in (0, -1, 2.5, '8'):
        refused(lambda: make(bad), 'size must be an integer of at least 1')
        refused(lambda: prepare_hub('hub:me/set', None, 6, bad), 'n_workers must be')
    refused(lambda: make(split='valid'), 'split must name one or two of train')
    assert not Path('cache').exists()

def test_columns():
    I, C, V = datasets.Image, lambda: datasets.ClassLabel(names=names), datasets.Value
    is_image, is_class = (lambda f: isinstance(f, I)), (lambda f: isinstance(f, datasets.ClassLabel))
    f = dict(a=I(), b=I(), y=C(), t=V('string'))
    assert hub_column(f, 'b', 'image_column', is_image) == 'b' and hub_column(f, None, 'label_column', is_class) == 'y'
    refused(lambda: hub_column(f, None, 'image_column', is_image), 'image_column must be given, one of a, b')
    refused(lambda: hub_column(f, 'z', 'image_column', is_image), 'image_column must be one of a (Image), b (Image), y (ClassLabel), t (string)', "'z'")
    refused(lambda: hub_column(dict(t=V('string')), None, 'label_column', is_class), 'label_column is missing', 't (string)')
    assert hub_column(dict(n=V('int64'), y=C()), None, 'label_column', is_class, lambda f: True) == 'y'

def test_several_candidates_are_listed_and_one_is_named():
    put(features=dict(image=datasets.Image(), fine=datasets.ClassLabel(names=names), coarse=datasets.ClassLabel(names=['x', 'y'])),
        train=dict(image=[pic(i) for i in range(30)], fine=[i%3 for i in range(30)], coarse=[i%2 for i in range(30)]))
    refused(make, 'label_column must be given, one of fine, coarse')
    _, y, meta = open_cache(make(label_column='coarse'))
    assert meta['vocab'] == ['x', 'y'] and y.sum() == 15

def test_no_column_of_classes_or_of_images():
    put('a', dict(image=datasets.Image(), text=datasets.Value('string')), train=dict(image=[pic(0)], text=['x']))
    refused(lambda: make(path='hub:a'), 'label_column is missing', 'image (Image)', 'text (string)')
    put('b', dict(label=datasets.ClassLabel(names=names)), train=dict(label=[0, 1]))
    refused(lambda: make(path='hub:b'), 'image_column is missing', 'label (ClassLabel)')

def test_integers_are_taken_for_classes_and_it_is_said(capsys):
    put(features=dict(image=datasets.Image(), age=datasets.Value('int32')), train=dict(image=[pic(i) for i in range(30)], age=[(7, 30, -2)[i%3] for i in range(30)]), test=dict(image=[pic(9)], age=[7]))
    _, y, meta = open_cache(make())
    assert meta['vocab'] == ['-2', '7', '30'] and y[:4].tolist() == [1, 2, 0, 1] and 'age names no classes, its 3 values are taken' in capsys.readouterr().out

def test_words_where_they_are_named_and_numbers_that_are_no_classes():
    f = dict(image=datasets.Image(), word=datasets.Value('string'), x=datasets.Value('float32'), id=datasets.Value('int64'))
    n = 1002
    one = pic(0, w=2, h=2)
    put(features=f, train=dict(image=[one]*n, word=[names[i%3] for i in range(n)], x=[.5]*n, id=[*range(n)]), group=500)
    assert open_cache(make(2, label_column='word', cache='w'))[2]['vocab'] == names
    refused(lambda: make(label_column='x', cache='x'), "label_column 'x' must hold whole numbers or words, got 0.5")
    refused(lambda: make(cache='i'), "label_column 'id' has more than 1,000 values")

@pytest.mark.parametrize('bad', [-1, None])
def test_a_row_without_a_class(bad):
    put(features=kinds(), train={**rows(30), 'label': [0]*17+[bad]+[1]*12}, test=rows(3))
    refused(make, f'picture 7 in piece 1 of 3 of train has the class {bad!r}')

def test_a_picture_that_cannot_be_read_is_named_and_stops():
    raw = [dict(bytes=o, path=f'{i}.png') for i, o in enumerate(map(png, range(30)))]
    raw[13]['bytes'] = raw[13]['bytes'][:60]
    put(features=kinds(), train=dict(image=raw, label=[i%3 for i in range(30)]), test=rows(3))
    refused(make, 'picture 3 in piece 1 of 3 of train (13.png) cannot be read as a picture')
    assert not [*Path('cache').glob('*/meta.json')]
    raw[13] = None
    put('n', kinds(), train=dict(image=raw, label=[i%3 for i in range(30)]), test=rows(3))
    refused(lambda: make(path='hub:n'), 'picture 3 in piece 1 of 3 of train is missing')

def png(i):
    f = io.BytesIO()
    pic(i).save(f, 'PNG')
    return f.getvalue()


# ---- the commands
def test_prepare_train_sample(capsys):
    put(features=kinds(), train=rows(45), test=rows(9))
    folder = cli.cfg_prepare('hub:me/set', size=8)
    assert '54 images of 8×8 in 3 classes, 45 to train on' in capsys.readouterr().out
    out = cli.cfg_train('images', 'r', 'hub:me/set', net='unet_digits', steps=4, bs=8, every=2)
    c = Run(out).config
    assert c['shape'] == [3, 8, 8] and c['n_classes'] == 3 and c['hub'] == 'me/set' and c['data_fingerprint'] == open_cache(folder)[2]['fingerprint']
    cli.cfg_train('images', 'r', folder, net='unet_digits', steps=4, bs=8, every=2)       # the same data, by its folder
    assert 'trained already' in capsys.readouterr().out
    x, y = cli.cfg_sample(out, n=3)
    assert x.shape == (3, 3, 8, 8) and y.tolist() == [0, 1, 2]

def test_what_is_not_prepared_is_and_at_the_size_asked():
    put(features=kinds(), train=rows(45), test=rows(9))
    dls = loaders('images', 'hub:me/set', 8, bs=4, device='cpu')
    assert dls.train_ds.tensors[0].shape == (45, 3, 8, 8) and dls.train_ds.hub == 'me/set' and open_cache(make(None))[2]['size'] == 8
    assert loaders('images', 'hub:me/set', 4, bs=4, device='cpu').train_ds.tensors[0].shape == (45, 3, 4, 4)
    assert not hasattr(loaders('images', f'hub:{Path("me/set").absolute()}', bs=4, device='cpu').train_ds, 'hub')

def test_imagenet_names_its_classes():
    put(features=dict(image=datasets.Image(), label=datasets.ClassLabel(names=[str(i) for i in range(1000)])), train=dict(image=[pic(i) for i in range(9)]*2, label=[*range(9)]*2))
    with pytest.warns(UserWarning, match='have no example'): dls = loaders('imagenet64', 'hub:me/set', bs=4, device='cpu')
    assert dls.vocab[0].startswith('tench') and len(dls.train.after_batch.fs) > len(dls.valid.after_batch.fs)

def test_a_run_that_was_begun_by_its_folder_goes_on(tmp_path):
    run = Run(tmp_path/'r')
    run.claim(dict(lr=1.))
    run.claim(dict(lr=1., hub='me/set'))
    run = Run(tmp_path/'s')
    run.claim(dict(lr=1., hub='me/set'))
    run.claim(dict(lr=1.))
    refused(lambda: run.claim(dict(hub='me/other')), "hub 'me/set' there")

def test_doors_of_the_commands():
    put(features=kinds(), train=rows(45), test=rows(9))
    refused(lambda: cli.cfg_train('cifar10', 'r', 'hub:me/set'), 'path hub:NAME goes with data images or imagenet64', "'cifar10'")
    refused(lambda: cli.cfg_train('digits', 'r', 'hub:me/set'), 'path is for data that is not made here')
    refused(lambda: cli.cfg_prepare('.', split='train'), 'are for hub:NAME')
    refused(lambda: cli.cfg_train('images', 'r', 'hub:no/where'), 'hub:no/where cannot be read')
    assert not Path('r').exists()


# ---- a run on the hub
@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    d = tmp_path_factory.mktemp('runs')
    return {k: cli.cfg_train(k, out=d/k, steps=4, bs=8, every=2, net=net) for k, net in (('digits', 'unet_digits'), ('moons', 'mlp'))}

@pytest.fixture
def run(trained): return Run(shutil.copytree(trained['digits'], 'run'))

def swept(run):
    rows = [dict(w=w, fid=f, isc=4+w, precision=1/3, recall=.5, n=200) for w, f in ((0, 3.25), (.5, 2.), (4, 6.))]
    write_rows(run.path/'tradeoff.csv', rows)
    for w in ('0', '0.5', '4'): pic(1).save(run.path/f'grid_w{w}.png')
    pic(2).save(run.path/'tradeoff.png')

class Hub:
    "Keeps what would be uploaded in a folder of the repository's name"
    def __init__(self, monkeypatch, fails=None):
        self.made = []
        def create(api, repo_id, private=False, exist_ok=False):
            if fails == 'create': raise LocalTokenNotFoundError('Token is required\nbut no token found.')
            self.made.append((repo_id, private))
        def upload(api, *, repo_id, folder_path, allow_patterns, commit_message):
            if fails == 'upload': raise ConnectionError('no route\nto host')
            for f in huggingface_hub.utils.filter_repo_objects([o.relative_to(folder_path).as_posix() for o in folder_path.rglob('*') if o.is_file()], allow_patterns=allow_patterns):
                (Path(repo_id)/f).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(folder_path/f, Path(repo_id)/f)
            return f'https://huggingface.co/{repo_id}'
        monkeypatch.setattr(HfApi, 'create_repo', create)
        monkeypatch.setattr(HfApi, 'upload_folder', upload)

def code(card): return card.split('```python\n')[1].split('```')[0]

@pytest.mark.parametrize('kind', ['digits', 'moons'])
def test_pushed_and_its_ten_lines_run(trained, kind, monkeypatch):
    there, run = Hub(monkeypatch), Run(shutil.copytree(trained[kind], 'run'))
    before = {f.name for f in run.path.iterdir()}
    assert run.push_to_hub('me/it', private=True) == 'https://huggingface.co/me/it' and there.made == [('me/it', True)]
    assert {f.name for f in run.path.iterdir()} == before | {'README.md'}
    up = {f.relative_to('me/it').as_posix() for f in Path('me/it').rglob('*') if f.is_file()}
    assert up == {'README.md', 'config.json', 'model.safetensors', 'ema.safetensors', 'log.csv', 'samples/step_000004.png'}
    shutil.rmtree('run')
    back = Run.from_pretrained('me/it')
    assert all(torch.equal(a, b) for a, b in zip(back.model(device='cpu').parameters(), Run(trained[kind]).model(device='cpu').parameters()))
    lines = code(Path('me/it/README.md').read_text())
    assert len(lines.splitlines()) <= 10
    exec(compile(lines, 'README.md', 'exec'), {})
    assert Image.open('samples.png').size > (50, 50)

def test_the_card(run):
    text, files = run.card('me/digits')
    d = ModelCard(text).data.to_dict()
    assert d == dict(library_name='cfg_edu', tags=['diffusion', 'classifier-free-guidance']) and 'tradeoff' not in text and '| w |' not in text
    swept(run)
    (run.path/'config.json').write_text(json.dumps({**run.config, 'hub': 'uoft-cs/cifar10'}))
    text, files = run.card('me/digits')
    assert ModelCard(text).data.datasets == ['uoft-cs/cifar10'] and '| 0.5 | 2 | 4.5 | 0.3333 | 0.5 | 200 |' in text.splitlines()
    assert '![Samples](grid_w0.5.png)' in text and {'tradeoff.csv', 'tradeoff.png', 'grid_w0.5.png'} <= {*files} and 'grid_w4.png' not in files
    assert '0.5, y)' in code(text) and all((run.path/f).exists() for f in files)

def test_the_code_for_numbers_and_for_an_upsampler(run):
    c = {**run.config, 'cond': 'vector', 'n_classes': 2}
    assert "y = how.asks(40, '0,0')" in '\n'.join(hub._code(c, 'a/b', 1.))
    assert "Sampling(up=str(run.path)).of(Run('small'))" in '\n'.join(hub._code({**c, 'up': 4}, 'a/b', 1.))

def test_a_card_that_is_there_is_the_users(run, monkeypatch):
    Hub(monkeypatch)
    (run.path/'README.md').write_text('mine')
    run.push_to_hub('me/it')
    assert Path('me/it/README.md').read_text() == 'mine'

@pytest.mark.parametrize('fails, why, left', [('create', 'no token found', set()), ('upload', 'no route to host', {'README.md'})])
def test_not_logged_in_or_no_network(run, monkeypatch, fails, why, left):
    Hub(monkeypatch, fails)
    before = {f.name for f in run.path.rglob('*')}
    refused(lambda: run.push_to_hub('me/it'), 'me/it was not pushed', 'hf auth login', why, kind=OSError)
    assert {f.name for f in run.path.rglob('*')} == before | left

def test_the_real_door_without_a_network(run):
    before = {f.name for f in run.path.rglob('*')}
    refused(lambda: run.push_to_hub('me/it'), 'me/it was not pushed', kind=OSError)
    assert {f.name for f in run.path.rglob('*')} == before
    refused(lambda: Run.from_pretrained('no/where'), 'no/where', kind=OSError)

def test_a_run_that_is_not_whole_stays(run, monkeypatch):
    there = Hub(monkeypatch)
    f = run.path/'ema.safetensors'
    b = bytearray(f.read_bytes())
    b[-1] ^= 1
    f.write_bytes(b)
    refused(lambda: run.push_to_hub('me/it'), 'ema.safetensors is damaged')
    f.unlink()
    refused(lambda: run.push_to_hub('me/it'), 'has no ema.safetensors')
    assert not there.made
