"The information budget at its edges."
import math
import pytest, torch
from torch.utils.data import TensorDataset
from cfg_edu.classifier import UniformLam
from cfg_edu.conditions import Vector
from cfg_edu.data import data_dls, TensorDL
from cfg_edu.denoiser import Denoiser
from cfg_edu.information import Information, information
from cfg_edu.mixture import Mixture, three
from cfg_edu.nets import MLP
from cfg_edu.schedule import amps, Schedule
from cfg_edu.training import diffusion_learner


def points(n=200, m=None):
    return (m or three()).draw(n, generator=torch.Generator().manual_seed(0))


def test_levels_are_strata():
    "Each example has a level in each of n_draws strata, and together they fill n·n_draws finer ones"
    m, seen = three(), []
    def model(z, lam, y=None):
        if y is None: seen.append(lam)
        return m(z, lam, y)
    information(model, points(50)[0].double(), points(50)[1], 8, UniformLam(-3, 5))
    lams = torch.stack(seen[1:], 1)                               # the first call is the door's
    assert lams.shape == (50, 8) and lams.dtype == torch.float64
    assert ((5 - lams).floor().long() == torch.arange(8)).all()
    fine = ((5 - lams)/8*400).flatten().sort().values
    torch.testing.assert_close(fine, torch.arange(400).double() + .5, rtol=0, atol=.51)


def test_push_is_half_the_square():
    "A model whose two answers differ by one everywhere pushes d/2 nats a nat, exactly"
    one = lambda z, lam, y: torch.zeros_like(z) if y is None else torch.ones_like(z)
    x, y = torch.zeros(10, 3, 4), torch.zeros(10).long()
    nats, error = information(one, x, y, law=UniformLam(-1, 4))
    assert math.isclose(nats, 5*12/2) and error == 0


def test_weighs_by_the_density():
    "A level twice as likely counts half, whatever the law"
    class Tilted:
        lam = staticmethod(lambda u: u.sqrt()*6 - 3)              # density (λ+3)/18 on −3 … 3
        pdf = staticmethod(lambda lam: (lam + 3)/18)
    one = lambda z, lam, y: torch.zeros_like(z) if y is None else torch.ones_like(z)
    nats, error = information(one, torch.zeros(2000, 2), torch.zeros(2000).long(), law=Tilted())
    assert abs(nats - 6) < .02 and error < .02                    # levels are strata: λ adds next to nothing


def test_error_is_that_of_many_seeds():
    "The standard error is the spread of fresh estimates, strata and all"
    m, found = three(), []
    for seed in range(60):
        x, y = m.draw(500, generator=torch.Generator().manual_seed(seed))
        found.append(information(m, x, y, 4, UniformLam(-6, 8), seed=seed))
    found = torch.tensor(found)
    assert .7 < found[:, 0].std()/found[:, 1].mean() < 1.3


def test_classes_far_apart_tell_all():
    "Six small classes on a circle: log 6"
    a, g = torch.arange(6).double()*math.pi/3, torch.Generator().manual_seed(0)
    m = Mixture([1]*6, torch.stack([a.cos(), a.sin()], 1), [.02**2]*6)
    nats, error = information(m, *m.draw(10_000, generator=g), law=Schedule(-8, 12))
    assert abs(nats - math.log(6)) < 3*error and error < .02


def test_infinitely_many_classes():
    "Gaussian classes N(m, s²) that are told their mean, m ~ N(0, τ²), in two dimensions: a closed form, and no log n"
    s, tau, g = .4, 1.1, torch.Generator().manual_seed(0)
    def model(z, lam, m=None):
        alpha, sigma = amps(lam, 2)
        V = alpha**2*s**2 + sigma**2
        return sigma*z/(V + alpha**2*tau**2) if m is None else sigma*(z - alpha*m)/V
    m = tau*torch.randn(10_000, 2, generator=g)
    nats, error = information(model, m + s*torch.randn(10_000, 2, generator=g), m, law=Schedule(-8, 12))
    truth = [math.log(1 + tau**2/(s**2 + math.exp(-lam))) for lam in (-8, 12)]
    assert abs(nats - truth[1] + truth[0]) < 3*error and error < .02


