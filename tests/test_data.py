"Loaders keep their promise: scale, classes, order, what is held out; refusals; torchvision's files"
import hashlib, pickle
from math import cos, pi, sin
from unittest.mock import patch
import numpy as np, pytest, torch, torchvision
from hypothesis import given, settings, strategies as st
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset
from cfg_edu.data import (TensorDL, cifar10_dls, data_dls, digits, digits_dls, dls_for, fashion_dls, hold_out, mnist_dls,
    random_flip, Rung, rungs, to_unit, toy, toy_dls, toys)
from cfg_edu.files import fingerprint

vocab = ['ant', 'bee', 'cat']

def images(n=50, size=4):
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, size, size), generator=g, dtype=torch.uint8), torch.arange(n)%3

def key(o): return tuple(o.flatten().tolist())

# ---- the promise

def test_batches_are_float_and_pairs_stay_together():
    x, y = images()
    dls = data_dls(x, y, vocab, bs=16, device='cpu')
    xb, yb = dls.one_batch()
    assert (xb.shape, xb.dtype, yb.dtype) == ((16, 3, 4, 4), torch.float32, torch.int64)
    assert (dls.c, list(dls.vocab), dls.n_inp) == (3, vocab, 1)
    rows = {key(o): int(c) for o,c in zip(to_unit(x), y)}
    for xb,yb in dls.train: assert [rows[key(o)] for o in xb] == yb.tolist()

def test_labels_and_floats_pass_the_change_of_scale():
    for t in (torch.tensor([3, 7]), torch.tensor([.5, 7.])): assert to_unit(t) is t

def test_training_gives_whole_batches_and_the_rest_comes_whole_and_in_order():
    x, y = images()
    dls = data_dls(x, y, vocab, bs=16, valid=10, device='cpu')
    assert [len(yb) for _,yb in dls.train] == [16, 16] and (len(dls.train), len(dls.valid)) == (2, 1)
    xs, ys = map(torch.cat, zip(*dls.valid))
    assert torch.equal(xs, to_unit(x[40:])) and torch.equal(ys, y[40:])

@pytest.mark.parametrize('valid', [10, torch.arange(40, 50), range(40, 50), [*range(-10, 0)], torch.arange(50) >= 40, np.int64(10)])
def test_all_ways_to_hold_out_agree_and_nothing_is_copied(valid):
    x, y = images()
    dls = data_dls(x, y, vocab, 8, valid, device='cpu')
    assert torch.equal(dls.valid_ds.tensors[0], x[40:]) and torch.equal(dls.train_ds.tensors[1], y[:40])
    assert dls.train_ds.tensors[0].data_ptr() == x.data_ptr()

@given(st.integers(2, 40), st.data())
@settings(max_examples=40, deadline=None)
def test_every_example_is_in_one_part_only(n, data):
    held = data.draw(st.sets(st.integers(0, n-1), min_size=1, max_size=n-1))
    dls = data_dls(torch.arange(n).float()[:,None], torch.arange(n)%2, 'ab', 1, sorted(held), device='cpu')
    train, valid = (ds.tensors[0].flatten().int().tolist() for ds in (dls.train_ds, dls.valid_ds))
    assert valid == sorted(held) and train == sorted(set(range(n)) - held)

def test_points_may_be_of_any_size_images_not():
    y = torch.arange(50)%3
    assert data_dls(torch.tensor([[-3e38, 3e38]]).repeat(50, 1), y, vocab, 8, device='cpu').train_ds.tensors[0].max() > 1e38
    for ok in (1., -1.): data_dls(torch.full((50, 1, 2, 2), ok), y, vocab, 8, device='cpu')
    for bad in (1.01, -1.01):
        with pytest.raises(ValueError, match=r'images in \[-1, 1\]'): data_dls(torch.full((50, 1, 2, 2), bad), y, vocab, 8)

