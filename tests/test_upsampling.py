"Networks that enlarge images: what they are given, how they are trained, and stacks of them."
import json, os, subprocess, sys, warnings
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file
from scipy.ndimage import gaussian_filter1d
from torch.nn import functional as F
from shaken import shake
from cfg_edu import plan
from cfg_edu.cli import cfg_evaluate, cfg_sample, cfg_tradeoff, cfg_train
from cfg_edu.data import data_dls, digits, digits_dls, Rung, rungs
from cfg_edu.denoiser import Denoiser, eps2v, eps2x
from cfg_edu.guidance import CFG, ClassifierGuided, Interval
from cfg_edu.nets import Preset, UNet, presets, unet_digits
from cfg_edu.runs import Run
from cfg_edu.sampling import sample
from cfg_edu.training import SampleGrid, diffusion_learner
from cfg_edu.variants import LateUNet
from cfg_edu.schedule import amps
from cfg_edu.upsampling import Detail, LowRes, Part, Stack, Upsampling, beside, blurred, noised, shrink, smaller

def tiny(size=8, **kwargs): return UNet(size, 1, 16, n_classes=10, head_channels=16, **kwargs)
def upsampler(channels=1): return Denoiser(shake(tiny(beside=(channels, 4, 4)), .05)).eval()
def base(): return Denoiser(shake(tiny(4), .05)).eval()
def parts(**how): return Part(base(), (1, 4, 4), **how), Part(upsampler(), (1, 8, 8), **how)
how = dict(n_steps=3, clip=(-1., 1.))

@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_a_small_pixel_is_the_mean_of_its_block(k, h, w):
    x = torch.randn(2, 3, h*k, w*k)
    assert torch.allclose(shrink(x, (h, w)), x.reshape(2, 3, h, k, w, k).mean((3, 5)), atol=1e-6)

def test_one_number_is_for_squares():
    with pytest.raises(ValueError, match='two numbers where they are not square, got 4'): shrink(torch.zeros(1, 1, 8, 16), 4)
    assert shrink(torch.zeros(1, 1, 8, 16), (4, 8)).shape == (1, 1, 4, 8)

@pytest.mark.parametrize('size', [3, 0, -2, 16, (4, 3)])
def test_a_size_must_divide(size):
    with pytest.raises(ValueError, match=r'size must divide that of the images, \(8, 8\), .* got'): shrink(torch.zeros(1, 1, 8, 8), size)

def test_data_are_shrunk_once():
    dls = smaller(digits_dls(bs=32, device='cpu'), 4)
    x, y = dls.one_batch()
    assert x.shape == (32, 1, 4, 4) and dls.c == 10 and dls.vocab == [*range(10)] and len(dls.train_ds) == 1437
    assert torch.equal(dls.valid_ds.tensors[0], shrink(digits('valid')[0], 4))
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (50, 3, 4, 4), generator=g, dtype=torch.uint8)
    dls = smaller(data_dls(x, torch.arange(50)%2, 'ab', 8, 10, device='cpu'), 2)
    means = x.float().reshape(50, 3, 2, 2, 2, 2).mean((3, 5))
    both = torch.cat([o.tensors[0] for o in (dls.train_ds, dls.valid_ds)])
    assert both.dtype == torch.uint8 and (both.float()-means).abs().max() <= .51                 # rounded
    with pytest.raises(ValueError, match='size is for images'): smaller(data_dls(torch.randn(50, 2), torch.arange(50)%2, 'ab', 8), 2)

def test_blur_is_a_gaussian_filter_inside():
    low, t = torch.randn(3, 2, 32, 32), torch.tensor([0., .1, .2])
    out = blurred(low, t, None)
    assert torch.equal(out[0], low[0])
    for k in (1, 2):
        want = low[k].numpy()
        for axis in (1, 2): want = gaussian_filter1d(want, float(t[k])*8, axis, truncate=8., mode='nearest')
        inner = slice(12, 20)                                                                    # far from the edges, where both agree
        assert np.allclose(out[k].numpy()[:,inner,inner], want[:,inner,inner], atol=.02)

