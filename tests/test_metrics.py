"Metrics at their edges: wrong arguments, large files, statistics from files, and the library's numbers beside ours."
import math, os, pickle, re, warnings
from dataclasses import replace
from functools import partial
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from scipy.linalg import sqrtm
from torch.utils._python_dispatch import TorchDispatchMode
from cfg_edu import metrics as me
from cfg_edu.data import digits
from cfg_edu.judges import get_judge
from cfg_edu.schedule import amps

same = dict(rtol=0, atol=1e-9)


def gen(seed=0): return torch.Generator().manual_seed(seed)


class Mean(me.Judge):
    "Looks at the mean colour; gives no verdict, has no weights"
    name, layers = 'mean', dict(fid='m', isc='m', prc='m')
    def see(self, u):
        self.looked = getattr(self, 'looked', []) + [len(u)]
        return dict(m=u.float().mean((2, 3)))


class Weighted(Mean):
    def __init__(self):
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(()))


@pytest.fixture(scope='module')
def halves():
    x, y = digits()
    i = torch.randperm(len(x), generator=gen())
    return x[i[:898]], x[i[898:1796]], y[i[:898]]


@pytest.fixture(scope='module')
def judge(): return get_judge('digits')


# --- formulas

@settings(max_examples=15, deadline=None)
@given(d=st.integers(1, 12), extra=st.integers(1, 30), seed=st.integers(0, 10**6))
def test_frechet_is_scipys(d, extra, seed):
    g = gen(seed)
    u, v = (torch.randn(d+1+extra, d, generator=g, dtype=torch.float64) for _ in range(2))
    a, b = me.mean_cov([u]), me.mean_cov([v*torch.linspace(.2, 2, d) + 1])
    root = np.trace(sqrtm((a[1]@b[1]).numpy()).real)
    want = ((a[0]-b[0])**2).sum() + a[1].trace() + b[1].trace() - 2*root
    assert abs(me.frechet(*a, *b) - want) < 1e-6
    assert abs(me.frechet(*a, *b) - me.frechet(*b, *a)) < 1e-9
    assert abs(me.frechet(*a, *a)) < 1e-9


def test_frechet_of_common_axes():
    q = torch.linalg.qr(torch.randn(5, 5, generator=gen(), dtype=torch.float64))[0]
    a, b = torch.arange(1., 6).double(), torch.tensor([9., 1, 0, 4, 2]).double()    # one radius is 0
    m = torch.zeros(5)
    assert abs(me.frechet(m, q*a @ q.T, m, q*b @ q.T) - (a.sqrt()-b.sqrt()).square().sum()) < 1e-6