def test_a_vector_may_stand_for_the_class():
    x, _ = images()
    y = torch.rand(50, 2, dtype=torch.float64)
    dls = data_dls(x, y, bs=8, device='cpu')
    xb, yb = dls.one_batch()
    assert (yb.shape, yb.dtype, dls.c, dls.vocab) == ((8, 2), torch.float32, 2, None)
    rows = {key(o): v for o,v in zip(to_unit(x), y.float())}
    for o,v in zip(xb, yb): assert torch.equal(rows[key(o)], v)
    assert [t.get_text() for t in dls.show_batch((xb, yb), max_n=2).texts] == [f'{a:.1f} {b:.1f}' for a,b in yb[:2]]
    points = data_dls(torch.rand(50, 2), y, bs=8, device='cpu')
    points.show_batch()

# ---- order

def test_the_state_of_one_generator_decides_the_order():
    x, y = images()
    dls = data_dls(x, y, vocab, bs=16, device='cpu')
    state = dls.train.rng.getstate()
    first, second = list(dls.train), list(dls.train)
    dls.train.rng.setstate(state)
    for a,b in zip(first, dls.train): assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    assert not any((a[0] == b[0]).all() for a,b in zip(first, second))

def test_order_is_the_seeds_and_nobody_elses():
    x, y = images()
    torch.manual_seed(1)
    a = list(data_dls(x, y, vocab, bs=16, seed=4, device='cpu').train)[0][0]
    torch.manual_seed(2)
    b = list(data_dls(x, y, vocab, bs=16, seed=4, device='cpu').train)[0][0]
    assert torch.equal(a, b)
    points = data_dls(torch.arange(50.)[:,None]/50, y, range(3), 16, 10, device='cpu', seed=4)
    assert fingerprint(*[b[0] for _ in range(2) for b in points.train]) == 'da0387b5d2270fe2'      # as ever

def test_an_epoch_may_be_longer_than_a_pass():
    x, y = images()
    dls = data_dls(x, y, vocab, bs=16, device='cpu')
    dls.train.n = 5*16
    seen = torch.cat([xb for xb,_ in dls.train]).flatten(1)
    assert len(dls.train) == 5 and len(seen) == 80
    assert len(seen[:40].unique(dim=0)) == 40 and len(seen.unique(dim=0)) == 40

def test_half_of_the_training_images_are_mirrored_and_no_others():
    x, y = images()
    dls = data_dls(x, y, vocab, bs=40, valid=10, flip=True, device='cpu')
    mine, flipped = ({key(o) for o in a} for a in (to_unit(x), to_unit(x).flip(-1)))
    seen = [key(o) for _ in range(20) for xb,_ in dls.train for o in xb]
    assert all(o in mine or o in flipped for o in seen)
    assert abs(sum(o in mine for o in seen)/800 - .5) < .06                      # three standard errors
    assert torch.equal(list(dls.valid)[0][0], to_unit(x[40:]))
    torch.manual_seed(7)
    a = torch.arange(50*48).reshape(50, 3, 4, 4).remainder(256).byte()
    dls = data_dls(a, y, range(3), 16, 10, flip=True, device='cpu', seed=4)
    assert fingerprint(*[b[0] for _ in range(2) for b in dls.train]) == '004b032d62d80a6e'         # as ever
    assert random_flip(torch.arange(6).view(2, 3)).tolist() == [[0, 1, 2], [3, 4, 5]]

def test_no_batch_of_nothing():
    assert list(TensorDL(TensorDataset(torch.empty(0, 2), torch.empty(0).long()), 4, device='cpu')) == []

# ---- refusals

