"ADM's weights and clock beyond their page: small networks against the original code, files that do not fit, λ between steps."
from hashlib import sha256
from json import loads
import pytest, torch
from shaken import shake, small
from cfg_edu.adm import adm_lams, adm_time, load_adm, load_adm_classifier, load_weights
from cfg_edu.classifier import classifier_logp
from cfg_edu.denoiser import Denoiser
from cfg_edu.guidance import ClassifierGuided
from cfg_edu.nets import AttentionBlock, EncoderUNet, UNet, adm64, adm64_classifier, lam_angle
from cfg_edu.schedule import Schedule, amps

pytestmark = [pytest.mark.filterwarnings('ignore:.*torch.jit.script. is'), pytest.mark.usefixtures('no_grad')]

def meta(cls=UNet, **kw):
    with torch.device('meta'): return cls(**{**small, **kw})

def table_of(net): return {k: tuple(v.shape) for k, v in net.state_dict().items()}
def orders(net): return {b.qkv_order for b in net.modules() if isinstance(b, AttentionBlock)}


# --- names and shapes

@pytest.mark.parametrize('make, n, numbers, print_', [
    (lambda: adm64(out_channels=6), 541, 295_904_454, 'b879ba9ed4fe94bbbb68b19b35ce81e8ea8694b084808f990ed631bd3e81c4c3'),
    (adm64_classifier, 307, 65_438_568, '1f101795c34a2e143f6ba406eea1f3826c0bdd53beedaddd4065c49102473e8d')])
def test_tensors(make, n, numbers, print_):
    "All names and shapes, by the fingerprint of ADM's list; among them no row for null, and q, k, v of the third level"
    with torch.device('meta'): net = make()
    table = table_of(net)
    assert (len(table), sum(p.numel() for p in net.parameters())) == (n, numbers)
    assert sha256('\n'.join(sorted(f'{k} {s}' for k, s in table.items())).encode()).hexdigest() == print_
    if n == 541: assert (table['label_emb.weight'], table['input_blocks.5.1.qkv.weight'], table['output_blocks.3.0.in_layers.2.weight']) == ((1000, 768), (1152, 384, 1), (768, 1344, 3, 3))
    else: assert table['out.2.positional_embedding'] == (512, 65) and orders(net) == {'legacy'}


# --- the original's numbers: weights by a formula, see the page

def stirred(name, shape):
    x = torch.arange(torch.Size(shape).numel())*2654435761 + int(sha256(name.encode()).hexdigest()[:8], 16)
    for shift, factor in ((15, 2246822519), (13, 3266489917)):
        x = x & 0xffffffff
        x = (x ^ x >> shift)*factor
    x = x & 0xffffffff
    return ((x ^ x >> 16).double()/2**32 - .5).float().reshape(shape)

def formula(shapes):
    return {k: stirred(k, s) + k.endswith('weight') if len(s) == 1 else stirred(k, s)*(12/torch.Size(s[1:]).numel())**.5 for k, s in shapes.items()}

