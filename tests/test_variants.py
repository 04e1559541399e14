"Late classes, short ways back and recomputing beyond their page: what is shared, copies, compilers, 16 bits, files."
from copy import deepcopy
from functools import partial
import pytest, torch
from torch.utils.flop_counter import FlopCounterMode
import shaken
from cfg_edu.conditions import Vector
from cfg_edu.denoiser import Denoiser, both
from cfg_edu.guidance import CFG
from cfg_edu.nets import EncoderUNet, Stage, UNet, unet_digits
from cfg_edu.variants import LateUNet, recompute

digits = partial(LateUNet, 8, 1, 16, head_channels=32)
def shake(net, std=.3): return shaken.shake(net, std)

def data(b=6): return torch.randn(b, 1, 8, 8), torch.linspace(-12, 12, b), torch.tensor([0, 3, 9, 10, 1, 2]*9)[:b]

def close(a, b, eps=1e-4): torch.testing.assert_close(a, b, rtol=eps, atol=eps)


@pytest.mark.parametrize('up', [1, 2])
@pytest.mark.parametrize('late', [0, 1, 4, 5])
def test_pair_is_two_calls(late, up):
    "With λ of each image's own or one for all; and each stage leaves one row for an image before the class, two after"
    net, (z, lam, y) = shake(digits(late=late, up_blocks=up)), data()
    with torch.no_grad():
        for l in (lam, lam[2:3].expand(6)):
            for got, want in zip(net.pair(z, l, y), (net(z, l, y), net(z, l))): close(got, want)
        rows = []
        for s in net.stages(): s.register_forward_hook(lambda m, i, o: rows.append(len(o)))
        net.pair(z, lam, y)
    assert rows == [6]*max(late, 1) + [12]*(len(net.stages()) - max(late, 1))

def test_only_the_last_stage_is_told():
    "Cost of two answers: little more than one; the class changes nothing before"
    net = shake(digits(late=8))
    with torch.device('meta'): z, lam, y = torch.empty(1, 1, 8, 8), torch.empty(1), torch.empty(1, dtype=torch.long)
    def cost(f):
        with FlopCounterMode(display=False) as c, torch.no_grad(): f(z, lam, y)
        return c.get_total_flops()
    m = deepcopy(net).to('meta')
    assert cost(m.pair) < 1.1*cost(m)

def test_plain_is_plain():
    "Told from the start, with the whole way back: the U-Net, by names, numbers and random draws"
    torch.manual_seed(1); a = UNet(8, 1, 16, head_channels=16)
    torch.manual_seed(1); b = LateUNet(8, 1, 16, head_channels=16)
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items()) and len(a.state_dict()) == len(b.state_dict())
    z, lam, y = data()
    with torch.no_grad(): assert torch.equal(shake(a)(z, lam, y), shake(b)(z, lam, y))

def test_short_way_back():
    "The latest outputs of each size, the doubling after the last that is left, all promises kept"
    short = LateUNet(8, 1, 16, n_classes=3, num_res_blocks=3, up_blocks=1, head_channels=16)
    assert (len(short.output_blocks), short.skips, [len(s) for s in short.output_blocks]) == (2, [7, 3], [2, 1])
    named = LateUNet(8, 1, 16, up_blocks=2, head_channels=16)
    assert {k: v.shape for k, v in named.state_dict().items()} == {k: v.shape for k, v in UNet(8, 1, 16, head_channels=16).state_dict().items()}
    net, z, lam = shake(short, .1), torch.randn(4, 1, 8, 8), torch.tensor([-20., -1, 2, 20])
    with torch.no_grad():
        assert torch.equal(net(z, lam, torch.full((4,), 3)), net(z, lam))
        assert ((net(z, lam, torch.arange(4)%3) - net(z, lam)).flatten(1).abs().amax(1) > 1e-4).all()
        close(net(z[:1], lam[:1]), net(z, lam)[:1])

@pytest.mark.parametrize('kw, says', [(dict(late=9), 'late must lie in 0 … 8'), (dict(late=-1), 'late must lie in 0 … 8'), (dict(up_blocks=0), 'up_blocks must lie in 1 … 2'),
                                      (dict(up_blocks=3), 'up_blocks must lie in 1 … 2'), (dict(clock='t'), 'clock must be'), (dict(attn_sizes=(5,)), 'attn_sizes must be')])