def test_noise_of_a_level():
    low, noise = torch.randn(4, 1, 4, 4), torch.randn(4, 1, 4, 4)
    out = noised(low, torch.tensor([0., 1., .5, 1/3]), noise)
    assert torch.equal(out[0], low[0]) and torch.allclose(out[1], noise[1], atol=1e-6)
    assert torch.allclose(out[2], (low[2]+noise[2])/2**.5, atol=1e-6) and torch.allclose(out[3], .75**.5*low[3] + .5*noise[3], atol=1e-6)
    told = beside(low, 'noise', torch.tensor([0., 1., .5, .25]), noise)
    assert told.shape == (4, 2, 4, 4) and torch.equal(told[:,1,0,0], torch.tensor([-1., 1., 0., -.5])) and (told[:,1] == told[:,1,:1,:1]).all()

@pytest.mark.parametrize('w', [-1., 0., 2.])
def test_guidance_hides_the_class_and_not_the_image(w):
    net, low = upsampler(), torch.randn(5, 1, 4, 4)
    z, lam, y = torch.randn(5, 1, 8, 8), torch.linspace(-3, 3, 5), torch.arange(5)
    with torch.no_grad():
        told, nothing = net(z, lam, y, low), net(z, lam, None, low)
        assert torch.allclose(CFG(Upsampling(net, low), w)(z, lam, y), (1+w)*told - w*nothing, atol=1e-5)
        inside = Interval(CFG(Upsampling(net, low), w), -1., 1.)(z, lam, y)
        assert torch.allclose(inside[0], told[0], atol=1e-5)
    logp = lambda z, lam: z.flatten(1)[:,:10].log_softmax(1)
    pushed = ClassifierGuided(Upsampling(net, low), logp, 1.)(z, lam, y)
    assert (pushed-told).abs().max() > 1e-3 and Upsampling(net, low).null == 10

def test_small_images_stay_with_their_samples():
    "A batch that is not the one of the small images would be given those of others"
    net, low, y = upsampler(), torch.randn(6, 1, 4, 4), torch.arange(6)
    for bs in (3, 4):                                                                            # guidance asks about 3 twice: 6 rows again
        with pytest.raises(ValueError, match='one for each small image, got .*draw them in one batch'): sample(CFG(Upsampling(net, low), 1.), (6, 1, 8, 8), y, bs=bs, n_steps=2)
    calls = []
    net.net.register_forward_hook(lambda m, i, o: calls.append(len(o)))
    sample(CFG(Upsampling(net, low), 1.), (6, 1, 8, 8), y, n_steps=2)
    assert calls == [12, 12]                                                                     # both answers in one call

def test_a_late_network_shares_what_both_answers_have():
    net = Denoiser(shake(LateUNet(8, 1, 16, n_classes=10, head_channels=16, late=4, beside=(1, 4, 4)), .05)).eval()
    low, z, lam, y = torch.randn(3, 1, 4, 4), torch.randn(3, 1, 8, 8), torch.linspace(-2, 2, 3), torch.arange(3)
    with torch.no_grad():
        told, nothing = Upsampling(net, low).pair(z, lam, y)
        assert torch.allclose(told, net(z, lam, y, low), atol=1e-5) and torch.allclose(nothing, net(z, lam, None, low), atol=1e-5)

def test_a_stack_is_its_parts_by_hand():
    a, b = parts(**how)
    y = torch.arange(6)%10
    small, large = Stack([a, b]).sample(6, y, seed=5, every=True)
    assert torch.equal(small, sample(a.model, (6, 1, 4, 4), y, seed=5, **how))
    assert torch.equal(large, sample(Upsampling(b.model, small), (6, 1, 8, 8), y, seed=5+2**29, **how))
    assert torch.equal(Stack([a]).sample(6, y, seed=5), small)                                   # one part is what it was

