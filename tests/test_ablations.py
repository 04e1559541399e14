"ADM's switches: each block against its formula with every operation written out, files, and parameters counted without a network."
from functools import partial
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F
from shaken import shake, small
from cfg_edu.ablations import AddedBlock, RescaledBlock, n_params, plain_resize
from cfg_edu.denoiser import Denoiser, both
from cfg_edu.nets import EncoderUNet, ResBlock, UNet, blocks
from cfg_edu.variants import LateUNet, recompute

pytestmark = pytest.mark.usefixtures('no_grad')
silu = lambda a: a*a.sigmoid()

def close(a, b, eps=1e-5): torch.testing.assert_close(a, b, rtol=eps, atol=eps)

def norm(m, a):
    g = a.reshape(len(a), m.num_groups, -1)
    g = (g-g.mean(2, keepdim=True))/(g.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
    return g.reshape(a.shape)*m.weight[:,None,None] + m.bias[:,None,None]

def conv(m, a, **kw): return F.conv2d(a, m.weight, m.bias, **kw)

half = lambda a: (a[...,::2,::2] + a[...,1::2,::2] + a[...,::2,1::2] + a[...,1::2,1::2])/4
twice = lambda a: a.repeat_interleave(2, 2).repeat_interleave(2, 3)
moved = {None: lambda a: a, 'down': half, 'up': twice}

@pytest.mark.parametrize('resize', moved)
@pytest.mark.parametrize('out', [8, 16])
def test_added_by_hand(resize, out):
    b, x, emb = shake(AddedBlock(8, 12, out, resize=resize), .3), torch.randn(2, 8, 4, 4), torch.randn(2, 12)
    h = conv(b.in_layers[2], moved[resize](silu(norm(b.in_layers[0], x))), padding=1)
    h = h + (silu(emb)@b.emb_layers[1].weight.T + b.emb_layers[1].bias)[...,None,None]
    straight = moved[resize](x) if out == 8 else conv(b.skip_connection, moved[resize](x))
    close(b(x, emb), straight + conv(b.out_layers[3], silu(norm(b.out_layers[0], h)), padding=1))

@pytest.mark.parametrize('resize', moved)
@pytest.mark.parametrize('out', [8, 16])
def test_rescaled_by_hand(resize, out):
    b, x, emb = shake(RescaledBlock(8, 12, out, resize=resize), .3), torch.randn(2, 8, 4, 4), torch.randn(2, 12)
    s, t = (silu(emb)@b.emb_layers[1].weight.T + b.emb_layers[1].bias)[...,None,None].chunk(2, 1)
    h = conv(b.in_layers[2], moved[resize](silu(norm(b.in_layers[0], x))), padding=1)
    h = conv(b.out_layers[3], silu((1+s)*norm(b.out_layers[0], h) + t), padding=1)
    straight = moved[resize](x) if out == 8 else conv(b.skip_connection, moved[resize](x))
    close(b(x, emb), (straight + h)/2**.5)

def test_plain_by_hand():
    "Each pixel of the smaller image is a sum over 3×3, of the larger one a sum over 3×3 repeated pixels"
    x = torch.randn(2, 4, 6, 8)
    for way, image in (('down', x), ('up', twice(x))):
        layer, step = shake(plain_resize(4, 12, way), .3), 2 if way == 'down' else 1
        w, p = layer[-1].weight, F.pad(image, (1, 1, 1, 1))
        h, wide = image.shape[2]//step, image.shape[3]//step
        y = torch.stack([torch.stack([torch.einsum('bcij,ocij->bo', p[:,:,step*i:step*i+3,step*j:step*j+3], w) for j in range(wide)], -1) for i in range(h)], -2)
        close(layer(x), y + layer[-1].bias[:,None,None])
    assert [*plain_resize(4, 12, 'down').state_dict()] == ['op.weight', 'op.bias']      # as in ADM's files
    assert [*plain_resize(4, 12, 'up').state_dict()] == ['conv.weight', 'conv.bias']

def test_no_switch_is_today():
    "Where no size changes, plain resampling is the plain network, to the last bit; a rescaled block is today's by √2"
    one, args = dict(small, channel_mult=(1,), attn_sizes=(8,)), (torch.randn(4, 1, 8, 8), torch.linspace(-9, 9, 4), torch.tensor([0, 1, 2, 3]))
    nets = []
    for block in (ResBlock, plain_resize):
        torch.manual_seed(0)
        nets.append(shake(UNet(**one, block=block)))
    today, switched = nets
    assert torch.equal(today(*args), switched(*args)) and today(*args).abs().max() > .1
    b, r = (shake(o(8, 12), .3) for o in (ResBlock, RescaledBlock))
    r.load_state_dict(b.state_dict())
    x, emb = torch.randn(2, 8, 4, 4), torch.randn(2, 12)
    assert torch.equal(r(x, emb), b(x, emb)/2**.5)

def test_addition_knows_no_scale():
    "The same number for all channels of a group is forgotten, at once and exactly; one for half of a group is not"
    b, x, emb = shake(AddedBlock(8, 12), .3), torch.randn(2, 8, 4, 4), torch.randn(2, 12)
    before = b(x, emb)
    b.emb_layers[1].bias += 3.
    close(b(x, emb), before, 1e-4)
    b.emb_layers[1].bias[:2] += 3.
    assert (b(x, emb)-before).abs().max() > .1

makes = dict(blocks) | {'plain, rescaled': partial(plain_resize, block=RescaledBlock), 'plain, added': partial(plain_resize, block=AddedBlock)}

@pytest.mark.parametrize('block', makes.values(), ids=makes)
def test_a_network_of_such_blocks(block, tmp_path, monkeypatch):
    "Zero at first; every parameter learns; both questions at once, late and recomputed too; the same from a file"
    monkeypatch.setitem(blocks, 'tried', block)
    net = UNet(**small, block=block)
    z, lam, y = torch.randn(4, 1, 8, 8), torch.linspace(-9, 9, 4), torch.tensor([0, 1, 2, 3])
    assert torch.equal(net(z, lam, y), torch.zeros_like(z))
    out = shake(net)(z, lam, y)
    net.save_pretrained(tmp_path)
    assert torch.equal(UNet.from_pretrained(tmp_path)(z, lam, y), out)
    with torch.enable_grad(): net(z, lam, y).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in net.parameters())
    assert shake(EncoderUNet(**small, block=block))(z, lam).std() > 1e-3
    late = shake(LateUNet(8, 1, 16, **{k: small[k] for k in ('n_classes', 'attn_sizes', 'head_channels')}, late=3, block=block))
    model = Denoiser(late)
    for a, b in zip(both(model, z, lam, y), (model(z, lam, y), model(z, lam))): close(a, b, 1e-4)
    close(recompute(net)(z, lam, y), out)

