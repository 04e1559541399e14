"Sixteen bits, batches in parts, several processes: what `processes` promises beyond its page."
import io, math, os, subprocess, sys
from contextlib import redirect_stdout
from types import SimpleNamespace
import numpy as np, pytest, torch
from torch import nn
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.core import Callback, CancelBatchException
from fastai.callback.fp16 import AMPMode, MixedPrecision
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.learner import Learner
from cfg_edu import processes
from cfg_edu.classifier import classifier_learner
from cfg_edu.cli import cfg_sample, cfg_train
from cfg_edu.data import digits_dls, toy_dls
from cfg_edu.nets import MLP, UNet
from cfg_edu.processes import Deal, HalfPrecision, rng_state, set_rng_state
from cfg_edu.training import Diffuse, EMA, diffusion_learner
import several

def flat(*models): return torch.cat([p.detach().flatten() for m in models for p in m.parameters()])

def fresh(*cbs, seed=1, net=None, **kwargs):
    torch.manual_seed(seed)
    return diffusion_learner(toy_dls('moons', bs=64, n=640, device='cpu'), net or MLP(2, width=32, depth=1), decay=.9, cbs=cbs, **kwargs)

def fit(learn, n=1, **kwargs):
    "What was printed"
    with learn.no_bar(), learn.no_logging(), redirect_stdout(io.StringIO()) as said: learn.fit_one_cycle(n, **kwargs)
    return said.getvalue()

# --- several processes -------------------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def alone(): return several.runs()

@pytest.fixture(scope='module', params=[2, pytest.param(3, marks=pytest.mark.slow)])
def shares(request, tmp_path_factory):
    "What each of k processes has found"
    folder, script = tmp_path_factory.mktemp('several'), several.__file__
    launch = [sys.executable, '-W', 'ignore', '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(request.param), '--', script, str(folder)]
    env = {**os.environ, 'ACCELERATE_USE_CPU': 'true', 'OMP_NUM_THREADS': '1'}
    out = subprocess.run(launch, env=env, capture_output=True, text=True, timeout=300)
    assert out.returncode == 0, out.stderr[-3000:]
    return [torch.load(folder/f'{r}.pt', weights_only=True) for r in range(request.param)]

@pytest.mark.parametrize('kind', ('plain', 'parts', 'pictures', 'told'))
def test_they_learn_what_one_learns(alone, shares, kind):
    for share in shares:
        for a, b in zip(share[kind]['weights'], alone[kind]['weights']): torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
        for k in ('losses', 'curve', 'again'): torch.testing.assert_close(share[kind][k], alone[kind][k], atol=2e-6, rtol=1e-5)
        assert (share[kind]['n'], share[kind]['names']) == (alone[kind]['n'], alone[kind]['names'])
        for a, b in zip(share[kind]['weights'], shares[0][kind]['weights']): assert torch.equal(a, b)

def test_in_sixteen_bits_too(alone, shares):
    "Steps that overflow in one process are left out in all; the products are rounded by each"
    for share in shares:
        torch.testing.assert_close(share['half']['losses'], alone['half']['losses'], atol=2e-3, rtol=0)
        assert share['half']['n'] == shares[0]['half']['n'] < 20 and abs(share['half']['n'] - alone['half']['n']) <= 2

@pytest.mark.parametrize('kind, like', [('plain', 'plain'), ('parts', 'parts'), ('pictures', 'pictures'), ('told', 'told'), ('forgetful', 'plain')])
def test_rows_are_dealt(alone, shares, kind, like):
    "Each example once, mirrored or not, its label hidden or not, its λ and ε as in one process"
    for key in ('z', 'lam', 'y'):
        dealt = zip(*(s[kind][key] for s in shares))
        for parts, whole in zip(dealt, alone[like][key]): assert torch.equal(torch.stack(parts, 1).flatten(0, 1), whole)

def test_dropout_is_each_ones_own(shares):
    masks = torch.stack([torch.stack(s['forgetful']['masks']) for s in shares])       # (process, step, unit)
    assert (masks[0] != masks[1]).any(1).float().mean() > .9
    assert (masks[:,1:] != masks[:,:-1]).any(2).float().mean() > .9

def test_gradients_travel_once_a_step(shares):
    for s in shares: assert s['parts']['syncs'] == [False, True]*20 and all(s['plain']['syncs'])

def test_interrupted_and_on(alone, shares):
    for s in shares: assert s['stopped'] == alone['stopped'] == [32, 48, 24, 20]

def test_all_are_refused_alike(shares):
    for s in shares:
        bs, nan = s['refused']
        assert f'the batch size must be a multiple of the {len(shares)} processes, got 49' in bs
        assert 'the loss became nan at step 4' in nan

def _dealt(monkeypatch, rank, k, n):
    "The rows of a batch of n that a process keeps, without other processes"
    monkeypatch.setattr(processes, 'rank_distrib', lambda: rank)
    deal = Deal()
    deal.k, rows = k, torch.arange(n)
    deal.learn = SimpleNamespace(xb=(rows,), yb=(rows,), training=True, train_iter=0, model=SimpleNamespace(), _grab_cbs=lambda _: [])
    deal('before_batch'); deal('after_batch')
    assert torch.equal(*deal.learn.xb, *deal.learn.yb)
    return deal.learn.xb[0].tolist()

def test_a_last_batch_that_they_do_not_divide(monkeypatch):
    "A loader of somebody's own may end with one: it is filled up from the front"
    assert [_dealt(monkeypatch, r, 3, 10) for r in range(3)] == [[0, 3, 6, 9], [1, 4, 7, 0], [2, 5, 8, 1]]
    assert [_dealt(monkeypatch, r, 3, 9) for r in range(3)] == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]

