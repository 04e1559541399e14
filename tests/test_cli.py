"The five commands: what they write, what they refuse before anything is written, and what stands in for what."
import json, pickle, shutil, subprocess, sys, warnings
from inspect import signature
from pathlib import Path
import matplotlib.pyplot as plt, numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file
from averages import Averages
from cfg_edu import cli, draws, jury, plan, training, upsampling
from cfg_edu.data import data_dls, digits, Rung, rungs
from cfg_edu.imagenet import imagenet_classes
from cfg_edu.judges import get_judge
from cfg_edu.metrics import judges
from cfg_edu.nets import net_for, presets
from cfg_edu.runs import read_rows, Run
from cfg_edu.sampling import sample

commands = cli.cfg_prepare, cli.cfg_train, cli.cfg_sample, cli.cfg_evaluate, cli.cfg_tradeoff


def refused(f, *words, kind=(ValueError, OSError)):
    with pytest.raises(kind) as e: f()
    assert all(w in str(e.value) for w in words), e.value


@pytest.fixture(scope='module')
def top(tmp_path_factory):
    "A folder with a run on points and one on digits"
    top = tmp_path_factory.mktemp('cli')
    cli.cfg_train('moons', out=top/'moons', steps=20, bs=64, lam_min=-5., lam_max=7.)
    cli.cfg_train('digits', out=top/'digits', steps=4, every=2)
    return top


@pytest.fixture
def here(tmp_path, monkeypatch):
    "An empty folder to be in, and two calls for each picture of a training"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, 'sample', lambda *args, **kw: sample(*args, **{**kw, 'n_steps': 2}))
    return tmp_path


# from the shell
def test_each_argument_has_its_help():
    for f in commands:
        from fastcore.docments import docments
        args, said = signature(f).parameters, docments(f)
        assert 'kwargs' not in args and all(said[k] for k in args), f.__name__


def test_options_of_the_shell():
    known = {f: vars(cli._parser(f).parse_args(['x']*(f in (cli.cfg_prepare, cli.cfg_sample, cli.cfg_evaluate)))) for f in commands}
    for f, own in known.items():
        defaults = {k: 'x' if o.default is o.empty else o.default for k, o in signature(f).parameters.items()}
        assert own == defaults and 'show this help' in cli._parser(f).format_help()
    own = cli._parser(cli.cfg_train).parse_args(['--p-uncond', '.3', '--lam_min=-5', '--lam-max', '7', '--compile', '--seed', '3', '--steps', '9'])
    assert (own.p_uncond, own.lam_min, own.lam_max, own.compile, own.recompute, own.seed, own.steps) == (.3, -5., 7., True, False, 3, 9)


@pytest.mark.parametrize('data, path', [('mnist', 'here'), ('fashion', 'here'), ('mnist', None)])
def test_mnist_s_judge_learns_from_the_same_folder(monkeypatch, data, path):
    "Where the data is MNIST itself; weights are for another judge"
    asked, dls = [], data_dls(torch.rand(40, 1, 28, 28)*2-1, torch.arange(40)%10, range(10), 8, device='cpu')
    monkeypatch.setattr(jury, 'get_judge', lambda *args: asked.append(args) or 1/0)
    with pytest.raises(ZeroDivisionError): jury.Jury(judge='mnist', path=path).meet(data, dls, (1, 28, 28))
    assert asked == [('mnist', path if data == 'mnist' else None)]
    with pytest.raises(ValueError, match="weights are for judge 'inception', 'mnist' learns from its data"):
        jury.Jury(judge='mnist', weights='x.pth').meet(data, dls, (1, 28, 28))
    assert len(asked) == 1


def test_a_sweep_s_floor_is_found_once(monkeypatch, tmp_path):
    "Of many images, for each n; a metric of one's own is asked anew"
    monkeypatch.setenv('CFG_EDU_CACHE', str(tmp_path))
    made, floor, (x, y) = [], jury.noise_floor, digits()
    x, y = x.repeat(3, 1, 1, 1)[:5200], y.repeat(3)[:5200]
    monkeypatch.setattr(jury, 'noise_floor', lambda *args, **kwargs: made.append(args[-1]) or floor(*args, **kwargs, n_draws=1))
    jury.noise_floor.__module__ = floor.__module__
    def ask(n, m=len(x)):
        j = jury.Jury(n=n)
        j.eye = jury.get_judge('digits')
        return j.chance(x[:m], y[:m], None)
    first = ask(100)
    assert ask(100) == first and list(first)[-1] == 'n' and {type(o) for o in first.values()} == {float, int} and made == [100]
    assert ask(120) != first and made == [100, 120]
    ask(100, 1000), ask(100, 1000)                                                      # few images: at once
    assert made == [100, 120, 100, 100]
    monkeypatch.setitem(jury.metrics, 'mine', lambda seen, ref: float(len(made)))
    assert (ask(100)['mine'], ask(100)['mine']) == (5., 6.)