def error(o, original):
    o, original = o.double().flatten(), torch.tensor(original, dtype=torch.float64)
    return ((torch.cat([o[::len(o)//12][:12], o.mean()[None], o.std()[None]]) - original).norm()/original.norm()).item()

originals = {
    (UNet, 'new'): [-0.4244218, 0.6405526, -0.9428998, -0.581405, 0.5943033, -0.6562524, -0.3317126, 0.4263332, -0.8259096, -0.08258949, 0.4921386, -0.7206029, 0.174135, 0.5870111],
    (UNet, 'legacy'): [-0.2953372, 0.5420664, -0.6708509, -0.3060426, 0.7803648, -0.4182214, -0.2101883, 0.4901417, -0.5716122, 0.1523724, 0.3694099, -0.4742813, 0.1666717, 0.6701061],
    (EncoderUNet, 'new'): [0.6585823, -0.9371173, -0.610998, 0.1409619, 0.1808096, -0.9498401, 0.1359913, -0.01248471, -0.3052179, -0.6683975, 0.976609, -0.6805714, -0.2322803, 0.522226],
    (EncoderUNet, 'legacy'): [0.4393207, -0.5550963, -0.6506954, -0.3804292, 0.04806811, -0.6380711, -0.2174077, -0.4462975, 0.01352559, -0.5615613, 0.5294238, -0.5570021, -0.3108178, 0.3546159]}

@pytest.mark.parametrize('cls', [EncoderUNet, UNet])
def test_original_numbers(cls, tmp_path):
    "128 channels at 16×16, 256 in four heads at 8×8, both orders: what the authors' code says, to float32; the other order is another network"
    mid = dict(image_size=16, in_channels=3, model_channels=128, attn_sizes=(8,), channel_mult=(1,2), n_classes=10, head_channels=64, clock='adm')
    z, lam, y = 3*stirred('z', (4, 3, 16, 16)), adm_lams()[[0, 333, 650, 999]].float(), torch.tensor([0, 3, 9, 5])
    kw, label = (dict(out_channels=6), (y,)) if cls is UNet else ({}, ())
    with torch.device('meta'): nets = {o: cls(**mid, **kw, qkv_order=o) for o in ('new', 'legacy')}
    torch.save(formula(table_of(nets['new'])), f := tmp_path/'net.pt')
    outs = {o: load_weights(net, f)(z, lam, *label) for o, net in nets.items()}
    for order, other in (('new', 'legacy'), ('legacy', 'new')):
        assert error(outs[order], originals[cls, order]) < 1e-5 and error(outs[order], originals[cls, other]) > .05
    if cls is UNet:                                                                  # cut to three outputs: the first three
        with torch.device('meta'): three = UNet(**mid)
        torch.testing.assert_close(load_weights(three, f, nets['new'])(z, lam, y), outs['new'][:,:3], rtol=1e-5, atol=1e-5)


# --- the clock

def test_lams_and_back():
    lams, t = adm_lams(), torch.arange(1000.)
    assert lams.dtype == torch.float64 and (lams.diff() < 0).all()
    torch.testing.assert_close(lams[[0, 1, 500, 998, 999]], torch.tensor([10.09498881, 9.34465245, -.03086176, -12.92812445, -19.83588215], dtype=torch.float64), rtol=0, atol=1e-8)
    for dtype in (torch.float32, torch.float64): assert (adm_time(lams.to(dtype))-t).abs().max() < 5e-4
    out = adm_time(torch.tensor([20., 10.1, -19.84, -20, -400, 400]))                # clamped, and no overflow
    torch.testing.assert_close(out, torch.tensor([0., 0, 999, 999, 999, 0]), rtol=0, atol=5e-4)
    line = (adm_time((lams[1:]+lams[:-1])/2)-t[:-1]-.5).abs()                        # between two steps nearly a straight line
    assert line[:-1].max() < .1 and line[-1] < .5
    assert (adm_time(torch.linspace(-19.8, 10, 5000)).diff() < 0).all()
    assert (1000*lam_angle(lams)-t).abs().max() < 9

def test_clock_is_an_argument_and_no_weight(tmp_path):
    "Same weights, same time: same output; kept by copies and files"
    lams = adm_lams()
    ours, adms = shake(UNet(**small)), UNet(**small, clock='adm').eval()
    adms.load_state_dict(ours.state_dict())
    z, lam = torch.randn(4, 1, 8, 8), lams[[0, 300, 700, 998]].float()
    same = -2*(adm_time(lam).double()/1000*torch.pi/2).tan().log()                   # where our clock shows what ADM's shows at `lam`
    torch.testing.assert_close(adms(z, lam), ours(z, same), rtol=1e-4, atol=1e-4)
    assert (adms(z, lam)-ours(z, lam)).abs().max() > .01
    assert torch.equal(adms(z, torch.tensor([20., 11, -20, -30])), adms(z, torch.tensor([10.1, 10.1, -19.84, -19.84])))
    adms.save_pretrained(tmp_path)
    back = UNet.from_pretrained(tmp_path).eval()
    assert back.clock == 'adm' and torch.equal(back(z, lam), adms(z, lam)) and loads((tmp_path/'config.json').read_text())['clock'] == 'adm'
    for cls in (UNet, EncoderUNet):
        with pytest.raises(ValueError, match="clock must be one of arctan, adm.*, got 't'"): cls(**small, clock='t')


# --- files

def test_loads_what_was_saved(tmp_path):
    "Also from the old format without a zip around it, and from half precision, as copies in float32"
    net, z, lam, y, f = shake(UNet(**small, clock='adm')), torch.randn(4, 1, 8, 8), adm_lams()[[0, 300, 700, 998]].float(), torch.arange(4), tmp_path/'net.pt'
    for kw in ({}, dict(_use_new_zipfile_serialization=False)):
        torch.save(net.state_dict(), f, **kw)
        back = load_weights(meta(clock='adm'), f)
        assert torch.equal(back(z, lam, y), net(z, lam, y)) and not back.training
        assert all(p.requires_grad and p.dtype == torch.float32 for p in back.parameters())
    torch.save({k: v.half() for k, v in net.state_dict().items()}, f)
    assert torch.equal(load_weights(meta(clock='adm'), f).out[2].weight, net.out[2].weight.half().float())
    torch.save(net.state_dict(), f)
    back = load_weights(meta(clock='adm'), f)
    with f.open('r+b') as o: o.write(bytes(f.stat().st_size))
    assert torch.equal(back(z, lam), net(z, lam))                                    # the file may change afterwards

weights = {k: v.clone() for k, v in UNet(**small).state_dict().items()}

@pytest.mark.parametrize('o, says', [
    ({k: v for k, v in weights.items() if k != 'out.0.bias'}, "tensor 'out.0.bias' is missing"),
    ({**weights, 'odd': torch.zeros(3)}, "tensor 'odd' is unexpected"),
    ({**weights, 'out.2.bias': torch.zeros(2)}, r"tensor 'out.2.bias' must have shape \(1,\), got \(2,\)"),
    ({**weights, 'out.2.bias': torch.zeros(1).long()}, "tensor 'out.2.bias' must be floating-point"),
    ({**weights, 'out.2.bias': 7}, "tensor 'out.2.bias' must be floating-point"),
    ({**weights, 'epoch': 7}, "tensor 'epoch' is unexpected"),
    ([torch.zeros(3)], 'must hold a dict of tensors, got a list'),
    (Schedule(), r'damaged, or holds something else than tensors \(UnpicklingError\)')])
def test_misfits_are_named(o, says, tmp_path):
    torch.save(o, f := tmp_path/'net.pt')
    with pytest.raises(ValueError, match=says): load_weights(meta(), f)

def test_damage_is_named(tmp_path):
    "Half a download, a single bit, a web page, nothing at all"
    torch.save(weights, f := tmp_path/'net.pt')
    whole = f.read_bytes()
    bit = bytearray(whole); bit[len(bit)//2] ^= 1
    for data, says in ((whole[:len(whole)//2], 'damaged'), (bytes(bit), 'BadZipFile'), (b'<html>Not found</html>', 'damaged')):
        f.write_bytes(data)
        with pytest.raises(ValueError, match=says): load_weights(meta(), f)
    with pytest.raises(FileNotFoundError, match='there is none at'): load_weights(meta(), tmp_path/'absent.pt')

def test_small_files_with_all_shapes(tmp_path):
    "ADM's two files with one number a tensor: what arrives, and that neither is taken for the other"
    with torch.device('meta'): unet, clf = table_of(adm64(out_channels=6)), table_of(adm64_classifier())
    flat = {k: torch.full((1,)*len(s), float(i)).expand(s) for i, (k, s) in enumerate(unet.items())}
    flat['out.2.bias'] = torch.arange(6.)
    torch.save(flat, f := tmp_path/'unet.pt')
    torch.save({k: torch.zeros((1,)*len(s)).expand(s) for k, s in clf.items()}, g := tmp_path/'clf.pt')
    model = load_adm(f)
    got = model.net.state_dict()
    assert (model.predicts, model.null, model.net.clock, model.net.out_channels, model.training, model.net.training, orders(model)) == ('eps', 1000, 'adm', 3, False, False, {'new'})
    assert got['out.2.bias'].tolist() == [0, 1, 2] and got['out.2.weight'].shape == (3, 192, 3, 3)
    assert not [k for k, v in got.items() if k != 'out.2.bias' and (v.flatten()[[0, -1]] != flat[k].flatten()[0]).any()]
    del model, got
    net = load_adm_classifier(g)
    assert (net.clock, net.n_classes, net.training, orders(net)) == ('adm', 1000, False, {'legacy'})
    for load, other in ((load_adm, g), (load_adm_classifier, f)):
        with pytest.raises(ValueError, match="does not fit the network, it looks like ADM's 64x64_.*: tensor"): load(other)

def test_other_order_on_demand(monkeypatch):
    monkeypatch.setattr('cfg_edu.adm.load_weights', lambda net, *args: net)
    assert (orders(load_adm('', qkv_order='legacy')), orders(load_adm_classifier('', qkv_order='new'))) == ({'legacy'}, {'new'})


def test_its_classifier_guides():
    "The push is the slope of log p(y|z): that way log p rises by the push's length"
    model, clf = Denoiser(shake(UNet(**small, clock='adm')), 'eps'), shake(EncoderUNet(**small, clock='adm'))
    z, lam, y = torch.randn(4, 1, 8, 8), adm_lams()[[0, 333, 650, 999]].float(), torch.tensor([0, 1, 2, 0])
    push = (model(z, lam, y) - ClassifierGuided(model, classifier_logp(clf), w=1.)(z, lam, y))/amps(lam, 4)[1]
    length = push.flatten(1).norm(dim=1)
    along, step = push/length.reshape(4, 1, 1, 1), 1e-2
    rise = [classifier_logp(clf)(z + s*along, lam).gather(1, y[:,None])[:,0] for s in (step, -step)]
    torch.testing.assert_close((rise[0]-rise[1])/(2*step), length, rtol=0, atol=1e-3)
