"Judges at their edges: training that repeats, weights that are kept or refused, and Inception without its weights."
import hashlib, io, math, os, socket
from contextlib import redirect_stdout
from pathlib import Path
import numpy as np, pytest, torch
from torch import nn
from torch.nn import functional as F
from cfg_edu import glyphs, judges as ju, metrics as me
from cfg_edu.data import digits, to_unit
from cfg_edu.glyphs import draw_glyphs

fonts = pytest.mark.skipif(not os.path.exists(f'{glyphs._ttf}/cmti10.ttf'), reason='this matplotlib lacks a font')


class Small(ju.GlyphsJudge):
    name, shape = 'small', (3, 16, 16)
    recipe = dict(n=1000, n_epochs=2, bs=64, lr=6e-3, width=32, seed=0)


@pytest.fixture(scope='module')
def few():
    x, y = digits('train')
    return x[:300], y[:300]


# --- training

def test_fit_judge_repeats_and_leaves_no_trace(few):
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    one = ju.fit_judge(*few, n_epochs=1)
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == threads
    torch.rand(7)                                                                   # another global state, the same judge
    with torch.inference_mode(): two = ju.fit_judge(*few, n_epochs=1)
    for k, v in one.state_dict().items(): torch.testing.assert_close(v, two.state_dict()[k], rtol=0, atol=1e-6)
    other = ju.fit_judge(*few, n_epochs=1, seed=1)
    assert not torch.equal(one['cnn'][-1].weight, other['cnn'][-1].weight)
    assert not any(p.requires_grad for p in one.parameters()) and not one['cnn'].training


def test_fit_judge_gives_threads_back_after_an_error(few, monkeypatch):
    def stop(*args): raise KeyboardInterrupt
    monkeypatch.setattr(ju, '_train', stop)
    threads = torch.get_num_threads()
    pytest.raises(KeyboardInterrupt, ju.fit_judge, *few)
    assert torch.get_num_threads() == threads and not torch.is_inference_mode_enabled()


@pytest.mark.parametrize('kw, word', [
    (dict(x=torch.zeros(300, 8, 8)), 'x must be finite float images'), (dict(x=torch.full((300, 1, 8, 8), math.nan)), 'x must be finite'), (dict(x=torch.zeros(300, 1, 8, 8).long()), 'x must be finite'),
    (dict(y=torch.zeros(299).long()), 'y must be 300 int64'), (dict(y=torch.zeros(300).long()), 'y must be'), (dict(y=torch.arange(300) % 3 + 1), 'y must be'), (dict(y=(torch.arange(300) % 3).float()), 'y must be'),
    (dict(n_epochs=0), 'n_epochs, lr and bs'), (dict(bs=301), 'bs ≤ 300'), (dict(lr=math.inf), 'must be positive'), (dict(lr=0.), 'must be positive')])
def test_fit_judge_refuses(few, kw, word):
    with pytest.raises(ValueError, match=word): ju.fit_judge(**{**dict(x=few[0], y=few[1]), **kw})


@fonts
@pytest.mark.parametrize('kw, word', [(dict(size=28), 'size must be 16, 32 or 64'), (dict(n=9), 'n must be ≥ 10'), (dict(width=12), 'multiple of 8'), (dict(n=20), 'bs ≤ 20'), (dict(n=200, lr=0.), 'lr')])
def test_fit_glyphs_refuses(kw, word):
    with pytest.raises(ValueError, match=word): ju.fit_glyphs(**kw)


def test_architectures():
    def widths(net): return [(m.out_channels, m.stride[0]) for m in net if isinstance(m, nn.Conv2d)]
    assert widths(ju.judge_cnn()) == [(32, 1), (64, 2), (64, 1)]
    assert widths(ju.judge_cnn(3, 62, 128, (2, 2, 2, 1))) == [(32, 2), (64, 2), (128, 2), (128, 1)]
    for size in (16, 32, 64): assert ju._glyph_nets(size, 128)['cnn'][:-1](torch.zeros(2, 3, size, size)).shape == (2, 128)