def test_a_judge_that_is_none():
    with pytest.raises(ValueError, match="judge must be .* a subclass of Judge, got 'cfg_edu.metrics.evaluate', which is a function"):
        jury.Jury(judge='cfg_edu.metrics.evaluate').meet('digits', None, (1, 8, 8))
    assert 'cfg_edu.metrics.evaluate' not in jury.judges


def test_help_needs_no_torch():
    said = subprocess.run([sys.executable, '-c', "import sys; from cfg_edu import cli; print(cli._parser(cli.cfg_tradeoff).format_help()); assert not {'torch', 'fastai', 'numpy'} & {*sys.modules}"], capture_output=True, text=True)
    assert not said.returncode and '--up-w' in said.stdout, said.stderr


def test_a_command_says_nothing_of_other_libraries(tmp_path):
    "Their warnings, as that of fastai's import, are not the reader's"
    run = cli.cfg_train('moons', out=tmp_path/'run', steps=2, bs=8)
    Path(tmp_path/'verb.py').write_text("from cfg_edu.cli import cfg_sample\nif __name__ == '__main__': cfg_sample()\n")
    said = subprocess.run([sys.executable, str(tmp_path/'verb.py'), str(run), '--n', '2', '--n-steps', '2', '--out', str(tmp_path/'s.npz')], capture_output=True, text=True)
    assert not said.returncode and not said.stderr.strip(), said.stderr



def test_a_wrong_argument_is_one_sentence(top, tmp_path):
    (tmp_path/'verb.py').write_text('from cfg_edu.cli import cfg_sample\nif __name__ == "__main__": cfg_sample()\n')
    call = [sys.executable, '-W', 'ignore', str(tmp_path/'verb.py'), str(top/'moons'), '--w', '-7']
    said = subprocess.run(call, capture_output=True, text=True)
    assert (said.returncode, said.stdout, len(said.stderr.splitlines())) == (1, '', 1), said.stderr
    assert said.stderr.startswith('cfg_sample: w must be finite and at least -1')


# bad input, before anything is written
bad_train = [
    (dict(data='digit'), 'data must be one of'), (dict(net='unet'), 'net must be one of'), (dict(steps=0), 'steps must be at least 1'), (dict(bs=5000), 'bs must lie in'),
    (dict(p_uncond=1.2), 'p_uncond'), (dict(lam_min=5., lam_max=-5.), 'lam_min'), (dict(lr=-1.), 'lr must be above 0'), (dict(lr=float('nan')), 'lr must be above 0'), (dict(decay=1.), 'decay'),
    (dict(predicts='noise'), 'predicts'), (dict(grad_clip=0.), 'grad_clip'), (dict(precision='fp8'), 'precision'), (dict(seed=-1), 'seed'), (dict(path='x'), 'path is for data'),
    (dict(net='mlp'), 'mlp takes'), (dict(bs=100, micro=64), 'bs must be a multiple of micro'), (dict(warmup=0), 'warmup'), (dict(every=0), 'every'), (dict(micro=0), 'micro'),
    (dict(init='dit'), 'init must be adm or the folder of a trained run'), (dict(init='adm', net='unet_digits'), "net must be 'adm64' with init 'adm'"), (dict(init='adm', predicts='v'), "predicts must be 'eps'"),
    (dict(weights='w.pt'), "weights 'w.pt' are for init adm"),
    (dict(init='adm', bs=8), "class 0 must be 'tench', the data has 0"), (dict(data='imagenet64'), 'path is needed'), (dict(data='imagenet64', path='none'), 'none')]

@pytest.mark.parametrize('kw, word', bad_train)
def test_train_refuses(here, kw, word):
    refused(lambda: cli.cfg_train(**{'out': 'nowhere', **kw}), word)
    assert not list(here.iterdir())


@pytest.mark.parametrize('kw, word', [
    (dict(w=-2.), 'w must'), (dict(w=float('nan')), 'w must'), (dict(y=3), 'y must lie in 0 … 2'), (dict(n=0), 'n must'), (dict(bs=0), 'bs must'), (dict(n_steps=1), 'n_steps'),
    (dict(sampler='euler'), 'sampler'), (dict(v=2.), 'v must'), (dict(out='a.png'), '.npz'), (dict(precision='fp8'), 'precision'), (dict(rule='gfc'), 'rule must'), (dict(run='nowhere'), 'cfg_train makes it'), (dict(net='unet_digits'), "net must be 'mlp', got 'unet_digits'"), (dict(y='1.5'), 'y must be a class'), (dict(y='cat'), 'y must be numbers')])
def test_sample_refuses(here, top, kw, word):
    refused(lambda: cli.cfg_sample(**{'run': top/'moons', **kw}), word)
    assert not list(here.iterdir()) and not list((top/'moons').glob('parts*'))