def test_deal_puts_the_common_state_back(monkeypatch):
    before = torch.get_rng_state()
    _dealt(monkeypatch, 1, 2, 8)
    assert torch.equal(torch.get_rng_state(), before)

@pytest.mark.parametrize('launched', [('fp16', 1), ('no', 2)])
def test_the_launcher_chooses_nothing(monkeypatch, launched):
    monkeypatch.setattr(processes, 'num_distrib', lambda: 2)
    acc = SimpleNamespace(mixed_precision=launched[0], gradient_accumulation_steps=launched[1])
    deal = Deal()
    deal.learn = SimpleNamespace(distributed_trainer=SimpleNamespace(accelerator=acc, old_dls=[SimpleNamespace(bs=4)]), model=nn.DataParallel(nn.Linear(1, 1)))
    with pytest.raises(ValueError, match='not by the launcher'): deal('before_fit')

def test_alone_deal_does_nothing():
    ends = []
    for cbs in ((), (Deal(),)):
        fit(learn := fresh(*cbs))
        ends.append(flat(learn.model, learn.ema.avg))
    assert torch.equal(*ends)

def test_states_go_and_come_back():
    dls = toy_dls('moons', bs=64, n=640, device='cpu')
    draw = lambda: (torch.rand(3), dls.train.rng.random())
    state = rng_state(dls)
    a = draw()
    set_rng_state(state, dls)
    b = draw()
    assert torch.equal(a[0], b[0]) and a[1] == b[1]

job = """
import atexit, os, sys
@atexit.register                # before the command's own, so it is the last
def end():
    "The group's threads have ended: one that meets Python's end aborts the process, now and then"
    tasks = '/proc/self/task'
    for t in os.listdir(tasks) if os.path.exists(tasks) else ():
        with open(f'{tasks}/{t}/comm') as f: print('left behind:' if 'gloo' in f.read() else 'a thread')
from cfg_edu.cli import cfg_train, cfg_sample
cfg_train('moons', out=sys.argv[1], steps=2, bs=8)
cfg_sample(sys.argv[1], n=5, bs=2, n_steps=2)
"""

