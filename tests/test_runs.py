"A run folder, stopped and damaged in every way: it continues bit for bit, or says which file is wrong."
import json, os, shutil, subprocess, sys, warnings
from pathlib import Path
import numpy as np, pytest, torch
from fastai.callback.core import Callback
from fastai.callback.training import GradientAccumulation
from safetensors.torch import load_file, save_file
from cfg_edu import cli, draws, runs, upsampling
from cfg_edu.data import rungs, toy_dls
from cfg_edu.guidance import CFG, rules
from cfg_edu.conditions import Vector
from cfg_edu.nets import MLP, presets
from cfg_edu.doors import find, need, numbers
from cfg_edu.draws import Sampling
from cfg_edu.runs import alone, Checkpoint, first, read_rows, Run, write_rows
from cfg_edu.sampling import sample
from cfg_edu.training import diffusion_learner


def refused(f, *words, kind=ValueError):
    with pytest.raises(kind) as e: f()
    assert all(w in str(e.value) for w in words), e.value


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "A small run on points"
    return cli.cfg_train('moons', out=tmp_path_factory.mktemp('runs')/'moons', steps=20, bs=128, every=10)


@pytest.fixture
def run(trained, tmp_path): return Run(shutil.copytree(trained, tmp_path/'run'))


# names and doors
def test_find(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('mine_of_test_runs.py').write_text('from cfg_edu.guidance import CFG\nclass Mine(CFG): pass\nx = 3\n')
    table = dict(rules)
    assert find(table, 'cfg', 'rule') is CFG
    mine = find(table, 'mine_of_test_runs.Mine', 'rule')
    assert issubclass(mine, CFG) and table['mine_of_test_runs.Mine'] is mine
    for bad in ('cgf', 'mine_of_test_runs', 'mine_of_test_runs.Other', 'mine_of_test_runs.x', 'nowhere.Rule', 'os', '..', 'a b.c'):
        refused(lambda: find(table, bad, 'rule'), 'rule must be one of cfg', repr(bad))
    refused(lambda: find(dict(rungs), 'os.getcwd', 'data'), 'data must be one of', "'os.getcwd'")
    assert set(table) == {*rules, 'mine_of_test_runs.Mine'}


def test_a_configuration_imports_nothing(run, tmp_path, monkeypatch):
    "A dotted path is followed where a user types it, and not where a file says it"
    monkeypatch.chdir(tmp_path)
    Path('evil_of_test_runs.py').write_text('open("ran", "w")\n')
    d = json.loads((run.path/'config.json').read_text())
    (run.path/'config.json').write_text(json.dumps(dict(d, net='evil_of_test_runs.x')))
    refused(run.model, 'config.json', 'evil_of_test_runs.x')
    assert not Path('ran').exists()


def test_numbers():
    assert numbers('1', 'y') == [1] and numbers(' .5,-1 ,1e3', 'y') == [.5, -1, 1e3] and type(numbers('1', 'y')[0]) is int
    for bad in ('', 'nan', '1;2', '(1,2)', 'True', '"a"', '1,,2', '[1]', 'x(1)'):
        refused(lambda: numbers(bad, 'ws'), 'ws must be numbers separated by commas', repr(bad))


def test_need():
    need(True, 'x')
    refused(lambda: need(0, 'said'), 'said')


# tables
def test_tables_keep_every_bit(tmp_path):
    rows = [dict(w=0., fid=1/3, judge='digits'), dict(w=.1, fid=2e-17, n=200)]
    write_rows(tmp_path/'t.csv', rows)
    assert read_rows(tmp_path/'t.csv') == rows
    many = [dict(w=300*o, n=30, ok=o > .5, judge='digits') for o in np.random.default_rng(0).random(2000).tolist()]
    write_rows(tmp_path/'many.csv', many)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert read_rows(tmp_path/'many.csv') == many                               # to the last bit, whatever the version of pandas


@pytest.mark.parametrize('body', [b'', b'a,b\n1,2,3\n4,5,6,7\n', b'a\n\xff\n'])
def test_a_damaged_table(tmp_path, body):
    (tmp_path/'t.csv').write_bytes(body)
    refused(lambda: read_rows(tmp_path/'t.csv'), 't.csv is damaged')


# the folder
def test_what_a_run_knows(run):
    assert run.begun and run.finished and not Run(run.path/'none').begun
    assert (run.config['net'], run.config['steps'], run.config['n_classes']) == ('mlp', 20, 2)
    assert [r['step'] for r in run.log] == [10, 20] and set(run.log[0]) == {'epoch', 'step', 'train_loss', 'valid_loss'}
    ema, last, hub = run.model(), run.model('model'), MLP.from_pretrained(run.path)
    assert not any(p.requires_grad for p in ema.parameters()) and not ema.training
    for a, b in zip(last.net.parameters(), hub.parameters()): assert torch.equal(a, b)
    assert any((a != b).any() for a, b in zip(ema.parameters(), last.parameters()))


def test_a_folder_is_claimed_once(tmp_path):
    run = Run(tmp_path)
    run.claim(dict(lr=1., path=None))
    run.claim(dict(lr=1., path=None))
    assert set(run.config) == {'lr', 'path', 'versions'} and {'python', 'torch', 'fastai', 'numpy'} == set(run.config['versions'])
    refused(lambda: run.claim(dict(lr=2.), what='a sweep'), 'holds a sweep', 'lr 1.0 there, 2.0 asked')
    refused(lambda: run.claim(dict(steps=3)), 'steps None there, 3 asked')


def test_a_folder_of_an_earlier_version(run):
    "They had a checksum in the configuration, `reference` for `stats`, no rules, and in the checkpoint what the rows say too"
    old = json.loads((run.path/'config.json').read_text())
    (run.path/'config.json').write_text(json.dumps({**old, 'sum': 'x'}))
    run.claim({k: v for k, v in old.items() if k != 'versions'})
    (run.path/'tradeoff.json').write_text(json.dumps(dict(n=9, reference='s.npz')))
    run.claim(dict(n=9, rule='cfg', stats='s.npz'), 'tradeoff.json')
    refused(lambda: run.claim(dict(n=9, rule='other', stats='s.npz'), 'tradeoff.json'), "rule 'cfg' there, 'other' asked")
    whole = load_file(run.path/'ema.safetensors')
    s = torch.load(run.path/'last.ckpt', weights_only=True)
    torch.save(dict(s, epochs=2, iters=20, scaler={}), run.path/'last.ckpt')
    (run.path/'ema.safetensors').unlink()
    cli.cfg_train('moons', out=run.path, steps=20, bs=128, every=10)
    again = load_file(run.path/'ema.safetensors')
    assert all(torch.equal(again[k], whole[k]) for k in whole)


@pytest.mark.parametrize('body', ['', '{', '[]', '[1]', '['*10**5, '\udcff'])
def test_a_damaged_configuration(run, body):
    (run.path/'config.json').write_text(body, errors='surrogateescape')
    refused(run.model, 'config.json is damaged')
    refused(lambda: cli.cfg_train('moons', out=run.path), 'config.json is damaged')


@pytest.mark.parametrize('wrong', [dict(n_classes=10**9), dict(net='none'), dict(predicts='score'), dict(shape=[3]), dict(shape=7), dict(net=None)])
def test_a_configuration_that_does_not_fit(run, wrong):
    d = json.loads((run.path/'config.json').read_text())
    (run.path/'config.json').write_text(json.dumps({**d, **wrong}))
    refused(run.model, 'ema.safetensors is damaged, or config.json')


def test_damaged_weights(run):
    f = run.path/'ema.safetensors'
    whole = f.read_bytes()
    f.write_bytes(whole[:-9])
    refused(run.model, 'ema.safetensors is damaged')
    f.write_bytes(whole[:-99] + bytes([whole[-99] ^ 4]) + whole[-98:])
    refused(run.model, 'ema.safetensors is damaged', 'a number in it has changed')
    f.write_bytes(whole)
    save_file(load_file(f), f)                              # of someone who keeps no fingerprint
    run.model()
    f.unlink()
    refused(run.model, 'has no ema.safetensors: cfg_train makes it')


def test_two_in_one_folder(tmp_path):
    with alone(tmp_path):
        refused(lambda: alone(tmp_path).__enter__(), 'another process works in')
        refused(lambda: cli.cfg_train('moons', out=tmp_path, steps=1, bs=8), 'another process works in')
    with alone(tmp_path): pass


# exact continuation
class Stop(Callback):
    "Ends everything before batch `at`"
    def __init__(self, at): self.at = at
    def before_batch(self):
        if self.training and self.train_iter == self.at: raise KeyboardInterrupt

def learner(cbs=(), bs=16, n=64, **kwargs):
    torch.manual_seed(0)
    dls = toy_dls('moons', bs=bs, n=n, device='cpu')
    learn = diffusion_learner(dls, MLP(2, width=8, depth=1), decay=.9, cbs=cbs, **kwargs)
    learn.logger = lambda row: None
    return learn

def fit(learn, path, n_epoch=3, **kwargs):
    with learn.no_bar(): learn.fit_resumable(n_epoch, path, 1e-2, **kwargs)
    return torch.cat([p.detach().flatten() for m in (learn.model, learn.ema.avg) for p in m.parameters()])

ways = dict(cycle=dict(), warm=dict(warmup=5), cold=dict(warmup=0))

@pytest.mark.parametrize('way', ways)
@pytest.mark.parametrize('at', [0, 1, 3, 4, 5, 8, 11])
def test_stopped_at_any_batch(tmp_path, at, way):
    want = fit(learner(), tmp_path/'whole'/'c', **ways[way])
    torch.randn(7)                                          # another state of the world
    with pytest.raises(KeyboardInterrupt): fit(learner(Stop(at)), tmp_path/'cut'/'c', **ways[way])
    torch.manual_seed(99)
    got = fit(learner(), tmp_path/'cut'/'c', **ways[way])
    assert torch.equal(got, want)
    assert (tmp_path/'cut'/'log.csv').read_bytes() == (tmp_path/'whole'/'log.csv').read_bytes()


def test_stopped_twice_and_in_parts(tmp_path):
    parts = lambda cbs=(): learner([GradientAccumulation(16), *cbs], bs=8)
    want = fit(parts(), tmp_path/'whole')
    assert [r['step'] for r in read_rows(tmp_path/'log.csv')] == [4, 8, 12]     # of the optimiser
    for at in (9, 17):
        with pytest.raises(KeyboardInterrupt): fit(parts([Stop(at)]), tmp_path/'cut'/'c')
    assert torch.equal(fit(parts(), tmp_path/'cut'/'c'), want)


def test_what_a_checkpoint_forgets_memory_forgets(tmp_path):
    learn = learner()
    fit(learn, tmp_path/'c')
    assert not learn.recorder.losses and not learn.recorder.lrs and len(learn.recorder.values) == 3
    learn = learner()
    fit(learn, tmp_path/'c')                                # nothing is left to do
    assert learn.ema.n == 12 and len(read_rows(tmp_path/'log.csv')) == 3


def test_a_checkpoint_is_whole_or_the_one_before(tmp_path, monkeypatch):
    want, save, calls = fit(learner(), tmp_path/'whole'/'c'), torch.save, []
    def full(o, f):
        calls.append(o)
        if len(calls) < 3: return save(o, f)
        f.write(b'half')
        raise RuntimeError('[enforce fail at inline_container.cc] . unexpected pos 64 vs 0')     # so torch says it
    monkeypatch.setattr(torch, 'save', full)
    refused(lambda: fit(learner(), tmp_path/'c'), 'c was not written, perhaps for want of space', kind=OSError)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.glob('*.part')] == [] and len(torch.load(tmp_path/'c', weights_only=True)['rows']) == 2
    assert torch.equal(fit(learner(), tmp_path/'c'), want)


