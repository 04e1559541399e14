"The scaled score at its edges."
import math
import pytest, torch
from cfg_edu.denoiser import both
from cfg_edu.guidance import CFG
from cfg_edu.mixture import three
from cfg_edu.temperature import Tempered


def points(n=20):
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, 2, generator=g).double(), torch.linspace(-6, 6, n).double(), torch.arange(n) % 3


@pytest.mark.parametrize('s', [0., -1., math.nan, math.inf])
def test_refuses(s):
    with pytest.raises(ValueError, match='s must be positive and finite'): Tempered(three(), s)


def test_scales_whatever_the_model_is_told():
    m, (z, lam, y) = three(), points()
    for told in (y, None): torch.testing.assert_close(Tempered(m, 1.5)(z, lam, told), 1.5*m(z, lam, told))
    torch.testing.assert_close(Tempered(m, 1.)(z, lam, y), m(z, lam, y), rtol=0, atol=0)


def test_is_a_model_again():
    "It passes on the classes, and guidance around it is guidance of the scaled scores"
    m, (z, lam, y) = three(), points()
    t = Tempered(m, 2.)
    assert t.null == m.null and t.check_y(1, 4).tolist() == [1]*4
    for a, b in zip(both(t, z, lam, y), both(m, z, lam, y)): torch.testing.assert_close(a, 2*b)
    torch.testing.assert_close(CFG(t, 3.)(z, lam, y), 2*CFG(m, 3.)(z, lam, y))
    assert not hasattr(Tempered(lambda z, lam, y: z, 2.), 'null')     # a bare function has no classes
