"The benchmarks: whom they compare with where a library is missing, and how the minutes of a GPU are spent."
import csv, sys
from pathlib import Path
import pytest, torch
sys.path.append(str(Path(__file__).parents[1]))
from benchmarks import gpu as gp, layers, rivals
from benchmarks.contestants import stir
from cfg_edu.denoiser import Denoiser
from cfg_edu.guidance import CFG
from cfg_edu.nets import unet_digits
from cfg_edu.sampling import sample


def test_who_is_not_installed_is_named_and_left_out(monkeypatch, capsys):
    monkeypatch.setattr(rivals, 'find_spec', lambda lib: None if lib in ('k_diffusion', 'denoising_diffusion_pytorch') else object())
    left = rivals.installed({**rivals.ode, **rivals.sde})
    assert {name.split(',')[0].split()[0] for name in left} == {'diffusers', 'smalldiffusion'}
    assert capsys.readouterr().out == 'not installed, left out: denoising-diffusion-pytorch, k-diffusion\n'


def test_all_of_them(monkeypatch, capsys):
    monkeypatch.setattr(rivals, 'find_spec', lambda lib: object())
    assert rivals.installed(rivals.ode) == rivals.ode and not capsys.readouterr().out


def rows(file):
    with open(file, newline='', encoding='utf-8') as f: return [r['name'] for r in csv.DictReader(f) if r['benchmark'] == 'gpu']


def test_minutes_of_a_gpu(tmp_path, monkeypatch, capfd):
    out = tmp_path/'rows.csv'
    monkeypatch.setattr(gp, 'jobs', dict(first=gp.Job(1, 'x', 'this'), broken=gp.Job(1, 'x', 'no_such_module'), last=gp.Job(1, 'x', 'platform')))
    with pytest.raises(SystemExit): gp.gpu(minutes=5, device='cpu', out=out)            # one of them failed: said at the end, the others ran
    said = capfd.readouterr().out
    assert rows(out) == ['first', 'last'] and 'failed: broken' in said and said.index('first:') < said.index('broken:') < said.index('last:')
    gp.jobs['broken'] = gp.Job(1, 'x', 'this')
    gp.gpu(minutes=5, device='cpu', out=out)                                            # again: what has no row yet
    said = capfd.readouterr().out
    assert rows(out) == ['first', 'last', 'broken'] and said.count('has its rows') == 2
    gp.jobs['late'] = gp.Job(1, 'x', 'this')
    gp.gpu(minutes=.01, device='cpu', out=out)                                          # no time left for it
    assert 'late: left out, wants 1 s' in capfd.readouterr().out and 'late' not in rows(out)
    with pytest.raises(SystemExit, match='not nonsense'): gp.gpu(only='first,nonsense', out=out)


def test_rehearsal(tmp_path):
    "Every job that needs no judge and no other library runs on a CPU with tiny sizes"
    gp.gpu(minutes=10, device='cpu', only='loop,sampling,memory,half,growth', out=tmp_path/'rows.csv')
    assert rows(tmp_path/'rows.csv') == ['loop', 'sampling', 'memory', 'half', 'growth']


def test_plain_layers_by_hand():
    "The same numbers for other inputs too, and the network is left as it was"
    torch.manual_seed(0)
    net, call = stir(unet_digits()).eval(), torch.nn.Module.__call__
    z, lam, y = torch.randn(2, 1, 8, 8), torch.randn(2), torch.tensor([3, 10])
    hand, n = layers.by_hand(net, z, lam, y)
    assert n > 150 and torch.nn.Module.__call__ is call
    with torch.inference_mode():
        for k in range(3): assert torch.equal(hand(z+k, lam-k, (y+k)%11), net(z+k, lam-k, (y+k)%11))
        assert not torch.equal(hand(z, lam, y), hand(z, lam, y-1))


def test_a_traced_network_draws_the_same_bits():
    "Of one guided image, step by step, in one trace"
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain, y = stir(unet_digits()).eval(), torch.tensor([3])
    traced = layers.copied(plain, 'eager')
    a, b = (sample(CFG(Denoiser(net), 1.), (1, 1, 8, 8), y, n_steps=5) for net in (plain, traced))
    assert torch.equal(a, b) and a.std() > 0
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] == 1