def test_what_does_not_fit_is_refused_in_one_sentence():
    x, y = images()
    def refused(match, *args, **kwargs):
        with pytest.raises(ValueError, match=match) as e: data_dls(*args, device='cpu', **kwargs)
        assert '\n' not in str(e.value)
    refused('valid must hold out at least one of 1 examples', x[:1], y[:1], range(3))
    refused(r'y must be 50 integers, the classes, got torch.int64 of shape \(9,\)', x, y[:9], range(3))
    refused('y must lie in 0…1, 2 names in vocab, got 0 to 2', x, y, range(2))
    refused('y must lie in', x, y-1, range(3))
    refused(r'x must be images in \[-1, 1\], got 0 to 255', x.float(), y, range(3))
    refused('x must be finite$', torch.full((50, 2), float('nan')), y, range(3))
    refused('x must be finite, 50 of 50 are not', torch.full((50, 1, 2, 2), float('nan')), y, range(3))
    refused('x must be finite', torch.full((50, 2), float('inf')), y, range(3))
    refused('x must be finite', x*float('nan'), y, range(3))
    refused('x must be finite', torch.full((50, 2), -float('inf')), y, range(3))
    refused('bs must lie in 1…40, training examples, got 64', x, y, range(3), bs=64)
    refused('bs must lie in', x, y, range(3), bs=0)
    for none in (0, 50, [*range(50)], torch.zeros(50, dtype=torch.bool)): refused('valid must hold out at least one', x, y, range(3), valid=none)
    for bad in ([50], [0, -51], [.5], [], torch.ones(3, dtype=torch.bool), -1): refused('valid must be indices or a mask', x, y, range(3), bs=4, valid=bad)
    for bad in (y, torch.rand(9, 2), torch.full((50, 2), float('nan'))): refused('y without vocab must be 50 finite vectors', x, bad)

# ---- valid, and not what was assumed

def refuses(match, *args, **kwargs):
    with pytest.raises(ValueError, match=match) as e: data_dls(*args, device='cpu', **kwargs)
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('y', [torch.linspace(0, 2, 50), torch.arange(50)%3/1, torch.eye(3)[torch.arange(50)%3], torch.eye(3).long()[torch.arange(50)%3],
    (torch.arange(50)%3)[:,None], torch.arange(50)%3+0j, torch.tensor(1), list('abcde'*10), np.array(['cat']*50), [None]*50, [[1], [1, 2]]*25],
    ids='quantity whole_floats one_hot one_hot_integers column complex scalar strings numpy_strings nothing ragged'.split())
def test_labels_that_are_no_classes_are_refused(y): refuses('y must be ', images()[0], y, range(3), bs=8)

@pytest.mark.parametrize('kind', [np.int8, np.uint8, np.int16, np.int32, np.uint16, np.int64, bool, list])
def test_labels_may_be_integers_of_any_kind(kind):
    x, y = images()
    y = (y > 0).long() if kind is bool else y
    given = y.tolist() if kind is list else y.numpy().astype(kind)
    dls = data_dls(x, given, vocab[:2+(kind is not bool)], 8, 10, device='cpu')
    assert dls.train_ds.tensors[1].dtype == torch.int64 and torch.equal(dls.train_ds.tensors[1], y[:40])

def test_classes_without_an_example_are_named():
    x, y = images()
    with pytest.warns(UserWarning, match='^1 of 4 classes have no example to train on: 0$'): data_dls(x, y+1, range(4), 8)              # they count from 1
    with pytest.warns(UserWarning, match='^7 of 10 classes have no example to train on: 1, 2, 4, 5, 6, 7, 8$'): data_dls(x, torch.tensor([0, 3, 9])[y], range(10), 8)
    with pytest.warns(UserWarning, match='^97 of 100 classes .*: 3, 4, 5, 6, 7, 8, 9, 10, …$'): data_dls(x, y, range(100), 8)
    with pytest.warns(UserWarning, match='^1 of 3 classes have no example to train on: cat$'): data_dls(x, y.sort().values, vocab, 8, 16)  # held out whole