@pytest.mark.parametrize('disturb', [None, 'noise', 'blur'])
def test_a_sample_does_not_depend_on_its_batch(disturb):
    a, b = Part(base(), (1, 4, 4), **how), Part(upsampler(1 if disturb is None else 2), (1, 8, 8), partial(CFG, w=1.), disturb, .3*(disturb is not None), **how)
    y = torch.arange(7)
    whole = Stack([a, b]).sample(7, y, seed=3)
    assert torch.allclose(Stack([a, b]).sample(7, y, seed=3, bs=2), whole, atol=1e-5)
    assert torch.allclose(Stack([a, b]).sample(1, y[4], seed=7), whole[4:5], atol=1e-5)
    assert (Stack([a, b]).sample(7, y, seed=4)-whole).abs().max() > .01

def test_parts_do_not_share_noise():
    "The first numbers of one seed's stream, whatever the shape, would be the same"
    seen = []
    def spy(z, lam, y=None, low=None): seen.append(z.clone()); return torch.zeros_like(z)
    Stack([Part(spy, (1, 4, 4), n_steps=2), Part(spy, (1, 8, 8), n_steps=2)]).sample(1)
    small, large = seen[1].flatten(), seen[3].flatten()                                          # the first of each walk; seen[0] is the rehearsal
    assert small.shape == (16,) and not np.isclose(np.corrcoef(small, large[:16])[0,1], 1)

@pytest.mark.parametrize('match, make', [
    ('must go from small images to large', lambda a, b: Stack([b, a])), ('must go from small images to large', lambda a, b: Stack([])),
    ('must know the same classes', lambda a, b: Stack([Part(Denoiser(UNet(4, 1, 16, n_classes=3, head_channels=16)), (1, 4, 4)), b])),
    (r'must have shape \(1, 4, 4\), got \(1, 2, 2\)', lambda a, b: Stack([Part(Denoiser(UNet(2, 1, 16, channel_mult=(1,), head_channels=16)), (1, 2, 2)), b]).sample(2)),
    (r'must have shape \(1, 4, 4\), got \(2, 4, 4\)', lambda a, b: Stack([a, Part(b.model, (1, 8, 8), disturb='noise')]).sample(2)),
    ('low must be 2 images, got 3', lambda a, b: Stack([b]).sample(2, low=torch.zeros(3, 1, 4, 4))), ('low must be images in', lambda a, b: Stack([b]).sample(2, low=255*torch.rand(2, 1, 4, 4))),
    (r'must have shape \(1, 4, 4\), got \(1, 5, 5\)', lambda a, b: Stack([b]).sample(2, low=torch.zeros(2, 1, 5, 5))), ('seed must lie in', lambda a, b: Stack([a, b]).sample(2, seed=2**28)),
    ('n and bs must be at least 1', lambda a, b: Stack([a, b]).sample(0)), ('n and bs must be at least 1', lambda a, b: Stack([a, b]).sample(2, bs=-1)),
    ('level must lie in', lambda a, b: Part(b.model, (1, 8, 8), disturb='noise', level=1.5)), ('disturb must be given with level', lambda a, b: Part(b.model, (1, 8, 8), level=.5)),
    ('disturb must be one of', lambda a, b: Part(b.model, (1, 8, 8), disturb='dirt')), ('most must lie in', lambda a, b: LowRes(4, 'noise', 0.)), ('disturb must be one of', lambda a, b: LowRes(4, 'dirt'))])
def test_what_does_not_fit_is_said_before_work(match, make):
    drawn = []
    a, b = parts(n_steps=2, cb=lambda *_: drawn.append(1))
    with pytest.raises(ValueError, match=match): make(a, b)
    assert not drawn

class Fine:
    "The exact network for details of 8×8 images: N(0, s²) in each pixel, whatever the small image"
    s = .3
    def __init__(self, predicts): self.predicts = predicts
    def __call__(self, z, lam, y=None, low=None):
        alpha, sigma = amps(lam, 4)
        eps = sigma*z/((alpha*self.s)**2 + sigma**2)
        return eps if self.predicts == 'eps' else (eps2v if self.predicts == 'v' else eps2x)(z, eps, lam)