def test_a_launched_command_joins_its_processes_without_a_gpu(tmp_path):
    "No variable says that there is none; each would train all of it and write to the folder of the other"
    launch = [sys.executable, '-W', 'ignore', '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', '--']
    (tmp_path/'job.py').write_text(job)
    env = {k: v for k, v in os.environ.items() if k != 'ACCELERATE_USE_CPU'} | {'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'}
    out = subprocess.run([*launch, tmp_path/'job.py', tmp_path/'r'], env=env, capture_output=True, text=True, timeout=300)
    assert out.returncode == 0, out.stderr[-3000:]
    assert 'left behind' not in out.stdout
    assert '2 steps of 8 on 2 × cpu' in out.stdout and out.stdout.count('trained in') == out.stdout.count('5 samples') == 1
    cfg_train('moons', out=tmp_path/'one', steps=2, bs=8)
    x, _ = cfg_sample(tmp_path/'one', n=5, bs=2, n_steps=2)
    torch.testing.assert_close(torch.from_numpy(np.load(next((tmp_path/'r').glob('*.npz')))['arr_0']), x, atol=1e-5, rtol=0)

# --- sixteen bits ------------------------------------------------------------------------------------------------------------------------------------

class Inside(Callback):
    "The precision inside the network, in training and in validation"
    def before_fit(self):
        self.dtypes, self.losses = set(), set()
        self.hook = self.model.net.inp.register_forward_hook(lambda m, i, out: self.dtypes.add(out.dtype))
    def after_loss(self): self.losses.add(self.loss.dtype)
    def after_fit(self): self.hook.remove()

class Watch(Callback):
    "Weights, average, steps averaged and scale after every batch"
    order = EMA.order+1
    def before_fit(self): self.seen = []
    def after_batch(self):
        if self.training: self.seen.append((flat(self.model), flat(self.ema.avg), self.ema.n, self.scaler.get_scale()))

class Loud(Callback):
    "At some steps, points far too large for float16"
    order = Diffuse.order+.5
    def __init__(self, at): self.at = at
    def before_batch(self):
        z, lam, y = self.xb
        if self.training and self.train_iter in self.at: self.learn.xb = (1e6*z, lam, y)

def untouched(learn):
    "No 16 bits are left behind, in the model, its average, or around them"
    model = learn.model
    assert model.amp_dtype is None and learn.ema.avg.amp_dtype is None
    assert model._compiled_call_impl is None or model._compiled_call_impl.__name__ != 'once'
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    dtypes, z = [], torch.randn(4, 2)
    hook = model.net.inp.register_forward_hook(lambda m, i, out: dtypes.append(out.dtype))
    model(z, torch.zeros(4)); hook.remove()
    assert dtypes == [torch.float32]

@pytest.mark.parametrize('mode, dtype', [('bf16', torch.bfloat16), ('fp16', torch.float16), (AMPMode.BF16, torch.bfloat16)])
def test_the_network_alone_is_in_sixteen_bits(mode, dtype):
    fit(a := fresh(), 3)
    fit(b := fresh(HalfPrecision(mode), inside := Inside()), 3)
    assert inside.dtypes == {dtype} and inside.losses == {torch.float32}
    assert all(p.dtype == torch.float32 for p in b.model.parameters())
    held_out = [learn.recorder.values[-1][1] for learn in (a, b)]
    assert held_out[0] != held_out[1] and abs(held_out[1]/held_out[0]-1) < .02
    untouched(b)

@pytest.mark.parametrize('mode', ['fp8', 16, None])
def test_other_precisions_are_refused(mode):
    with pytest.raises(ValueError, match=f'amp_mode must be bf16 or fp16, got {mode!r}'): HalfPrecision(mode)

def test_a_model_that_cannot_is_refused():
    learn = Learner(toy_dls('moons', bs=64, n=640, device='cpu'), nn.Linear(2, 2), loss_func=nn.functional.mse_loss, cbs=HalfPrecision('bf16'))
    with learn.no_bar(), learn.no_logging(), pytest.raises(ValueError, match='model must have `amp_dtype`'): learn.fit(1)

