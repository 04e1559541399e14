"ADM's upsamplers and 256×256 networks beyond their page: fingerprints, small networks against the original code, files of another stage, the linear clock."
from functools import cache, partial
from hashlib import sha256
import numpy as np
import pytest, torch
from shaken import shake, small
from test_adm import error, formula, orders, stirred, table_of
from cfg_edu.adm import adm_lams, adm_time, load_adm, load_adm_classifier
from cfg_edu.adm256 import Untold, adm256, adm256_classifier, adm_upsampler, linear_lams, linear_time, load_adm256, load_adm256_classifier, load_adm_upsampler
from cfg_edu.classifier import classifier_logp
from cfg_edu.conditions import Classes
from cfg_edu.denoiser import Denoiser
from cfg_edu.guidance import CFG, ClassifierGuided
from cfg_edu.nets import AttentionBlock, EncoderUNet, UNet, adm64, adm64_classifier, clocks
from cfg_edu.sampling import sample
from cfg_edu.upsampling import Part, Stack

pytestmark = [pytest.mark.filterwarnings('ignore:.*torch.jit.script. is'), pytest.mark.usefixtures('no_grad')]

networks = {    # tensors, numbers, fingerprint of the published file's list
    '64_256_upsampler.pt': (lambda **kw: adm_upsampler(out_channels=6, **kw), 567, 311_795_910, '99d9c28e89d759342a13b13e94555325e52332701a21bfceacc4cfb8a337a1b6'),
    '128_512_upsampler.pt': (lambda **kw: adm_upsampler(out_channels=6, size=512, **kw), 537, 308_835_270, '2424e4b817a8f3a3934a82d82ebb7cc942d09e4b9553fd88005e239904eec414'),
    '256x256_diffusion.pt': (lambda **kw: adm256(out_channels=6, **kw), 567, 553_838_086, '408c4d65687d2b6deffccf12030a9ff45c6b6eb5350f4a5067b95ddb800002bb'),
    '256x256_diffusion_uncond.pt': (lambda **kw: adm256(out_channels=6, cond=Untold, **kw), 566, 552_814_086, 'b9c90be1570d1541c91bede05b270bfb6bd51a7d5432e7b06f3a4c4cb257b1b6'),
    '256x256_classifier.pt': (adm256_classifier, 249, 54_096_360, '80623bcac5ce31aca104eb40c215e1963c09901c86a9835f0961eb2822a1dfd5')}

def made(name, **kw):
    with torch.device('meta'): return networks[name][0](**kw)

