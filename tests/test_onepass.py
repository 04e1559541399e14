"One pass told w: targets, doors, what is told, and the whole way through training and files."
from types import SimpleNamespace
import pytest, torch
from torch.nn import functional as F
from cfg_edu import cli
from cfg_edu.plan import Plan
from cfg_edu.data import data_dls, rungs
from cfg_edu.denoiser import Denoiser
from cfg_edu.files import read_npz
from cfg_edu.guidance import CFG, rules
from cfg_edu.mixture import three
from cfg_edu.nets import MLP, Preset, presets, unet_digits
from cfg_edu.onepass import ClassesAndW, OnePass, TellW, with_w
from cfg_edu.process import diffuse
from cfg_edu.runs import Run
from cfg_edu.sampling import sample
from cfg_edu.training import diffusion_learner


class Exact(torch.nn.Module):
    "The exact model of `three`, which is told w"
    w_max, world = 4., three()
    null, null_like = world.null, world.null_like
    def forward(self, z, lam, y=None): return self.world(z, lam, y)


def batch(n, lam, seed=0):
    "A batch after `Diffuse`, as the callback finds it"
    g = torch.Generator().manual_seed(seed)
    x, y = Exact.world.draw(n, generator=g)
    z, eps = diffuse(x.float(), lam.expand(n), torch.randn(n, 2, generator=g))
    return z, lam.expand(n), y, eps


def told(cb, z, lam, y, eps):
    "What the callback makes of it"
    model = Exact()
    cb.learn = SimpleNamespace(xb=(z, lam, y), yb=(eps,), model=model, training=True, pred=None, ema=SimpleNamespace(avg=model))
    cb.before_batch()
    return cb.learn.xb[2].T, cb.learn.yb[0]


@pytest.mark.parametrize('cb', [TellW('itself'), TellW(), TellW(Exact())], ids=['itself', 'free', 'teacher'])
@pytest.mark.parametrize('lam', [-1., 1., 4.])
def test_every_target_has_the_guided_mean(cb, lam):
    "Target − guided ε is orthogonal to functions of z, w and the class: its mean given these is the guided ε"
    torch.manual_seed(1)
    z, lam, y, eps = batch(60_000, torch.tensor(lam))
    (c, w), target = told(cb, z, lam, y, eps)
    guided = torch.stack([CFG(Exact.world, 0.)(z, lam, y), Exact.world(z, lam, None)])
    off = target - (1+w)[:,None]*guided[0] + w[:,None]*guided[1]
    for phi in (torch.ones(len(z)), z[:,0], z[:,1].square(), (3*z[:,0]).sin(), w, w*z[:,1], (c == 1).float(), (c == 2)*z[:,0]):
        moment = off*phi[:,None]
        assert (moment.mean(0).abs() <= 4*moment.std(0)/len(z)**.5 + 1e-5).all()


def test_weights_lie_in_the_range_and_a_quarter_is_zero():
    "4u², but 0 for the first quarter and where no class is told"
    torch.manual_seed(0)
    z, lam, y, eps = batch(40_000, torch.tensor(1.))
    y[1::2] = 3
    (c, w), target = told(TellW(), z, lam, y, eps)
    assert torch.equal(c, y.float()) and not w[:10_000].any() and not w[1::2].any()
    drawn = w[10_000::2]
    assert 0 <= drawn.min() and drawn.max() <= 4 and abs(drawn.mean() - 4/3) < .04
    assert torch.equal(target[1::2], eps[1::2])


def test_free_weighs_by_beta():
    "The loss of the guidance-free way is β times the squared error, and ordinary in validation"
    torch.manual_seed(0)
    z, lam, y, eps = batch(64, torch.tensor(1.))
    cb = TellW()
    (_, w), target = told(cb, z, lam, y, eps)
    cb.learn.pred = pred = torch.randn(64, 2)
    cb.after_pred()
    loss = F.mse_loss(cb.learn.pred, *cb.learn.yb)
    assert torch.allclose(loss, ((pred-target).square().mean(1)/(1+w)).mean())
    cb.learn.training = False
    cb.learn.pred = pred
    cb.after_pred()
    assert cb.learn.pred is pred


def net(seed=0):
    "A told network whose weights are not zero"
    torch.manual_seed(seed)
    m = MLP(3, cond=ClassesAndW)
    for p in m.parameters(): torch.nn.init.normal_(p, std=.3)
    return m