@settings(max_examples=10, deadline=None)
@given(n=st.integers(2, 300), size=st.integers(1, 64), seed=st.integers(0, 10**6))
def test_mean_cov_of_batches(n, size, seed):
    f = 1e6 + torch.randn(n, 3, generator=gen(seed), dtype=torch.float64)
    mu, cov = me.mean_cov(f.split(size))
    torch.testing.assert_close(mu, f.mean(0), **same)
    torch.testing.assert_close(cov, f.T.cov(), rtol=1e-6, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(n=st.integers(30, 200), m=st.integers(30, 200), k=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_precision_and_recall_are_the_librarys(n, m, k, seed):
    from torch_fidelity.metric_prc import prc_features_to_metric
    g = gen(seed)
    a, b = torch.randn(n, 4, generator=g, dtype=torch.float64), .5*torch.randn(m, 4, generator=g, dtype=torch.float64)
    want = prc_features_to_metric(a, b, prc_neighborhood=k, verbose=False)
    assert me.covered(a, b, k) == pytest.approx(want['precision'], abs=1e-6)
    assert me.covered(b, a, k) == pytest.approx(want['recall'], abs=1e-6)
    assert me.covered(a, b, k, bs=7) == pytest.approx(want['precision'], abs=1e-6)


def test_covered_needs_more_centres_than_k():
    x = torch.randn(5, 2)
    assert me.covered(None, x) is None and me.covered(x, None) is None
    for k in (0, 5): pytest.raises(ValueError, me.covered, x, x, k).match('k must lie in 1 … 4')


@settings(max_examples=10, deadline=None)
@given(n=st.integers(20, 100), splits=st.integers(1, 10), sharp=st.floats(0, 30), seed=st.integers(0, 10**6))
def test_inception_score_is_the_librarys(n, splits, sharp, seed):
    from torch_fidelity.metric_isc import isc_features_to_metric
    logits = sharp*torch.randn(n, 5, generator=gen(seed))
    want = isc_features_to_metric(logits, splits=splits)['inception_score_mean']
    assert me.inception_score(logits, splits) == pytest.approx(want, abs=1e-9)


def test_a_score_of_classes_that_are_ruled_out():
    "0·log 0 is 0"
    assert me.inception_score(1e4*torch.eye(3)[[0, 1]*20], 1) == pytest.approx(2.)


def test_distances_are_found_in_blocks(monkeypatch):
    blocks, cdist = [], torch.cdist
    monkeypatch.setattr(torch, 'cdist', lambda a, b: blocks.append(len(a)*len(b)) or cdist(a, b))
    me.covered(torch.randn(3500, 3), torch.randn(2500, 3), device='cpu')
    assert max(blocks) == 1000**2 and len(blocks) == 3*3 + 4*3


# --- what a judge gets to see

def test_grey_levels():
    levels = torch.arange(256, dtype=torch.uint8)
    assert me.to_uint8(levels).data_ptr() == levels.data_ptr()                      # passes, not copied
    assert me.to_uint8(torch.tensor([-7., 7.])).tolist() == [0, 255]
    pytest.raises(ValueError, me.to_uint8, levels.long()).match('float or uint8, got torch.int64')


def test_batches_do_not_matter(judge, halves):
    want = judge(halves[0])
    small = type(judge)()
    small.bs = 7
    for a, b in zip(small(halves[0]).values(), want.values()): torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
    assert small.id == judge.id


def test_what_is_no_image(judge):
    for bad, word in ((torch.zeros(20, 3, 8, 8), r'looks at images \(n, 1, 8, 8\), got Tensor \(20, 3, 8, 8\)'), (torch.zeros(20, 64), r'got Tensor \(20, 64\)'),
                      ([torch.zeros(1, 8, 8)]*20, r'got list'), (np.zeros((20, 1, 8, 8)), 'got ndarray'), (torch.zeros(20, 1, 8, 8).long(), 'float or uint8, got torch.int64'),
                      (torch.full((20, 1, 8, 8), math.inf), 'must be finite, 20 of 20 are not')):
        pytest.raises(ValueError, judge, bad).match(word)
        pytest.raises(ValueError, me.evaluate, bad, torch.zeros(20, 1, 8, 8)).match(word)
        pytest.raises(ValueError, me.evaluate, -torch.ones(20, 1, 8, 8), bad).match(word)


doors = dict(evaluate=lambda o, x: me.evaluate(o, x), real_stats=lambda o, x: me.real_stats(o), noise_floor=lambda o, x: me.noise_floor(o, n=50, n_draws=1),
             against=lambda o, x: me.evaluate(x, o), tradeoff=lambda o, x: me.tradeoff(None, (), o, torch.arange(20)))

@pytest.mark.parametrize('door', doors)
def test_images_in_another_range(halves, door):
    "Values that are right pass without a word, whatever holds them; in [0, 1] they are said to be, and farther out they are refused"
    x, go = halves[0][:200], partial(doors[door], x=halves[1])
    what, unit, u = 'samples' if door == 'evaluate' else 'real', (x+1)/2, me.to_uint8(x)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for o in (x, x.half(), x.bfloat16(), x.double(), u, u.flip(-1), x.transpose(-1, -2), -torch.ones_like(x)): go(o)
        if door == 'evaluate': assert go(9.9*x) == go((9.9*x).clamp(-1, 1))             # a sampler may leave them: cut off
    for o, word in ((unit, '2.*%s - 1' % what), (unit.half(), what), ((u > 99).byte(), '0…255: if yours are 0 and 1')):
        with pytest.warns(UserWarning, match=f'^{what} has values from 0 to 1, .*{re.escape(word)}'): go(o)
    for o, word in ((255*unit, r'got 0 to 255'), (10.1*x, r'got -10.1 to 10.1'), (x*math.nan, '200 of 200 are not'), (torch.cat([x, x[:1]*math.inf]), '1 of 201 are not'),
                    (u.char(), 'torch.int8'), (x > 0, 'torch.bool'), (x.to(torch.complex64), 'torch.complex64'), (x.expand(-1, 3, -1, -1), 'looks at images')):
        pytest.raises(ValueError, go, o).match(word)
    if what == 'real': pytest.raises(ValueError, go, (x-x.mean())/x.std()).match('real must be images in')  # standardised: cut off they would be others


# --- real images, seen once

def test_real_stats(judge, halves):
    real = halves[1]
    seen, ref = judge(real), me.real_stats(real, judge)
    torch.testing.assert_close(ref.mu, seen['fid'].mean(0), **same)
    torch.testing.assert_close(ref.cov, seen['fid'].T.cov(), **same)                # n − 1, as the published ones
    assert torch.equal(ref.prc, seen['prc']) and ref.shape == (1, 8, 8) and ref.n == len(real)
    assert me.real_stats(ref, judge) is ref and me.real_stats(real.clone(), judge) is ref
    some = me.real_stats(real, judge, n_prc=50)
    assert torch.equal(some.mu, ref.mu) and some.prc.shape == (50, 64) and not torch.equal(some.prc, ref.prc[:50])
    assert not torch.equal(some.prc, me.real_stats(real, judge, n_prc=50, seed=1).prc)


def test_real_stats_that_do_not_fit(judge, halves):
    real = halves[1]
    ref = me.real_stats(real, judge)
    pytest.raises(ValueError, me.real_stats, real[:9], judge).match('at least 10 images, got 9')
    pytest.raises(ValueError, me.real_stats, replace(ref, judge='moon-1'), judge).match("got moon-1's")
    pytest.raises(ValueError, me.evaluate, halves[0], me.RealStats(torch.zeros(5), torch.eye(5))).match("64 features for 'digits', got 5")
    pytest.raises(ValueError, me.evaluate, halves[0], me.real_stats(real, n_prc=3)).match('k must lie in 1 … 2')
    pytest.raises(ValueError, me.evaluate, halves[0], replace(ref, shape=(3, 8, 8))).match("samples must be of real's shape")
    pytest.raises(ValueError, me.real_stats, real, 'moon').match('judge must be one of')


def test_many_images_are_looked_at_once(tmp_path, monkeypatch):
    "Also by the next program; and a known fingerprint spares the reading"
    monkeypatch.setenv('CFG_EDU_CACHE', str(tmp_path))
    hashed, fingerprint = [], me.fingerprint
    monkeypatch.setattr(me, 'fingerprint', lambda *ts: hashed.append(sum(t.numel() for t in ts if isinstance(t, torch.Tensor))) or fingerprint(*ts))
    u = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5400, 3, 4, 4), np.uint8))
    first, again = Weighted(), Weighted()
    a, b = me.real_stats(u, first), me.real_stats(u, again)
    assert sum(first.looked) == 5400 and max(first.looked) == 250 and not hasattr(again, 'looked')
    assert torch.equal(a.mu, b.mu) and torch.equal(a.prc, b.prc) and u.numel() in hashed
    hashed.clear()
    third, other = Weighted(), Weighted()
    me.real_stats(u, third, known='abc')
    assert max(hashed) == 65*48                                                     # 65 of the images
    me.real_stats(u.flip(0), other, known='abc')                                    # one name for two sets: told apart
    assert sum(other.looked) == 5400
    blind = Mean()
    me.real_stats(u, blind)
    me.real_stats(u, Mean())
    assert len(list(tmp_path.glob('*.safetensors'))) == 3                           # no weights, nothing kept


