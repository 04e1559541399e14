"Conditions beyond their page: devices and types, draws, doors, configurations and names."
import json, subprocess, sys
import pytest, torch
from collections.abc import Callable
from copy import deepcopy
from hypothesis import given, settings, strategies as st
from torch import nn
from cfg_edu.conditions import Classes, Told, Vector, conditions
from cfg_edu.denoiser import Denoiser
from cfg_edu.guidance import CFG
from cfg_edu.nets import MLP


class Counts(nn.Module):
    "Somebody's own condition: how many, and -1 says nothing"
    null = None
    def __init__(self, d_in, d):
        super().__init__()
        self.layer = nn.Linear(d_in, d)
    def forward(self, y): return self.layer(y)*(y >= 0).all(1, keepdim=True)
    def null_like(self, y): return torch.full_like(y, -1)


class Net(Told):
    def __init__(self, n_classes:int=3, cond:Callable=Classes):
        super().__init__()
        self.label_emb = cond(n_classes, 4)
    def forward(self, z, lam, y=None): return self.label_emb(y)


@pytest.mark.parametrize('cond, y', [(Classes(3, 8), torch.tensor([0, 2, 1])), (Vector(2, 8), torch.randn(3, 2))])
def test_nothing_is_zero(cond, y):
    "Told nothing, hidden and null_like are the same zero vector; what is told is not"
    with torch.no_grad():
        for nothing in (cond.null_like(y), cond.hide(y, 1.), cond.check_y(None, 3)): assert torch.equal(cond(nothing), torch.zeros(3, 8))
        assert (cond(y).abs().sum(1) > 0).all()
        assert torch.equal(cond(cond.hide(y, 0.)), cond(y))


@pytest.mark.parametrize('cond, y', [(Classes(3, 8), torch.arange(40_000)%3), (Vector(2, 8), torch.randn(40_000, 2))])
@pytest.mark.parametrize('p', [.1, .5])
def test_hide_frequency(cond, y, p):
    "Every place in the batch is hidden with frequency p, and on its own: neighbours agree no more often than by chance"
    g = torch.Generator().manual_seed(1)
    gone = torch.stack([cond(cond.hide(y, p, g)).abs().sum(1) == 0 for _ in range(25)]).float()
    assert abs(gone.mean() - p) < 5*(p*(1-p)/gone.numel())**.5
    assert abs(gone.mean(0) - p).max() < 6.5*(p*(1-p)/25)**.5                # 40,000 places
    assert abs((gone[:,1:]*gone[:,:-1]).mean() - p*p) < 6*p/gone.numel()**.5


def test_hide_is_its_generators():
    "The same generator hides the same rows, whatever the condition; the input stays"
    y, v = torch.arange(50)%3, torch.randn(50, 2)
    g = lambda: torch.Generator().manual_seed(5)
    a, b = Classes(3, 4).hide(y, .4, g()) == 3, Vector(2, 4).hide(v, .4, g()).isnan()[:,0]
    assert torch.equal(a, b) and 0 < a.sum() < 50
    assert v.isfinite().all() and y.max() == 2


def test_gradients_pass_null_and_nan_by():
    "Null trains no row, not the last one either; NaN leaves no NaN in a gradient"
    table = Classes(3, 4)
    table(torch.tensor([0, 2, 3, 3])).sum().backward()
    assert table.weight.grad[:,0].tolist() == [1, 0, 1]
    v = Vector(2, 4)
    v(torch.full((3, 2), torch.nan)).sum().backward()
    assert all((p.grad == 0).all() for p in v.parameters())


def test_classes_are_an_embedding():
    "ADM's tensor: one table, named `weight`, without a row for null; drawn as PyTorch draws it"
    torch.manual_seed(3)
    table = Classes(5, 7)
    torch.manual_seed(3)
    assert torch.equal(table.weight, nn.Embedding(5, 7).weight) and list(table.state_dict()) == ['weight']


def test_out_of_range_classes_fail():
    "No silent null: a number beyond null, or below 0, is an index error"
    for y in (4, -1):
        with pytest.raises((IndexError, RuntimeError)): Classes(3, 4)(torch.tensor([0, y]))


def test_dtypes():
    "Cast to 16 bits, both take their usual y and answer in 16 bits; float64 numbers are taken too"
    assert Classes(3, 4).bfloat16()(torch.tensor([0, 3])).dtype == torch.bfloat16
    assert Vector(2, 4).bfloat16()(torch.randn(3, 2)).dtype == torch.bfloat16
    assert Vector(2, 4)(torch.randn(3, 2, dtype=torch.float64)).dtype == torch.float32
    assert Classes(3, 4)(torch.tensor([0, 3], dtype=torch.int32)).shape == (2, 4)