def test_nothing_is_said_of_what_is_as_promised(recwarn):
    x, y = images()
    for good in (x, to_unit(x), torch.randn(50, 2), torch.rand(50, 2)): data_dls(good, y, vocab, 8)
    data_dls(x, torch.rand(50, 2), bs=8)
    assert not [o for o in recwarn if o.category is UserWarning]

@pytest.mark.parametrize('x, says', [(torch.rand(50, 1, 4, 4), 'from .* to 0.9.*give 2.\\*x - 1'), (torch.rand(50, 1, 4, 4) > .5, 'from 0 to 1'), (torch.ones(50, 1, 4, 4).byte(), '0…255: if yours are 0 and 1'),
    (torch.rand(50, 1, 4, 4).half(), 'if yours lie in'), (torch.rand(50, 1, 4, 4).double().numpy(), 'if yours lie in'), (torch.ones(50, 1, 4, 4).long(), 'if yours lie in')])
def test_images_that_look_as_if_they_lay_in_0_1_are_taken_and_it_is_said(x, says):
    with pytest.warns(UserWarning, match=says): data_dls(x, images()[1], vocab, 8)

@pytest.mark.parametrize('x', [images()[0].float(), images()[0].short(), images()[0].float()/128, torch.randn(50, 1, 4, 4)*2, images()[0].char(), torch.full((50, 1, 4, 4), -1+0j), ['a']*50, None],
    ids='bytes_as_floats int16 over_128 normalised int8 complex strings none'.split())
def test_images_on_another_scale_are_refused(x): refuses('x must be ', x, images()[1], vocab, bs=8)

def test_what_is_held_out_is_random_and_from_each_class():
    x, y = digits()
    i = y.argsort()                                                                            # as concatenated class folders are
    dls = data_dls(x[i], y[i], range(10), device='cpu')
    held, of = dls.valid_ds.tensors[1].bincount(minlength=10), y.bincount()
    assert held.sum() == 1797//5 and ((held - of/5).abs() < 1.5).all()                         # each class in its share
    again = data_dls(x[i], y[i], range(10), seed=5, device='cpu')
    assert torch.equal(dls.valid_ds.tensors[0], again.valid_ds.tensors[0])                     # another order, the same split
    many = hold_out(torch.zeros(17_000_000, dtype=torch.uint8), 16_900_000)
    assert len(many) == 16_900_000 and (many.diff() > 0).all()                                 # a float32 tells whole numbers apart up to 2²⁴
    place = hold_out(torch.zeros(10_000).long(), 2000).double()
    assert abs(place.mean() - 5000) < 3*2887/2000**.5 and place.diff().unique().numel() > 20   # from everywhere, at random

@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(0, 80))
@settings(max_examples=60, deadline=None)
def test_every_class_keeps_an_example_to_train_on(y, k):
    y = torch.tensor(y)
    held = hold_out(y, k)
    left = torch.ones(len(y), dtype=torch.bool).scatter(0, held, False)
    assert len(held) == len(held.unique()) == min(k, len(y)-len(y.unique())) and torch.equal(y[left].unique(), y.unique())

@pytest.mark.parametrize('match, change', [('x must have its channels first', dict(x=images()[0].permute(0, 2, 3, 1))), ('bs must lie in', dict(bs=2.5)), ('bs must lie in', dict(bs='8')),
    ('valid must hold out at least one of 50 examples and leave one, got 50', dict(valid=True)), ('vocab must be the names, got 3', dict(vocab=3)), ('x must be real numbers, got', dict(x=torch.rand(0, 2), y=torch.arange(0)))])
def test_what_would_be_taken_for_something_else_is_refused(match, change):
    x, y = images()
    refuses(match, **{**dict(x=x, y=y, vocab=vocab, bs=8), **change})

def test_a_vocab_may_be_any_sequence():
    for names in ('abc', list('abc'), tuple('abc'), np.array(list('abc')), dict.fromkeys('abc')):
        dls = data_dls(*images(), names, 8)
        assert (list(dls.vocab), dls.c) == (list('abc'), 3)