@pytest.mark.parametrize('name', networks)
def test_tensors(name):
    net, (_, n, numbers, print_) = made(name), networks[name]
    table = table_of(net)
    assert (len(table), sum(p.numel() for p in net.parameters())) == (n, numbers)
    assert sha256('\n'.join(sorted(f'{k} {s}' for k, s in table.items())).encode()).hexdigest() == print_
    heads = {(b.qkv.in_channels, b.heads) for b in net.modules() if isinstance(b, AttentionBlock)}
    assert orders(net) == {'legacy'} and heads == ({(384, 4), (768, 4)} if '64_256' in name else {(c, c//64) for c, _ in heads})

def test_size_is_one_of_two():
    for size in (64, 128, 1024):
        with pytest.raises(ValueError, match=f'size must be 256 or 512, got {size}'): load_adm_upsampler('absent.pt', size)


# --- the original's numbers: 128 channels at 16×16 and 8×8, 256 at 4×4; weights by a formula, see page 32

originals = {
    '64_256_upsampler.pt': [-0.3044022, -0.6227769, 0.2062557, 0.02559689, -0.04821761, -0.2796831, -0.5683945, 0.04256427, -0.1622653, -0.2086116, -0.3906862, -0.1694672, 0.04169824, 0.5460387],
    '128_512_upsampler.pt': [-0.171813, -0.5945534, 0.2504077, 0.2165912, -0.1617079, -0.338087, -0.5297655, -0.07745288, -0.1448094, -0.2268076, -0.2528704, -0.2966959, -0.008100834, 0.5897628],
    '256x256_diffusion.pt': [0.04476272, 0.125711, -0.07643569, -0.3147379, -0.09345672, -0.02559875, 0.4076605, -0.276345, -0.2871687, 0.03025777, -0.06453065, 0.3273762, 0.04309802, 0.551864],
    '256x256_diffusion_uncond.pt': [0.04004004, 0.1393746, -0.06332836, -0.3181939, -0.1062167, -0.04311857, 0.3973755, -0.2771911, -0.301735, 0.03516176, -0.05236528, 0.3415889, 0.04366246, 0.5523025],
    '256x256_classifier.pt': [0.5024765, -0.4107651, -0.5884387, 0.1889974, 0.5894282, -0.300724, 0.2615034, -0.0934331, 0.4863541, -0.2554529, 0.7494237, -0.2262562, 0.06091063, 0.4346189]}

@cache
def weights(name): return formula(table_of(narrow(name)))

def narrow(name, **kw):
    "As the full one, whose arguments it keeps, but for the sizes"
    full, cond = made(name, clock='adm_linear', **kw), Untold if 'uncond' in name else Classes
    sizes = dict(image_size=16, model_channels=128, channel_mult=(1,1,2), n_classes=10, attn_sizes=(4,) if '512' in name else (8,4), beside=full.beside and (3,4,4))
    own = {k: getattr(full, k) for k in ('in_channels', 'out_channels', 'num_res_blocks', 'head_channels', 'qkv_order', 'clock', 'heads')}
    with torch.device('meta'): return type(full)(**own, **sizes, cond=cond).eval()

def wrong(name, **kw):
    "Of the narrow network's answer"
    net = narrow(name, **kw)
    net.load_state_dict(weights(name), assign=True)
    low = (2*stirred('low', (4, 3, 4, 4)),) if 'upsampler' in name else ()
    y = () if 'classifier' in name else (torch.tensor([0, 3, 9, 5]),)
    out = net(3*stirred('z', (4, 3, 16, 16)), linear_lams()[[0, 333, 650, 999]].float(), *y, *low)
    return error(out, originals[name])

@pytest.mark.parametrize('name', networks)
def test_original_numbers(name):
    "What the authors' code says, to float32; the other order, other heads or the other clock are another network"
    assert wrong(name) < 1e-5
    assert wrong(name, qkv_order='new') > .02 and wrong(name, heads=None if '64_256' in name else 8) > .02
    with pytest.MonkeyPatch.context() as m:
        m.setitem(clocks, 'adm_linear', adm_time)
        assert wrong(name) > .02


# --- files of the full shapes, one number a tensor

def flat(net):
    return {k: torch.full((1,)*len(s), .25).expand(s) for k, s in table_of(net).items()}

loaders = {
    '64_256_upsampler.pt': load_adm_upsampler, '128_512_upsampler.pt': lambda f: load_adm_upsampler(f, 512),
    '256x256_diffusion.pt': load_adm256, '256x256_diffusion_uncond.pt': lambda f: load_adm256(f, uncond=True),
    '256x256_classifier.pt': load_adm256_classifier, '64x64_diffusion.pt': load_adm, '64x64_classifier.pt': load_adm_classifier}

@pytest.fixture(scope='module')
def files(tmp_path_factory):
    d = tmp_path_factory.mktemp('adm')
    with torch.device('meta'): nets = {**{k: made(k) for k in networks}, '64x64_diffusion.pt': adm64(out_channels=6), '64x64_classifier.pt': adm64_classifier()}
    for name, net in nets.items(): torch.save(flat(net), d/name)
    (d/'renamed.pt').write_bytes((d/'128_512_upsampler.pt').read_bytes())
    return d

@pytest.mark.parametrize('name', networks)
def test_loads_what_fits(files, tmp_path, name):
    state = torch.load(files/name)
    if 'classifier' not in name: state['out.2.bias'] = torch.arange(6.)
    torch.save(state, tmp_path/'net.pt')
    model = loaders[name](tmp_path/'net.pt')
    net = model if 'classifier' in name else model.net
    assert (net.clock, net.n_classes, net.training, orders(net)) == ('adm_linear', 1000, False, {'legacy'})
    if 'classifier' in name: return
    got = net.state_dict()
    assert (model.predicts, model.null, net.out_channels, net.beside) == ('eps', 1000, 3, made(name).beside)
    assert got['out.2.bias'].tolist() == [0, 1, 2] and len(got) == len(state)
    assert all(v.dtype == torch.float32 and (k[:5] == 'out.2' or v.flatten()[-1] == .25) for k, v in got.items())

@pytest.mark.parametrize('name', loaders)
def test_another_stage_is_named(files, name):
    "By one sentence, before a number is copied"
    for other in loaders:
        if other == name: continue
        with pytest.raises(ValueError, match=f"looks like ADM's {other}: tensor"): loaders[name](files/other)
    if name != '128_512_upsampler.pt':
        with pytest.raises(ValueError, match="renamed.pt does not fit the network, it looks like ADM's 128_512_upsampler.pt"): loaders[name](files/'renamed.pt')

def test_others_are_not_named(tmp_path):
    for o in ({}, {'input_blocks.0.0.weight': torch.zeros(())}, {'input_blocks.0.0.weight': 7}, {'a': torch.zeros(3)}):
        torch.save(o, f := tmp_path/'net.pt')
        with pytest.raises(ValueError, match='does not fit the network: tensor'): load_adm_upsampler(f)


# --- the clock

def test_linear_levels():
    "β as numpy makes them in the original, and λ from their product"
    bar = np.cumprod(1-np.linspace(1e-4, .02, 1000))
    np.testing.assert_allclose(linear_lams().numpy(), np.log(bar/(1-bar)), rtol=0, atol=1e-12)
    with torch.device('meta'): assert linear_lams().device.type == 'cpu'

def test_linear_time():
    lams, t = linear_lams(), torch.arange(1000.)
    for dtype in (torch.float32, torch.float64):
        out = linear_time(lams.to(dtype))
        assert out.dtype == torch.float32 and (out-t).abs().max() < 5e-4
    out = linear_time(torch.tensor([9.22, 20., 400., -10.12, -20., -400.]))              # clamped, and no overflow
    assert out.tolist() == [0, 0, 0, 999, 999, 999]
    assert (linear_time(torch.linspace(-10.117, 9.21, 5000)).diff() < 0).all()
    k = torch.arange(999)+.5                                                             # between two steps: the sum's own smooth continuation, by its gamma functions
    a, b = 1e-4, .0199/999
    logbar = (k.double()+1)*np.log(b) + torch.lgamma(torch.tensor((1-a)/b+1, dtype=torch.float64)) - torch.lgamma((1-a)/b-k.double())
    assert (linear_time(-torch.expm1(-logbar).log())-k).abs().max() < 1e-3

def test_clock_is_kept(tmp_path):
    net = shake(UNet(**small, clock='adm_linear'))
    z, lam = torch.randn(4, 1, 8, 8), linear_lams()[[0, 300, 700, 999]].float()
    net.save_pretrained(tmp_path)
    back = UNet.from_pretrained(tmp_path).eval()
    assert back.clock == 'adm_linear' and torch.equal(back(z, lam), net(z, lam))
    assert torch.equal(net(z, torch.tensor([20., 11, -11, -30])), net(z, torch.tensor([9.211, 9.211, -10.118, -10.118])))
    assert (adm_time(lam)-linear_time(lam)).abs().max() > 100


# --- told nothing

def test_untold(tmp_path):
    "A class changes nothing, is checked all the same, and a classifier may ask for it"
    net = shake(UNet(**small, cond=Untold))
    n, z, lam = net.n_classes, torch.randn(4, 1, 8, 8), torch.tensor([-3., -1, 0, 2])
    ys = torch.tensor([0, 1, 2, net.null])
    assert 'label_emb.weight' not in net.state_dict() and torch.equal(net(z, lam, ys), net(z, lam)) and net.null == n
    model = Denoiser(net, 'eps')
    with pytest.raises(ValueError, match='y'): sample(model, (2, 1, 8, 8), n+1, n_steps=2)
    torch.testing.assert_close(CFG(model, 3.)(z, lam, ys), model(z, lam), rtol=1e-5, atol=1e-5)
    logp = classifier_logp(shake(EncoderUNet(**small)))
    pushed = ClassifierGuided(model, logp, 10.)
    assert (pushed(z, lam, ys)[:3] != model(z, lam)[:3]).any() and torch.equal(pushed(z, lam, ys)[3], model(z, lam)[3])
    assert sample(pushed, (2, 1, 8, 8), 1, n_steps=2).isfinite().all()
    net.save_pretrained(tmp_path)
    assert torch.equal(UNet.from_pretrained(tmp_path).eval()(z, lam, ys), net(z, lam))


def test_two_clocks_in_a_stack():
    "Each part on its own schedule's levels: the same as by hand, one after the other"
    base = Denoiser(shake(UNet(**small, clock='adm')), 'eps')
    up = Denoiser(shake(UNet(**{**small, 'image_size': 16, 'attn_sizes': (8,)}, beside=(1, 8, 8), clock='adm_linear')), 'eps')
    guide = partial(ClassifierGuided, logp=classifier_logp(shake(EncoderUNet(**small, clock='adm'))), w=1.)
    each = [dict(lams=lams[[999, 600, 300, 0]], clip=(-1, 1)) for lams in (adm_lams(), linear_lams())]
    stack = Stack([Part(base, (1, 8, 8), guide, **each[0]), Part(up, (1, 16, 16), **each[1])])
    low, large = stack.sample(3, torch.arange(3), every=True)
    torch.testing.assert_close(low, sample(guide(base), (3, 1, 8, 8), torch.arange(3), **each[0]), rtol=1e-5, atol=1e-5)
    by_hand = sample(lambda z, lam, y: up(z, lam, y, low), (3, 1, 16, 16), torch.arange(3), seed=2**29, **each[1])
    torch.testing.assert_close(large, by_hand, rtol=1e-5, atol=1e-5)