def test_a_class_alone_has_weight_zero_and_null_tells_nothing():
    m, y = net(), torch.tensor([0, 1, 2, 3])
    z, lam = torch.randn(4, 2), torch.zeros(4)
    assert torch.equal(m(z, lam, y), m(z, lam, with_w(y, 0.)))
    for w in (0., 1., 4.): assert torch.allclose(m(z, lam, with_w(y, w))[3], m(z, lam, None)[3], atol=1e-6)
    assert not torch.allclose(m(z, lam, with_w(y, 1.))[:3], m(z, lam, y)[:3], atol=1e-3)


def test_one_pass_is_a_model():
    "By name, with w = 0, told nothing, told a class, in two dimensions and as images"
    model = Denoiser(net())
    z, lam, y = torch.randn(6, 2), torch.zeros(6), torch.arange(6)%3
    for w in (0., 1.5, 4.): assert torch.equal(rules['onepass'](model, w)(z, lam, y), model(z, lam, with_w(y, w)))
    assert torch.equal(OnePass(model, 2.)(z, lam, None), model(z, lam, None))
    assert sample(OnePass(model, 2.), (6, 2), y, n_steps=4).shape == (6, 2)
    images = Denoiser(unet_digits(cond=ClassesAndW))
    assert sample(OnePass(images, 2.), (3, 1, 8, 8), torch.arange(3), n_steps=3).shape == (3, 1, 8, 8)


@pytest.mark.parametrize('w', [-.5, 4.5, float('nan'), float('inf')])
def test_a_weight_that_none_was_trained_on(w):
    with pytest.raises(ValueError, match='w must'): OnePass(Denoiser(net()), w)


def test_a_network_that_is_not_told_w():
    with pytest.raises(ValueError, match='model must be told w'): OnePass(Denoiser(MLP(3)), 1.)
    x, y = Exact.world.draw(300)
    dls = data_dls(x.float(), y, range(3), 100, 50, device='cpu')
    with pytest.raises(ValueError, match='cond=ClassesAndW'): diffusion_learner(dls, MLP(3), cbs=TellW()).fit(1)
    other = Denoiser(MLP(5))
    with pytest.raises(ValueError, match='3 classes, got 5'): diffusion_learner(dls, net(), cbs=TellW(other)).fit(1)
    for bad in ('self', 3, True):
        with pytest.raises(ValueError, match='teacher must be a model'): TellW(bad)


@pytest.mark.parametrize('p', [0., 1.])
def test_without_a_teacher_labels_must_be_dropped(p):
    "Or the answer without a label was never trained; one who has a teacher needs none"
    x, y = Exact.world.draw(300)
    dls = data_dls(x.float(), y, range(3), 100, 50, device='cpu')
    for cb in (TellW(), TellW('itself')):
        with pytest.raises(ValueError, match='train with p_uncond=.1'): diffusion_learner(dls, net(), p_uncond=p, cbs=cb).fit(1)
    learn = diffusion_learner(dls, net(), p_uncond=p, cbs=TellW(Denoiser(MLP(3))))
    with learn.no_bar(), learn.no_logging(): learn.fit(1)


@pytest.mark.parametrize('cb', [TellW(), TellW('itself'), TellW(Exact())], ids=['free', 'itself', 'teacher'])
@pytest.mark.parametrize('y', [[3], [3, 3, 3, 3, 3], [0]])
def test_batches_of_nobody_and_of_one(cb, y):
    "No class in all of the batch: nobody is asked, and the target is the noise"
    z, lam, _, eps = batch(len(y), torch.tensor(1.))
    (c, w), target = told(cb, z, lam, torch.tensor(y), eps)
    assert target.shape == eps.shape and torch.equal(target[w == 0], eps[w == 0]) and (w > 0).sum() == (y == [0])


def test_it_is_saved_and_found_again(tmp_path):
    "The condition has a name in the configuration"
    m = net()
    m.save_pretrained(tmp_path)
    again = MLP.from_pretrained(tmp_path)
    y = with_w(torch.tensor([0, 2]), torch.tensor([.5, 3.]))
    z = torch.randn(2, 2)
    assert isinstance(again.label_emb, ClassesAndW) and torch.equal(again(z, torch.zeros(2), y), m(z, torch.zeros(2), y))