@pytest.mark.parametrize('y, says', [(4, 'y must lie in 0 … 3'), (-1, 'y must lie in 0 … 3'), ([0, 1], 'integers'), (.5, 'integers'), ([[0], [1], [2]], 'integers')])
def test_classes_door(y, says):
    with pytest.raises(ValueError, match=says): Classes(3, 4).check_y(y, 3)


@pytest.mark.parametrize('y, says', [(.5, 'y must be None, 2 numbers'), ([1., 2., 3.], 'got shape'), (torch.zeros(2, 2), 'got shape'), ([0., torch.inf], 'finite'), ([0., torch.nan], 'NaN in all'), ([[0., 1.], [0., torch.nan], [0., 0.]], 'NaN in all')])
def test_vector_door(y, says):
    with pytest.raises(ValueError, match=says): Vector(2, 4).check_y(y, 3)


def test_doors_let_in():
    assert Classes(3, 4).check_y(1, 2).tolist() == [1, 1] and Classes(3, 4).check_y(None, 2).tolist() == [3, 3]
    assert Vector(2, 4).check_y([1, 2], 2).tolist() == [[1., 2.]]*2
    assert Vector(1, 4).check_y(.5, 3).tolist() == [[.5]]*3
    y = Vector(2, 4).check_y([[1., 2.], [torch.nan]*2], 2)
    assert y[0].tolist() == [1, 2] and y[1].isnan().all()
    for n in (0, -1):
        with pytest.raises(ValueError, match='n_classes must be at least 1'): Classes(n, 4)


@pytest.mark.parametrize('cond', [Classes, Vector])
def test_told_passes_on_and_survives_copies(cond):
    net = deepcopy(Net(3, cond))
    y = torch.tensor([0, 1]) if cond is Classes else torch.randn(2, 3)
    assert net.null == (3 if cond is Classes else None) and net.null_like.__self__ is net.label_emb
    with torch.no_grad(): assert torch.equal(net(None, None, net.null_like(y)), torch.zeros(2, 4))
    del net.label_emb
    assert not any(hasattr(net, k) for k in ('null', 'null_like', 'check_y'))


def test_configurations_name_conditions(tmp_path, monkeypatch):
    "By the name in `conditions`, one's own too; a name that is not there is refused in one sentence, and none is no surprise"
    for cond, name in ((Classes, 'classes'), (Vector, 'vector')):
        Net(2, cond=cond).save_pretrained(tmp_path)
        assert json.loads((tmp_path/'config.json').read_text())['cond'] == name
        assert type(Net.from_pretrained(tmp_path).label_emb) is cond
    net = Net(2, cond=Counts)
    net.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'Counts' must be an entry of `conditions`"): Net.from_pretrained(tmp_path)
    monkeypatch.setitem(conditions, 'counts', Counts)
    Net(2, cond=Counts).save_pretrained(tmp_path)
    assert type(Net.from_pretrained(tmp_path).label_emb) is Counts
    Net(2).save_pretrained(tmp_path/'old')
    (tmp_path/'old'/'config.json').write_text('{"n_classes": 2}')            # of the time before conditions
    assert type(Net.from_pretrained(tmp_path/'old').label_emb) is Classes


@settings(deadline=None, max_examples=20)
@given(st.floats(-1, 4), st.sampled_from(['classes', 'vector']))
def test_guidance_needs_nothing_else(w, name):
    "Guided by any condition: (1+w) times told minus w times told nothing, in rows that are hidden too"
    torch.manual_seed(0)
    net = MLP(3, width=16, cond=conditions[name])
    with torch.no_grad():
        for p in net.parameters(): p += .3*torch.randn(p.shape)
        model, z, lam = Denoiser(net), torch.randn(5, 2), torch.linspace(-4, 4, 5)
        y = torch.tensor([0, 1, 2, 3, 0]) if name == 'classes' else torch.randn(5, 3)
        if name == 'vector': y[3] = torch.nan
        got, told, nothing = CFG(model, w)(z, lam, y), model(z, lam, y), model(z, lam)
    torch.testing.assert_close(got, (1+w)*told - w*nothing, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got[3], nothing[3], rtol=1e-4, atol=1e-4)


def test_an_empty_network_needs_no_compiler():
    "Normal numbers without storage would load it: seconds, before the weights of a run are read"
    code = "import sys, torch; from cfg_edu.nets import unet_digits\nwith torch.device('meta'): net = unet_digits()\nassert net.label_emb.weight.is_meta and 'torch._dynamo' not in sys.modules"
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert not said.returncode, said.stderr
    assert Classes(1000, 64).weight.std().sub(1).abs() < .02                        # elsewhere they are normal