@pytest.mark.parametrize('predicts', ['v', 'eps', 'x'])
def test_a_model_of_the_detail_is_a_model_of_the_image(predicts):
    "Against the closed form for images around their enlarged small ones, with and without guidance, and in samples"
    torch.manual_seed(0)
    model, low = Detail(Fine(predicts), predicts), 2*torch.rand(400, 2, 4, 4)-1            # the second channel only tells a level
    middle = F.interpolate(low[:,:1], (8, 8), mode='bilinear')
    z, lam = torch.randn(400, 1, 8, 8), torch.linspace(-8, 8, 400)
    alpha, sigma = amps(lam, 4)
    exact = sigma*(z-alpha*middle)/((alpha*Fine.s)**2 + sigma**2)
    up, y = Upsampling(model, low), torch.zeros(400, dtype=torch.long)
    for eps in (model(z, lam, None, low), up(z, lam), *up.pair(z, lam, y), CFG(up, 2.)(z, lam, y)): assert torch.allclose(eps, exact, atol=2e-4, rtol=1e-3)
    detail = sample(up, (400, 1, 8, 8), n_steps=32) - middle
    assert abs(detail.mean()) < 4*Fine.s/160 and abs(detail.std()/Fine.s - 1) < .03
    with pytest.raises(ValueError, match='low must be given'): model(z, lam)

@pytest.mark.parametrize('disturb', [None, 'noise', 'blur'])
def test_a_detail_and_what_is_given_are_the_image(disturb):
    x, low = 2*torch.rand(5, 1, 8, 8)-1, LowRes(4, disturb, detail=True)
    low.learn = SimpleNamespace(xb=(x,), diffuse=SimpleNamespace(gen=None))
    low.before_batch()
    detail, given = low.learn.xb
    assert torch.allclose(detail + F.interpolate(given[:,:1], (8, 8), mode='bilinear'), x, atol=1e-6) and (detail-x).abs().max() > .1

@pytest.mark.parametrize('detail', [False, True])
@pytest.mark.parametrize('disturb', [None, 'noise', 'blur'])
def test_training_learns_to_use_the_small_image(disturb, detail, tmp_path):
    torch.manual_seed(0)
    callback = LowRes(4, disturb, detail=detail)
    learn = diffusion_learner(digits_dls(device='cpu'), unet_digits(beside=(1 + (disturb is not None), 4, 4)), lr=4e-3, decay=.9, cbs=[callback, SampleGrid(5, folder=tmp_path)])
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(5, 4e-3)
        assert learn.validate()[0] == learn.validate()[0]                                        # the same noise and levels each time
    x, y = digits('valid')
    lam, noise = torch.zeros(len(x)), torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    z, low = (x + noise)/2**.5, callback.of(x, torch.Generator().manual_seed(0))
    model = Detail(learn.ema.avg.net) if detail else learn.ema.avg
    with torch.no_grad(): right, wrong = ((model(z, lam, y, o)-noise).square().mean() for o in (low, low.roll(1, 0)))
    assert right < .9*wrong and [*tmp_path.glob('*.png')]

def test_a_picture_shows_held_out_images_of_the_class_asked_for():
    low = LowRes(4)
    low.learn = diffusion_learner(digits_dls(device='cpu'), unet_digits(beside=(1, 4, 4)))
    y = torch.arange(10).repeat(2)
    given = low.given(low.learn.ema.avg or low.learn.model, y).low
    noisy, before = LowRes(4, 'noise'), torch.get_rng_state()
    noisy.learn = low.learn
    first, again = (noisy.given(low.learn.model, y).low for _ in range(2))
    assert torch.equal(first, again) and torch.equal(torch.get_rng_state(), before)             # one process of several draws pictures
    x, c = digits('valid')
    for k in range(10):
        first, second = (shrink(x[c == k][i:i+1], 4)[0] for i in (0, 1))
        assert torch.equal(given[k], first) and torch.equal(given[10+k], second)