def test_a_mapped_file_is_never_copied(tmp_path):
    class Largest(TorchDispatchMode):
        "Bytes of the largest tensor that is made and is no view of `source`"
        def __init__(self, source):
            super().__init__()
            self.at, self.bytes = source.untyped_storage().data_ptr(), 0
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for o in out if isinstance(out, (list, tuple)) else [out]:
                if isinstance(o, torch.Tensor) and o.untyped_storage().data_ptr() != self.at:
                    self.bytes = max(self.bytes, o.untyped_storage().nbytes())
            return out
    mapped = torch.from_numpy(np.lib.format.open_memmap(tmp_path/'x.npy', 'w+', np.uint8, (20_000, 3, 32, 32)))
    mapped[::1000] = 200
    with Largest(mapped) as largest: ref = me.real_stats(mapped, Mean(), known='nearly black')
    assert largest.bytes == 250*3*32*32*4                                           # one batch as floats
    assert len(ref.prc) == 10_000 and ref.mu[0].item() == pytest.approx(.2)


# --- evaluate, noise floor, trade-off

def test_evaluate_is_the_same_on_all_ways(judge, halves):
    half, other, y = halves
    res = me.evaluate(half, other, y)
    assert list(res) == ['fid', 'isc', 'precision', 'recall', 'agreement', 'n']
    ref = me.real_stats(other)
    for again in (me.evaluate(half, other, y), me.evaluate(half, ref, y.tolist()), me.evaluate(me.to_uint8(half), me.to_uint8(other), y, judge)): assert again == res
    lacking = me.evaluate(half, replace(ref, prc=None), y)                          # left out, neither zero nor nan
    assert lacking == {k: v for k, v in res.items() if k not in ('precision', 'recall')}
    assert me.evaluate(half, other, (y+1) % 10)['agreement'] < .02
    whole = me.evaluate(other, other)
    assert abs(whole['fid']) < 1e-9 and (whole['precision'], whole['recall']) == (1, 1)