def test_a_damaged_checkpoint(tmp_path):
    path = tmp_path/'last.ckpt'
    fit(learner(), path, 1)
    whole = path.read_bytes()
    for body in (b'', whole[:-50], whole[:3000] + bytes([whole[3000] ^ 1]) + whole[3001:]):
        path.write_bytes(body)
        refused(lambda: fit(learner(), path), 'last.ckpt is damaged', 'remove it to start again')
    class Evil:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'ran'),)
    torch.save(dict(rows=Evil()), path)
    refused(lambda: fit(learner(), path), 'last.ckpt is damaged')
    assert not (tmp_path/'ran').exists()


def test_doors_of_fit_resumable(tmp_path):
    fit(learner(), tmp_path/'c', 2)
    refused(lambda: fit(learner(), tmp_path/'c', 1), 'n_epoch must be at least 2', 'got 1')
    refused(lambda: fit(learner(), tmp_path/'d', warmup=-1), 'warmup must be at least 0, got -1')
    refused(lambda: fit(learner([GradientAccumulation(24)]), tmp_path/'d'), 'n_acc must be a multiple of bs 16', 'got 24')
    refused(lambda: fit(learner([GradientAccumulation(48)]), tmp_path/'d'), 'that divides the 64 examples', 'got 48')
    assert not (tmp_path/'d').exists()