def test_misfits(kw, says):
    with pytest.raises(ValueError, match=says): digits(**kw)

def test_other_images_are_refused():
    for ask in (digits(), digits().pair):
        with pytest.raises(ValueError, match=r'z must be images of shape \(1, 8, 8\), got \(1, 16, 16\)'): ask(torch.zeros(2, 1, 16, 16), torch.zeros(2), torch.tensor([0, 1]))

def test_files_know_late(tmp_path):
    "Saved and loaded with its two arguments, told a vector, through its wrappers"
    net = shake(LateUNet(8, 1, 16, n_classes=2, cond=Vector, late=3, up_blocks=1, head_channels=16))
    net.save_pretrained(tmp_path)
    back, (z, lam, _) = LateUNet.from_pretrained(tmp_path).eval(), data()
    y = torch.randn(6, 2); y[2] = torch.nan
    assert (back.late, back.up_blocks, back.skips) == (3, 1, net.skips)
    with torch.no_grad():
        assert torch.equal(back(z, lam, y), net(z, lam, y))
        model = Denoiser(back)
        for a, b in zip(model.pair(z, lam, y), (model(z, lam, y), model(z, lam))): close(a, b)
        close(CFG(model, 2.)(z, lam, y), 3*model(z, lam, y) - 2*model(z, lam), 1e-3)

@pytest.mark.slow
def test_compiled_networks_are_called():
    "Only what is called is compiled, so a compiled network is asked in one batch; a counting backend shows it"
    net, (z, lam, y), graphs = shake(digits(late=5)), data(), []
    def counting(graph, inputs): graphs.append(graph); return graph.forward
    with torch.no_grad():
        want = both(net, z, lam, y)
        assert not graphs
        for a, b in zip(both(torch.compile(net, backend=counting), z, lam, y), want): close(a, b)
    assert graphs
    torch._dynamo.reset()


# --- recompute

def grads(net, amp=False):
    z, lam, y = data()
    torch.manual_seed(3)                                                      # of dropout
    with torch.autocast('cpu', torch.bfloat16, enabled=amp): loss = (net(z, lam, y)-z).square().mean()
    return loss.item(), torch.cat([g.flatten() for g in torch.autograd.grad(loss, net.parameters())])

@pytest.mark.parametrize('amp', [False, True])
@pytest.mark.parametrize('make', [partial(unet_digits, dropout=.3), partial(digits, late=4, up_blocks=1, dropout=.3)])
def test_recompute_changes_nothing_else(make, amp):
    plain = shake(make(), .05).train()
    torch.manual_seed(0)
    again = recompute(deepcopy(plain))
    (l0, g0), (l1, g1) = [(torch.manual_seed(9), grads(n, amp))[1] for n in (plain, again)]
    assert l0 == l1 and (g1-g0).norm() <= 1e-6*g0.norm()

def test_recompute_survives_copies_and_keeps_names(tmp_path):
    "The running average is a deep copy; weights and files know nothing of it"
    plain, net = unet_digits(), recompute(unet_digits())
    assert list(net.state_dict()) == list(plain.state_dict())
    calls = []
    for n in (net, deepcopy(net), recompute(net)):                            # twice is once
        n.train()
        calls.clear()
        h = n.middle_block[0].register_forward_hook(lambda *o: calls.append(1))
        grads(n)
        assert len(calls) == 2
        h.remove()
    h = net.middle_block[0].register_forward_hook(lambda *o: calls.append(1))
    for mode in (lambda: net.eval(), lambda: net.train()):                    # without a gradient, or in evaluation: once
        mode(); calls.clear()
        with torch.set_grad_enabled(not net.training): net(*data())
        assert len(calls) == 1
    h.remove()
    net.save_pretrained(tmp_path)
    back = UNet.from_pretrained(tmp_path)
    assert type(back.middle_block) is Stage and all(torch.equal(v, back.state_dict()[k]) for k, v in net.state_dict().items())
    assert recompute(EncoderUNet(8, 1, 16, head_channels=16)).train()(*data()[:2]).requires_grad