def test_shift():
    dot = -torch.ones(400, 1, 5, 5)
    dot[:,:,2,2] = 1
    assert ((ju._shift(dot) == 1).flatten(1).sum(1) == 1).all()                     # moved, never lost
    where = (ju._shift(dot, p=1) == 1).float().mean((0, 1))
    assert (where > 0).sum() == 9 and where[1:4,1:4].min() > .05                    # nine places, about equally often
    assert torch.equal(ju._shift(dot, p=0), dot)


def test_temperature():
    g = torch.Generator().manual_seed(0)
    logits, y = torch.randn(500, 5, generator=g, dtype=torch.float64), torch.randint(0, 5, (500,), generator=g)
    y = torch.where(torch.rand(500, generator=g) < .6, logits.argmax(1), y)
    T = ju.temperature(logits, y)
    slope = torch.autograd.functional.jacobian(lambda b: F.cross_entropy(b*logits, y), torch.tensor(1/T).double())
    assert abs(slope) < 1e-7                                                        # the minimum of a convex function
    for s in (1e-3, 1e3): assert ju.temperature(s*logits, y) == pytest.approx(s*T, rel=1e-6)
    pytest.raises(ValueError, ju.temperature, 100*torch.eye(8), torch.arange(8)).match('must be wrong on some of the 8')


# --- weights that are kept

def test_the_digits_judge_is_trained_once(tmp_path, monkeypatch):
    monkeypatch.setenv('CFG_EDU_CACHE', str(tmp_path))
    fits, fit = [], ju.fit_judge
    monkeypatch.setattr(ju, 'fit_judge', lambda x, y, **kw: fits.append(kw) or fit(x, y, **{**kw, 'n_epochs': 1}))
    before = torch.get_rng_state()
    a, b = ju.DigitsJudge(), ju.DigitsJudge()
    assert fits == [dict(n_epochs=40, bs=96, lr=3e-3, C=.05, seed=0)] and a.id == b.id
    assert torch.equal(torch.get_rng_state(), before)
    name, = (o.name for o in tmp_path.glob('*.safetensors'))
    recent = tuple(map(int, torch.__version__.split('.')[:2])) >= (2, 11)
    assert name == 'digits-judge-9295ec6ea0c26ce8.safetensors' or name[:13] == 'digits-judge-' and not recent   # the name that it has had


def test_the_digits_judge():
    x, y = digits('valid')
    judge, f = ju.get_judge('digits'), None
    seen = judge(x)
    levels = judge.look(torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8))
    assert torch.equal(levels.unique(), torch.arange(17)/8 - 1)
    assert (seen['verdict'] == y).float().mean() > .985 and (seen['isc'].argmax(1) == y).float().mean() > .93
    with torch.no_grad():
        f = judge.cnn[:-1](judge.look(me.to_uint8(x)))
        logits = judge.soft(judge.look(me.to_uint8(x)).flatten(1))
    torch.testing.assert_close(seen['fid'], f.double()); torch.testing.assert_close(seen['prc'], f.double())
    torch.testing.assert_close(seen['isc'], logits.double())
    assert torch.equal(seen['verdict'], judge.cnn[-1](f).argmax(1))
    judge.train()
    assert torch.equal(judge(x)['fid'], seen['fid'])                                # a judge never trains again


def test_the_mnist_judge(tmp_path, mnist, monkeypatch):
    monkeypatch.setenv('CFG_EDU_CACHE', str(tmp_path/'kept'))
    monkeypatch.setattr(ju.MnistJudge, 'recipe', dict(n_epochs=12, bs=20, lr=1e-2, seed=0))
    path, big, y = mnist
    said, before = io.StringIO(), torch.get_rng_state()
    with redirect_stdout(said): judge, again = ju.get_judge('mnist', path), ju.MnistJudge(path)
    assert said.getvalue().count('training a judge for MNIST') == 1 and judge.id == again.id and torch.equal(torch.get_rng_state(), before)
    seen = judge(big[:240,None])
    assert {k: tuple(v.shape) for k, v in seen.items()} == dict(fid=(240, 128), isc=(240, 10), prc=(240, 128), verdict=(240,))
    assert (seen['verdict'][:200] == y[:200]).float().mean() > .95 and (seen['verdict'][200:] == y[200:240]).float().mean() > .6
    with pytest.raises(ValueError, match="path must be None for judge 'digits', which is trained here"): ju.get_judge('digits', path)