def test_infinite_weights_are_not_kept(tmp_path):
    class Spoil(Callback):
        order = Checkpoint.order-1
        def after_epoch(self):
            if self.epoch == 1: next(self.model.parameters()).data.fill_(float('inf'))
    refused(lambda: fit(learner(Spoil()), tmp_path/'c'), 'c keeps the last good ones', kind=FloatingPointError)
    assert len(torch.load(tmp_path/'c', weights_only=True)['rows']) == 1


def test_processes_must_train_together(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, 'num_distrib', lambda: 2)
    learn = learner()
    refused(lambda: fit(learn, tmp_path/'c'), 'learn.distrib_ctx()')
    learn.distributed_trainer = None
    monkeypatch.setattr(runs, 'gather_object', lambda o: [*o, 1])
    refused(lambda: fit(learn, tmp_path/'c'), '{0, 1} epochs', 'common folder')


# samples in always the same batches
class Fake:
    "One of `n` processes, which work one after the other here"
    def __init__(self, i, n): self.process_index, self.num_processes, self.is_main_process = i, n, i == 0
    def wait_for_everyone(self): pass

def made(run, folder, monkeypatch, n=50, world=1, calls=None, stop=None, **kwargs):
    "Samples by `world` processes, the first one last; each call's first seed and size go to `calls`"
    how = Sampling(n_steps=4, **kwargs).of(run)
    def spy(model, shape, y, *args, seed, **kw):
        if calls is not None:
            if len(calls) == stop: raise KeyboardInterrupt
            calls.append((seed, shape[0], len(y)))
        return sample(model, shape, y, *args, seed=seed, **kw)
    monkeypatch.setattr(upsampling, 'sample', spy)
    for i in range(world)[::-1]:
        for o in (draws, runs): monkeypatch.setattr(o, 'PartialState', lambda i=i: Fake(i, world))
        monkeypatch.setattr(runs, 'broadcast_object_list', lambda o: o)
        with how.samples(folder, 1., how.asks(n)) as x: assert (x is None) == (i > 0)
    monkeypatch.undo()
    return x