@pytest.mark.parametrize('kw, word', [
    (dict(ws='0,x'), 'ws must be numbers'), (dict(path='x'), 'path is for data'), (dict(ws='0,-3'), 'w must'), (dict(n=3), 'n must'), (dict(n_steps=0), 'n_steps'), (dict(judge='moon'), 'judge must be one of'), (dict(bs=0), 'bs must'),
    (dict(data='moons'), 'points'), (dict(judge='glyphs16'), 'looks at images'), (dict(seed=-1), 'seed must'), (dict(weights='none.pth'), 'none.pth'), (dict(stats='none.npz'), 'none.npz'), (dict(steps=0), 'steps')])
def test_tradeoff_refuses(here, kw, word):
    refused(lambda: cli.cfg_tradeoff(**{'out': 'nowhere', **kw}), word)
    assert not list(here.iterdir())


def test_evaluate_refuses(here, top):
    refused(lambda: cli.cfg_evaluate(top/'moons'), "'moons' is points")
    refused(lambda: cli.cfg_evaluate(top/'digits', data='moons'), "data must be 'digits'")
    refused(lambda: cli.cfg_evaluate(top/'digits', w=-3.), 'w must')
    cli.cfg_sample(top/'moons', n=4, n_steps=2, out='points.npz')
    refused(lambda: cli.cfg_evaluate('points.npz'), 'data must say')
    for arrays, word in [(dict(arr_0=np.zeros((20, 8, 8, 1))), 'uint8'), (dict(arr_0=np.zeros((20, 8), np.uint8)), 'uint8 images'), (dict(x=np.zeros(3)), 'arr_0'),
                         (dict(arr_0=np.zeros((20, 8, 8, 1), np.uint8), arr_1=np.zeros(7, int)), 'y must'), (dict(arr_0=np.zeros((5, 8, 8, 1), np.uint8)), '5')]:
        np.savez('bad.npz', **arrays)
        refused(lambda: cli.cfg_evaluate('bad.npz', data='digits'), word)
    np.savez('good.npz', arr_0=np.zeros((20, 8, 8, 1), np.uint8))
    for kw in (dict(n=20), dict(sampler='ddim'), dict(seed=1), dict(balanced=True), dict(n_steps=3, bs=5), dict(net='mlp')):
        refused(lambda: cli.cfg_evaluate('good.npz', data='digits', **kw), ' and '.join(sorted(kw)) + ' must be left out: good.npz holds the samples')
    refused(lambda: cli.cfg_evaluate('absent.npz', data='digits'), 'absent.npz', kind=FileNotFoundError)
    assert not (here/'evaluate.csv').exists()


# training
def test_a_run_again_changes_nothing(here, top):
    ask = dict(data='moons', out=top/'moons', steps=20, bs=64, lam_min=-5., lam_max=7.)
    before = {p: p.stat().st_mtime_ns for p in (top/'moons').rglob('*') if p.name != '.lock'}
    assert cli.cfg_train(**ask) == top/'moons'
    refused(lambda: cli.cfg_train(**{**ask, 'lr': 1e-3}), 'lr 0.004 there, 0.001 asked')
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_longer_run_starts_from_the_weights(here, top):
    "In a folder of its own, with the network of the first run; the start is recorded by its fingerprint"
    moons, first = dict(data='moons', bs=64, lam_min=-5., lam_max=7.), top/'moons'
    refused(lambda: cli.cfg_train(**moons, out=first, steps=40), 'steps 20 there, 40 asked', f'where init {str(first)!r} trains on from its weights')
    with pytest.raises(ValueError) as e: cli.cfg_train(**moons, out=first, steps=10)
    assert 'steps 20 there, 10 asked' in str(e.value) and 'trains on' not in str(e.value)
    still = cli.cfg_train(**moons, init=first, out='still', steps=1, lr=1e-30)
    ema, got = load_file(first/'ema.safetensors'), load_file(still/'model.safetensors')
    assert all(torch.equal(got[k], ema[k]) for k in ema) and len(ema) == len(got)
    on = dict(moons, init=str(first), out='on', steps=4, every=2)
    run = Run(cli.cfg_train(**on))
    assert run.config['init'] == draws.Sampling().of(Run(first)).id and (run.config['net'], run.config['predicts']) == ('mlp', 'v')
    assert cli.cfg_train(**on) == run.path                                          # trained already
    whole = load_file(run.path/'ema.safetensors')
    (run.path/'ema.safetensors').unlink()
    assert all(torch.equal(v, whole[k]) for k, v in load_file(cli.cfg_train(**on)/'ema.safetensors').items())
    refused(lambda: cli.cfg_train(**{**on, 'init': None}), 'init', 'there, None asked')
    refused(lambda: cli.cfg_train(**{**on, 'init': run.path}), 'init', 'asked')        # other weights
    for kw, word in ((dict(data='spirals', init=top/'digits'), 'was trained on other data: its shape and n_classes and classes differ'), (dict(data='pinwheel'), 'its n_classes and classes differ'), (dict(net='unet_digits'), "net must be 'mlp'"),
                     (dict(predicts='eps'), "predicts must be 'v'"), (dict(init=here), 'init must be adm or the folder of a trained run'), (dict(weights='w.pt'), 'weights')):
        refused(lambda: cli.cfg_train(**{**on, 'out': 'no', **kw}), word)
    assert not Path('no').exists()


