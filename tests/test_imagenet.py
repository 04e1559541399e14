"ImageNet: the order of the classes, the archive's files, and pickles that mean harm"
import io, os, pickle
import numpy as np, pytest, torch, torchvision
from hypothesis import given, settings, strategies as st
from cfg_edu import imagenet
from cfg_edu.cache import open_cache
from cfg_edu.data import to_unit
from cfg_edu.imagenet import imagenet64_dls, imagenet_classes
from cfg_edu.pictures import prepare
from test_pictures import snap

(ids, names), (ids_a, names_a) = imagenet_classes(), imagenet_classes('archive')

# ---- a thousand names in two orders

def test_both_orders_are_of_the_same_classes():
    assert ids == sorted(ids) and len(set(ids)) == len(set(names)) == 1000 and set(ids) == set(ids_a)
    assert dict(zip(ids, names)) == dict(zip(ids_a, names_a))
    assert names == torchvision.models.ResNet18_Weights.DEFAULT.meta['categories']                    # another library's list
    assert (ids_a[0], names_a[0], ids_a[1], names_a[1], ids_a[489], names_a[999]) == ('n02119789', 'kit fox', 'n02100735', 'English setter', 'n01751748', 'dumbbell')
    assert (ids[0], names[0], names[207], names[417]) == ('n01440764', 'tench', 'golden retriever', 'balloon')
    assert [(n, i) for n,i in zip(names, ids) if n.startswith(('crane', 'maillot'))] == [('crane bird', 'n02012849'),   # WordNet has these names twice
        ('crane', 'n03126707'), ('maillot', 'n03710637'), ('maillot tank suit', 'n03710721')]
    with pytest.raises(ValueError, match="order must be wnid or archive, got 'sorted'"): imagenet_classes('sorted')

# ---- the archive

def shade(a): return np.stack([a%7*30, a%11*20, a%13*15], 1).astype(np.uint8)                         # a colour for each label

def write_batch(f, ks, size=8, protocol=4, **other):
    x = shade(np.array(ks, int).reshape(-1))[:,:,None].repeat(size*size, 2)                           # (n, 3, 64): planar
    x[:,:,0] = 255                                                                                    # upper left is white
    d = dict(data=x.reshape(-1, 3*size*size), labels=list(ks), mean=np.zeros(3*size*size))
    f.write_bytes(pickle.dumps(d | other, protocol))

@pytest.fixture
def arch(tmp_path):
    d = tmp_path/'archive'
    d.mkdir()
    for i in range(1, 11): write_batch(d/f'train_data_batch_{i}', range(100*i-99, 100*i+1), protocol=i%6)
    write_batch(d/'val_data', [1000, 1, 490])
    return d

def test_each_image_gets_its_class_in_the_order_of_the_wordnet_ids(arch, tmp_path):
    x, y, meta = open_cache(prepare(arch, tmp_path/'c', size=8))
    labels = torch.tensor([*range(1, 1001), 1000, 1, 490])                                            # batch 10 comes after 9, not after 1
    assert (x.shape, meta['n_train'], meta['vocab']) == ((1003, 3, 8, 8), 1000, names)
    assert [ids[k] for k in y] == [ids_a[k-1] for k in labels] and not (y == labels-1).any()           # "label − 1" is another class
    assert torch.equal(x[:,:,3,5], torch.tensor(shade(labels.numpy()))) and (x[:,:,0,0] == 255).all()
    assert [names[y[k]] for k in (0, 1, 999, 1002)] == ['kit fox', 'English setter', 'dumbbell', 'sea snake']

def test_files_that_are_missing_are_named(arch, tmp_path):
    (arch/'train_data_batch_7').unlink()
    (arch/'val_data').unlink()
    with pytest.raises(FileNotFoundError, match='archive lacks train_data_batch_7, val_data'): prepare(arch, tmp_path/'c', size=8)
    assert not (tmp_path/'c').exists()