def test_batches_and_modes():
    "Any batch size will do; dropout is off meanwhile and on again"
    one = lambda z, lam, y: torch.zeros_like(z) if y is None else torch.ones_like(z)
    assert information(one, *points(), bs=37) == information(one, *points())
    class Net(torch.nn.Module):
        def forward(self, z, lam, y=None):
            assert not self.training
            return z
    net = Net().train()
    assert information(net, *points()) == (0., 0.) and net.training


def test_numbers_instead_of_classes():
    "A condition that is a vector has no null; -1 is a number as any other"
    net = Denoiser(MLP(1, cond=Vector)).eval()
    x, _ = points()
    assert information(net, x, -torch.ones(200, 1))[0] >= 0


def test_bytes_are_images():
    x = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    one = lambda z, lam, y: z*(0 if y is None else 1)
    y = torch.zeros(4).long()
    assert information(one, x, y) == information(one, x.float()/127.5 - 1, y)


def test_one_class_has_nothing_to_tell():
    m = Mixture([1.], [[.3, 0.]], [.04])
    nats, error = information(m, *points(50, m))
    assert abs(nats) < 1e-12 and error < 1e-12


@pytest.mark.parametrize('change, says', [
    (dict(model=lambda z, lam, y: z*y[:, None]), 'model must answer with y and with None'),
    (dict(model=lambda z, lam: z), 'model must answer with y and with None'),
    (dict(y=None), 'y must name a class for each of the 20 examples'),
    (dict(y=torch.zeros(19).long()), 'y must name a class'),
    (dict(y=torch.full((20,), 3)), 'y must name a class'),          # 3 is null
    (dict(y=torch.full((20,), 7)), 'y must lie in 0 … 3'),          # the model says it
    (dict(x=torch.zeros(1, 2), y=torch.zeros(1).long()), '2 examples or more'),
    (dict(x=torch.zeros(20, 2).long()), 'x must be floats'),
    (dict(n_draws=0), 'n_draws at least 1'),
])
def test_refuses(change, says):
    x, y = points(20)
    with pytest.raises(ValueError, match=says): information(**dict(model=three(), x=x, y=y) | change)


def test_bounds_in_the_wrong_order():
    with pytest.raises(ValueError, match='lam_min must lie below lam_max'): UniformLam(6, -6)


def learner(**kwargs):
    x, y = points(400)
    return diffusion_learner(data_dls(x, y, range(3), 100, 100, device='cpu'), MLP(3), **kwargs)


def test_callback_measures_the_average():
    keep = Information(every=2, n=70, n_draws=4)
    learn = learner(cbs=keep)
    with learn.no_bar(), learn.no_logging(): learn.fit(5, 1e-3)
    assert [r['step'] for r in keep.rows] == [6, 12] and learn.information is keep
    with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-3)    # goes on counting
    x, y = (torch.cat(o)[:70] for o in zip(*learn.dls.valid))
    nats, error = information(learn.ema.avg, x, y, n_draws=4)
    assert keep.rows[-1] == dict(step=21, nats=nats, error=error)


@pytest.mark.parametrize('p', [0., 1.])
def test_callback_wants_both_answers(p):
    learn = learner(p_uncond=p, cbs=Information())
    with learn.no_bar(), learn.no_logging(), pytest.raises(ValueError, match='train with p_uncond=.1, got'):
        learn.fit(1)


def test_callback_wants_held_out_examples():
    learn = learner(cbs=Information())
    x, y = points(10)
    learn.dls.loaders[1] = TensorDL(TensorDataset(x[:0], y[:0]))
    with learn.no_bar(), learn.no_logging(), pytest.raises(ValueError, match='needs held-out examples'):
        learn.fit(1)


def test_callback_refuses_no_epochs():
    with pytest.raises(ValueError, match='every must be at least 1'): Information(every=0)