@pytest.fixture
def runs(tmp_path):
    presets['tiny'] = Preset(lambda n, shape, **k: UNet(shape[1:], shape[0], 16, n_classes=n, **dict(head_channels=16) | k), steps=4, bs=64, lr=4e-3, decay=.9)
    small, up = str(tmp_path/'small'), str(tmp_path/'up')
    cfg_train('digits', out=small, size=4, net='tiny', steps=4)
    cfg_train('digits', out=up, up=4, disturb='noise', net='tiny', steps=4)
    yield small, up, tmp_path
    del presets['tiny']

def test_stacks_of_run_folders(runs):
    small, up, folder = runs
    assert Run(up).model().net.beside == (2, 4, 4) and Run(small).config['shape'] == [1, 4, 4]
    x, y = cfg_sample(small, n=7, w=1., up=up, up_w=.5, up_steps=3, level=.25, n_steps=4, bs=3)
    a, b = Run(small).model(device='cpu'), Run(up).model(device='cpu')
    clip, kind = (-1., 1.), partial(CFG, w=1.)
    by_hand = Stack([Part(a, (1, 4, 4), kind, n_steps=4, clip=clip), Part(b, (1, 8, 8), partial(CFG, w=.5), 'noise', .25, n_steps=3, clip=clip)]).sample(7, y)
    assert ((by_hand*127.5 + 127.5) - x).abs().max() < 1.01
    assert [*(folder/'up').glob('samples*level=0.25*.npz')] and not [*(folder/'small').glob('*.npz')]
    row = cfg_evaluate(small, up=up, n=20, n_steps=2)
    rows = cfg_tradeoff('digits', out=small, up=up, n=20, ws='0,1', n_steps=2)
    assert rows[0]['fid'] == pytest.approx(row['fid']) and (folder/'up'/'tradeoff.csv').exists() and not (folder/'small'/'tradeoff.csv').exists()

def test_folders_that_make_no_stack(runs):
    small, up, folder = runs
    other = str(folder/'other')
    cfg_train('digits', out=other, up=2, net='tiny', steps=4)
    for match, call in (('is an upsampler: give it as up', lambda: cfg_sample(up)), ('must enlarge the images', lambda: cfg_sample(small, up=small)), ('must enlarge the images', lambda: cfg_sample(small, up=other)),
                        ('up must be given with up_w', lambda: cfg_sample(small, up_w=1.)), ('disturb is for an upsampler', lambda: cfg_train(out=str(folder/'q'), disturb='noise')), ('detail is for an upsampler', lambda: cfg_train(out=str(folder/'q'), detail=True)), ('its detail differ', lambda: cfg_train('digits', out=str(folder/'q'), init=up, up=4, disturb='noise', detail=True, net='tiny', steps=4)),
                        ('size must divide', lambda: cfg_train(out=str(folder/'q'), size=3)), ('size must divide', lambda: cfg_train(out=str(folder/'q'), up=3)), ('up is for images', lambda: cfg_train('moons', out=str(folder/'q'), up=1)),
                        ('must be trained before upsamplers', lambda: cfg_tradeoff(out=str(folder/'q'), up=up)), ('level must lie in', lambda: cfg_sample(small, up=up, level=.6)), ('n_steps must be', lambda: cfg_sample(small, up=up, up_steps=1)), ('size must be at least 1', lambda: cfg_train(out=str(folder/'q'), size=0)), ('up must be at least 1', lambda: cfg_train(out=str(folder/'q'), up=0)), ('w must be finite', lambda: cfg_tradeoff('digits', out=small, up=up, up_w=-2.)), ('cfg_train makes it', lambda: cfg_sample(small, up=str(folder/'none'))),
                        ('w must be finite', lambda: cfg_sample(small, up=up, up_w=-3.)), ('its up and disturb differ', lambda: cfg_train('digits', out=str(folder/'q'), init=up, net='tiny', steps=4))):
        with pytest.raises((ValueError, FileNotFoundError), match=match): call()
    assert not (folder/'q').exists()

