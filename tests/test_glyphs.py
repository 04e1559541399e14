"Characters are drawn alike for ever, whoever draws them; the numbers they were drawn with are true"
import os
from math import pi
import matplotlib, numpy as np, pytest, torch
from cfg_edu import glyphs
from cfg_edu.data import rungs, to_unit
from cfg_edu.files import fingerprint
from cfg_edu.glyphs import draw_glyphs, glyph_fonts, glyph_names, glyphs_dls

pytestmark = pytest.mark.skipif(not os.path.exists(f'{glyphs._ttf}/cmti10.ttf'), reason='this matplotlib lacks a font')

def test_without_the_fonts_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(glyphs, '_ttf', str(tmp_path))
    with pytest.raises(ValueError, match='glyphs need matplotlib 3.11, whose fonts they are, got .*: pip install -U matplotlib'): draw_glyphs(3)

@pytest.mark.parametrize('size, first, far', [(16, '104d71e83398d904', '6b736b5f9b82eebb'),
    (32, 'db07de4482b602b8', '4d0710f51bf4419e'), (64, 'eb4c28f48a0fe672', '9ffa8077723b7af3')])
def test_images_are_what_they_were(size, first, far):
    "A change of the fonts, of PIL or of the drawing shows here; judges and tables rest on these very images"
    assert fingerprint(*draw_glyphs(200, size)) == first
    assert fingerprint(*draw_glyphs(50, size, seed=3, start=70000)) == far

def test_an_image_depends_on_seed_number_and_size_alone():
    x, y = draw_glyphs(60, 32, seed=1)
    again, ys = draw_glyphs(7, 32, seed=1, start=40)
    assert torch.equal(again, x[40:47]) and torch.equal(ys, y[40:47])
    for other in (draw_glyphs(7, 32, seed=2, start=40), draw_glyphs(7, 32, seed=1, start=41)):
        assert not (other[0] == again).all((1, 2, 3)).any()
    assert (draw_glyphs(99, 64)[1] == draw_glyphs(99, 32)[1]).float().mean() < .2
    told = draw_glyphs(60, 32, seed=1, told=True)
    assert len(told) == 3 and torch.equal(told[0], x) and torch.equal(told[1], y)

def test_classes_are_even_and_no_two_images_alike():
    x, y = draw_glyphs(2000, 16, seed=1)
    assert (x.shape, x.dtype, y.dtype, len(set(glyph_names))) == ((2000, 3, 16, 16), torch.uint8, torch.int64, 62)
    assert len(x.flatten(1).unique(dim=0)) == 2000
    assert (y.bincount(minlength=62)/2000 - 1/62).abs().max() < .014                  # five standard errors

def test_no_font_lacks_a_character():
    for f in glyph_fonts:
        chars = matplotlib.ft2font.FT2Font(f'{matplotlib.get_data_path()}/fonts/ttf/{f}.ttf').get_charmap()
        assert all(chars.get(ord(c)) for c in glyph_names)

def test_a_colour_gets_any_brightness():
    rng = np.random.default_rng(0)
    for c,t in zip(rng.random((100, 3)), rng.random(100)):
        lit = glyphs._lit(c, t)
        assert abs(lit @ (.299, .587, .114) - t) < 1e-12 and 0 <= lit.min() and lit.max() <= 1

def light(x): return x.float().permute(0, 2, 3, 1)/255 @ torch.tensor([.299, .587, .114])

def test_told_numbers_can_be_measured_in_the_image():
    x, y, told = draw_glyphs(400, 64, seed=5, told=True)
    assert (told.shape, told.dtype) == ((400, 3), torch.float32)
    gap, height, turn = told.T
    assert gap.abs().min() >= .35 and gap.abs().max() <= .9 and turn.abs().max() <= pi/9 and 0 < height.min() and height.max() < 1
    u = light(x)
    off = u - u[:,:1,:1]                                                              # the corner is ground
    at = off.flatten(1).abs().argmax(1)
    seen = off.flatten(1).gather(1, at[:,None])[:,0]
    full = (seen.abs() - gap.abs()).abs() < .02                                       # thin strokes never reach the full gap
    assert full.float().mean() > .9 and (seen - gap).abs()[full].max() < .02
    ink = off.abs() > off.abs().amax((1, 2), keepdim=True)/2
    rows = ink.any(2)
    seen = [(torch.where(o)[0].max() - torch.where(o)[0].min() + 1)/64 for o in rows]
    assert (torch.stack(seen) - height).abs().max() < 2.1/64                           # rounding to bytes moves an edge

def test_turns_are_clockwise(monkeypatch):
    "The stroke of an l in one font without feet, turned back, stands upright"
    m = glyphs._ink('l', 'cmss10', 64)
    for u in (0., .25, .5, 1.):
        mask, turn = glyphs._placed(m, 64, (u, .5, .5, .5))
        r, c = torch.where(torch.tensor(mask) > .5)
        slope = torch.stack([r, c]).float().cov()
        seen = .5*torch.atan2(2*slope[0,1], slope[0,0]-slope[1,1])                     # of the long axis, from the vertical
        assert abs(-seen - turn) < .03, (seen, turn)                                   # below, further left

@pytest.mark.parametrize('call, said', [(lambda: draw_glyphs(3, size=4), 'size must be an integer of at least 8, got 4'),
    (lambda: draw_glyphs(2.5), 'n must be an integer of at least 0, got 2.5'),
    (lambda: draw_glyphs(3, seed=-1), 'seed must be an integer of at least 0, got -1'),
    (lambda: draw_glyphs(3, start=-1), 'start must be an integer of at least 0, got -1'),
    (lambda: glyphs_dls(16, n=5), 'n must be an integer of at least 10, got 5'),
    (lambda: glyphs_dls(16, n=50.), 'n must be an integer of at least 10, got 50.0'),
    (lambda: glyphs_dls(4, n=500), 'size must be an integer of at least 8, got 4'),
    (lambda: glyphs_dls(16, n=100), 'bs must lie in 1…100, images, got 128')])
def test_bad_numbers_are_refused(call, said):
    with pytest.raises(ValueError, match=said): call()

@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.setenv('CFG_EDU_CACHE', str(tmp_path))
    return tmp_path

def test_the_loader_gives_the_images_drawn_and_mirrors_none(own):
    dls = glyphs_dls(16, bs=32, n=1500, seed=2, device='cpu')
    x, y = draw_glyphs(1650, 16, 2)
    for ds,i in ((dls.train_ds, slice(1500)), (dls.valid_ds, slice(1500, 1650))):
        assert torch.equal(ds.tensors[0], x[i]) and torch.equal(ds.tensors[1], y[i])
    assert (list(dls.vocab), dls.c, os.listdir(own)) == (glyph_names, 62, ['glyphs16-1500-2'])
    rows = {tuple(o.flatten().tolist()) for o in to_unit(x[:1500])}
    for xb,_ in dls.train: assert {tuple(o.flatten().tolist()) for o in xb} <= rows

def test_another_drawing_is_another_cache(own, monkeypatch):
    was = glyphs_dls(16, bs=8, n=100, device='cpu').train_ds.fingerprint
    assert glyphs_dls(16, bs=8, n=100, device='cpu').train_ds.fingerprint == was
    monkeypatch.setattr(glyphs, 'glyph_fonts', glyph_fonts[::-1])
    assert glyphs_dls(16, bs=8, n=100, device='cpu').train_ds.fingerprint != was

def test_rungs_are_entered():
    assert [rungs[f'glyphs{s}'].judge for s in (16, 32, 64)] == ['glyphs16', 'glyphs32', 'glyphs64']
