"Networks beyond their page: formulas with every sum written out, 16 bits, sizes that do not fit, another norm, files."
import json
from copy import deepcopy
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from shaken import shake, small
from PIL import Image
from cfg_edu.conditions import Classes, Vector
from cfg_edu.data import data_dls
from cfg_edu.denoiser import Denoiser, both
from cfg_edu.guidance import CFG
from cfg_edu.nets import (AttentionBlock, AttentionPool, EncoderUNet, GroupNorm32, MLP, ResBlock, UNet,
                          encoder_digits, lam_angle, net_for, norms, presets, sinusoid, unet_digits)
from cfg_edu.sampling import sample
from cfg_edu.training import SampleGrid, diffusion_learner
from cfg_edu.variants import LateUNet

pytestmark = pytest.mark.usefixtures('no_grad')
lams = torch.tensor([-20., -1, 2, 20])

def close(a, b, eps=1e-5): torch.testing.assert_close(a, b, rtol=eps, atol=eps)


# --- λ

@settings(deadline=None)
@given(st.lists(st.floats(-1e4, 1e4), max_size=5), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_angle_is_finite_everywhere(lam, dtype):
    u = lam_angle(torch.tensor(lam).to(dtype))
    assert u.dtype == torch.float32 and ((u >= 0) & (u <= 1)).all()
    assert sinusoid(1000*u, 8).isfinite().all()

def test_ends():
    assert lam_angle(torch.tensor([-400., 400.])).tolist() == [1, 0]
    assert sinusoid(torch.zeros(1), 8).tolist() == [[1.]*4 + [0.]*4]


# --- what every network promises

makes = dict(mlp=lambda **kw: MLP(3, **kw), unet=lambda **kw: UNet(**small, **kw))

@pytest.mark.parametrize('make', makes.values(), ids=makes)
@pytest.mark.parametrize('cond', [Classes, Vector])
def test_contract(make, cond):
    "Zero at first; null, hidden and nothing are one; everything told counts; each example on its own; an empty batch too"
    net = make(cond=cond)
    z, y = torch.randn(4, *net.shape), torch.tensor([0, 1, 2, 0]) if cond is Classes else torch.randn(4, 3)
    assert torch.equal(net(z, lams, y), torch.zeros_like(z)) and net(z[:0], lams[:0], y[:0]).shape == z[:0].shape
    out, free = shake(net)(z, lams, y), net(z, lams)
    for nothing in (net.null_like(y), net.check_y(None, 4), net.label_emb.hide(y, 1.)): assert torch.equal(net(z, lams, nothing), free)
    assert ((out-free).flatten(1).abs().amax(1) > 1e-4).all()
    for i in range(4): close(net(z[i:i+1], lams[i:i+1], y[i:i+1]), out[i:i+1], 1e-4)
    model = Denoiser(net)
    for a, b in zip(both(model, z, lams, y), (model(z, lams, y), model(z, lams))): close(a, b, 1e-4)
    assert (net.null, net.shape) == (3 if cond is Classes else None, tuple(z.shape[1:]))
    mixed = y.clone()
    mixed[1] = net.null_like(y)[1]
    close(net(z, lams, mixed), torch.stack([out[0], free[1], *out[2:]]), 1e-4)

def test_a_table_of_zeros_makes_every_class_null():
    net, z = shake(UNet(**small)), torch.randn(4, 1, 8, 8)
    nn.init.zeros_(net.label_emb.weight)
    assert torch.equal(net(z, lams, torch.arange(4)), net(z, lams))

def test_the_condition_is_named_as_in_adm():
    "One table, `label_emb.weight`, of a row for each class"
    for net in (MLP(3), UNet(**small)):
        assert [k for k in net.state_dict() if 'label' in k] == ['label_emb.weight'] and len(net.label_emb.weight) == 3

def test_every_pixel_sees_every_pixel():
    net, z = shake(UNet(**small)), torch.randn(1, 1, 8, 8)
    pokes = z + torch.eye(64).reshape(64, 1, 8, 8)
    moved = (net(pokes, lams[1:2].expand(64)) - net(z, lams[1:2])).abs()
    assert (moved > 1e-4).float().mean() > .99

@pytest.mark.parametrize('wrong', [(4, 1, 16, 16), (4, 3, 8, 8)])
@pytest.mark.parametrize('cls', [UNet, EncoderUNet])
def test_other_images_are_refused(cls, wrong):
    "A U-Net would take another size silently"
    with pytest.raises(ValueError, match=r'z must be images of shape \(1, 8, 8\), got'): cls(**small)(torch.zeros(wrong), lams)


# --- blocks against their formulas

def test_res_block_by_hand():
    "Down, with every operation written out"
    def norm(m, a):
        g = a.reshape(len(a), m.num_groups, -1)
        g = (g-g.mean(2, keepdim=True))/(g.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
        return g.reshape(a.shape)*m.weight[:,None,None] + m.bias[:,None,None]
    silu = lambda a: a*a.sigmoid()
    half = lambda a: (a[...,::2,::2] + a[...,1::2,::2] + a[...,::2,1::2] + a[...,1::2,1::2])/4
    b, x, emb = shake(ResBlock(8, 12, resize='down'), .3), torch.randn(2, 8, 4, 4), torch.randn(2, 12)
    h = F.conv2d(half(silu(norm(b.in_layers[0], x))), b.in_layers[2].weight, b.in_layers[2].bias, padding=1)
    s, t = (silu(emb)@b.emb_layers[1].weight.T + b.emb_layers[1].bias).chunk(2, 1)
    h = (1 + s[...,None,None])*norm(b.out_layers[0], h) + t[...,None,None]
    close(b(x, emb), half(x) + F.conv2d(silu(h), b.out_layers[3].weight, b.out_layers[3].bias, padding=1))

def test_res_block_sizes():
    x, emb = torch.randn(2, 8, 4, 4), torch.randn(2, 12)
    for kw, shape in ((dict(out_ch=16), (2, 16, 4, 4)), (dict(resize='up'), (2, 8, 8, 8)), (dict(resize='down'), (2, 8, 2, 2))):
        assert ResBlock(8, 12, **kw)(x, emb).shape == shape
    assert len({sum(p.numel() for p in ResBlock(8, 12, resize=r).parameters()) for r in (None, 'up', 'down')}) == 1
    with pytest.raises(KeyError): ResBlock(8, 12, resize='sideways')

@pytest.mark.parametrize('order', ['new', 'legacy'])
def test_attention_takes_the_fast_way(order):
    "The channels of a head lie side by side, so a kernel that refuses anything else takes them"
    a, x = shake(AttentionBlock(8, 4, order), .5), torch.randn(2, 8, 3, 3)
    assert all(t.stride(3) == 1 and t.shape == (2, 2, 9, 4) for t in a.split(torch.randn(2, 9, 24)))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION): fast = a(x)
    with sdpa_kernel(SDPBackend.MATH): close(fast, a(x))
    close(deepcopy(a).double()(x.double()).float(), a(x))
    assert deepcopy(a).bfloat16()(x.bfloat16()).dtype == torch.bfloat16

def test_pool_by_hand():
    pool, x, outs = shake(AttentionPool(4, 8, 5, 4), .5), torch.randn(3, 8, 4, 4), []
    t = torch.cat([x.flatten(2).mean(2, keepdim=True), x.flatten(2)], 2) + pool.positional_embedding
    qkv = torch.einsum('oc,bci->boi', pool.qkv_proj.weight[...,0], t) + pool.qkv_proj.bias[:,None]
    for h in range(0, 8, 4):
        q, k, v = [qkv[:,o+h:o+h+4] for o in (0, 8, 16)]
        p = (torch.einsum('bc,bcj->bj', q[:,:,0], k)/2).exp()
        outs.append(torch.einsum('bj,bcj->bc', p/p.sum(1, keepdim=True), v))
    close(pool(x), torch.cat(outs, 1)@pool.c_proj.weight[...,0].T + pool.c_proj.bias)
    assert (pool(x)-pool(x.flip(-1))).abs().max() > .05                          # it knows where things are

def test_group_norm_in_16_bits():
    "The roundings of output and weights; sums as exact as in float32"
    x = 3 + torch.randn(4, 16, 32, 32)
    for dtype, bits in ((torch.bfloat16, 8), (torch.float16, 11)):
        for weights in (torch.float32, dtype):
            norm, h = shake(GroupNorm32(16), .5).to(weights), x.to(dtype)
            truth = F.group_norm(h.double(), 4, norm.weight.to(dtype).double(), norm.bias.to(dtype).double())
            o = norm(h)
            assert o.dtype == dtype and ((o.double()-truth).abs() <= 2.**-bits*truth.abs() + 2e-5).all()
    with torch.device('meta'): assert GroupNorm32(16)(torch.empty(2, 16, 4, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


# --- 16 bits

def test_cast_and_autocast():
    "float32 in and out, finite at λ = ±20, a few per cent of error; autocast leaves both ends in float32"
    net, z = shake(UNet(**small)), torch.randn(4, 1, 8, 8)
    full, half, saw = net(z, lams), deepcopy(net).bfloat16(), {}
    assert half(z, lams, torch.arange(4)).isfinite().all() and Denoiser(half)(z, lams).isfinite().all()
    for k, m in dict(first=net.time_embed[2], last=net.out[2], inside=net.middle_block[0].in_layers[2]).items():
        m.register_forward_hook(lambda m, i, o, k=k: saw.update({k: (i[0].dtype, o.dtype)}))
    with torch.autocast('cpu', torch.bfloat16): auto = net(z, lams)
    assert (saw['first'], saw['last'], saw['inside'][1]) == ((torch.float32,)*2, (torch.float32,)*2, torch.bfloat16)
    for o in (half(z, lams), auto): assert o.dtype == torch.float32 and 0 < (o-full).norm()/full.norm() < .05


# --- the norm, names and files

class Plain(nn.Module):
    "A norm of one's own"
    def __init__(self, ch): super().__init__()
    def forward(self, x): return x - x.mean((2, 3), keepdim=True)

def count(net, kind): return sum(isinstance(m, kind) for m in net.modules())

@pytest.mark.parametrize('cls', [UNet, EncoderUNet])
def test_norm_is_used_everywhere(cls):
    plain, net = cls(**small), cls(**small, norm=Plain)
    assert count(net, Plain) == count(plain, GroupNorm32) > 10 and count(net, nn.GroupNorm) == 0
    assert (shake(net)(torch.randn(4, 1, 8, 8), lams) != 0).any()

def test_norm_is_saved_by_name(tmp_path, monkeypatch):
    UNet(**small, norm=Plain).save_pretrained(tmp_path/'a')
    UNet(**small, norm=lambda ch: nn.GroupNorm(1, ch)).save_pretrained(tmp_path/'b')
    for f in 'ab':
        with pytest.raises(ValueError, match='must be an entry of `conditions`, `norms` or `blocks`'): UNet.from_pretrained(tmp_path/f)
    monkeypatch.setitem(norms, 'plain', Plain)
    UNet(**small, norm=Plain).save_pretrained(tmp_path/'c')
    assert type(UNet.from_pretrained(tmp_path/'c').out[0]) is Plain

@pytest.mark.parametrize('make', [lambda: MLP(3, width=16), lambda: MLP(3, cond=Vector), lambda: UNet(**small), lambda: UNet(**small, cond=Vector), lambda: EncoderUNet(**small)])
def test_files(make, tmp_path):
    net = shake(make())
    net.save_pretrained(tmp_path)
    back, z = type(net).from_pretrained(tmp_path).eval(), torch.randn(4, *net.shape)
    y = () if isinstance(net, EncoderUNet) else (torch.arange(4)%3 if net.null else torch.randn(4, 3),)
    assert torch.equal(back(z, lams, *y), net(z, lams, *y))

def test_old_configurations_load(tmp_path):
    "Of the time before `cond` and `norm` were arguments"
    net, z = shake(UNet(**small)), torch.randn(4, 1, 8, 8)
    net.save_pretrained(tmp_path)
    config = json.loads((tmp_path/'config.json').read_text())
    config = {k: v for k, v in config.items() if k not in ('cond', 'norm')} | dict(up_blocks=None, late=0)
    (tmp_path/'config.json').write_text(json.dumps(config))
    assert torch.equal(UNet.from_pretrained(tmp_path).eval()(z, lams, torch.arange(4)), net(z, lams, torch.arange(4)))


# --- pictures that are not square

def blocks(cls):
    if cls is LateUNet: return lambda hw: LateUNet(**{**small, 'image_size': hw}, late=3, up_blocks=1)
    return lambda hw: cls(**{**small, 'image_size': hw})

@pytest.mark.parametrize('cls', [UNet, LateUNet, EncoderUNet])
def test_a_square_may_be_given_as_a_pair(cls):
    "One number, a pair, a list and a torch.Size: the same network, to the last bit and in its configuration"
    nets, z = [], torch.randn(4, 1, 8, 8)
    for size in (8, (8, 8), [8, 8], z.shape[2:]):
        torch.manual_seed(1)
        nets.append(shake(blocks(cls)(size)))
    for net in nets[1:]:
        assert (net.image_size, net.shape, net.sizes) == (8, (1, 8, 8), [8, 4]) and list(net.state_dict()) == list(nets[0].state_dict())
        assert torch.equal(net(z, lams), nets[0](z, lams))

@pytest.mark.parametrize('cls', [UNet, LateUNet, EncoderUNet])
def test_a_picture_that_lies_and_one_that_stands(cls, tmp_path):
    "The same parameters; with kernels transposed, the transposed answer; files keep the shape"
    make, z = blocks(cls), torch.randn(4, 1, 8, 12)
    lies, stands = shake(make((8, 12))), make((12, 8)).eval()
    assert (lies.shape, stands.shape, lies.sizes, stands.sizes) == ((1, 8, 12), (1, 12, 8), [8, 4], [8, 4])
    turned = {k: v.mT if v.ndim == 4 else v for k, v in lies.state_dict().items()}
    for k in [k for k in turned if 'positional' in k]: turned[k] = torch.cat([turned[k][:,:1], turned[k][:,1:].unflatten(1, (4, 6)).mT.flatten(1)], 1)
    stands.load_state_dict(turned)
    close(stands(z.mT, lams), lies(z, lams).mT if cls is not EncoderUNet else lies(z, lams), 1e-4)
    lies.save_pretrained(tmp_path)
    back = cls.from_pretrained(tmp_path).eval()
    assert back.shape == (1, 8, 12) and torch.equal(back(z, lams), lies(z, lams))
    for wrong in (z.mT, z[...,:8]):
        with pytest.raises(ValueError, match=r'z must be images of shape \(1, 8, 12\)'): lies(wrong, lams)

@pytest.mark.parametrize('name, shape, sizes, attn', [('unet_small', (3, 16, 24), [16, 8, 4], (8, 4)), ('unet_small', (1, 96, 64), [64, 32, 16, 8], (8,)),
                                                     ('unet_32', (3, 48, 32), [32, 16, 8], (16, 8)), ('unet_32', (1, 28, 64), [28, 14, 7], (14, 7))])
def test_presets_for_rectangles(name, shape, sizes, attn):
    with torch.device('meta'):
        net, other = net_for(name, 10, shape), net_for(name, 10, (shape[0], shape[2], shape[1]))
        square = net_for(name, 10, (shape[0], *[min(shape[1:])]*2))
    assert (net.shape, net.sizes, net.attn_sizes) == (shape, sizes, attn)
    assert len({tuple((k, v.shape) for k, v in n.state_dict().items()) for n in (net, other, square)}) == 1

@pytest.mark.parametrize('name, shape, says', [('unet_small', (3, 18, 24), r'image_size must be a multiple of 4 .* got \(18, 24\)'), ('unet_small', (3, 68, 64), r'multiple of 8 .* got \(68, 64\)'),
                                               ('unet_32', (3, 32, 30), 'multiple of 4'), ('unet_64', (3, 64, 48), r'unet_64 takes shape \(3, 64, 64\), got .* \(3, 64, 48\): unet_tiny, unet_small, unet_32'),
                                               ('unet_digits', (1, 8, 16), 'unet_digits takes'), ('unet_small', (2,), 'size must be pixels'), ('unet_small', (3, 32), r'\(c, h, w\)')])
def test_rectangles_that_do_not_fit(name, shape, says):
    with torch.device('meta'), pytest.raises(ValueError, match=says): net_for(name, 10, shape)

def test_rectangles_from_data_to_pictures(tmp_path):
    "Mirrored, trained, averaged, sampled by guidance, drawn and kept as a run: the shape goes all the way"
    x, y = torch.rand(48, 3, 8, 12)*2 - 1, torch.arange(48)%2
    dls = data_dls(x, y, 'ab', bs=8, valid=8, flip=True, device='cpu')
    net = net_for('unet_small', 2, x.shape[1:])
    before = [p.clone() for p in net.parameters()]
    learn = diffusion_learner(dls, net, cbs=SampleGrid(n=1, clip=(-1., 1.), folder=tmp_path))
    with torch.enable_grad(), learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert any((a != b).any() for a, b in zip(before, net.parameters()))
    out = sample(CFG(learn.ema.avg, 1.), (2, 3, 8, 12), torch.tensor([0, 1]), n_steps=3, clip=(-1., 1.))
    assert out.shape == (2, 3, 8, 12) and out.isfinite().all()
    w, h = Image.open(next(tmp_path.glob('*.png'))).size
    assert w > 1.5*h                                                             # two pictures that lie, side by side


# --- sizes and presets

bad = [(dict(image_size=30, channel_mult=(1, 2, 4)), 'image_size must be a multiple of 4 in height and width .* got 30: crop or pad'), (dict(channel_mult=()), 'channel_mult must name at least one'),
       (dict(image_size=(32, 18), channel_mult=(1, 2, 4)), r'a multiple of 4 in height and width .* got \(32, 18\)'), (dict(image_size=(32, 0)), r'got \(32, 0\)'), (dict(image_size=(-32, 32)), 'got'),
       (dict(image_size=(3, 32, 32)), r'size must be pixels or \(height, width\), got \(3, 32, 32\)'), (dict(image_size=()), 'size must be pixels'), (dict(image_size=None), 'size must be pixels'),
       (dict(image_size=(32, 64), attn_sizes=(64,)), r'attn_sizes must be among the sizes \[32, 16\]'),
       (dict(attn_sizes=(16, 7)), r'attn_sizes must be among the sizes \[32, 16\]'), (dict(model_channels=33), 'model_channels must be even'),
       (dict(model_channels=0), 'model_channels must be at least 1'), (dict(dropout=1.), r'dropout must lie in \[0, 1\)'), (dict(dropout=float('nan')), 'dropout'),
       (dict(n_classes=0), 'n_classes must be at least 1'), (dict(in_channels=0), 'in_channels'), (dict(num_res_blocks=0), 'num_res_blocks'), (dict(image_size=0), 'image_size'),
       (dict(qkv_order='old'), 'qkv_order must be new or legacy'), (dict(clock='cosine'), "clock must be one of arctan.*, got 'cosine'"), (dict(head_channels=5), 'head_channels must divide the 64 channels, got 5')]

@pytest.mark.parametrize('kw, says', bad)
@pytest.mark.parametrize('cls', [UNet, EncoderUNet])
def test_misfits_are_refused_in_a_sentence(cls, kw, says):
    with torch.device('meta'), pytest.raises(ValueError, match=says): cls(**{**dict(image_size=32, in_channels=3, model_channels=32, head_channels=32), **kw})

def test_other_misfits():
    for kw in (dict(features=7), dict(width=0), dict(depth=0), dict(dim=0)):
        with pytest.raises(ValueError, match='must be at least 1'): MLP(3, **kw)
    with pytest.raises(ValueError, match='head_channels must divide the 8 channels'): AttentionPool(4, 8, 5, 3)
    clf = EncoderUNet(**small)
    with pytest.raises(TypeError): clf(torch.randn(4, 1, 8, 8), lams, torch.arange(4))                # a class is not welcome
    assert not any(k.startswith('label_emb') for k in clf.state_dict()) and not hasattr(clf, 'null')

sizes = dict(mlp=((2,), 57_154), unet_digits=((1, 8, 8), 196_145), unet_tiny=((1, 28, 28), 195_493), unet_small=((3, 32, 32), 2_139_843), unet_32=((3, 32, 32), 7_995_011),
             unet_64=((3, 64, 64), 56_471_811), adm64=((3, 64, 64), 295_138_947))

@pytest.mark.parametrize('name', presets)
def test_presets(name):
    (shape, n), (k, v) = sizes[name], ('width', 8) if name == 'mlp' else ('dropout', .2)
    with torch.device('meta'):
        net = net_for(name, 10, shape)
        assert (net.shape, net.null, sum(p.numel() for p in net.parameters())) == (shape, 10, n)
        if name != 'adm64': assert getattr(net_for(name, 10, shape, **{k: v}), k) == v and net_for(name, 3, shape, cond=Vector).null is None
    r = presets[name].recipe
    assert set(r) >= {'steps', 'bs', 'lr', 'decay'} and 0 < r['decay'] < 1 and min(r['steps'], r['bs'], r['lr']) > 0

def test_presets_fit_their_images():
    with torch.device('meta'):
        assert net_for('unet_32', 10, (1, 28, 28)).sizes == [28, 14, 7]
        assert [(s.sizes, s.attn_sizes) for s in (net_for('unet_small', 10, (3, n, n)) for n in (16, 32, 64))] == [([16, 8, 4], (8, 4)), ([32, 16, 8], (8,)), ([64, 32, 16, 8], (8,))]
        half, whole = encoder_digits().state_dict(), unet_digits().state_dict()
        assert not [k for k, v in half.items() if not k.startswith('out.') and whole[k].shape != v.shape]
        for args, says in ((('unet', 10, (1, 8, 8)), 'name must be one of mlp, unet_digits, unet_tiny, unet_small, unet_32, unet_64, adm64'), (('mlp', 10, ()), r'shape must be \(2,\) or \(c, h, w\)'),
                           (('unet_digits', 10, (1, 28, 28)), r'unet_digits takes shape \(1, 8, 8\), got data of shape \(1, 28, 28\)')):
            with pytest.raises(ValueError, match=says): net_for(*args)

def test_a_small_image_beside_z_is_enlarged_and_glued_on():
    net = shake(UNet(8, 1, 16, n_classes=3, head_channels=16, beside=(2, 4, 4)))
    plain = UNet(8, 3, 16, 1, n_classes=3, head_channels=16).eval()                    # what is glued, given by hand
    plain.load_state_dict(net.state_dict())
    z, lam, y, low = torch.randn(4, 1, 8, 8), torch.linspace(-4, 4, 4), torch.arange(4), torch.randn(4, 2, 4, 4)
    big = torch.nn.functional.interpolate(low, 8, mode='bilinear', align_corners=False)
    with torch.no_grad(): assert torch.equal(net(z, lam, y, low), plain(torch.cat([z, big], 1), lam, y))
    late = LateUNet(8, 1, 16, n_classes=3, head_channels=16, beside=(2, 4, 4), late=2).eval()
    late.load_state_dict(net.state_dict())
    with torch.no_grad(): assert torch.allclose(late(z, lam, None, low), net(z, lam, None, low), atol=1e-6)
    for bad in (None, low[:,:1], low[...,1:]):
        with pytest.raises(ValueError, match=r'must have shape \(2, 4, 4\)'): net(z, lam, y, bad)

@pytest.mark.parametrize('heads', [1, 2, 4])
def test_a_number_of_heads_for_every_width(heads):
    net = UNet(8, 1, 16, n_classes=3, attn_sizes=(8, 4), heads=heads)
    blocks = [m for m in net.modules() if isinstance(m, AttentionBlock)]
    assert {m.heads for m in blocks} == {heads} and len({m.proj_out.in_channels for m in blocks}) == 2
    with pytest.raises(ValueError, match='heads must divide'): UNet(8, 1, 16, heads=3)

def test_another_block_of_ones_own():
    class Doubled(ResBlock):
        def forward(self, x, emb): return 2*super().forward(x, emb)
    net = UNet(8, 1, 16, n_classes=3, head_channels=16, block=Doubled)
    assert all(isinstance(m, Doubled) for m in net.modules() if isinstance(m, ResBlock))

@pytest.mark.parametrize('name', ['unet_tiny', 'unet_small', 'unet_32'])
@pytest.mark.parametrize('side', [6, 10, 14])
def test_small_even_sizes_have_two_levels(name, side):
    net = net_for(name, 3, (1, side, side))
    with torch.no_grad(): assert net.sizes == [side, side//2] and net(torch.zeros(1, 1, side, side), torch.zeros(1)).shape == (1, 1, side, side)


def test_dropout_acts_in_training_alone():
    "A value is kept, times 1/(1−p), or dropped: where the last convolution passes each value on, that can be seen"
    torch.manual_seed(0)
    b, x, emb = ResBlock(8, 12, dropout=.25), torch.randn(64, 8, 4, 4), torch.randn(64, 12)
    with torch.no_grad():
        for k in range(8): b.out_layers[3].weight[k,k,1,1] = 1.
        h, got = b.eval()(x, emb) - x, b.train()(x, emb) - x
    kept = got.abs() > 1e-6
    torch.testing.assert_close(got[kept], h[kept]/.75, rtol=1e-4, atol=1e-5)
    assert abs(kept.float().mean() - .75) < .02