def test_batches_are_alike_and_full(run, tmp_path, monkeypatch):
    made(run, tmp_path, monkeypatch, bs=20, calls=(calls := []))
    assert calls == [(0, 17, 17), (17, 17, 17), (34, 17, 17)]        # 50 in three of 17: one to spare
    made(run, tmp_path, monkeypatch, n=5, calls=(calls := []), seed=9)
    assert calls == [(9, 5, 5)]


@pytest.mark.parametrize('world', [2, 3, 7])
def test_any_number_of_processes(run, tmp_path, monkeypatch, world):
    x = made(run, tmp_path, monkeypatch, bs=8)
    assert torch.equal(made(run, tmp_path, monkeypatch, world=world, bs=8), x)
    assert torch.allclose(made(run, tmp_path, monkeypatch, bs=31), x, atol=1e-5) and len(x) == 50
    assert torch.equal(made(run, tmp_path, monkeypatch, n=23, bs=8), x[:23])     # full batches: a sample does not depend on n
    assert not list(tmp_path.glob('parts_*'))


@pytest.mark.parametrize('stop', range(5))
def test_stopped_at_any_batch_of_samples(run, tmp_path, monkeypatch, stop):
    x, folder = made(run, tmp_path, monkeypatch, bs=10), tmp_path/'cut'
    with pytest.raises(KeyboardInterrupt): made(run, folder, monkeypatch, bs=10, calls=[], stop=stop)
    parts, = folder.iterdir()
    assert len(list(parts.glob('*.npz'))) == stop
    monkeypatch.undo()
    made(run, folder, monkeypatch, bs=10, calls=(calls := []), seed=50)      # others do not disturb them
    assert len(calls) == 5
    assert torch.equal(made(run, folder, monkeypatch, bs=10, calls=(calls := []), world=2), x)
    assert len(calls) == 5-stop and not list(folder.iterdir())