def test_names_are_kept(tmp_path):
    for name in ('plain', 'rescaled', 'added'):
        UNet(**small, block=blocks[name]).save_pretrained(tmp_path)
        assert f'"block": "{name}"' in (tmp_path/'config.json').read_text()

sizes = st.lists(st.sampled_from([.5, 1, 1.5, 2, 3]), min_size=1, max_size=4).map(tuple)

@settings(deadline=None, max_examples=40)
@given(sizes, st.integers(1, 3), st.integers(0, 15), st.integers(1, 3), st.integers(1, 5), st.integers(2, 12), st.booleans(), st.booleans())
def test_parameters_are_counted(mult, k, attends, c, n_classes, half_width, added, plain):
    "For every shape of U-Net"
    attn = tuple(16 >> i for i in range(len(mult)) if attends >> i & 1)
    kind = AddedBlock if added else ResBlock
    block = partial(plain_resize, block=kind) if plain else kind
    with torch.device('meta'):
        net = UNet(16, c, 2*half_width, num_res_blocks=k, attn_sizes=attn, channel_mult=mult, n_classes=n_classes, heads=1, block=block)
    want = sum(p.numel() for p in net.parameters())
    assert n_params(16, c, 2*half_width, mult, k, attn, n_classes, added, plain) == want