@pytest.mark.parametrize('spoil, said', [
    (lambda f: f.write_bytes(f.read_bytes()[:-9]), None), (lambda f: f.write_bytes(b''), 'EOFError'), (lambda f: f.write_bytes(f.read_bytes()[:99] + b'.'), None),
    (lambda f: write_batch(f, [0, 1]), '0 to 1'), (lambda f: write_batch(f, [5, 1001]), '5 to 1001'), (lambda f: write_batch(f, []), None),
    (lambda f: write_batch(f, [1, 2], labels=[1, 2, 3]), r'uint8 \(2, 192\), and 1 to 3'), (lambda f: write_batch(f, [1, 2], labels=[1., 2.5]), None),
    (lambda f: write_batch(f, [1, 2], labels=['a', 'b']), None), (lambda f: write_batch(f, [1, 2], labels=[[1], [2]]), None),
    (lambda f: write_batch(f, [1, 2], size=16), r'uint8 \(2, 768\)'), (lambda f: write_batch(f, [1, 2], data=np.zeros((2, 192))), 'float64'),
    (lambda f: f.write_bytes(pickle.dumps(dict(data=np.zeros(3)))), "KeyError: 'labels'"), (lambda f: f.write_bytes(pickle.dumps([1, 2])), 'TypeError'),
    (lambda f: write_batch(f, [1, 2], data=np.array([[1, None]], dtype=object)), None), (lambda f: write_batch(f, [1, 2], data=np.zeros(2, 'i4,f4')), None),
    (lambda f: write_batch(f, [1, 2], mean=Harm(os.system, ('true',))), 'it asks for posix.system, which is refused')])
def test_a_spoilt_file_is_named(tmp_path, spoil, said):
    f = tmp_path/'val_data'
    write_batch(f, [1000, 1, 490])
    spoil(f)
    with pytest.raises(ValueError, match=said) as e: imagenet._batch(tmp_path, 8, [('val_data',)])
    assert str(e.value).startswith(f"{f} must hold plain numbers alone") and '\n' not in str(e.value)

def test_work_goes_on_once_a_file_is_mended(arch, tmp_path):
    good = (arch/'train_data_batch_3').read_bytes()
    (arch/'train_data_batch_3').write_bytes(good[:-9])
    with pytest.raises(ValueError, match='train_data_batch_3 must hold'): prepare(arch, tmp_path/'c', size=8)
    (arch/'train_data_batch_3').write_bytes(good)
    assert open_cache(prepare(arch, tmp_path/'c', size=8))[2]['n'] == 1003

# ---- pickles

class Harm:
    "What a stranger may put into a pickle"
    def __init__(self, *call): self.call = call
    def __reduce__(self): return self.call

def plain(raw): return imagenet._Plain(io.BytesIO(raw), encoding='latin1').load()

@given(st.sampled_from(['u1', '<i2', '>i4', '<i8', '<f4', '>f8', '?']), st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 5), st.booleans(), st.booleans())
@settings(max_examples=80, deadline=None)
def test_arrays_of_plain_numbers_return(dtype, shape, protocol, fortran, old):
    a = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    if fortran: a = np.asfortranarray(a)
    raw = pickle.dumps(dict(a=a), protocol)
    if old and 1 <= protocol < 4: raw = raw.replace(b'numpy._core', b'numpy.core')                    # numpy's modules before 2.0
    got = np.asarray(plain(raw)['a'])
    assert got.dtype == a.dtype and np.array_equal(got, a)

@pytest.mark.parametrize('name, call', [('posix.system', lambda d: (os.system, (f'touch {d}/harm',))), ('builtins.eval', lambda d: (eval, (f"open('{d}/harm', 'w')",))),
    ('posix.mkdir', lambda d: (os.mkdir, (f'{d}/harm',))), ('numpy.load', lambda d: (np.load, (f'{d}/x.npy',))), ('_pickle.loads', lambda d: (pickle.loads, (b'N.',)))])