@fonts
def test_a_glyphs_judge(tmp_path, monkeypatch):
    monkeypatch.setenv('CFG_EDU_CACHE', str(tmp_path))
    before, said = torch.get_rng_state(), io.StringIO()
    with redirect_stdout(said), torch.inference_mode(): small, again = Small(), Small()
    assert said.getvalue().count('training a judge for glyphs at 16×16') == 1       # once, then kept
    assert torch.equal(torch.get_rng_state(), before) and again.id == small.id
    u, y = draw_glyphs(300, 16, seed=1)
    seen = small(u)
    assert {k: tuple(v.shape) for k, v in seen.items()} == dict(fid=(300, 32), isc=(300, 62), prc=(300, 32), verdict=(300,))
    for a, b in zip(small(to_unit(u)).values(), seen.values()): assert torch.equal(a, b)
    soft = small.soft(F.interpolate(to_unit(u), 8, mode='area'))                    # from afar: 8×8 is all that it sees
    torch.testing.assert_close(seen['isc'], soft.double(), rtol=0, atol=1e-4)
    assert me.evaluate(u[:150], u[150:], y[:150], judge=small)['agreement'] == pytest.approx((seen['verdict'][:150] == y[:150]).double().mean().item())
    pytest.raises(ValueError, small, torch.zeros(2, 1, 16, 16)).match(r"'small' looks at images \(n, 3, 16, 16\)")


def test_by_name(monkeypatch):
    assert list(me.judges) == ['digits', 'mnist', 'glyphs16', 'glyphs32', 'glyphs64', 'inception'] and ju.judges is me.judges
    assert all(o.name == name for name, o in me.judges.items())
    assert [me.judges[f'glyphs{s}'].shape for s in (16, 32, 64)] == [(3, s, s) for s in (16, 32, 64)] and me.judges['inception'].shape is None
    assert ju.get_judge('digits') is ju.get_judge('digits') is ju.get_judge(ju.DigitsJudge)
    pytest.raises(ValueError, ju.get_judge, 'moon').match('judge must be one of digits, mnist, glyphs16')
    pytest.raises(ValueError, ju.get_judge, 'digits', 'x.pth').match('path must be None')
    class Mine(ju.CNNJudge):
        name, shape = 'mine', (1, 4, 4)
        def __init__(self): super().__init__(dict(cnn=ju.judge_cnn(1, 3, 8), soft=nn.Linear(16, 3)))
    monkeypatch.setitem(me.judges, 'mine', Mine)                                    # an entry, and it is known
    x = torch.rand(40, 1, 4, 4)*2 - 1
    assert me.evaluate(x, x, torch.zeros(40), judge='mine')['fid'] == pytest.approx(0, abs=1e-6)


# --- Inception, with random weights in the form of the real file

@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    from unittest.mock import patch
    import torch_fidelity.feature_extractor_inceptionv3 as lib
    path = tmp_path_factory.mktemp('inception')/'inception.pth'
    with patch.object(lib, 'load_state_dict_from_url', lambda *a, **k: {}), patch.object(lib.FeatureExtractorInceptionV3, 'load_state_dict', lambda self, sd: None):
        torch.manual_seed(0)
        net = lib.FeatureExtractorInceptionV3('inception', ['2048'])
        for m in net.modules():
            if isinstance(m, nn.Conv2d): nn.init.kaiming_normal_(m.weight)          # PyTorch's own start would fade over 94 layers
    torch.save(net.state_dict(), path)
    return path


@pytest.fixture
def offline(monkeypatch):
    def used(*args, **kwargs): raise AssertionError('the network was used')
    monkeypatch.setattr(socket, 'socket', used)


@pytest.mark.slow
def test_inception_is_the_librarys(weights, offline):
    from torch_fidelity import calculate_metrics
    class Pictures(torch.utils.data.Dataset):
        def __init__(self, u): self.u = u
        def __len__(self): return len(self.u)
        def __getitem__(self, i): return self.u[i]
    judge, (u, _) = ju.get_judge('inception', weights), draw_glyphs(40, 64, seed=5)
    whole = calculate_metrics(input1=Pictures(u[:20]), input2=Pictures(u[20:]), feature_extractor='inception-v3-compat', feature_extractor_weights_path=str(weights), fid=True, isc=True, prc=True,
                              cuda=False, cache=False, save_cpu_ram=True, verbose=False)
    ours = me.evaluate(u[:20], u[20:], judge=judge)
    assert ours['fid'] == pytest.approx(whole['frechet_inception_distance'], rel=1e-4) and ours['isc'] == pytest.approx(whole['inception_score_mean'], abs=1e-3)
    assert (ours['precision'], ours['recall']) == (whole['precision'], whole['recall'])


