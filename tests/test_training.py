"The callbacks of `training` and its door, beyond what their page shows."
import math, warnings
from types import SimpleNamespace
from unittest import mock
import matplotlib.pyplot as plt, pytest, torch
from torch import nn
from fastai.callback.core import Callback
from fastai.callback.schedule import LRFinder
from fastai.callback.training import GradientAccumulation, GradientClip
from cfg_edu.conditions import Classes, Vector
from cfg_edu.data import data_dls, toy_dls
from cfg_edu.guidance import CFG
from cfg_edu.nets import MLP, UNet
from cfg_edu.sampling import sample
from cfg_edu.schedule import Schedule
from cfg_edu.training import EMA, Diffuse, DropLabel, FiniteLoss, Monitor, SampleGrid, diffusion_learner, per_step

def moons(bs=64, n=640): return toy_dls('moons', bs=bs, n=n, device='cpu')
def fresh(*cbs, dls=None, net=None, seed=1, **kwargs):
    torch.manual_seed(seed)
    return diffusion_learner(dls or moons(), net or MLP(2, width=16, depth=1), cbs=cbs, **dict(dict(decay=.9), **kwargs))
def fit(learn, n=1, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit(n, **kwargs)
    return learn
def flat(*models): return torch.cat([p.detach().flatten() for m in models for p in m.parameters()])

class Look(Callback):
    "What the network gets, in training and in validation"
    order = Diffuse.order+.5
    def before_fit(self): self.seen = {True: [], False: []}
    def before_batch(self): self.seen[self.training].append((*self.xb, *self.yb))

# --- a batch's way ------------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('cond, y, hidden', [(Classes(3, 1), torch.arange(3000)%3, lambda y: y == 3), (Vector(2, 1), torch.rand(3000, 2), lambda y: y.isnan().all(1))])
def test_labels_are_hidden_one_by_one(cond, y, hidden):
    drop = DropLabel(cond, .3)
    drop.learn = SimpleNamespace(xb=(None,), yb=(y,), training=True)
    drop('before_batch')
    h = hidden(drop.learn.yb[0])
    assert abs(h.float().mean()-.3) < .035 and torch.equal(drop.learn.yb[0][~h], y[~h])     # 4 standard errors
    assert abs((h[1:] & h[:-1]).float().mean()-.09) < .025
    drop('before_batch'); assert hidden(drop.learn.yb[0]).float().mean() > .4                 # other ones in the next batch

@pytest.mark.parametrize('p', [-.1, 1.5, math.nan])
def test_a_probability_that_is_none(p):
    with pytest.raises(ValueError, match='p_uncond must lie in'): DropLabel(Classes(2, 1), p)

@pytest.mark.parametrize('p', [0., 1.])
def test_all_or_none(p):
    learn = fit(fresh(look := Look(), p_uncond=p))
    assert all((y == 2).all() == bool(p) for _, _, y, _ in look.seen[True])
    assert all((y < 2).all() for _, _, y, _ in look.seen[False])                             # validation keeps its labels
    assert flat(learn.model).isfinite().all()

def test_validation_repeats_its_noise():
    learn = fit(fresh(look := Look()), 2)
    z, lam, y, eps = (torch.cat(o) for o in zip(*look.seen[False]))
    for o in (z, lam, eps): assert torch.equal(*o.chunk(2))
    z, lam, y, eps = (torch.cat(o) for o in zip(*look.seen[True]))
    assert not torch.equal(*lam.chunk(2)) and not torch.equal(*eps.chunk(2))
    strata = torch.stack([(Schedule().u(l[1])*64).sort().values for l in look.seen[True]])
    assert (strata - torch.arange(64) - .5).abs().max() < .6                                 # in every batch
    assert z.dtype == lam.dtype == eps.dtype == torch.float32 and learn.diffuse.gen is None

class Interrupt(Callback):
    "In the middle of validation"
    def after_batch(self):
        if not self.training: raise KeyboardInterrupt

def test_an_interrupted_validation_leaves_nothing():
    learn = fresh()
    with pytest.raises(KeyboardInterrupt): fit(learn, cbs=Interrupt())
    assert not learn.ema.swapped and learn.diffuse.gen is None
    weights, average = flat(learn.model), flat(learn.ema.avg)
    class First(Callback):
        def before_batch(self):
            if self.training and self.train_iter == 0: self.weights, self.gen = flat(self.model), self.diffuse.gen
    fit(learn, cbs=(first := First()))
    assert torch.equal(first.weights, weights) and not torch.equal(weights, average) and first.gen is None

# --- the average --------------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('decay', [-.1, 1., math.nan])
def test_a_decay_that_is_none(decay):
    with pytest.raises(ValueError, match='decay must lie in'): EMA(decay)

def test_the_average_follows_every_step():
    class ByHand(Callback):
        order = EMA.order+1
        def before_fit(self): self.n, self.now = 0, flat(self.model)
        def after_step(self):
            self.n += 1
            d = min(.9, (1+self.n)/(10+self.n))
            self.now = d*self.now + (1-d)*flat(self.model)
    learn = fit(fresh(hand := ByHand()), 2)
    assert learn.ema.n == 20
    torch.testing.assert_close(flat(learn.ema.avg), hand.now, atol=1e-6, rtol=1e-5)
    assert not any(p.requires_grad for p in learn.ema.avg.parameters())

def test_validation_sees_the_average_and_training_the_weights():
    class Both(Callback):
        order = EMA.order+1
        def before_train(self): self.before = flat(self.model)
        def after_train(self): self.weights, self.average = flat(self.model), flat(self.ema.avg)
        def before_validate(self): assert torch.equal(flat(self.model), self.average) and torch.equal(flat(self.ema.avg), self.weights)
        def after_validate(self): assert torch.equal(flat(self.model), self.weights) and torch.equal(flat(self.ema.avg), self.average)
    learn = fit(fresh(Both()), 2)
    with learn.no_bar(), learn.no_logging():
        a = learn.validate()
        assert a == learn.validate() and not learn.ema.swapped

def test_buffers_are_copied():
    class Counts(MLP):
        def __init__(self): super().__init__(2, width=16, depth=1); self.register_buffer('calls', torch.zeros(()))
        def forward(self, z, lam, y=None):
            if self.training: self.calls += 1
            return super().forward(z, lam, y)
    learn = fit(fresh(net=Counts()))
    assert learn.ema.avg.net.calls == learn.model.net.calls == 10

def test_a_second_fit_goes_on_with_the_average():
    learn = fit(fresh())
    avg = learn.ema.avg
    fit(learn)
    assert learn.ema.avg is avg and learn.ema.n == 20

def test_the_rate_finder_takes_all_back(tmp_path):
    learn = fit(fresh(path=tmp_path))
    before = flat(learn.model, learn.ema.avg)
    fit(learn, 9, cbs=LRFinder(start_lr=1., end_lr=1e30, num_it=80, stop_div=False))         # the loss overflows on the way
    assert 1 < learn.train_iter < 80
    assert torch.equal(flat(learn.model, learn.ema.avg), before) and learn.ema.n == 10

# --- pictures -----------------------------------------------------------------------------------------------------------------------------------------

class Kept(SampleGrid):
    "Keeps what would be shown"
    def before_fit(self): super().before_fit(); self.got = []
    def show(self, x, y): self.got.append((self.train_iter, x, y))

def test_samples_come_from_the_average():
    learn = fit(fresh(grid := Kept(every=2, n=1, w=.5)), 4)
    assert [step for step, *_ in grid.got] == [20, 40]
    _, x, y = grid.got[-1]
    assert torch.equal(y, torch.arange(2).repeat(100))
    torch.testing.assert_close(x, sample(CFG(learn.ema.avg, .5), (200, 2), y))

def test_validation_alone_draws_nothing():
    learn = fit(fresh(grid := Kept()))
    assert len(grid.got) == 1
    with learn.no_bar(), learn.no_logging(): learn.validate()
    assert grid.got == []

def test_ten_of_many_classes():
    g = torch.Generator().manual_seed(0)
    dls = data_dls(torch.rand(200, 1, 4, 4, generator=g), torch.arange(200)%40, range(40), 40, 40, device='cpu')
    fit(fresh(grid := Kept(n=2, clip=(-1, 1)), dls=dls, net=UNet(4, 1, 8, n_classes=40, channel_mult=(1,), head_channels=8)))
    _, x, y = grid.got[0]
    assert x.shape == (20, 1, 4, 4) and x.abs().max() <= 1
    assert y[:10].tolist() == [0, 4, 9, 13, 17, 22, 26, 30, 35, 39] and torch.equal(y[:10], y[10:])
    ax = grid.draw(x, y)
    assert ax.images[0].get_array().shape[1] > 4*ax.images[0].get_array().shape[0]          # a column for each
    plt.close('all')

@pytest.mark.parametrize('n_acc, name', [(64, 'step_000010.png'), (128, 'step_000005.png')])
def test_pictures_are_named_by_steps(tmp_path, n_acc, name):
    learn = fit(fresh(GradientAccumulation(n_acc), SampleGrid(n=1, folder=tmp_path/'samples')))
    assert per_step(learn) == n_acc//64
    assert [o.name for o in (tmp_path/'samples').iterdir()] == [name] and plt.get_fignums() == []
    assert (tmp_path/'samples'/name).read_bytes()[:4] == b'\x89PNG'

def test_monitor_has_one_place():
    seen = []
    with mock.patch('IPython.display.display', lambda fig, display_id, update: seen.append((fig, display_id, update))):
        learn = fit(fresh(Monitor(every=2, n=1)), 4)
    (a, place, first), (b, again, second) = seen                                             # after epochs 2 and 4
    assert place == again and (first, second) == (False, True)
    train, valid = b.axes[0].lines
    assert train.get_xdata().tolist() == [10, 20, 30, 40]
    for line, k in ((train, 0), (valid, 1)): torch.testing.assert_close(torch.tensor(line.get_ydata()), torch.tensor([v[k] for v in learn.recorder.values]), check_dtype=False)
    title = b.axes[1].get_title()
    assert title.startswith('step 40, w = 1: ') and title.endswith('0:00 to go') and plt.get_fignums() == []
    shown = torch.tensor(b.axes[1].collections[0].get_offsets().data)
    torch.testing.assert_close(shown, sample(CFG(learn.ema.avg, 1.), (200, 2), torch.arange(2).repeat(100)), check_dtype=False)

# --- stopping in time ---------------------------------------------------------------------------------------------------------------------------------

class Spoil(Callback):
    "Multiplies the fifth noise of some batches"
    order = Diffuse.order+.5
    def __init__(self, by, at): self.by, self.at = by, at
    def before_batch(self):
        if self.training and self.train_iter in self.at:
            eps = self.yb[0].clone()
            eps[5] *= self.by
            self.lam, self.learn.yb = self.xb[1][5].item(), (eps,)

@pytest.mark.parametrize('by, value', [(math.nan, 'nan'), (math.inf, 'inf')])
def test_a_loss_that_is_no_number_stops(by, value):
    learn = fresh(spoil := Spoil(by, [7]))
    with pytest.raises(FloatingPointError) as e: fit(learn)
    assert f'the loss became {value} at step 8, farthest off at λ = {spoil.lam:.3g}: training stopped' in str(e.value)
    assert learn.ema.n == 7 and flat(learn.model, learn.ema.avg).isfinite().all()

def test_a_jump_is_said_once_in_an_epoch():
    learn = fresh(spoil := Spoil(1e3, [14, 24, 25, 36]))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        fit(learn, 4)
    said = [str(o.message) for o in said if 'the loss jumped' in str(o.message)]
    assert len(said) == 2 and 'times its average at step 25, farthest off at λ = ' in said[0]   # step 15 is too early to know
    assert said[1].endswith(f'at step 37, farthest off at λ = {spoil.lam:.3g}') and flat(learn.model).isfinite().all()

# --- the door -----------------------------------------------------------------------------------------------------------------------------------------

def vectors(d=2, n=256):
    g = torch.Generator().manual_seed(0)
    y = torch.rand(n, d, generator=g)
    return data_dls(2*y[:,:2] - 1 + .1*torch.randn(n, 2, generator=g), y, None, 64, device='cpu')

def told(d=2): return MLP(d, width=16, depth=1, cond=Vector)

@pytest.mark.parametrize('make, net, words', [
    (moons, lambda: MLP(7), 'as many classes as the data, 2, got 7'), (moons, lambda: told(2), 'as many classes as the data, 2, got 2 numbers'),
    (vectors, lambda: told(3), 'as many numbers in its condition as the data, 2, got 3'), (vectors, lambda: MLP(2), 'as many numbers in its condition as the data, 2, got 2 classes')])
def test_network_and_data_must_agree(make, net, words):
    with pytest.raises(ValueError, match=words): diffusion_learner(make(), net())

@pytest.mark.parametrize('kw, words', [(dict(p_uncond=-1), 'p_uncond'), (dict(decay=1.), 'decay'), (dict(predicts='noise'), 'predicts must be one of')])
def test_arguments_are_refused(kw, words):
    with pytest.raises(ValueError, match=words): diffusion_learner(moons(), MLP(2), **kw)

def test_a_vector_trains_and_is_drawn(tmp_path):
    dls = vectors()
    learn = fit(fresh(look := Look(), grid := Kept(n=1), SampleGrid(n=1, folder=tmp_path), dls=dls, net=told()), 2)
    y = torch.cat([o[2] for o in look.seen[True]])
    assert 0 < y.isnan().all(1).float().mean() < .3 and torch.equal(y.isnan().all(1), y.isnan().any(1))
    _, x, y = grid.got[-1]
    assert torch.equal(y, dls.valid_ds.tensors[1][:10].repeat(100, 1))                       # what the first held-out examples are told
    assert x.shape == (1000, 2) and x.isfinite().all() and len(list(tmp_path.iterdir())) == 2
    assert flat(learn.model).isfinite().all() and learn.recorder.values[-1][1] < learn.recorder.values[0][1]

class Own(nn.Module):
    "Somebody's own network, with no condition of ours"
    def __init__(self, null=None):
        super().__init__()
        if null is not None: self.null = null
        self.table, self.net = nn.Embedding(3, 2), nn.Linear(2, 2)
    def forward(self, z, lam, y=None): return self.net(z) + self.table(torch.full((len(z),), 2) if y is None else y)

@pytest.mark.parametrize('null', [None, 2])
def test_somebodys_own_network(null):
    learn = fit(fresh(look := Look(), grid := Kept(n=1), net=Own(null), p_uncond=.5))
    y = torch.cat([o[2] for o in look.seen[True]])
    assert set(y.tolist()) == {0, 1, 2} and learn.ema.n == 10 and grid.got[0][1].shape == (200, 2)
    with pytest.raises(ValueError, match='as many classes as the data, 2, got 5'): diffusion_learner(moons(), Own(5))

def test_loaders_without_names():
    "Of somebody's own: classes are what the network says"
    dls = moons()
    for ds in (dls.train_ds, dls.valid_ds): del ds.vocab
    assert fit(fresh(dls=dls)).ema.n == 10
    with pytest.raises(ValueError, match='as many classes'): diffusion_learner(dls, MLP(3))

def test_what_is_asked_for_reaches_the_optimiser():
    learn = fresh(GradientClip(.1), lr=1e-3)
    learn.create_opt()
    assert {(p['weight_decay'], p['lr']) for p in learn.opt.opt.param_groups} == {(0., 1e-3)}
    assert learn.opt.opt.defaults['fused'] and (learn.ema.decay, learn.model.predicts) == (.9, 'v')
    assert {type(cb) for cb in learn.cbs} > {DropLabel, Diffuse, EMA, FiniteLoss, GradientClip}