def test_evaluate_refuses(halves):
    half, other, y = halves
    for args, kw, word in (((half, other), dict(judge='moon'), "got 'moon'"), ((half[:4], other), {}, 'at least 10 images, got 4'), ((half, other[:5]), {}, 'real must hold at least 10'),
                           ((half, other, y[:5]), {}, 'a class for each of 898 images, got shape'), ((half, other, y), dict(judge=Mean()), 'gives no verdict'),
                           ((half, other), dict(k=898), 'k must lie'), ((half[:20], other), dict(splits=21), 'at least 21 images')):
        pytest.raises(ValueError, me.evaluate, *args, **kw).match(word)


def test_a_metric_is_one_entry(monkeypatch, halves):
    monkeypatch.setitem(me.metrics, 'seen', lambda seen, ref: len(seen['fid'])/ref.n if ref.n else None)
    half, other, _ = halves
    assert me.evaluate(half, other)['seen'] == 1.
    assert 'seen' not in me.noise_floor(half, n=50, n_draws=1)


def test_noise_floor(halves):
    x, y = digits()
    floor = me.noise_floor(x, y)
    assert 0 < floor['fid'] < 1 and floor['precision'] > .8 and floor['recall'] > .8 and floor['n'] == 898
    assert me.noise_floor(me.to_uint8(x), y) == floor
    pytest.raises(ValueError, me.noise_floor, x, n=1000).match('n must lie in 1 … 898')
    pytest.raises(ValueError, me.noise_floor, x, n=9).match('at least 10 images')
    pytest.raises(ValueError, me.noise_floor, x, y[:-1]).match('a class for each of 1797 images')


def test_a_part_of_many_images_is_enough():
    many, judge = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (30_000, 3, 4, 4), np.uint8)), Mean()
    assert me.noise_floor(many, judge=judge, n=500, n_draws=1)['n'] == 500
    assert sum(judge.looked) == 20_000


def test_tradeoff(halves):
    real, y, calls, kept = halves[1][:100], torch.arange(20) % 10, [], {}
    def model(z, lam, y=None):
        "The data are standard normal"
        calls.append(y is None)
        return amps(lam, z.ndim)[1]*z
    rows = list(me.tradeoff(model, (0, 1), real, y, keep=kept.__setitem__, n_steps=4))
    assert calls == [False]*4 + [False, True]*4                                     # w = 0: one pass a step
    assert {**rows[0], 'w': 1.} == rows[1]                                          # nothing to guide, same seeds
    x = me.sample(model, (20, 1, 8, 8), y, n_steps=4)
    assert torch.equal(kept[0.], x) and rows[0] == {'w': 0., **me.evaluate(x, real, y)}
    only = replace(me.real_stats(real), prc=None, shape=None)                       # as from a file
    assert next(me.tradeoff(model, (0,), only, y, shape=(1, 8, 8), n_steps=4)) == {k: v for k, v in rows[0].items() if k not in ('precision', 'recall')}
    for args, kw, word in (((model, (0, -2), real, y), {}, 'w must'), ((model, (0,), only, y), {}, 'shape must be given'), ((model, (0,), real, y), dict(judge='moon'), 'judge must'),
                           ((model, (0,), real[:5], y), {}, 'at least 10'), ((model, (0,), me.RealStats(torch.zeros(5), torch.eye(5)), y), dict(shape=(1, 8, 8)), '64 features')):
        pytest.raises(ValueError, me.tradeoff, *args, **kw).match(word)


def test_pictures_and_tables():
    table = me.paper_table
    assert [t.get_text() for t in me.show_tradeoff(table[::4]).texts] == ['0', '0.4', '0.8', '3']
    assert not me.show_tradeoff(table, names=False).texts
    pytest.raises(ValueError, me.show_tradeoff, []).match('at least one point')
    assert me.at_isc(table, 170.1) == pytest.approx(12.6) and me.at_isc(table[::-1], 100.) == pytest.approx(me.at_isc(table, 100.))
    assert math.isnan(me.at_isc(table, 300.)) and math.isnan(me.at_isc([], 1.))
    assert me.at_isc([dict(isc=1., fid=2.), dict(isc=1., fid=3.)], 1.) == 2.
    assert len(table) == 14 and sum(r['fid'] for r in table) == pytest.approx(140.44) and sum(r['isc'] for r in table) == pytest.approx(2008.73)