@pytest.mark.parametrize('way', ['itself', 'free', 'teacher'])
def test_it_learns_the_guided_answer(way):
    "In 400 steps the answer at w = 2 is nearer to the exact one than half of the push"
    torch.manual_seed(0)
    x, y = Exact.world.draw(10_000)
    dls = data_dls(x.float(), y, range(3), 256, 500, device='cpu')
    dls.train.n = 400*256
    cb = dict(itself=TellW('itself'), free=TellW(), teacher=TellW(Exact()))[way]
    learn = diffusion_learner(dls, MLP(3, cond=ClassesAndW), decay=.98, cbs=cb)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, 4e-3)
    z, lam, y, _ = batch(2000, torch.tensor(1.), seed=7)
    with torch.no_grad(): answer = OnePass(learn.ema.avg, 2.)(z, lam, y)
    exact, plain = CFG(Exact.world, 2.)(z, lam, y), Exact.world(z, lam, y)
    assert (answer-exact).norm() < .5*(plain-exact).norm()


def train(out, stop=None, monkeypatch=None, **kw):
    "Twenty steps on moons; `stop`: interrupted in that one, then continued"
    settings = dict(out=out, steps=20, every=5, bs=64, lam_min=-5., lam_max=7.) | kw
    if stop is not None:
        counted, before = [], TellW.before_batch
        def counts(self):
            counted.append(1)
            if len(counted) == stop: raise KeyboardInterrupt
            before(self)
        with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
            m.setattr(TellW, 'before_batch', counts)
            cli.cfg_train('moons', **settings)
    cli.cfg_train('moons', **settings)
    return Run(out)


def test_the_commands(tmp_path, monkeypatch):
    "Trained, stopped and continued to the same bits, sampled in one pass; then taught by an ordinary run"
    a, b = train(tmp_path/'a', told_w=True), train(tmp_path/'b', 13, monkeypatch, told_w=True)
    assert a.config['cond'] == 'told_w'
    for k, v in a.model(device='cpu').state_dict().items(): assert torch.equal(v, b.model(device='cpu').state_dict()[k]), k
    drawn = {}
    for rule, w in (('onepass', 2.), ('onepass', 0.), ('cfg', 0.), ('cfg', 2.)):
        cli.cfg_sample(a.path, n=30, w=w, rule=rule, n_steps=4, out=tmp_path/f'{rule}{w}.npz')
        drawn[rule, w] = read_npz(tmp_path/f'{rule}{w}.npz', 'arr_0')['arr_0']
    assert (drawn['onepass', 0.] == drawn['cfg', 0.]).all() and (drawn['onepass', 2.] != drawn['onepass', 0.]).any()
    plain = train(tmp_path/'plain')
    taught = train(tmp_path/'taught', told_w=True, teacher=str(plain.path))
    assert taught.config['teacher'] != str(plain.path), 'the fingerprint of its weights, not its place'
    assert isinstance(taught.model(device='cpu').net.label_emb, ClassesAndW)
    begun, _ = Plan(data='moons', out='', told_w=True, teacher=str(plain.path)).network(rungs['moons'].make())
    first = plain.model(device='cpu').net.state_dict()
    assert all(torch.equal(begun.state_dict()[k], v) for k, v in first.items())        # it begins with the teacher's weights
    for kw in (dict(predicts='eps'), dict(net='wide')):                                # where they mean the same, and fit
        monkeypatch.setitem(presets, 'wide', Preset(lambda n, shape, **o: MLP(n, width=32, **o), **presets['mlp'].recipe))
        other, _ = Plan(data='moons', out='', told_w=True, teacher=str(plain.path), **kw).network(rungs['moons'].make())
        assert not any(torch.equal(other.state_dict()[k], v) for k, v in first.items() if v.any())
    with pytest.raises(ValueError, match='must be told w'): cli.cfg_sample(plain.path, n=30, w=2., rule='onepass')
    with pytest.raises(ValueError, match='w must lie in 0 … 4'): cli.cfg_sample(a.path, n=30, w=5., rule='onepass')


def test_doors_of_the_commands(tmp_path):
    plain = train(tmp_path/'plain')
    for kw, word in ((dict(teacher=str(plain.path)), 'told_w'), (dict(told_w=True, teacher=str(tmp_path/'none')), 'teacher'),
                     (dict(told_w=True, teacher=str(plain.path), init=str(plain.path)), 'init')):
        with pytest.raises(ValueError, match=word): train(tmp_path/'new', **kw)
    with pytest.raises(ValueError, match='other data'): cli.cfg_train('digits', out=tmp_path/'new', steps=4, every=2, told_w=True, teacher=str(plain.path))
    assert not (tmp_path/'new').exists()