def test_the_start_knows_its_classes_by_name(here, monkeypatch):
    x, y = digits()
    def rung(names): return Rung(lambda bs=8, seed=0, device=None: data_dls(x, y, names, bs, 360, seed=seed, device=device), 'unet_digits', 'digits')
    for k, names in dict(a='abcdefghij', b='abcdefghik').items(): monkeypatch.setitem(rungs, k, rung(names))
    cli.cfg_train('a', out='a', steps=1, bs=8)
    cli.cfg_train('a', out='a2', init='a', steps=1, bs=8)
    refused(lambda: cli.cfg_train('b', out='b', init='a', steps=1, bs=8), "init 'a' was trained on other data: its classes differ")


def test_the_start_s_own_network_is_typed_not_read(here):
    "A dotted path is followed where a user types it, not where a file says it"
    Path('net_of_test_cli.py').write_text('open("ran", "a").write("1")\nfrom cfg_edu.nets import MLP, Preset\nown = Preset(lambda n, shape, **kw: MLP(n, *shape, **kw), steps=2, bs=16, lr=1e-3, decay=.9)\n')
    cli.cfg_train('moons', out='first', net='net_of_test_cli.own')
    presets.pop('net_of_test_cli.own')
    refused(lambda: cli.cfg_train('moons', out='second', init='first'), "net must be given for init: 'net_of_test_cli.own'")
    assert len(Path('ran').read_text()) == 1
    cli.cfg_train('moons', out='second', init='first', net='net_of_test_cli.own')


def test_whole_epochs():
    e = lambda *args: tuple(plan.Plan.whole(*args).values())
    assert [e(o, None) for o in (1, 100, 101, 250, 300, 10_001)] == [(1, 1), (1, 100), (2, 102), (3, 252), (3, 300), (100, 10_100)]
    assert [e(*o) for o in ((10, 3), (540_000, 1000))] == [(4, 12), (540, 540_000)]


def test_what_a_large_network_needs(here):
    "16 bits, parts, warm-up, recomputation; how the work is cut up is not part of the configuration, what is computed is"
    large = dict(data='digits', out='large', steps=4, every=2, bs=32, warmup=3, precision='bf16')
    cli.cfg_train(**large, micro=8, recompute=True, channels_last=True)
    assert [r['step'] for r in Run('large').log] == [2, 4]
    assert {'micro', 'recompute', 'at_once', 'out', 'path'}.isdisjoint(Run('large').config)
    assert cli.cfg_train(**large, micro=16) == Path('large')
    refused(lambda: cli.cfg_train(**{**large, 'precision': 'fp32'}), "precision 'bf16' there, 'fp32' asked")


def test_vectors_can_be_trained(here):
    Path('told.py').write_text('''
import torch
from cfg_edu.data import data_dls, Rung
def make(bs=8, seed=0, device=None):
    x = torch.randn(100, 2, generator=torch.Generator().manual_seed(seed))
    return data_dls(x, x.norm(dim=1, keepdim=True), bs=bs, seed=seed, device=device)
rung = Rung(make, 'mlp', steps=3, bs=10)
''')
    run = Run(cli.cfg_train('told.rung', out='told'))
    assert (run.config['cond'], run.config['steps'], run.config['n_classes'], run.config['lr']) == ('vector', 3, 1, 4e-3)      # the rung's, then the network's
    assert run.model()(torch.zeros(2, 2), torch.zeros(2), torch.ones(2, 1)).shape == (2, 2)
    refused(lambda: cli.cfg_sample('told', n=2), 'y must be the numbers to tell')
    x, y = cli.cfg_sample('told', n=3, n_steps=2, y='.5')
    assert x.shape == (3, 2) and y.tolist() == [[.5]]*3 and np.load('told/samples_w1_y.5_seed0_n=3_n_steps=2.npz')['arr_1'].shape == (3, 1)
    assert Path('told/samples_w1_y.5_seed0_n=3_n_steps=2.png').exists()