def test_names_are_refused_with_those_that_are_known():
    with pytest.raises(ValueError, match="name must be one of mixture, moons, spirals, pinwheel, checkerboard, got 'moon'"): toy('moon', 5)
    with pytest.raises(ValueError, match='n must be at least 1'): toy('moons', 0)
    with pytest.raises(ValueError, match="split must be one of all, train, valid, got 'test'"): digits('test')
    with pytest.raises(ValueError, match="data must be one of mixture, moons, .*digits, mnist"): dls_for('digit')

# ---- the rungs

@pytest.mark.parametrize('name, was', dict(mixture='dc929021eb70067e', moons='0f893bb5fad1e46e', spirals='885818055ca283aa',
    pinwheel='62eda2cde3dbbd97', checkerboard='a63ef520611cea61').items())
def test_toys_are_what_they_were(name, was):
    recent = tuple(map(int, torch.__version__.split('.')[:2])) >= (2, 11)
    assert fingerprint(*toy(name, 500, 2)) == was or name == 'mixture' and not recent      # torch 2.6 draws others
    dls = toy_dls(name, n=1000, seed=3, device='cpu')
    assert (len(dls.train_ds), len(dls.valid_ds)) == (1000, 100)
    assert torch.equal(dls.train_ds.tensors[0], toy(name, 1100, 3)[0][:1000])

def test_places_on_the_moons_are_uniform_and_independent():
    def angle(x, y):
        x = x/.6*(1-2*y)[:,None] + torch.tensor([.5, .25])                              # the second moon turned back
        t = torch.atan2(x[:,1], x[:,0])
        return torch.where(t < -pi/2, t+2*pi, t)                                       # noise at the left tip
    t = angle(*toy('moons', 20_000))
    assert abs(t.mean() - pi/2) < .03 and abs(t.var() - pi**2/12) < .03
    halves = torch.stack([(angle(*toy('moons', 100, s)) < pi/2).sum() for s in range(400)]).float()
    assert abs(halves.var() - 25) < 6                                                   # binomial; on a regular arc they never vary

def test_blades_of_the_pinwheel_are_turned_copies():
    x, y = toy('pinwheel', 20_000)
    c, s = cos(2*pi/5), sin(2*pi/5)
    turn = torch.tensor([[c, -s], [s, c]])
    blades = torch.stack([x[y==k].mean(0) @ turn.matrix_power(k) for k in range(5)])
    assert (blades - blades[0]).abs().max() < .02

def test_digits_are_what_they_were():
    assert fingerprint(*digits()) == '6e783c62c3931f05'
    assert torch.equal((digits()[0][:,0].sum(0)+1797)*8, torch.tensor(load_digits().images.sum(0)).float())  # all there
    dls = digits_dls(device='cpu')
    assert torch.equal(dls.valid_ds.tensors[0], digits('valid')[0]) and torch.equal(dls.train_ds.tensors[1], digits('train')[1])

def test_a_rung_is_one_entry():
    rungs['mine'] = Rung(lambda bs=4, **kw: data_dls(*images(), vocab, bs, **kw), 'unet_small', steps=7)
    try:
        assert dls_for('mine', device='cpu').one_batch()[0].shape == (4, 3, 4, 4)
        assert (rungs['mine'].net, rungs['mine'].judge, rungs['mine'].recipe) == ('unet_small', None, dict(steps=7))
    finally: del rungs['mine']
    assert torch.equal(dls_for('moons', n=2000, seed=3).train_ds.tensors[0], toy('moons', 2200, 3)[0][:2000])
    assert all(rungs[k].judge is None for k in toys) and rungs['digits'].judge == 'digits'

# ---- torchvision's files

def md5(f): return hashlib.md5(f.read_bytes()).hexdigest()