def test_overflow_leaves_steps_out():
    "Neither weights nor average move until the gradients fit"
    learn = fresh(half := HalfPrecision('fp16', init_scale=2.**40), GradientClip(1.), watch := Watch())
    start = flat(learn.model)
    said = fit(learn, 4)
    assert 5 < half.left_out < 30 and f'{half.left_out} in all' in said
    before = start, start, 0, 2.**40
    for now in watch.seen:
        (w, avg, n, scale), (w_0, avg_0, n_0, scale_0) = now, before
        if n == n_0: assert torch.equal(w, w_0) and torch.equal(avg, avg_0) and scale == scale_0/2
        else: assert n == n_0+1 and scale == scale_0 and not torch.equal(w, w_0) and not torch.equal(avg, avg_0)
        before = now
    assert n == 40-half.left_out

def test_a_loss_that_overflows_is_left_out():
    learn = fresh(half := HalfPrecision('fp16'), watch := Watch())
    start = flat(learn.model)
    said = fit(learn, 2, cbs=Loud([0, 5, 6]))
    assert said.startswith('step 10: float16 overflowed in 3 steps of this epoch, which were left out, 3 in all; the scale is ')
    assert said.count('overflowed') == 1                              # nothing for the second epoch
    weights = [start] + [w for w, *_ in watch.seen]
    assert [i for i in range(20) if torch.equal(weights[i+1], weights[i])] == [0, 5, 6]
    assert (half.left_out, learn.ema.n) == (3, 17)
    assert all(math.isfinite(o) for o in learn.recorder.losses) and flat(learn.model, learn.ema.avg).isfinite().all()

def test_patience_ends():
    learn = fresh(half := HalfPrecision('fp16'), watch := Watch())
    half.patience = 4
    with pytest.raises(FloatingPointError, match='in 4 steps in a row, the last one 11'): fit(learn, 2, cbs=Loud(range(7, 99)))
    assert torch.equal(flat(learn.model), watch.seen[6][0])           # the weights of the last good step
    half = HalfPrecision('fp16')
    assert half.patience == 50
    half.patience = 4
    learn = fresh(half)
    fit(learn, 2, cbs=Loud(range(1, 20, 2)))                          # every other one is not in a row
    assert half.left_out == 10

def test_fastais_own_does_not_count():
    "There a loss that is not finite stops the training"
    class OnCPU(MixedPrecision):
        def before_fit(self): self.autocast, self.learn.scaler, self.scales = torch.autocast('cpu', torch.float16), torch.amp.GradScaler('cpu'), []
    with pytest.raises(FloatingPointError, match='at step 4'): fit(fresh(OnCPU()), cbs=Loud([3]))

class Unplugged(MLP):
    "Interrupted in the middle of a batch: once the network has begun"
    at = 3
    def forward(self, z, lam, y=None):
        self.at -= 1
        if self.at >= 0: assert self.inp(z).dtype == torch.bfloat16
        if self.at == 0: raise KeyboardInterrupt
        return super().forward(z, lam, y)

def test_an_interruption_leaves_nothing():
    learn = fresh(HalfPrecision('bf16'), net=Unplugged(2, width=16, depth=1))
    with pytest.raises(KeyboardInterrupt): fit(learn)
    untouched(learn)
    fit(learn)                                                        # and it goes on
    untouched(learn)

class Raise(Callback):
    "Every other batch, before the network sees it"
    order = HalfPrecision.order+1
    def __init__(self, what): self.what = what
    def before_batch(self):
        if self.train_iter%2: raise self.what('left out')
    def after_batch(self): assert self.model._compiled_call_impl is None      # the next call is nobody's business