def test_vectors_can_be_judged(here):
    Path('told2.py').write_text('''
import torch
from cfg_edu.data import data_dls, digits, Rung
def make(bs=8, seed=0, device=None):
    x, _ = digits()
    return data_dls(x, x.mean((1, 2, 3))[:,None], bs=bs, seed=seed, device=device)
rung = Rung(make, 'unet_digits', 'digits', steps=2, bs=10)
''')
    row, = cli.cfg_tradeoff('told2.rung', out='told', ws='0', n=20, n_steps=2)
    again = cli.cfg_evaluate('told', n=20, n_steps=2)
    refused(lambda: cli.cfg_evaluate('told', n=20, stats='s.npz'), 'stats must be None for a run that is told numbers')
    refused(lambda: cli.cfg_evaluate('told', n=20, balanced=True), 'balanced is for classes')
    assert row['n'] == 20 and 'agreement' not in row and again['fid'] == pytest.approx(row['fid'])     # asked for what the real ones were told


# sampling
def test_what_cfg_sample_writes(here, top):
    x, y = cli.cfg_sample(top/'moons', n=7, w=2., n_steps=3, y=1)
    name = 'samples_w2_y1_seed0_n=7_n_steps=3'
    with np.load(top/'moons'/f'{name}.npz') as f: assert (f['arr_0'] == x.numpy()).all() and f['arr_1'].tolist() == y.tolist() == [1]*7
    assert (top/'moons'/f'{name}.png').exists() and not list((top/'moons').glob('parts*'))
    x, y = cli.cfg_sample(top/'digits', n=12, n_steps=2, out='d.npz')
    with np.load('d.npz') as f: assert f['arr_0'].shape == (12, 8, 8, 1) and f['arr_0'].dtype == np.uint8 and f['arr_1'].tolist() == [*range(10), 0, 1]


def test_samplers_walk_the_schedule_that_was_trained(here, top, monkeypatch):
    seen = []
    def spy(model, shape, y, sampler, n_steps, **kw):
        seen.append([round(o, 3) for o in sampler.grid(n_steps)[[0, -1]].tolist()])
        return sample(model, shape, y, sampler, n_steps, **kw)
    monkeypatch.setattr(upsampling, 'sample', spy)
    for s in ('ancestral', 'ddim', 'dpmpp_2m_sde'): cli.cfg_sample(top/'moons', n=4, n_steps=4, sampler=s, out=f'{s}.npz')
    assert seen == [[-5., 7.], [-5., 7.], [-5., 6.]]


def test_everything_by_a_dotted_path(here, top):
    Path('mine_of_test_cli.py').write_text('''
import torch
from cfg_edu.data import digits_dls, Rung
from cfg_edu.guidance import CFG
from cfg_edu.metrics import Judge
from cfg_edu.nets import Preset, unet_digits
from cfg_edu.sampling import ddim
class Twice(CFG):
    def __init__(self, model, w): super().__init__(model, 2*w)
def quiet(v, sched): return ddim(sched=sched)
class Eye(Judge):
    name, layers = 'eye', dict(fid='f', isc='l', prc='f')
    def see(self, u): f = u.float().flatten(1); return dict(f=f[:,::8], l=f[:,:10]/99)
net = Preset(lambda n, shape, **kw: unet_digits(n, shape[0], **kw), steps=2, bs=16, lr=1e-3, decay=.9)
data = Rung(digits_dls, 'mine_of_test_cli.net', 'mine_of_test_cli.Eye', steps=1)
''')
    m = 'mine_of_test_cli.'
    a, _ = cli.cfg_sample(top/'digits', n=6, w=1., n_steps=3, sampler=m+'quiet', rule=m+'Twice', out='a.npz')
    b, _ = cli.cfg_sample(top/'digits', n=6, w=2., n_steps=3, sampler='ddim', out='b.npz')
    assert torch.equal(a, b)
    row, = cli.cfg_tradeoff(m+'data', out='mine', ws='0', n=20, n_steps=2)
    assert row['n'] == 20 and 'agreement' not in row
    told = json.loads(Path('mine/tradeoff.json').read_text())
    assert (told['judge'], Run('mine').config['net'], Run('mine').config['steps']) == (m+'Eye', m+'net', 1)


def test_no_two_settings_share_a_file(here, top):
    "The plain name is the defaults' own; each other setting stands in the name"
    run = Path(shutil.copytree(top/'moons', 'run', ignore=shutil.ignore_patterns('samples_*')))
    Path('rule_of_test_cli.py').write_text('from cfg_edu.guidance import CFG\nclass Own(CFG): pass\n')
    settings = [dict(), dict(w=0.), dict(w=.1), dict(w=.1+1e-9), dict(y='1'), dict(y=[0, 1]*50), dict(y=[1, 0]*50), dict(seed=1), dict(n=99), dict(n_steps=3), dict(sampler='ddim'), dict(v=.5), dict(precision='bf16'), dict(bs=40),
                dict(rule='rule_of_test_cli.Own'), dict(n=5, n_steps=50, sampler='ancestral')]
    for kw in settings: cli.cfg_sample(run, **kw)
    assert len(list(run.glob('samples*.npz'))) == len(settings) == len(list(run.glob('samples*.png')))
    assert {'samples_w1_seed0.npz', 'samples_w0.1_seed0.npz', 'samples_w1_y1_seed0.npz', 'samples_w1_seed0_n=5_sampler=ancestral_n_steps=50.npz'} <= {p.name for p in run.iterdir()}