def test_a_damaged_batch_is_made_again(run, tmp_path, monkeypatch):
    x = made(run, tmp_path, monkeypatch, bs=10)
    with pytest.raises(KeyboardInterrupt): made(run, tmp_path, monkeypatch, bs=10, calls=[], stop=4)
    monkeypatch.undo()
    a, b, *_ = sorted(tmp_path.glob('parts_*/*.npz'))
    bits = bytearray(a.read_bytes())
    bits[len(bits)//2] ^= 1
    a.write_bytes(bits)
    b.write_bytes(b.read_bytes()[:-20])
    assert torch.equal(made(run, tmp_path, monkeypatch, bs=10, calls=(calls := [])), x) and len(calls) == 3


def test_the_block_that_fails_keeps_the_batches(run, tmp_path):
    how = Sampling(n_steps=4).of(run)
    with pytest.raises(OSError), how.samples(tmp_path, 1., how.asks(4)): raise OSError('no')
    assert len(list(tmp_path.glob('parts_*/*.npz'))) == 1


def test_what_is_asked_for(run):
    how = Sampling(n_steps=4).of(run)
    assert how.asks(5).tolist() == [0, 1, 0, 1, 0] and how.asks(3, 1).tolist() == [1, 1, 1] and how.asks(1, 2).tolist() == [2]
    refused(lambda: how.asks(3, 3), 'y must lie in 0 … 2 (null), got 3')
    assert how.asks(2, '1').tolist() == [1, 1]
    assert how.asks(2, '1,0').tolist() == [1, 0]
    refused(lambda: how.asks(3, '1,0'), 'y must be a class or 3 integers')             # none is left out
    refused(lambda: how.asks(2, '.5'), 'y must be a class or 2 integers')
    refused(lambda: how.asks(2, 'one'), "y must be numbers separated by commas, got 'one'")
    how.model.net.label_emb = Vector(2, 8)
    assert how.asks(2, '.5,-1').tolist() == how.asks(2, [.5, -1]).tolist() == [[.5, -1]]*2
    refused(lambda: how.asks(3), 'y must be the numbers to tell')
    refused(lambda: how.asks(3, '1,2,3'), 'got shape (3,)')


def test_precision_is_that_of_the_network(run):
    assert Sampling(precision='bf16').of(run).model.amp_dtype is torch.bfloat16 and Sampling().of(run).model.amp_dtype is None


@pytest.mark.parametrize('bad, words', [
    (dict(rule='cgf'), ['rule must be one of cfg']), (dict(sampler='euler'), ['sampler must be one of ancestral']), (dict(n_steps=1), ['n_steps must be at least 2']),
    (dict(n_steps=2, sampler='heun'), ['n_steps must be at least 3']), (dict(v=2.), ['v must']), (dict(v=2., sampler='ddim'), ['v must']), (dict(v=.5, sampler='ddim'), ["v must be left out with sampler 'ddim'"]), (dict(v=.5, sampler='heun'), ['v must be left out']), (dict(v=1., sampler='dpmpp_2m'), ['v must be left out']), (dict(seed=-1), ['seed must lie in 0', '-1']),
    (dict(bs=0), ['bs must be at least 1']), (dict(precision='fp8'), ['precision must be', "'fp8'"]), (dict(net='nix.x'), ['net must be one of', 'nix.x'])])
def test_doors_of_sampling(bad, words): refused(lambda: Sampling(**bad), *words)


def test_a_network_from_elsewhere(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = dict(presets)
    for o in (draws, runs): monkeypatch.setattr(o, 'presets', own)
    Path('net_of_test_runs.py').write_text('from cfg_edu.nets import presets\nmine = presets["mlp"]\n')
    d = json.loads((run.path/'config.json').read_text())
    (run.path/'config.json').write_text(json.dumps(dict(d, net='net_of_test_runs.mine')))
    monkeypatch.setattr('cfg_edu.nets.presets', own)
    assert torch.equal(Sampling(net='net_of_test_runs.mine').of(run).model.net.out.weight, load_file(run.path/'ema.safetensors')['out.weight'])


# several processes
def test_first(monkeypatch):
    assert first(lambda a: a+1, 2) == 3
    def fails(e): raise e
    class Odd(OSError):
        def __init__(self, a, b): super().__init__(f'{a} {b}')
    refused(lambda: first(fails, KeyError('k')), 'k', kind=KeyError)
    monkeypatch.setattr(runs, 'PartialState', lambda: Fake(0, 2))
    monkeypatch.setattr(runs, 'broadcast_object_list', lambda o: o)
    for e, kind in ((ValueError('a'), ValueError), (Odd('a', 'b'), OSError), (FloatingPointError('a'), FloatingPointError), (KeyError('a'), RuntimeError), (AssertionError(), RuntimeError)):
        refused(lambda: first(fails, e), str(e) or 'AssertionError', kind=kind)
    monkeypatch.setattr(runs, 'PartialState', lambda: Fake(1, 2))
    monkeypatch.setattr(runs, 'broadcast_object_list', lambda o: [[OSError, 'said there']])
    refused(lambda: first(fails, ValueError('not here')), 'said there', kind=OSError)


together = '''
import sys, torch
from pathlib import Path
from accelerate import PartialState
from cfg_edu import cli
run, out = map(Path, sys.argv[1:])
cli.cfg_sample(run, n=50, n_steps=4, bs=8, out=out/'s.npz')             # joins the processes by itself
state = PartialState()
said = []
for f in (lambda: cli.cfg_sample(run, n=4, n_steps=4, out=run/'config.json'/'s.npz'), lambda: cli.cfg_train('moons', out=run, steps=20, bs=126, every=10),
          lambda: cli.cfg_train('moons', out=out/'odd', steps=20, bs=128), lambda: cli.cfg_evaluate(run)):
    try: f()
    except Exception as e: said.append(f'{type(e).__name__}: {e}')
cli.cfg_train('moons', out=out/'t', steps=6, bs=12, every=3)
(out/f'said{state.process_index}').write_text('\\n'.join(said))
'''

@pytest.mark.slow
def test_three_processes(run, tmp_path):
    "They make the same samples, and where the first fails, all fail with its sentence"
    (tmp_path/'together.py').write_text(together)
    call = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '3', str(tmp_path/'together.py'), str(run.path), str(tmp_path)]
    done = subprocess.run(call, env={**os.environ, 'CUDA_VISIBLE_DEVICES': ''}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    x, y = cli.cfg_sample(run.path, n=50, n_steps=4, bs=8, out=tmp_path/'one.npz')
    with np.load(tmp_path/'s.npz') as f: assert (f['arr_0'] == x.numpy()).all() and (f['arr_1'] == y.numpy()).all()
    said = [(tmp_path/f'said{i}').read_text().splitlines() for i in range(3)]
    assert said[0] == said[1] == said[2] and len(said[0]) == 4, said
    for got, word in zip(said[0], ('config.json', 'bs 128 there, 126 asked', 'bs must be a multiple of micro × processes, 42 × 3, got 128', 'moons')): assert word in got
    assert not (tmp_path/'odd').exists()
    cli.cfg_train('moons', out=tmp_path/'t1', steps=6, bs=12, every=3)
    a, b = (load_file(tmp_path/o/'ema.safetensors') for o in ('t', 't1'))
    assert max((a[k]-b[k]).abs().max() for k in a) < 1e-5

def test_without_a_gpu_the_small_network_is_taken_and_its_time_said(monkeypatch):
    from cfg_edu.nets import net_for
    from cfg_edu.plan import Plan
    for gpu, net in ((False, 'unet_tiny'), (True, 'unet_32')):
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
        assert Plan(data='mnist').net == net and Plan(data='mnist', net='unet_small').net == 'unet_small' and Plan(data='digits').net == 'unet_digits'
    monkeypatch.undo()
    for name, shape, own in (('unet_tiny', (1, 28, 28), {}), ('unet_digits', (1, 8, 8), dict(beside=(2, 4, 4))), ('mlp', (2,), {})):
        net, plan, before = net_for(name, 3, shape, **own), Plan(data='digits', steps=100), torch.get_rng_state()
        seconds = iter([0., 5., 11.])                        # a step that warms up, and one that takes 6 seconds
        monkeypatch.setattr('cfg_edu.plan.time.perf_counter', lambda: next(seconds))
        took, n = plan.minutes(net), min(128, max(1, 8192//torch.Size(shape).numel()))
        monkeypatch.undo()
        assert took == pytest.approx(6*128/n*100/60)
        assert torch.equal(torch.get_rng_state(), before) and all(p.grad is None for p in net.parameters())

@pytest.mark.skipif(torch.cuda.is_available(), reason='said on a CPU alone')
def test_how_long_it_takes_is_said_in_a_narrow_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr('cfg_edu.plan.Plan.minutes', lambda *_: 25.)
    monkeypatch.chdir(tmp_path)
    cli.cfg_train('digits', out='runs/digits', steps=1, every=1, bs=8)
    first, then = capsys.readouterr().out.splitlines()[:2]
    assert first.endswith('1 steps of 8 on cpu') and then == 'runs/digits: this takes about 25 minutes' and len(first) <= 84


def test_a_validation_costs_less_than_the_training(tmp_path):
    from cfg_edu.plan import loaders, Plan
    for bs, n in ((30, 100), (200, 666), (3000, None)):     # a third of ten batches; never more than there is
        plan, dls = Plan(data='moons', steps=20, every=10, bs=bs, out=tmp_path), loaders('moons', None, bs=bs, seed=0)
        there = len(dls.valid_ds)
        plan.learner(dls, plan.network(dls)[0])
        assert dls.train.n == 10*bs and dls.valid.n == min(there, n or there)