def test_any_other_name_is_refused_and_nothing_is_called(tmp_path, name, call):
    raw = pickle.dumps(dict(data=Harm(*call(tmp_path))))
    with pytest.raises(pickle.UnpicklingError, match='which is refused'): plain(raw)
    assert not (tmp_path/'harm').exists()
    if name == 'posix.mkdir':
        pickle.loads(raw)
        assert (tmp_path/'harm').exists()                                                             # the usual reader does it

def test_a_pickle_cannot_change_its_readers():
    def asks(name): return imagenet._Plain(io.BytesIO()).find_class(*name)
    before = {k: v for k,v in vars(imagenet._Plain.Said).items()}
    for raw in (b"\x80\x02c_codecs\nencode\n(N}X\x0c\x00\x00\x00__defaults__K\x01\x85stb.", b"\x80\x02cnumpy\nndarray\n}X\x01\x00\x00\x00xK\x01sb.",
                b"\x80\x02cnumpy\ndtype\n(N}X\x01\x00\x00\x00xK\x01stb."):
        try: plain(raw)
        except Exception: pass
        assert {k: v for k,v in vars(imagenet._Plain.Said).items()} == before
    assert asks(('numpy', 'dtype')) is imagenet._Plain.Said

def test_every_cut_is_an_error_and_no_crash():
    whole = pickle.dumps(dict(data=np.arange(12, dtype=np.uint8).reshape(2, 6), labels=[1, 2]))
    for k in range(len(whole)):            # any error of the unpickler will do
        with pytest.raises(Exception): np.asarray(plain(whole[:k])['data'])  # noqa: B017

@given(st.data())
@settings(max_examples=150, deadline=None)
def test_changed_bytes_never_call_anything(data):
    raw = bytearray(pickle.dumps(dict(data=np.arange(12, dtype=np.uint8).reshape(2, 6), labels=[1, 2]), data.draw(st.integers(0, 5))))
    for _ in range(data.draw(st.integers(1, 4))): raw[data.draw(st.integers(0, len(raw)-1))] = data.draw(st.integers(0, 255))
    try: d = plain(bytes(raw))
    except MemoryError: return
    except Exception: return
    if isinstance(d, dict):
        for v in d.values(): assert isinstance(v, (imagenet._Plain.Said, list, int, str, bytes, float, dict, tuple, bool, type(None), set, frozenset, bytearray, type))

# ---- the rung

def test_folders_named_by_wordnet_ids_get_their_names(tmp_path, monkeypatch):
    monkeypatch.setenv('CFG_EDU_CACHE', str(tmp_path/'cache'))
    for i in range(30): snap(tmp_path/'p'/('n02119789', 'zebra')[i%2]/f'{i}.png', 70+i, 66, i)
    dls = imagenet64_dls(tmp_path/'p', bs=4, device='cpu')
    x = to_unit(dls.train_ds.tensors[0])
    assert (dls.one_batch()[0].shape, list(dls.vocab), dls.c) == ((4, 3, 64, 64), ['kit fox', 'zebra'], 2)
    side = {tuple(o.flatten().tolist()): 0 for o in x} | {tuple(o.flatten().tolist()): 1 for o in x.flip(-1)}
    assert {side[tuple(o.flatten().tolist())] for _ in range(3) for xb,_ in dls.train for o in xb} == {0, 1}     # some are mirrored
    with pytest.raises(ValueError, match='path is needed'): imagenet64_dls()

def test_an_npz_of_all_classes_gets_their_names_and_another_keeps_its_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv('CFG_EDU_CACHE', str(tmp_path/'cache'))
    x = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), dtype=np.uint8)
    np.savez(tmp_path/'a.npz', x, np.arange(20)//2*108 + 27)
    np.savez(tmp_path/'b.npz', x, np.arange(20)%7)
    assert list(imagenet64_dls(tmp_path/'a.npz', bs=4, device='cpu').vocab) == names
    assert list(imagenet64_dls(tmp_path/'b.npz', bs=4, device='cpu').vocab) == list('0123456')

def test_a_cache_of_another_size_is_refused(arch, tmp_path):
    with pytest.raises(ValueError, match='holds images of 8 pixels, not 64'): imagenet64_dls(prepare(arch, tmp_path/'c', size=8))