def test_a_batch_that_no_network_saw():
    learn = fresh(HalfPrecision('bf16'), Raise(CancelBatchException), inside := Inside())
    fit(learn); untouched(learn)
    assert inside.dtypes == {torch.bfloat16}
    for what in (KeyboardInterrupt, RuntimeError):                    # then one call may still be in 16 bits, not the next
        learn = fresh(HalfPrecision('bf16'), Raise(what))
        with pytest.raises(what): fit(learn)
        learn.model(torch.zeros(1, 2), torch.zeros(1))
        untouched(learn)

@pytest.mark.parametrize('inner', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_compiled(inner):
    "A model compiled as a whole, or the network inside"
    def one(compiled):
        learn = fresh(HalfPrecision('bf16'), inside := Inside())
        if compiled: (learn.model.net if inner else learn.model).compile(backend='eager')
        fit(learn)
        assert inside.dtypes == {torch.bfloat16}
        untouched(learn)
        return flat(learn.model, learn.ema.avg)
    torch.testing.assert_close(one(True), one(False), atol=1e-6, rtol=0)

def test_a_classifier_too():
    class Reads(MLP):
        def __init__(self): super().__init__(2, width=16, depth=1); self.n_classes = 2; self.out = nn.Linear(16, 2)
    torch.manual_seed(0)
    learn = classifier_learner(toy_dls('moons', bs=64, n=640, device='cpu'), Reads(), cbs=[HalfPrecision('bf16'), inside := Inside()])
    fit(learn)
    assert inside.dtypes == {torch.bfloat16} and inside.losses == {torch.float32} and learn.model.amp_dtype is None

def test_the_rate_finder_goes_far_enough():
    learn = fresh(HalfPrecision('fp16'))
    before = flat(learn.model)
    with learn.no_bar(), learn.no_logging(): learn.lr_find(start_lr=1e-2, end_lr=1e6, num_it=60, show_plot=False)
    assert torch.equal(flat(learn.model), before) and learn.ema.n == 0

# --- batches in parts, compiled, channels last --------------------------------------------------------------------------------------------------------

def test_parts_make_one_step():
    class Norms(Callback):
        order = GradientClip.order+1
        def before_fit(self): self.steps, self.largest = 0, 0.
        def after_step(self):
            norm = torch.cat([p.grad.flatten() for p in self.model.parameters()]).norm().item()
            self.steps, self.largest = self.steps+1, max(self.largest, norm)
    learn = fresh(GradientAccumulation(128), GradientClip(.1), norms := Norms())
    fit(learn)
    assert norms.steps == learn.ema.n == 5 and norms.largest < .1001

@pytest.mark.slow
def test_compiled_and_channels_last():
    def one(*cbs, compiled=False):
        torch.manual_seed(0)
        dls = digits_dls(bs=32, device='cpu')
        dls.train.n, dls.valid.n = 3*32, 32
        net = UNet(8, 1, 8, channel_mult=(1,), head_channels=8)
        if compiled: net.compile(backend='eager')
        learn = diffusion_learner(dls, net, cbs=cbs)
        fit(learn, 2)
        return learn
    a, b = one(), one(ChannelsLast(), compiled=True)
    assert list(a.model.state_dict()) == list(b.model.state_dict()) and list(a.ema.avg.state_dict()) == list(b.ema.avg.state_dict())
    torch.testing.assert_close(flat(a.model, a.ema.avg), flat(b.model, b.ema.avg), atol=1e-4, rtol=0)
    assert next(p for p in b.ema.avg.parameters() if p.ndim == 4).is_contiguous(memory_format=torch.channels_last)

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('cbs', [(), ('bf16',), ('fp16',)])
def test_on_a_gpu(cbs):
    torch.manual_seed(0)
    dls = digits_dls(device='cuda')
    dls.train.n = 30*128
    learn = diffusion_learner(dls, UNet(8, 1, 16, channel_mult=(1, 2), head_channels=8), decay=.9, cbs=[HalfPrecision(*cbs)]*len(cbs))
    fit(learn, 3)
    assert learn.recorder.values[-1][1] < .4