# --- statistics from a file

@pytest.fixture
def saved(tmp_path):
    def save(name, **arrays):
        np.savez(tmp_path/name, **arrays)
        return tmp_path/f'{name}.npz'
    return save


@pytest.fixture
def glyphs():
    u = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (300, 3, 16, 16), np.uint8))
    f = Mean()(u)['fid']
    return u, u.permute(0, 2, 3, 1).numpy(), f.mean(0).numpy(), f.T.cov().numpy()


def test_statistics(saved, glyphs):
    "From the file, from the images, and by the formula: one number"
    u, nhwc, mu, sigma = glyphs
    samples, judge = u[:100]//2, Mean()
    full = saved('full', arr_0=nhwc, mu=mu.astype(np.float32), sigma=sigma, mu_s=np.zeros(7), sigma_s=np.eye(7))
    bare = saved('bare', mu=mu, sigma=sigma)
    by_images, by_file, by_bare = (me.evaluate(samples, o, judge=judge) for o in (u, full, str(bare)))
    by_formula = me.frechet(*me.mean_cov([judge(samples)['fid']]), mu, sigma).item()
    assert by_bare['fid'] == pytest.approx(by_formula, abs=1e-9) and by_images['fid'] == pytest.approx(by_formula, abs=1e-6)
    assert by_file['fid'] == pytest.approx(by_formula, rel=1e-5)                     # its mean was in single precision
    assert all(by_file[k] == by_images[k] for k in ('isc', 'precision', 'recall')) and list(by_bare) == ['fid', 'isc', 'n']
    ref = me.real_stats(saved('part', arr_0=nhwc[:200], mu=mu, sigma=sigma), judge, n_prc=50)   # statistics of 300 images, 200 shown
    assert torch.equal(ref.mu, torch.from_numpy(mu)) and ref.prc.shape == (50, 3) and ref.shape == (3, 16, 16) and ref.n is None


def test_statistics_that_are_none(saved, glyphs, tmp_path):
    u, nhwc, mu, sigma = glyphs
    class Trap:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'sprung'),)
    full = saved('full', arr_0=nhwc, mu=mu, sigma=sigma)
    raw = full.read_bytes()
    broken = bytearray(raw)
    broken[2000:2100] = bytes(100)
    for name, data in (('cut', raw[:-300]), ('broken', broken), ('text', b'hello'), ('empty', b''), ('trap', pickle.dumps(Trap()))): (tmp_path/f'{name}.npz').write_bytes(data)
    np.save(tmp_path/'one.npy', mu)
    files = [tmp_path/f'{o}.npz' for o in ('cut', 'broken', 'text', 'empty', 'trap')] + [tmp_path/'one.npy', tmp_path,
        saved('a', mu=np.array([Trap()], object), sigma=sigma), saved('b', arr_0=nhwc), saved('c', mu=mu), saved('d', mu=mu, sigma=sigma[:2]), saved('f', mu=mu*np.nan, sigma=sigma),
        saved('g', mu=mu, sigma=sigma*np.inf), saved('h', mu=mu, sigma=sigma, arr_0=nhwc/255), saved('j', mu=mu, sigma=sigma + np.eye(3, k=1)), saved('k', mu=mu, sigma=sigma, arr_0=nhwc[..., 0])]
    for file in files: pytest.raises(ValueError, me.real_stats, file, Mean()).match(f'{file} must hold finite mu')
    assert not (tmp_path/'sprung').exists()
    for file, word in ((saved('l', mu=mu[:2], sigma=sigma[:2, :2]), "3 features for 'mean', got 2"),):
        pytest.raises(ValueError, me.real_stats, file, Mean()).match(word)
    pytest.raises(FileNotFoundError, me.real_stats, tmp_path/'nowhere.npz', Mean()).match('VIRTUAL_imagenet64')
    pytest.raises(ValueError, me.real_stats, full, 'digits').match('must hold finite mu')        # images of another shape than the judge's


def test_importing_costs_no_torch_fidelity():
    import subprocess, sys
    code = "import cfg_edu.judges, cfg_edu.metrics, sys; assert 'torch_fidelity' not in sys.modules"
    subprocess.run([sys.executable, '-c', code], check=True)