def test_inception(weights, offline, tmp_path):
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
    assert ju.InceptionJudge.url == URL_INCEPTION_V3
    judge = ju.get_judge('inception', weights)
    assert judge.layers == dict(fid='2048', isc='logits_unbiased', prc='2048') and judge is ju.get_judge('inception', weights)
    grey = me.to_uint8(digits()[0][:2])
    one, three = judge(grey), judge(grey.repeat(1, 3, 1, 1))
    assert one['fid'].shape == (2, 2048) and one['isc'].shape == (2, 1008) and torch.equal(one['fid'], three['fid'])
    np.savez(tmp_path/'bare.npz', mu=np.zeros(64), sigma=np.eye(64))
    pytest.raises(ValueError, me.real_stats, tmp_path/'bare.npz', judge).match("2048 features for 'inception', got 64")


def test_weights_that_are_none(weights, offline, tmp_path):
    class Trap:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'sprung'),)
    (tmp_path/'short').write_bytes(weights.read_bytes()[:10**6])
    torch.save(dict(a=torch.ones(3)), tmp_path/'other')
    torch.save(Trap(), tmp_path/'trap')
    (tmp_path/'empty').write_bytes(b'')
    for name in ('short', 'other', 'trap', 'empty'):
        with pytest.raises(ValueError, match=f"{tmp_path/name} holds no weights of judge 'inception' .*: delete it, fetch https://"): ju.InceptionJudge(tmp_path/name)
    assert not (tmp_path/'sprung').exists()
    with pytest.raises(OSError, match='name the file as path'): ju.InceptionJudge('nowhere.pth')


def test_inceptions_weights_are_fetched_once_and_checked(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    url, kept, asked = ju.InceptionJudge.url, tmp_path/'checkpoints'/Path(ju.InceptionJudge.url).name, []
    def no_network(*args): raise OSError('no network')
    monkeypatch.setattr(torch.hub, 'download_url_to_file', no_network)
    with pytest.raises(OSError, match=r"no weights for judge 'inception' \(no network\)"): ju.InceptionJudge()
    def download(*args):
        asked.append(args)
        Path(args[1]).write_bytes(weights.read_bytes())
    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    with redirect_stdout(io.StringIO()) as said: ju.InceptionJudge()
    assert asked == [(url, str(kept), '6726825d')] and all(o in said.getvalue() for o in ('96 MB', url, str(kept)))   # said before
    with pytest.raises(ValueError, match='must begin with 6726825d'): ju.InceptionJudge()   # looked at again: not what the name promises
    first = hashlib.sha256(kept.read_bytes()).hexdigest()[:8]
    named = f'https://example.org/inception-{first}.pth'
    (tmp_path/'checkpoints'/Path(named).name).write_bytes(kept.read_bytes())
    class Mine(ju.InceptionJudge): url = named
    Mine()
    assert len(asked) == 1


def test_another_extractor_of_the_library(monkeypatch):
    from torch_fidelity import registry
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    class Corner(FeatureExtractorBase):
        def __init__(self, name, features_list, feature_extractor_weights_path=None): super().__init__(name, features_list)
        @staticmethod
        def get_provided_features_list(): return 'corner',
        def forward(self, u): return (u[:,:,0,0].float(),)
    monkeypatch.setitem(registry.FEATURE_EXTRACTORS_REGISTRY, 'corner', Corner)
    class CornerJudge(ju.InceptionJudge):
        name, extractor, url, layers = 'mine', 'corner', None, dict(fid='corner', isc='corner', prc='corner')
    u = torch.randint(0, 256, (20, 3, 4, 4)).to(torch.uint8)
    assert torch.equal(CornerJudge()(u)['fid'], u[:,:,0,0].double())
