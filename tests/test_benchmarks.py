"The benchmarks: whom they compare with where a library is missing."
import sys
from pathlib import Path
sys.path.append(str(Path(__file__).parents[1]))
from benchmarks import rivals


def test_who_is_not_installed_is_named_and_left_out(monkeypatch, capsys):
    monkeypatch.setattr(rivals, 'find_spec', lambda lib: None if lib in ('k_diffusion', 'denoising_diffusion_pytorch') else object())
    left = rivals.installed({**rivals.ode, **rivals.sde})
    assert {name.split(',')[0].split()[0] for name in left} == {'diffusers', 'smalldiffusion'}
    assert capsys.readouterr().out == 'not installed, left out: denoising-diffusion-pytorch, k-diffusion\n'


def test_all_of_them(monkeypatch, capsys):
    monkeypatch.setattr(rivals, 'find_spec', lambda lib: object())
    assert rivals.installed(rivals.ode) == rivals.ode and not capsys.readouterr().out