def test_an_upsampler_of_details_in_commands(runs, monkeypatch):
    "The run says that it is one, its model is of the images, and a teacher of details is shown details"
    small, _, folder = runs
    fine, told = str(folder/'fine'), str(folder/'told')
    cfg_train('digits', out=fine, up=4, detail=True, net='tiny', steps=4)
    model = Run(fine).model(device='cpu')
    assert type(model) is Detail and Run(fine).config['detail']
    low = digits()[0][:3, :, ::2, ::2]
    x = cfg_sample(small, n=3, up=fine, n_steps=2)[0]
    assert x.shape == (3, 1, 8, 8)
    z, lam = torch.randn(3, 1, 8, 8), torch.zeros(3)
    rest = z - .5**.5*F.interpolate(low, (8, 8), mode='bilinear')
    assert torch.allclose(model(z, lam, None, low), Denoiser(model.net)(rest, lam, None, low), atol=1e-6)
    seen, real = [], plan.TellW
    monkeypatch.setattr(plan, 'TellW', lambda teacher: seen.append(teacher) or real(teacher))
    cfg_train('digits', out=told, up=4, detail=True, net='tiny', steps=4, told_w=True, teacher=fine)
    assert type(seen[0]) is Denoiser and seen[0].null == 10

def test_networks_of_two_seeds_make_one_stack(runs):
    "Whose pictures are made anew with each seed: samples are judged by those of the upsampler"
    small, up, folder = runs
    def drawn(bs=64, seed=0, device=None, **kw):
        x, y = digits('all')
        return data_dls(x.roll(seed, -1), y, range(10), bs, 100, seed=seed, device=device)
    rungs['drawn'] = Rung(drawn, 'tiny', judge='digits')
    try:
        for out, how in ((small, dict(size=4, seed=1)), (up, dict(up=4, seed=0))): cfg_train('drawn', out=out + '2', net='tiny', steps=4, **how)
        how = dict(up=up + '2', n=20, n_steps=2)
        row, = cfg_tradeoff('drawn', out=small + '2', ws='1', **how)
        assert row['fid'] == pytest.approx(cfg_evaluate(small + '2', w=1., **how)['fid'])
    finally: del rungs['drawn']

def test_a_run_of_before_says_nothing_of_details(runs):
    "It is finished, and another may start from it"
    _, up, folder = runs
    how, file = dict(up=4, disturb='noise', net='tiny', steps=4), folder/'up'/'config.json'
    config = json.loads(file.read_text())
    del config['detail']
    file.write_text(json.dumps(config))
    cfg_train('digits', out=up, **how)
    cfg_train('digits', out=str(folder/'on'), init=up, **how)
    assert type(Run(up).model()) is Denoiser and Run(str(folder/'on')).finished

def test_a_weight_that_an_upsampler_never_learned_is_said(runs):
    small, _, folder = runs
    told = str(folder/'told')
    cfg_train('digits', out=told, up=4, p_uncond=0., net='tiny', steps=4)
    with pytest.warns(UserWarning, match=f'up {told} was trained with p_uncond 0'): cfg_sample(small, up=told, up_w=1., n=4, n_steps=2)
    with warnings.catch_warnings(action='error', category=UserWarning) if sys.version_info >= (3, 11) else nullcontext(): cfg_sample(small, up=told, n=5, n_steps=2)

def test_two_processes_train_an_upsampler_as_one_does(tmp_path):
    "Noise on small images, and the pictures that one process draws of held-out ones, leave all in step"
    how, script = dict(up=4, disturb='noise', steps=4, every=2, bs=64), tmp_path/'train.py'
    cfg_train('digits', out=tmp_path/'1', **how)
    script.write_text(f"import sys\nfrom cfg_edu.cli import cfg_train\nif __name__ == '__main__': cfg_train('digits', out=sys.argv[1], **{how})\n")
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'ACCELERATE_USE_CPU': 'true'}
    done = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', str(script), str(tmp_path/'2')], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path/f'{k}'/'model.safetensors') for k in (1, 2))
    assert max((one[k]-two[k]).abs().max() for k in one) < 1e-4