def test_a_file_that_is_there_keeps_its_samples(here, top):
    cli.cfg_sample(top/'moons', n=4, out='a.npz')
    whole = Path('a.npz').read_bytes()
    again, _ = cli.cfg_sample(top/'moons', n=4, out='a.npz')                        # the same ones: made again
    assert np.load('a.npz')['arr_0'].tolist() == again.tolist()
    Path('b.png').write_bytes(b'a holiday')
    Path('c.npz').write_bytes(whole[:-60])
    np.savez('d.npz', arr_0=again.numpy(), arr_1=np.zeros(4))
    for out, kw, word in (('a', dict(w=2.), 'a.npz'), ('a', dict(sampler='ddim'), 'a.npz'), ('a', dict(seed=1), 'a.npz'), ('b', {}, 'b.png'), ('c', {}, 'c.npz'), ('d', {}, 'd.npz')):
        refused(lambda: cli.cfg_sample(top/'moons', out=f'{out}.npz', **{**dict(n=4), **kw}), f'out {word!r} is there with something else: give another, or remove it')
    assert Path('b.png').read_bytes() == b'a holiday' and not list(here.glob('parts*'))
    refused(lambda: cli.cfg_sample(top/'digits', n=4, out='a.npz'), 'a.npz')        # another network, the same words


@pytest.fixture(scope='module')
def hidden(top):
    "Runs that never saw a hidden label, and that saw no other"
    return {p: cli.cfg_train('moons', out=top/f'p{p}', steps=2, bs=64, p_uncond=float(p)) for p in (0, 1)}

@pytest.mark.parametrize('p, w, y, which', [(0, 2., None, 'without'), (0, -1., None, 'without'), (0, 0., '2', 'without'), (0, 0., None, None), (1, 0., None, 'with'), (1, 2., None, 'with'), (1, -1., None, None), (None, 2., '2', None)])
def test_guidance_that_was_never_trained(here, top, hidden, p, w, y, which):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        cli.cfg_sample(top/'moons' if p is None else hidden[p], n=4, n_steps=3, w=w, y=y, bs=2, out='s.npz')
    said = [str(o.message) for o in said if 'p_uncond' in str(o.message)]
    assert said == ([f'the run was trained with p_uncond {p}: its answer {which} y was never trained, and w = {w:g} uses it'] if which else [])


def test_a_sweep_of_what_was_never_trained(here):
    run = cli.cfg_train('digits', out='never', steps=2, bs=32, p_uncond=0.)
    for ask in (lambda ws: cli.cfg_tradeoff('digits', out=run, ws=ws, n=20, n_steps=2), lambda ws: cli.cfg_evaluate(run, w=float(ws.split(',')[-1]), n=20, n_steps=2)):
        with pytest.warns(UserWarning, match='p_uncond 0') as said: ask('0,1,2')
        assert sum('p_uncond' in str(o.message) for o in said) == 1
        with warnings.catch_warnings():
            warnings.filterwarnings('error', message='.*p_uncond')
            ask('0')


# judging
def skewed(x, y, shares, n, half, seed=0):
    "Real digits of one half, classes by their shares"
    g = torch.Generator().manual_seed(seed)
    pool = [((y == c).nonzero()[:, 0])[half::2] for c in range(10)]
    i = torch.cat([pool[c][torch.randint(len(pool[c]), (round(n*p),), generator=g)] for c, p in enumerate(shares)])
    i = i[torch.randperm(len(i), generator=g)]
    return x[i], y[i]


def test_a_perfect_model_of_skewed_data(here, monkeypatch):
    "It is asked for the classes as the data has them, and scores what real images do; asked for all equally often it is punished"
    x, y = digits()
    real = skewed(x, y, [.82]+[.02]*9, 1000, 0)
    monkeypatch.setitem(rungs, 'skewed', Rung(lambda bs=8, seed=0, device=None: data_dls(*real, range(10), bs, 100, seed=seed, device=device), 'unet_digits', 'digits'))
    cli.cfg_train('skewed', out='r', steps=1, bs=8)
    def perfect(self, i, bs, w, asked):
        pool = [((y == c).nonzero()[:, 0])[1::2] for c in range(10)]
        return torch.cat([x[pool[c][torch.randint(len(pool[c]), (1,))]] for c in asked[i:i+bs]])
    monkeypatch.setattr(draws.Sampling, 'batch', perfect)
    ask = dict(n=1000, n_steps=2)
    as_data, even = cli.cfg_evaluate('r', **ask), cli.cfg_evaluate('r', **ask, balanced=True)
    assert as_data['fid'] < 1 < 20 < even['fid'] and as_data['n'] == even['n'] == 1000
    assert [r['balanced'] for r in read_rows('r/evaluate.csv')] == [False, True]
    row, = cli.cfg_tradeoff('skewed', out='r', ws='0', **ask)
    assert row['fid'] < 1 and json.loads(Path('r/tradeoff.json').read_text())['balanced'] is False
    refused(lambda: cli.cfg_tradeoff('skewed', out='r', ws='0', **ask, balanced=True), 'balanced False there, True asked')