def test_mnist_comes_out_as_it_went_in(mnist, capsys):
    path, big, y = mnist
    dls = mnist_dls(path, bs=50, device='cpu')
    assert 'MNIST: the four *-ubyte.gz files, 12 MB, from' in capsys.readouterr().out       # before anything is loaded
    xb, yb = dls.valid.one_batch()
    assert (len(dls.train_ds), len(dls.valid_ds), dls.c) == (200, 40, 10)
    assert dls.train_ds.tensors[0].dtype == torch.uint8
    assert torch.equal(xb, to_unit(big[200:240,None])) and torch.equal(yb, y[200:240])
    mnist_dls(path, bs=50, device='cpu')
    assert capsys.readouterr().out == ''                                                     # unpacked by now

def test_damaged_and_missing_files_are_named(mnist, tmp_path):
    path, *_ = mnist
    mnist_dls(path, bs=50, device='cpu')
    (path/'MNIST/raw/train-images-idx3-ubyte').write_bytes(b'\0\0\x08\x03')                    # an interrupted copy
    with pytest.raises(FileNotFoundError, match='MNIST is missing or damaged'): mnist_dls(path)
    empty = tmp_path/'empty'
    with patch.object(torchvision.datasets.MNIST, 'mirrors', ['http://127.0.0.1:9/']):
        with pytest.raises(FileNotFoundError, match='could not be downloaded: put the four .*-ubyte.gz files, 12 MB, from https.* into .*MNIST/raw'):
            mnist_dls(empty)
    with patch.object(torchvision.datasets.FashionMNIST, 'mirrors', ['http://127.0.0.1:9/']):
        with pytest.raises(FileNotFoundError, match='put the four .*31 MB.*FashionMNIST/raw'): fashion_dls(empty)
    with patch.object(torchvision.datasets.CIFAR10, 'url', 'http://127.0.0.1:9/'):
        with pytest.raises(FileNotFoundError, match='put cifar-10-python.tar.gz, 170 MB, from https://www.cs.toronto.edu/~kriz into'):
            cifar10_dls(empty)

def test_colours_of_cifar_are_in_order_and_mirrored_in_training(tmp_path):
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], dtype=torch.uint8)
    folder = tmp_path/'cifar-10-batches-py'
    folder.mkdir()
    def batch(name, labels):
        img = colours[labels][:,:,None,None].repeat(1, 1, 32, 32)                  # channel by channel
        img[:,:,:,:8] = 128                                                        # a grey bar on the left
        rows = img.reshape(len(labels), -1).numpy()
        (folder/name).write_bytes(pickle.dumps(dict(data=rows, labels=labels.tolist())))
        return [name, md5(folder/name)]
    train = [batch(f'data_batch_{i}', torch.arange(8)%4) for i in range(1, 6)]
    test, names = [batch('test_batch', torch.arange(4))], ['red', 'green', 'blue', 'yellow']
    (folder/'batches.meta').write_bytes(pickle.dumps(dict(label_names=names)))
    meta = dict(torchvision.datasets.CIFAR10.meta, md5=md5(folder/'batches.meta'))
    with patch.multiple(torchvision.datasets.CIFAR10, train_list=train, test_list=test, meta=meta):
        dls, plain = cifar10_dls(tmp_path, bs=8, device='cpu'), cifar10_dls(tmp_path, flip=False, bs=8, device='cpu')
    xb, _ = dls.valid.one_batch()
    assert (len(dls.train_ds), list(dls.vocab)) == (40, names)
    assert torch.equal(xb[:,:,5,20], to_unit(colours))
    assert torch.allclose(xb[:,:,5,3], torch.full((4, 3), 128/127.5-1), atol=1e-6)
    def sides(dl): return set((torch.cat([xb for xb,_ in dl])[:,:,5,3].std(1) < 1e-6).tolist())    # grey there?
    assert sides(dls.train) == {True, False} and sides(plain.train) == {True}