def test_statistics_tell_no_shares(here, top, capsys):
    seen = get_judge('digits')(digits()[0])['fid']
    np.savez('stats.npz', mu=seen.mean(0), sigma=seen.T.cov())
    run = shutil.copytree(top/'digits', 'run')
    for ask in (lambda **kw: cli.cfg_evaluate(run, stats='stats.npz', n=20, n_steps=2, **kw), lambda **kw: cli.cfg_tradeoff('digits', out=run, stats='stats.npz', n=20, n_steps=2, ws='0', **kw)):
        ask()
        assert 'all classes are asked for equally often: stats tell no shares' in capsys.readouterr().out
    assert [r['balanced'] for r in read_rows(Path(run)/'evaluate.csv')] == [True]
    refused(lambda: cli.cfg_evaluate(run, stats='stats.npz', path='x'), 'path must be left out')


def test_a_sweep_of_an_earlier_version(here):
    "It asked for all classes equally often, and did not say so"
    cli.cfg_tradeoff(out='old', ws='0', balanced=True, **tiny)
    d = json.loads(Path('old/tradeoff.json').read_text())
    assert d.pop('balanced') is True
    Path('old/tradeoff.json').write_text(json.dumps(d))
    c = json.loads(Path('old/config.json').read_text())
    del c['classes']
    Path('old/config.json').write_text(json.dumps(c))
    assert len(cli.cfg_tradeoff(out='old', ws='0,1', balanced=True, **tiny)) == 2 == len(cli.cfg_tradeoff(out=cli.cfg_train(out='old', steps=4), ws='0', balanced=True, **tiny))
    refused(lambda: cli.cfg_tradeoff(out='old', ws='0', **tiny), 'balanced True there, False asked')


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 400), st.lists(st.integers(0, 10**6), min_size=1, max_size=12).filter(any))
def test_in_turn(n, counts):
    y, c, total = jury.in_turn(n, torch.tensor(counts)), len(counts), sum(counts)
    many = y.bincount(minlength=c).tolist()
    assert len(y) == n and all(abs(k-n*o/total) < 1 for k, o in zip(many, counts))
    each = min(k for k in many if k)                                                # so long they are all in turn
    asked = [k for k in range(c) if many[k]]
    assert y[:each*len(asked)].tolist() == asked*each
    assert jury.in_turn(n, torch.full((c,), 7)).tolist() == [i%c for i in range(n)]


tiny = dict(steps=4, n=30, n_steps=2)

def test_a_sweep_goes_on(here):
    first = cli.cfg_tradeoff(out='d', ws='0,2,0', **tiny)
    assert [r['w'] for r in first] == [0, 2] and Path('d/tradeoff.csv').read_text().splitlines()[0] == 'w,fid,isc,precision,recall,agreement,n'
    stamp = Path('d/grid_w0.png').stat().st_mtime_ns
    more = cli.cfg_tradeoff(out='d', ws='0,1,2', **tiny)
    assert [r['w'] for r in more] == [0, 1, 2] and Path('d/grid_w0.png').stat().st_mtime_ns == stamp
    assert [more[0], more[2]] == first == [read_rows('d/tradeoff.csv')[i] for i in (0, 2)]
    refused(lambda: cli.cfg_tradeoff(out='d', ws='0', **{**tiny, 'n': 40}), 'n 30 there, 40 asked')
    refused(lambda: cli.cfg_tradeoff(out='d', ws='0', **{**tiny, 'steps': 9}), 'steps 4 there, 9 asked')
    refused(lambda: cli.cfg_tradeoff('mnist', out='d', ws='0', n=30), "data 'digits' there, 'mnist' asked")
    row = cli.cfg_evaluate('d', n=30, n_steps=2, w=2., bs=30)
    assert row['fid'] == pytest.approx(first[1]['fid'], rel=1e-3) and row['precision'] == first[1]['precision']
    kept, = read_rows('d/evaluate.csv')
    assert (kept['precision'], kept['bits'], kept['sampler']) == (row['precision'], 'fp32', 'dpmpp_2m_sde')
    assert {f'grid_w{w}.png' for w in (0, 1, 2)} | {'tradeoff.png', 'tradeoff.json'} <= {p.name for p in Path('d').iterdir()}


def test_a_sweep_knows_its_rounded_steps(here):
    cli.cfg_train(out='odd', steps=3, every=2, bs=8)
    assert len(cli.cfg_tradeoff(out='odd', steps=3, ws='0', n=20, n_steps=2)) == 1


def test_files_and_statistics_stand_in(here, top):
    x, y = cli.cfg_sample(top/'digits', n=60, w=2., n_steps=2, out='s.npz')
    row, stored = cli.cfg_evaluate(top/'digits', n=60, w=2., n_steps=2), cli.cfg_evaluate('s.npz', data='digits')
    seen = get_judge('digits')(torch.cat([o[0] for o in (digits('train'), digits('valid'))]))['fid']
    np.savez('stats.npz', mu=seen.mean(0), sigma=seen.T.cov())
    by_stats = cli.cfg_evaluate('s.npz', data='digits', stats='stats.npz')
    for k in ('fid', 'isc', 'agreement'): assert stored[k] == pytest.approx(row[k], rel=1e-3) and by_stats[k] == pytest.approx(row[k], rel=1e-3)
    assert 'recall' in stored and 'recall' not in by_stats
    assert [r['samples'] for r in read_rows('evaluate.csv')] == ['s.npz']*2


# data from elsewhere
def test_imagenet_s_form(here, monkeypatch):
    monkeypatch.setitem(judges, 'averages', Averages)
    rng, archive = np.random.default_rng(0), Path('archive')
    archive.mkdir()
    for name in [f'train_data_batch_{i}' for i in range(1, 11)] + ['val_data']:
        images = dict(data=rng.integers(0, 256, (4, 12288), dtype=np.uint8), labels=rng.integers(1, 1001, 4).tolist(), mean=np.zeros(12288))
        with open(archive/name, 'wb') as f: pickle.dump(images, f)
    i64 = dict(data='imagenet64', path=cli.cfg_prepare(archive, out='cache64'), out='i64')
    monkeypatch.setattr(plan, 'SampleGrid', lambda every, **kw: training.SampleGrid(every, n=1, **kw))
    cli.cfg_train(**i64, net='unet_small', steps=1, bs=4, micro=2)
    rows = cli.cfg_tradeoff(**i64, judge='averages', ws='0,0.1,0.15', n=12, n_steps=2)
    assert [(r['w'], r.get('paper_fid'), r.get('paper_isc')) for r in rows] == [(0, 1.8, 53.71), (.1, 1.55, 66.11), (.15, None, None)]
    assert len(cli.cfg_tradeoff(**i64, judge='averages', ws='0', n=12, n_steps=2)) == 3


def test_your_own_pictures(here, monkeypatch):
    monkeypatch.setitem(judges, 'averages', Averages)
    for i, (x, y) in enumerate(zip(*digits())):
        if i < 60:
            f = Path(f'own/{y%3}/{i}.png')
            f.parent.mkdir(parents=True, exist_ok=True)
            plt.imsave(f, x[0].numpy(), cmap='gray')
    own = dict(data='images', path=cli.cfg_prepare('own', out='own8', size=8))
    cli.cfg_train(**own, steps=1, bs=4)
    c = Run('runs/images').config
    assert (c['net'], c['shape'], c['n_classes']) == ('unet_small', [3, 8, 8], 3)
    assert len(cli.cfg_tradeoff(**own, judge='averages', ws='0', n=12, n_steps=2)) == 1
    refused(lambda: cli.cfg_train(data='images'), 'path is needed')


class Loaders:
    "What a plan's network asks of loaders of ImageNet"
    vocab, c = imagenet_classes()[1], 1000
    class train_ds: tensors, fingerprint = (torch.zeros(2, 3, 64, 64), torch.zeros(2)), 'f'

def test_from_adm_s_weights(here):
    with torch.device('meta'): names = {k: t.shape for k, t in net_for('adm64', 1000, (3, 64, 64), out_channels=6).state_dict().items()}
    torch.save({k: torch.full((1,), .01).expand(s) for k, s in names.items()}, 'adm.pt')
    s = plan.Plan(data='imagenet64', init='adm', weights='adm.pt', bs=8, micro=4, out='tuned')
    assert (s.net, s.predicts, s.warmup, s.at_once, s.steps) == ('adm64', 'eps', 1000, 4, 540_000)
    net, config = s.network(Loaders)
    assert (config['clock'], config['n_classes']) == ('adm', 1000) and all(p.requires_grad and (p == .01).all() for p in net.parameters())
    del net
    Path('adm.pt').unlink()
    refused(lambda: s.network(Loaders), 'adm.pt')
    for vocab, word in ((imagenet_classes('archive')[1], "class 0 must be 'tench', the data has 'kit fox'"), (Loaders.vocab[:999], "class 999 must be 'toilet tissue', the data has None")):
        refused(lambda: s.adm(vocab), word)
